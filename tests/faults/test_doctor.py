"""`callback-receiver doctor`: what it reads and asks, its exit codes, and that it tells no secret."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from receiver.commands.doctor.command import examined
from receiver.commands.doctor.findings import judge
from receiver.domain.records import SECOND
from receiver.domain.registrations import Expire
from receiver.settings import Settings
from tests.faults.commands import KEY, SECRET, run_command
from tests.receiver.storage.stores import NOW, a_registration, running_store
from tests.support import API_KEYS, Api, free_port, receiver_process, running_receiver

READY = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}


async def test_of_a_receiver_that_runs_only_the_local_url_is_wrong(tmp_path: Path) -> None:
    """It is asked whether it can store; what is only worth knowing is no wrong."""
    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver:
        here = {"PORT": receiver.url.rpartition(":")[2], "PUBLIC_URL": receiver.url}
        told = await run_command(tmp_path, "doctor", "--json", API_KEYS=f"{KEY}:submit+read+admin", **here)

    findings = json.loads(told.out)["findings"]
    assert [finding["about"] for finding in findings if finding["isWrong"]] == ["publicUrl"]
    assert "it is this machine's own name" in findings[0]["says"]


async def test_what_is_wrong_is_said_in_words(tmp_path: Path) -> None:
    """Nothing runs, and there is no public URL: exit code 1, and each line is followed by what to do."""
    async with running_store(tmp_path / "receiver.db"):
        pass

    told = await run_command(tmp_path, "doctor", API_KEYS=KEY, PORT=str(free_port()))

    assert told.code == 1
    assert "wrong  no receiver answers on this machine: cannot connect" in told.out
    assert "→ set RECEIVER_PUBLIC_URL" in told.out
    assert SECRET not in told.out + told.err


async def test_without_a_database_it_cannot_look(tmp_path: Path) -> None:
    """Exit code 2, and none is made."""
    assert (await run_command(tmp_path, "doctor", API_KEYS=KEY)).refusal.startswith("receiver.db: there is no database")
    assert not (tmp_path / "receiver.db").exists()


async def test_a_callback_url_is_asked_and_not_told(tmp_path: Path) -> None:
    """A public URL that leads to nothing is found; the URL with its token is in no text."""
    async with running_store(tmp_path / "receiver.db"):
        pass
    settings = Settings(
        database=tmp_path / "receiver.db",
        api_keys=API_KEYS,
        port=free_port(),
        public_url="http://receiver.invalid",
        _env_file=None,
    )

    findings = judge(await examined(settings, now=0))

    (found,) = [finding for finding in findings if finding.about == "publicUrl"]
    assert found.says.startswith("a callback URL below http://receiver.invalid answers from here: ")
    assert "/callback/capsolver" not in str(findings)


async def test_lost_late_and_refused_callbacks_are_read_from_the_database(tmp_path: Path) -> None:
    """Twelve answers that a poll brought, for two of which the callback came afterwards, and a refused one."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        await twelve_polled(api)
        port = int(api.url.rpartition(":")[2])
        settings = Settings(database=tmp_path / "receiver.db", api_keys=API_KEYS, port=port, _env_file=None)

        findings = judge(await examined(settings, now=2**62))
        lately = judge(await examined(settings, now=time.time_ns() // 1000))

    assert not [finding for finding in findings if finding.about in ("lost", "late", "refused")]
    says = [finding.says for finding in lately if finding.about in ("lost", "late", "refused")]
    assert "capsolver: 10 of 12 answers in the last hour were brought by a poll alone: their callbacks got lost" in says
    assert "capsolver: 2 of 12 answers in the last day were polled before their callback came" in says
    assert "capsolver: 1 callbacks of the last hour were refused as unreadable" in says


@pytest.mark.parametrize(("has_url", "missed"), [(True, ["signature"]), (False, [])])
async def test_a_secret_is_missed_where_callbacks_may_come(tmp_path: Path, has_url: bool, missed: list[str]) -> None:
    """A provider that signs, whose tasks are only polled, calls nobody back."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(7, provider="hardcaptcha", has_url=has_url))
        await store.write(Expire(now=NOW + 300 * SECOND, limit=1))
    settings = Settings(database=tmp_path / "receiver.db", api_keys=API_KEYS, port=free_port(), _env_file=None)

    findings = judge(await examined(settings, now=NOW))

    assert [finding.about for finding in findings if finding.about == "signature"] == missed


@pytest.mark.parametrize(
    ("fields", "overdue"),
    [
        ({"is_polled_here": False}, ["the first was to be polled 600 s ago"]),
        ({"is_polled_here": True, "next_poll_at": NOW - 400 * SECOND}, ["the first was to be polled 400 s ago"]),
        ({"is_polled_here": True, "next_poll_at": NOW + SECOND}, []),
        ({"is_polled_here": True, "next_poll_at": None}, []),
        ({"is_polled_here": True, "task_id": None, "bound_by": None}, []),
    ],
    ids=["by its client", "not polled", "polled in time", "no polls left", "without its id"],
)
async def test_a_task_that_the_receiver_polls_in_time_is_not_overdue(
    tmp_path: Path, fields: dict[str, Any], overdue: list[str]
) -> None:
    """However long ago its first poll was due; when a client polls again is not known."""
    due = {"poll_after": NOW - 600 * SECOND, "next_poll_at": NOW - 600 * SECOND, "task_id": "a1", "bound_by": "create"}
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(7, **{**due, **fields}))
    settings = Settings(database=tmp_path / "receiver.db", api_keys=API_KEYS, port=free_port(), _env_file=None)

    findings = judge(await examined(settings, now=NOW))

    assert [finding.says.partition("; ")[2] for finding in findings if finding.about == "overdue"] == overdue


async def twelve_polled(api: Api) -> None:
    """Tasks with callback URLs whose answers are reported; to the first two the callback comes, to one twice."""
    tasks = [await api.register() for _ in range(12)]
    report = {"source": "poll", "answer": READY, "polls": 4}
    for task in tasks:
        await api.send("PUT", f"/v1/tasks/{task['ref']}/outcome", json=report)
    for task in tasks[:2]:
        await api.call_back(task["callbackUrl"])
    await api.send("POST", tasks[0]["callbackUrl"], key=None, data=b"<html>")
