"""`callback-receiver doctor`: the facts it reads, its exit codes, and no secret in its output."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from receiver.commands.doctor.probes import read_facts
from receiver.domain.records import SECOND
from receiver.domain.registrations import Expire
from receiver.health.findings import judge
from receiver.settings import Settings
from tests.faults.commands import KEY, SECRET, run_command
from tests.receiver.storage.stores import NOW, a_registration, running_store
from tests.support import API_KEYS, PLACES, Api, free_port, receiver_process, running_receiver

READY = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}


async def test_a_running_receiver_has_only_a_local_url(tmp_path: Path) -> None:
    """The local URL is the only problem. The doctor asks the receiver if it can store, and notes are no problems."""
    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver:
        here = {"PORT": receiver.url.rpartition(":")[2], "PUBLIC_URL": receiver.url}
        finished = await run_command(tmp_path, "doctor", "--json", API_KEYS=f"{KEY}:submit+read+admin", **here)

    findings = json.loads(finished.out)["findings"]
    assert [finding["about"] for finding in findings if finding["isWrong"]] == ["publicUrl"]
    assert "it means this machine only" in findings[0]["says"]


async def test_problems_are_explained(tmp_path: Path) -> None:
    """Without a receiver and a public URL the exit code is 1, and a remedy follows each problem."""
    async with running_store(tmp_path / "receiver.db"):
        pass

    finished = await run_command(tmp_path, "doctor", API_KEYS=KEY, PORT=str(free_port()))

    assert finished.code == 1
    assert "wrong  no receiver answers on this machine: cannot connect" in finished.out
    assert "→ Set RECEIVER_PUBLIC_URL." in finished.out
    assert SECRET not in finished.out + finished.err


@pytest.mark.sqlite
async def test_a_missing_database_is_refused(tmp_path: Path) -> None:
    """The doctor ends with exit code 2 and makes no database."""
    assert (await run_command(tmp_path, "doctor", API_KEYS=KEY)).refusal.startswith("receiver.db: there is no database")
    assert not (tmp_path / "receiver.db").exists()


async def test_a_callback_url_is_asked_and_not_shown(tmp_path: Path) -> None:
    """A public URL without a server is a problem. The URL with its token is in no text."""
    async with running_store(tmp_path / "receiver.db"):
        pass
    settings = Settings(
        database=PLACES[tmp_path / "receiver.db"],
        api_keys=API_KEYS,
        port=free_port(),
        public_url="http://receiver.invalid",
        _env_file=None,
    )

    findings = judge(await read_facts(settings, now=0))

    (found,) = [finding for finding in findings if finding.about == "publicUrl"]
    assert found.says.startswith("a callback URL below http://receiver.invalid, asked from this machine, answers: ")
    assert "/callback/capsolver" not in str(findings)


async def test_lost_late_and_refused_callbacks_are_read_from_the_database(tmp_path: Path) -> None:
    """A poll brought twelve answers. Callbacks for two of them arrived afterwards, and one was refused."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        await twelve_polled(api)
        port = int(api.url.rpartition(":")[2])
        settings = Settings(database=PLACES[tmp_path / "receiver.db"], api_keys=API_KEYS, port=port, _env_file=None)

        findings = judge(await read_facts(settings, now=2**62))
        lately = judge(await read_facts(settings, now=time.time_ns() // 1000))

    assert not [finding for finding in findings if finding.about in ("lost", "late", "refused")]
    says = [finding.says for finding in lately if finding.about in ("lost", "late", "refused")]
    assert "capsolver: 10 of 12 answers in the last hour came by a poll alone: their callbacks were lost" in says
    assert "capsolver: 2 of 12 answers in the last hour were polled before their callback arrived" in says
    assert "capsolver: 1 callbacks of the last hour were refused as unreadable" in says


@pytest.mark.parametrize(("has_url", "missed"), [(True, ["signature"]), (False, [])])
async def test_a_secret_is_missed_where_callbacks_may_come(tmp_path: Path, has_url: bool, missed: list[str]) -> None:
    """Tasks without a callback URL get no callbacks, so a signing provider needs no secret for them."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(7, provider="hardcaptcha", has_url=has_url))
        await store.write(Expire(now=NOW + 300 * SECOND, limit=1))
    settings = Settings(database=PLACES[tmp_path / "receiver.db"], api_keys=API_KEYS, port=free_port(), _env_file=None)

    findings = judge(await read_facts(settings, now=NOW))

    assert [finding.about for finding in findings if finding.about == "signature"] == missed


@pytest.mark.parametrize(
    ("fields", "overdue"),
    [
        ({"is_polled_here": False}, ["the first poll is 600 s overdue"]),
        ({"is_polled_here": True, "next_poll_at": NOW - 400 * SECOND}, ["the first poll is 400 s overdue"]),
        ({"is_polled_here": True, "next_poll_at": NOW + SECOND}, []),
        ({"is_polled_here": True, "next_poll_at": None}, []),
        ({"is_polled_here": True, "task_id": None, "bound_by": None}, []),
    ],
    ids=["by its client", "not polled", "polled in time", "no polls left", "without its id"],
)
async def test_a_task_polled_in_time_is_not_overdue(tmp_path: Path, fields: dict[str, Any], overdue: list[str]) -> None:
    """The next poll of the receiver counts, not the first one. The next poll of a client is not known."""
    due = {"poll_after": NOW - 600 * SECOND, "next_poll_at": NOW - 600 * SECOND, "task_id": "a1", "bound_by": "create"}
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(7, **{**due, **fields}))
    settings = Settings(database=PLACES[tmp_path / "receiver.db"], api_keys=API_KEYS, port=free_port(), _env_file=None)

    findings = judge(await read_facts(settings, now=NOW))

    assert [finding.says.partition("; ")[2] for finding in findings if finding.about == "overdue"] == overdue


async def twelve_polled(api: Api) -> None:
    """Register tasks with callback URLs and report their answers. Then call back two, the first of them twice."""
    tasks = [await api.register() for _ in range(12)]
    report = {"source": "poll", "answer": READY, "polls": 4}
    for task in tasks:
        await api.send("PUT", f"/v1/tasks/{task['ref']}/outcome", json=report)
    for task in tasks[:2]:
        await api.call_back(task["callbackUrl"])
    await api.send("POST", tasks[0]["callbackUrl"], key=None, data=b"<html>")
