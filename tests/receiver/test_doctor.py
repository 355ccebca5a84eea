"""What the doctor finds, and that it finds nothing where all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from receiver.doctor import Answered, Facts, judge
from receiver.records import SECOND, RecentTasks, WaitingTasks
from tests.receiver.storage.stores import NOW

GIGABYTE = 2**30
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
    waiting=(WaitingTasks("capsolver", 3, NOW - 500 * SECOND, NOW + 20 * SECOND),),
    hour=(RecentTasks("capsolver", 100, 2, 1, 0),),
    day=(RecentTasks("capsolver", 100, 2, 1, 0),),
)


def test_where_all_is_well_nothing_is_found() -> None:
    """A lost callback in a hundred is no illness."""
    assert judge(WELL) == []


@pytest.mark.parametrize(
    ("changed", "about", "is_wrong", "says"),
    [
        ({"is_writable": False}, "store", True, "not writable"),
        ({"is_private": False}, "store", True, "others may read the database"),
        ({"free_bytes": 2**20}, "store", True, "only 1 MB are free"),
        ({"wal_bytes": GIGABYTE}, "store", True, "its write-ahead log has 1024 MB"),
        ({"newest_task": NOW + 90 * SECOND}, "clock", True, "90 s in the future"),
        ({"ready": Answered(None, "cannot connect")}, "server", True, "no receiver answers on this machine"),
        ({"ready": Answered(503, "disk is full")}, "server", True, "cannot store: disk is full"),
        ({"public_url": None}, "publicUrl", True, "no callback URLs are given out"),
        ({"is_public_url_local": True}, "publicUrl", True, "providers cannot reach"),
        ({"callback": Answered(404, "")}, "publicUrl", True, "404, not 204"),
        ({"callback": Answered(None, "its name is not known")}, "publicUrl", True, "its name is not known"),
        ({"scopes": None}, "keys", False, "there are no API keys"),
        ({"scopes": frozenset({"submit", "admin"})}, "keys", True, "no key has the scope read"),
        ({"scopes": frozenset({"submit", "read"})}, "keys", False, "no key has the scope admin"),
        ({"signs": ["hardcaptcha"]}, "signature", True, "hardcaptcha signs its callbacks"),
        ({"hour": (RecentTasks("capsolver", 100, 30, 10, 0),)}, "lost", True, "20 of 100 answers in the last hour"),
        ({"day": (RecentTasks("capsolver", 100, 15, 15, 0),)}, "late", False, "15 of 100 answers in the last day"),
        ({"hour": (RecentTasks("capsolver", 100, 0, 0, 7),)}, "refused", True, "7 callbacks of the last hour"),
        ({"day": (RecentTasks("capsolver", 999, 0, 0, 1),)}, "refused", False, "1 callbacks of the last day"),
        (
            {"waiting": (WaitingTasks("capsolver", 3, NOW - 500 * SECOND, NOW - 500 * SECOND),)},
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
    """One of three answers that was polled tells nothing yet."""
    assert judge(replace(WELL, hour=(RecentTasks("capsolver", 3, 1, 0, 0),))) == []


def test_a_secret_that_is_set_is_not_missed() -> None:
    """And a provider that does not sign needs none."""
    assert judge(replace(WELL, signs=["hardcaptcha"], secrets=frozenset({"hardcaptcha"}))) == []


def test_what_is_wrong_comes_first() -> None:
    """Notes stand behind it."""
    found = judge(replace(WELL, waiting=[], scopes=None, public_url=None, is_writable=False))

    assert [finding.is_wrong for finding in found] == [True, True, False]
