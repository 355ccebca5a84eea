"""Notices: one when a problem begins, reminders while it lasts, one when it is over."""

from __future__ import annotations

from pydantic_core import from_json, to_json

from receiver.domain.records import SECOND
from receiver.health.findings import Finding
from receiver.health.notices import Message, Notices
from tests.receiver.storage.stores import NOW

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
LOST = Finding("lost", True, "capsolver: callbacks were lost", "Check the URL.", "capsolver")
FAILING = Finding("server", True, "the store cannot write", "See the log.")


def noticed(notices: Notices, *rounds: tuple[int, list[Finding]]) -> list[Message]:
    """Return the messages after looks at these minutes, with these findings."""
    messages = (notices.look(findings, NOW + minute * MINUTE) for minute, findings in rounds)
    return [message for message in messages if message is not None]


def test_a_problem_is_told_once_and_its_end_once() -> None:
    """It begins with the second look, and is over five minutes after the last one that saw it."""
    looks = [(minute, [LOST] if minute < 60 else []) for minute in range(120)]

    assert noticed(Notices("host.example"), *looks) == [
        Message(
            "host.example: action needed", "wrong: capsolver: callbacks were lost\n→ Check the URL.", is_problem=True
        ),
        Message("host.example: a problem is over", "over: capsolver: callbacks were lost", is_problem=False),
    ]


def test_the_times_of_both_messages() -> None:
    """The operator learns of a problem within two minutes."""
    notices = Notices("receiver")
    told = [
        minute
        for minute in range(30)
        if notices.look([LOST] if 3 <= minute < 20 else [], NOW + minute * MINUTE) is not None
    ]

    assert told == [4, 24]


def test_a_problem_of_a_moment_is_not_told() -> None:
    """One look is not enough, again and again."""
    assert noticed(Notices("receiver"), *((minute, [LOST] if minute % 2 else []) for minute in range(40))) == []


def test_an_interrupted_problem_is_one_problem() -> None:
    """It comes and goes every two minutes, and is over when it has stayed away for five."""
    looks = [(minute, [LOST] if minute % 4 < 2 else []) for minute in range(40)]

    assert len(noticed(Notices("receiver"), *looks)) == 1


def test_a_lasting_problem_is_repeated_twice_a_day() -> None:
    """The reminder has the figures of now."""
    now = Finding("lost", True, "capsolver: even more were lost", "Check the URL.", "capsolver")
    looks = [(minute, [LOST if minute < 60 else now]) for minute in range(48 * 60)]

    messages = noticed(Notices("receiver"), *looks)

    assert [message.title for message in messages] == ["receiver: action needed"] + 3 * [
        "receiver: action still needed"
    ]
    assert messages[1].body.startswith("still wrong: capsolver: even more were lost\n")


def test_changing_figures_are_the_same_problem() -> None:
    """The text of a finding has figures, and its subject names it."""
    looks = [
        (minute, [Finding("lost", True, f"capsolver: {minute} were lost", "", "capsolver")]) for minute in range(60)
    ]

    assert len(noticed(Notices("receiver"), *looks)) == 1


def test_problems_of_one_moment_share_a_message() -> None:
    """A message that tells of a new problem and of an end is one about a problem."""
    notices = Notices("receiver")
    (first,) = noticed(notices, (0, [LOST, FAILING]), (1, [LOST, FAILING]))
    (second,) = noticed(
        notices,
        (2, [LOST]),
        (5, [LOST, Finding("overdue", True, "late", "", "x")]),
        (7, [LOST, Finding("overdue", True, "late", "", "x")]),
    )

    assert first.body.splitlines()[::2] == ["wrong: capsolver: callbacks were lost", "wrong: the store cannot write"]
    assert second.body.splitlines() == ["wrong: late", "→ ", "over: the store cannot write"]
    assert second.is_problem


def test_notes_and_mistakes_in_the_settings_are_not_told() -> None:
    """`doctor` shows them. They do not come and go while the receiver runs."""
    others = [
        Finding("refused", False, "old ones", "", "capsolver unreadable"),
        Finding("publicUrl", True, "not set", ""),
        Finding("keys", True, "no key has the scope read", ""),
        Finding("signature", True, "no secret", "", "hardcaptcha"),
    ]

    assert noticed(Notices("receiver"), *((minute, others) for minute in range(5))) == []


def test_nothing_is_over_while_the_database_cannot_be_read() -> None:
    """The look at a part of the facts tells of new problems, and of no end."""
    notices = Notices("receiver")
    noticed(notices, (0, [LOST]), (1, [LOST]))

    partial = [notices.look([FAILING], NOW + minute * MINUTE, is_whole=False) is not None for minute in range(2, 30)]
    after = noticed(notices, *((minute, [LOST]) for minute in range(30, 40)))

    assert partial == [False, True] + [False] * 26
    assert [message.body for message in after] == ["over: the store cannot write"]


def test_a_restart_repeats_nothing() -> None:
    """The state goes through JSON. A problem that ended meanwhile is over with the first look."""
    before, after = Notices("receiver"), Notices("receiver")
    noticed(before, (0, [LOST, FAILING]), (1, [LOST, FAILING]))
    after.restore(from_json(to_json(before.as_json())))

    (over,) = noticed(after, *((minute, [LOST]) for minute in range(30, 60)))

    assert over.body == "over: the store cannot write"


def test_a_clock_set_back_delays_no_reminder() -> None:
    """The problem began and was told in what is the future now."""
    notices = Notices("receiver")
    noticed(notices, (10_000, [LOST]), (10_001, [LOST]))

    (reminder,) = noticed(notices, *((minute, [LOST]) for minute in range(12 * 60 + 1)))

    assert reminder.title == "receiver: action still needed"
