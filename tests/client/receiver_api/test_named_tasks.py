"""The frames that make a subscription name the wanted tasks, and no more than allowed."""

from __future__ import annotations

from client.receiver_api.named_tasks import NamedTasks


def sent(names: NamedTasks) -> list[tuple[str, tuple[object, ...]]]:
    """Return the due frames."""
    return [(frame.type, frame.tasks) for frame in names.changes()]


def wanting(*refs: str, most: int = 10) -> NamedTasks:
    """Return named tasks with these wanted refs."""
    names = NamedTasks(most=most)
    for ref in refs:
        names.want(ref)
    return names


def test_a_new_connection_names_all() -> None:
    """All wanted refs are named in the order of their arrival, and none of them a second time."""
    names = wanting("a", "b", "c")
    names.drop("b")

    assert (names.begin(), sent(names)) == (("a", "c"), [])


def test_only_changes_are_sent() -> None:
    """A ref wanted and dropped in between is no change. `changed` is set if there is something to send."""
    names = wanting("a", "b")
    names.begin()
    list(names.changes())
    was_changed = names.changed.is_set()
    names.want("c")
    names.want("d")
    names.drop("d")
    names.drop("a")

    assert (was_changed, names.changed.is_set()) == (False, True)
    assert sent(names) == [("remove", ("a",)), ("add", ("c",))]
    assert (names.changed.is_set(), sent(names)) == (False, [])


def test_a_name_that_is_wanted_again_is_sent_again() -> None:
    """The receiver then sends its outcome, if it has ended meanwhile."""
    names = wanting("a", "b")
    names.begin()
    names.drop("a")
    names.want("a")
    names.want("b")

    assert sent(names) == [("add", ("a", "b"))]


def test_those_that_came_last_wait_for_room() -> None:
    """No more refs are named than allowed. Each dropped ref makes room for one."""
    names = wanting("a", "b", "c", "d", most=2)
    first = names.begin()
    at_once = sent(names)
    waiting = names.unnamed
    names.drop("a")
    names.drop("d")

    assert (first, at_once, waiting) == (("a", "b"), [], 2)
    assert sent(names) == [("remove", ("a",)), ("add", ("c",))]


def test_what_the_receiver_refused_is_wanted_still() -> None:
    """No more refs are named than the receiver took, until one is dropped or `try_again` is called."""
    names = wanting("a", "b", most=10)
    names.begin()
    for ref in "cd":
        names.want(ref)
        assert [kind for kind, _ in sent(names)] == ["add"]
    names.added()
    names.refused()
    refused = (names.is_refused, names.unnamed, sent(names))
    names.drop("a")
    after_a_drop = sent(names)
    names.want("e")
    held_back = sent(names)
    names.try_again()

    assert refused == (True, 1, [])
    assert after_a_drop == [("remove", ("a",)), ("add", ("d",))]
    assert (held_back, sent(names), names.is_refused) == ([], [("add", ("e",))], False)


def test_what_was_refused_and_is_not_wanted_any_more_is_forgotten() -> None:
    """Nothing is sent for it. A new connection starts without the limit."""
    names = wanting("a", most=10)
    names.begin()
    names.want("b")
    list(names.changes())
    names.drop("b")
    names.refused()

    assert (sent(names), names.unnamed) == ([], 0)
    assert (names.begin(), names.is_refused) == (("a",), False)


def test_frames_have_at_most_so_many() -> None:
    """A frame names 5,000 refs at most, and the first frame is the subscription."""
    names = wanting(*map(str, range(12_000)), most=50_000)

    assert (len(names.begin()), [len(refs) for _, refs in sent(names)]) == (5000, [5000, 2000])


def test_a_name_that_is_asked_for_again_stays_named_when_that_is_refused() -> None:
    """The receiver still has the name, so it is removed later and its room is counted."""
    names = NamedTasks(most=10)
    names.want("a")
    sent(names)
    names.added()
    names.want("a")
    names.want("b")
    sent(names)

    names.refused()
    assert sent(names) == []
    names.drop("a")
    assert sent(names) == [("remove", ("a",)), ("add", ("b",))]
