"""The budget of a provider key that several receivers share, for any order of their commands and any clock."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as some

from client.providers import KeyLimits
from client.providers.rules import Rate
from receiver.domain.records import SECOND
from receiver.domain.sharing.budgets import KeyUse, SharedBudget, SharedKey, ShareKey, poll_turns
from receiver.domain.transaction import CLOCK, Transaction
from tests.receiver.storage.stores import NOW

SUBMITS = KeyLimits(submits=Rate(20, 1.0))
GAP = SECOND // 10
ERRORS = KeyLimits(errors=Rate(40, 60.0))


class Row:
    """The row of a key at the time `now` of the database."""

    def __init__(self) -> None:
        self.now = NOW
        self.budget: SharedBudget | None = None

    def share(self, receiver: str = "one", limits: KeyLimits = SUBMITS, **news: object) -> SharedKey:
        """Carry out a command of a receiver."""
        transaction = Transaction(0)
        transaction.supply([], [(CLOCK, self.now), (("key_budget", "key"), self.budget)])
        command = ShareKey(use=KeyUse("key", receiver, limits), **news)  # type: ignore[arg-type]
        shared = transaction.decide(command)
        self.budget = transaction.row(("key_budget", "key"))
        return shared

    def pause_left(self) -> float:
        """Return the seconds until the end of the pause."""
        return 0.0 if self.budget is None else self.budget.pause_left(self.now) / SECOND


@given(some.lists(some.tuples(some.integers(0, 3 * SECOND), some.sampled_from("abc"), some.integers(1, 60))))
def test_turns_of_all_receivers_lie_an_interval_apart(asked: list[tuple[int, str, int]]) -> None:
    """Each receiver gets turns of the next two seconds that no other has, for any times and numbers."""
    row, turns = Row(), []
    for later, receiver, count in asked:
        row.now += later
        waits = row.share(receiver, submits=count).submit_waits
        assert all(0 <= wait <= 2 * SECOND for wait in waits)
        turns += [row.now + wait for wait in waits]

    assert all(after - before >= GAP for before, after in pairwise(turns))


@given(some.integers(1, 50), some.integers(1, 50))
def test_turns_are_reserved_for_two_seconds_and_no_longer(count: int, more: int) -> None:
    """A receiver that dies with its turns costs the others two seconds."""
    row = Row()
    row.share("dead", submits=count)
    row.now += 2 * SECOND

    waits = row.share("other", submits=more).submit_waits
    assert waits[0] <= GAP
    assert len(waits) == min(more, 1 + (2 * SECOND - waits[0]) // GAP)


def test_programs_with_different_limits_share_one_row() -> None:
    """Each of them brings its own interval, and each turn of it takes this interval."""
    row = Row()
    slow = row.share("old", KeyLimits(submits=Rate(2, 1.0)), submits=1).submit_waits
    quick = row.share("new", SUBMITS, submits=2).submit_waits

    assert (slow, quick) == ([0], [SECOND, SECOND + GAP])


def test_a_clock_that_was_set_back_starves_nobody() -> None:
    """A turn, a pause and a receiver from the future count no more."""
    row = Row()
    row.share("gone", submits=5, pause_seconds=60.0, refusals=(3, True))
    row.now -= 3600 * SECOND

    assert row.pause_left() == 0
    assert row.share("one", submits=1).submit_waits == [0]
    assert set(row.share("one").budget.receivers) == {"one"}


def test_a_pause_of_one_is_a_pause_of_all() -> None:
    """The longest one holds, and nobody gets a turn before its end."""
    row = Row()
    row.share("one", pause_seconds=30.0)
    shared = row.share("other", pause_seconds=5.0, submits=3)
    assert (row.pause_left(), shared.submit_waits) == (30.0, ())
    assert poll_turns(shared.budget, SUBMITS, row.now, 5) == ()
    row.now += 30 * SECOND

    assert len(row.share("other", submits=3).submit_waits) == 3


def test_receivers_that_are_refused_at_once_count_one_refusal() -> None:
    """Both counted from nothing. The next refusal counts from what both have, and another answer ends the count."""
    row = Row()
    row.share("one", refusals=(1, False))
    assert row.share("other", refusals=(1, True)).budget.halts == 1
    assert row.share("other", refusals=(2, True)).budget.halts == 2
    released = row.share("one", is_released=True).budget

    assert (released.halts, released.was_banned) == (0, False)


def test_an_answer_and_a_refusal_after_it_count_from_nothing() -> None:
    """Both came before the row was written."""
    row = Row()
    row.share("one", refusals=(5, True))

    assert row.share("one", is_released=True, refusals=(1, False)).budget.halts == 1


def test_errors_of_all_receivers_pause_the_key_at_half_of_the_limit() -> None:
    """They are added up. The pause ends when enough of them are a minute old."""
    row = Row()
    assert not row.share("one", ERRORS, errors=12).is_braked
    row.now += 30 * SECOND
    before = row.pause_left()
    braked = row.share("other", ERRORS, errors=8)
    until = row.pause_left()
    assert (before, braked.is_braked) == (0.0, True)
    assert 30 <= until <= 35
    row.now += round(until * SECOND)
    again = row.share("other", ERRORS, errors=1)

    assert (row.pause_left(), again.is_braked) == (0.0, False)


@given(some.lists(some.tuples(some.integers(0, 20 * SECOND), some.integers(1, 7)), min_size=1))
def test_no_minute_has_more_errors_than_half_of_the_limit_and_one_answer(asked: list[tuple[int, int]]) -> None:
    """Receivers that keep the pauses never come to the provider's limit."""
    row = Row()
    errors: list[tuple[int, int]] = []
    for later, count in asked:
        row.now += max(later, round(row.pause_left() * SECOND))
        row.share("one", ERRORS, errors=count)
        errors.append((row.now, count))
        minute = sum(number for at, number in errors if at > row.now - 60 * SECOND)
        assert minute < 20 + 7


def test_the_first_receiver_of_all_starts_without_a_pause() -> None:
    """An operator has mended something. While others use the key, a new receiver keeps their pause."""
    row = Row()
    row.share("one", pause_seconds=3600.0, refusals=(2, True))
    row.share("other", is_starting=True)
    assert row.pause_left() == 3600.0
    for receiver in ("one", "other"):
        row.share(receiver, is_ending=True)
    started = row.share("next", is_starting=True).budget

    assert (row.pause_left(), started.halts, started.was_banned, set(started.receivers)) == (0.0, 0, False, {"next"})


def test_a_receiver_that_was_killed_is_gone_after_a_minute() -> None:
    """A process that dies at each start keeps the pause, and does not get the key banned."""
    row = Row()
    row.share("killed", pause_seconds=3600.0)
    row.now += 59 * SECOND
    row.share("killed as well", is_starting=True)
    kept = row.pause_left()
    row.now += 60 * SECOND
    row.share("next", is_starting=True)

    assert (kept, row.pause_left()) == (3541.0, 0.0)
