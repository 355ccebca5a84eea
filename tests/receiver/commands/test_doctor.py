"""What the doctor finds, and that it finds nothing where all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from receiver.commands.doctor.figures import number_lines, number_values
from receiver.commands.doctor.findings import Answered, Counted, Facts, judge
from receiver.domain.records import SECOND, Latency, RecentTasks, UnlistedCode, WaitingTasks
from tests.receiver.storage.stores import NOW

GIGABYTE = 2**30
ODD = UnlistedCode("capsolver", "ERROR_OF_TOMORROW", 12, NOW, NOW)
RECENT = RecentTasks(
    "capsolver",
    with_url=100,
    answered=100,
    polled=2,
    late=1,
    ended=100,
    polls=40,
    nearly_out=2,
    most_polls=120,
    verdicts={"accepted": 98, "late": 1, "duplicate": 6},
    latency=Latency(98, 8.25, 21.5),
)
WELL = Facts(
    now=NOW,
    is_writable=True,
    is_private=True,
    wal_bytes=2**20,
    free_bytes=50 * GIGABYTE,
    newest_task=NOW - SECOND,
    public_url="https://callbacks.example.org",
    is_public_url_local=False,
    ready=Answered(200, ""),
    callback=Answered(204, ""),
    scopes=frozenset({"submit", "read", "admin"}),
    waiting=(WaitingTasks("capsolver", 3, NOW + 20 * SECOND),),
    hour=(RECENT,),
    day=(RECENT,),
    counted=Counted({"capsolver": (2, 100)}, ""),
)


def refused(count: int, verdict: str) -> RecentTasks:
    """Tasks of which all is well but that so many callbacks were refused."""
    return replace(RECENT, verdicts={**RECENT.verdicts, verdict: count})


def test_where_all_is_well_nothing_is_found() -> None:
    """A lost callback in a hundred is no illness."""
    assert judge(WELL) == []


@pytest.mark.parametrize(
    ("changed", "about", "is_wrong", "says"),
    [
        ({"is_writable": False}, "store", True, "not writable"),
        ({"is_private": False}, "store", True, "others may read the database"),
        ({"free_bytes": 2**20}, "store", True, "only 1 MB are free"),
        ({"wal_bytes": 65 * 2**20}, "store", True, "its write-ahead log has 65 MB: a program that reads"),
        ({"newest_task": NOW + 90 * SECOND}, "clock", True, "90 s in the future"),
        ({"ready": Answered(None, "cannot connect")}, "server", True, "no receiver answers on this machine"),
        ({"ready": Answered(503, "disk is full")}, "server", True, "cannot store: disk is full"),
        ({"public_url": None}, "publicUrl", True, "no callback URLs are given out"),
        ({"is_public_url_local": True}, "publicUrl", True, "providers cannot reach"),
        ({"callback": Answered(404, "")}, "publicUrl", True, "404, not 204"),
        ({"callback": Answered(None, "its name is not known")}, "publicUrl", True, "its name is not known"),
        ({"scopes": None}, "keys", False, "there are no API keys"),
        ({"unlisted": [ODD]}, "codes", False, "capsolver: the error code ERROR_OF_TOMORROW is on no list; it came 12 "),
        ({"unlisted": [ODD._replace(code="other")]}, "codes", False, "error codes on no list came 12 times, last on 2"),
        ({"scopes": frozenset({"submit", "admin"})}, "keys", True, "no key has the scope read"),
        ({"scopes": frozenset({"submit", "read"})}, "keys", False, "no key has the scope admin"),
        ({"signs": ["hardcaptcha"]}, "signature", True, "hardcaptcha signs its callbacks"),
        ({"hour": (replace(RECENT, polled=30, late=10),)}, "lost", True, "20 of 100 answers in the last hour"),
        ({"day": (replace(RECENT, polled=15, late=15),)}, "late", False, "15 of 100 answers in the last day"),
        ({"hour": (refused(7, "unreadable"),)}, "refused", True, "7 callbacks of the last hour were refused as unread"),
        ({"day": (refused(1, "badSignature"),)}, "refused", False, "1 callbacks of the last day were refused as badS"),
        ({"day": (refused(2, "mismatched"),)}, "refused", True, "2 callbacks of the last day were refused as mism"),
        ({"hour": (replace(RECENT, nearly_out=6),)}, "polls", False, "6 of 100 tasks that ended in the last hour"),
        (
            {"counted": Counted({"capsolver": (11, 100)}, "")},
            "stale",
            False,
            "11 answers were stale when taken, of 100",
        ),
        (
            {"waiting": (WaitingTasks("capsolver", 3, NOW - 500 * SECOND),)},
            "overdue",
            True,
            "500 s ago",
        ),
    ],
)
def test_each_illness_is_found_alone(changed: dict[str, Any], about: str, is_wrong: bool, says: str) -> None:
    """One finding, which says what it is and what to do."""
    (finding,) = judge(replace(WELL, **changed))

    assert (finding.about, finding.is_wrong) == (about, is_wrong)
    assert says in finding.says
    assert finding.todo


def test_few_tasks_are_no_share() -> None:
    """One of three answers that was polled, or stale, or had used up its polls, tells nothing yet."""
    few = replace(RECENT, answered=3, polled=1, late=0, ended=3, nearly_out=1)

    assert judge(replace(WELL, hour=(few,), counted=Counted({"capsolver": (1, 3)}, ""))) == []


@pytest.mark.parametrize(
    ("verdict", "todo"),
    [
        ("mismatched", "give each createTask a callbackUrl of its own"),
        ("badSignature", "RECEIVER_CALLBACK_SECRETS"),
        ("unreadable", "callback-receiver redeliver"),
    ],
)
def test_what_to_do_is_said_of_each_verdict(verdict: str, todo: str) -> None:
    """Each way to be refused has a cause of its own, and the one is not told for the other."""
    both = replace(RECENT, verdicts={"mismatched": 9, "badSignature": 9, "unreadable": 9})

    (found,) = [each for each in judge(replace(WELL, hour=(both,))) if each.says.endswith(f"refused as {verdict}")]

    assert todo in found.todo


def test_refusals_are_weighed_against_all_callbacks() -> None:
    """On standing URLs there are callbacks, but no answers that a task waited for."""
    standing = RecentTasks("capsolver", ended=500, verdicts={"accepted": 500, "unreadable": 1})

    (found,) = judge(replace(WELL, day=(standing,)))

    assert (found.about, found.is_wrong) == ("refused", False)


def test_the_numbers_of_a_provider_stand_in_three_lines() -> None:
    """Those of its hour and of its day below what is so now."""
    lost = replace(refused(3, "unreadable"), polled=31)
    none = "of 0 answers with a callback URL 0 by a poll alone, 0 late, 0 duplicates, refused: none, polls: 0"
    some = "of 100 answers with a callback URL 30 by a poll alone (30%), 1 late, 6 duplicates, refused: 3 unreadable"
    rest = "polls: 40 of 12000 allowed, callbacks after 8.2 s, 95 % within 21.5 s"

    assert list(number_lines(replace(WELL, hour=(), day=(lost,)))) == [
        "capsolver: 3 tasks wait, no poll overdue; stale answers: 2",
        f"  last hour  0 tasks ended, {none}",
        f"  last day   100 tasks ended, {some}, {rest}",
    ]


def test_numbers_that_are_not_known_are_null() -> None:
    """No callback came, no limit of polls is known, and nobody could say which answers were stale; a zero is a zero."""
    bare = replace(RECENT, latency=None, most_polls=None, verdicts={})
    late = WaitingTasks("capsolver", 3, NOW - 90 * SECOND)

    told = number_values(
        replace(WELL, hour=(bare,), waiting=(late,), counted=Counted(None, "no receiver answers that it is ready"))
    )

    capsolver = told["providers"]["capsolver"]
    assert told["staleAnswersUnknown"] == "no receiver answers that it is ready"
    assert (capsolver["waiting"], capsolver["oldestOverdueSeconds"], capsolver["staleAnswers"]) == (3, 90, None)
    assert capsolver["hour"] == {
        "answersWithUrl": 100,
        "lostCallbacks": 1,
        "lateCallbacks": 1,
        "duplicates": 0,
        "refused": {},
        "callbackLatency": None,
        "ended": 100,
        "polls": 40,
        "pollsAllowed": None,
    }


def test_where_nothing_was_done_there_are_no_numbers() -> None:
    """Not even that stale answers are not known."""
    nothing = replace(WELL, hour=(), day=(), waiting=(), counted=Counted(None, "no receiver answers that it is ready"))

    assert list(number_lines(nothing)) == []
    assert number_values(nothing)["providers"] == {}


def test_a_secret_that_is_set_is_not_missed() -> None:
    """And a provider that does not sign needs none."""
    assert judge(replace(WELL, signs=["hardcaptcha"], secrets=frozenset({"hardcaptcha"}))) == []


def test_what_is_wrong_comes_first() -> None:
    """Notes stand behind it."""
    found = judge(replace(WELL, waiting=[], scopes=None, public_url=None, is_writable=False))

    assert [finding.is_wrong for finding in found] == [True, True, False]
