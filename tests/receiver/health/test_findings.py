"""The findings of the doctor, and none of them if all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from receiver.commands.doctor.figures import figure_lines, figure_values
from receiver.domain.records import SECOND, Latency, RecentTasks, UnlistedCode, WaitingTasks
from receiver.health.findings import Facts, ProbeResult, judge
from tests.receiver.keys import a_key
from tests.receiver.storage.stores import NOW

GIGABYTE = 2**30
KEY, _ = a_key("worker")
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
    newest={"accepted": NOW, "late": NOW, "duplicate": NOW},
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
    ready=ProbeResult(200, ""),
    callback=ProbeResult(204, ""),
    scopes=frozenset({"submit", "read", "admin"}),
    waiting=(WaitingTasks("capsolver", 3, NOW + 20 * SECOND),),
    hour=(RECENT,),
    day=(RECENT,),
)


def refused(count: int, verdict: str, *, at: int = NOW) -> RecentTasks:
    """Return tasks with this many refused callbacks and nothing else wrong."""
    return replace(RECENT, verdicts={**RECENT.verdicts, verdict: count}, newest={**RECENT.newest, verdict: at})


def test_a_healthy_receiver_has_no_findings() -> None:
    """One lost callback in a hundred is no problem."""
    assert judge(WELL) == []


@pytest.mark.parametrize(
    ("changed", "about", "is_wrong", "says"),
    [
        ({"is_writable": False}, "store", True, "cannot write the database"),
        ({"is_private": False}, "store", True, "other users can read the database"),
        ({"free_bytes": 2**20}, "store", True, "only 1 MB free"),
        ({"wal_bytes": 65 * 2**20}, "store", True, "the write-ahead log has 65 MB: a program that reads"),
        ({"newest_task": NOW + 90 * SECOND}, "clock", True, "90 s in the future"),
        ({"ready": ProbeResult(None, "cannot connect")}, "server", True, "no receiver answers on this machine"),
        ({"ready": ProbeResult(503, "disk is full")}, "server", True, "cannot store: disk is full"),
        ({"public_url": None}, "publicUrl", True, "RECEIVER_PUBLIC_URL is not set"),
        ({"is_public_url_local": True}, "publicUrl", True, "providers cannot reach"),
        ({"callback": ProbeResult(404, "")}, "publicUrl", True, "404, not 204"),
        (
            {"callback": ProbeResult(None, "its host name cannot be resolved")},
            "publicUrl",
            True,
            "its host name cannot be resolved",
        ),
        ({"scopes": None}, "keys", False, "there are no API keys"),
        ({"unlisted": [ODD]}, "codes", False, "capsolver: the error code ERROR_OF_TOMORROW is on no list; it came 12 "),
        (
            {"unlisted": [ODD._replace(code="other")]},
            "codes",
            False,
            "further unlisted error codes came 12 times",
        ),
        ({"scopes": frozenset({"submit", "admin"})}, "keys", True, "no key has the scope read"),
        (
            {"ending_keys": (replace(KEY, expires_at=NOW + SECOND),)},
            "keys",
            False,
            "the API key worker expires on 2023-11-14, and no key of this name lasts longer",
        ),
        ({"ending_keys": (replace(KEY, expires_at=NOW),)}, "keys", False, "the API key worker expired on 2023-11-14"),
        ({"scopes": frozenset({"submit", "read"})}, "keys", False, "no key has the scope admin"),
        ({"signs": ["hardcaptcha"]}, "signature", True, "hardcaptcha signs its callbacks"),
        ({"hour": (replace(RECENT, polled=30, late=10),)}, "lost", True, "20 of 100 answers in the last hour"),
        ({"day": (replace(RECENT, polled=15, late=15),)}, "late", False, "15 of 100 answers in the last day"),
        ({"hour": (refused(7, "unreadable"),)}, "refused", True, "7 callbacks of the last hour were refused as unread"),
        ({"day": (refused(1, "badSignature"),)}, "refused", False, "1 callbacks of the last day were refused as badS"),
        ({"day": (refused(2, "mismatched"),)}, "refused", True, "2 callbacks of the last day were refused as mism"),
        ({"hour": (replace(RECENT, nearly_out=6),)}, "polls", False, "6 of 100 tasks that ended in the last hour"),
        ({"waiting": (WaitingTasks("capsolver", 3, NOW - 500 * SECOND),)}, "overdue", True, "500 s overdue"),
    ],
)
def test_each_problem_is_found_alone(changed: dict[str, Any], about: str, is_wrong: bool, says: str) -> None:
    """Each problem makes one finding with a description and a remedy."""
    (finding,) = judge(replace(WELL, **changed))

    assert (finding.about, finding.is_wrong) == (about, is_wrong)
    assert says in finding.says
    assert finding.todo


@pytest.mark.parametrize(("minutes", "is_wrong"), [(0, True), (59, True), (61, False), (23 * 60, False)])
def test_old_refusals_are_a_note(minutes: int, is_wrong: bool) -> None:
    """The newest of them decides: after an hour without another one, nothing needs to be done any more."""
    old = refused(30, "unreadable", at=NOW - minutes * 60 * SECOND)

    (finding,) = judge(replace(WELL, hour=(), day=(old,)))

    assert (finding.about, finding.is_wrong) == ("refused", is_wrong)
    assert ("none of them in the last" in finding.says) is not is_wrong


def test_a_problem_of_the_hour_and_the_day_is_reported_once() -> None:
    """The hour names it. The figures below the findings have both."""
    hour = replace(refused(7, "unreadable"), polled=40, late=20, nearly_out=50)

    findings = judge(replace(WELL, hour=(hour,), day=(hour,)))

    assert sorted(finding.about for finding in findings) == ["late", "lost", "polls", "refused"]
    assert all("the last hour" in finding.says for finding in findings)


def test_losses_before_the_last_hour_are_a_note_once_callbacks_come_again() -> None:
    """Without enough answers in the last hour, nothing shows that they come again."""
    lost = replace(RECENT, polled=30, late=0)

    (over,) = judge(replace(WELL, day=(lost,)))
    (unproved,) = judge(replace(WELL, hour=(replace(RECENT, answered=9),), day=(lost,)))

    assert (over.about, over.is_wrong) == ("lost", False)
    assert over.says.endswith("in the last hour they came again")
    assert (unproved.about, unproved.is_wrong) == ("lost", True)


def test_findings_of_two_providers_are_told_apart() -> None:
    """The same problem at two providers is two problems, and each keeps its name while its figures change."""
    lost = replace(RECENT, polled=30)
    other = replace(lost, provider="capmonster", polled=31)

    findings = judge(replace(WELL, hour=(lost, other)))

    assert [(finding.about, finding.of) for finding in findings] == [("lost", "capmonster"), ("lost", "capsolver")]


def test_few_tasks_are_no_share() -> None:
    """One polled answer of three proves nothing yet. Nor does one task with its polls used up."""
    few = replace(RECENT, answered=3, polled=1, late=0, ended=3, nearly_out=1)

    assert judge(replace(WELL, hour=(few,))) == []


@pytest.mark.parametrize(
    ("verdict", "todo"),
    [
        ("mismatched", "Give each createTask a callbackUrl of its own"),
        ("badSignature", "RECEIVER_CALLBACK_SECRETS"),
        ("unreadable", "callback-receiver redeliver"),
    ],
)
def test_each_verdict_has_its_remedy(verdict: str, todo: str) -> None:
    """Each refusal has its own cause, and its finding names the remedy for that cause."""
    each = ("mismatched", "badSignature", "unreadable")
    both = replace(RECENT, verdicts=dict.fromkeys(each, 9), newest=dict.fromkeys(each, NOW))

    findings = judge(replace(WELL, hour=(both,)))
    (found,) = [finding for finding in findings if finding.says.endswith(f"refused as {verdict}")]

    assert todo in found.todo


def test_refusals_are_weighed_against_all_callbacks() -> None:
    """Standing URLs get callbacks, but no task waits for their answers."""
    standing = RecentTasks("capsolver", ended=500, verdicts={"accepted": 500, "unreadable": 1})

    (found,) = judge(replace(WELL, day=(standing,)))

    assert (found.about, found.is_wrong) == ("refused", False)


def test_a_provider_has_three_lines_of_figures() -> None:
    """The current state comes first, then the last hour and the last day."""
    lost = replace(refused(3, "unreadable"), polled=31)
    none = "of 0 answers with a callback URL 0 by a poll alone, 0 late, 0 duplicates, refused: none, polls: 0"
    some = "of 100 answers with a callback URL 30 by a poll alone (30%), 1 late, 6 duplicates, refused: 3 unreadable"
    rest = "polls: 40 of 12000 allowed, callbacks after 8.2 s, 95 % within 21.5 s"

    assert list(figure_lines(replace(WELL, hour=(), day=(lost,)))) == [
        "capsolver: 3 tasks wait, no poll overdue",
        f"  last hour  0 tasks ended, {none}",
        f"  last day   100 tasks ended, {some}, {rest}",
    ]


def test_unknown_figures_are_null() -> None:
    """No callback arrived, and the provider has no limit of polls. A count of zero stays zero."""
    bare = replace(RECENT, latency=None, most_polls=None, verdicts={})
    late = WaitingTasks("capsolver", 3, NOW - 90 * SECOND)

    capsolver = figure_values(replace(WELL, hour=(bare,), waiting=(late,)))["providers"]["capsolver"]

    assert (capsolver["waiting"], capsolver["oldestOverdueSeconds"]) == (3, 90)
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


def test_without_tasks_there_are_no_figures() -> None:
    """Without tasks, the lines and the values are empty."""
    nothing = replace(WELL, hour=(), day=(), waiting=())

    assert list(figure_lines(nothing)) == []
    assert figure_values(nothing) == {"providers": {}}


def test_a_configured_secret_makes_no_finding() -> None:
    """The provider signs its callbacks, and its secret is in the settings."""
    assert judge(replace(WELL, signs=["hardcaptcha"], secrets=frozenset({"hardcaptcha"}))) == []


def test_problems_come_before_notes() -> None:
    """Two problems and one note are found."""
    found = judge(replace(WELL, waiting=[], scopes=None, public_url=None, is_writable=False))

    assert [finding.is_wrong for finding in found] == [True, True, False]
