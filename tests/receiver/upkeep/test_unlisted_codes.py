"""Unlisted error codes at a running receiver: in callbacks, reports and polls of clients, and their counts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from client import TaskFailedError
from receiver.domain.records import UnlistedCode
from receiver.storage.sqlite.database import open_read_only
from receiver.storage.sqlite.diagnostics import read_overview
from receiver.upkeep.shapes import Observer
from tests.client.support import CREATED, JumpingClock, Reply, fast, image_task, open_client, scripted_provider
from tests.receiver.storage.stores import NOW, running_store
from tests.support import RunningReceiver, eventually, running_receiver

CODE = "ERROR_OF_TOMORROW"
ODD = {"errorId": 1, "errorCode": CODE, "errorDescription": "in words"}
READY = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}


async def counted(api: RunningReceiver) -> float:
    """Return the count of the code since the start."""
    metrics = (await api.send("GET", "/metrics")).body.decode()
    start = f'callback_receiver_unlisted_codes_total{{code="{CODE}",provider="capsolver"}} '
    return sum(float(line.removeprefix(start)) for line in metrics.splitlines() if line.startswith(start))


def kept(database: Path) -> dict[tuple[str, str], int]:
    """Return the counts by provider and code, as another process reads them."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT provider, code, times FROM unlisted_code").fetchall()
    return {(provider, code): times for provider, code, times in rows}


@pytest.mark.sqlite
async def test_a_callback_with_an_unlisted_code_is_final(tmp_path: Path) -> None:
    """A callback with an unlisted code ends the task. The code is counted, and kept for the operator."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        registered = await api.register()
        answer = await api.send("POST", registered["callbackUrl"], key=None, json=ODD)
        task = await api.task(registered["ref"])
        again = await api.call_back(registered["callbackUrl"], taskId="t-1")
        same = await api.task(registered["ref"])
        times = await counted(api)

    assert (answer.status, task["errorCode"], task["source"], task["trust"]) == (200, CODE, "callback", "token")
    assert (again.status, same["cursor"], times) == (200, task["cursor"], 1.0)
    assert kept(tmp_path / "receiver.db") == {("capsolver", CODE): 1}


@pytest.mark.sqlite
@pytest.mark.parametrize("is_late", [False, True], ids=["PUT", "POST after the fact"])
async def test_a_reported_one_is_provisional(tmp_path: Path, *, is_late: bool) -> None:
    """A reported unlisted code is provisional: a callback or another report replaces it."""
    outcome = {"source": "poll", "answer": ODD}
    polled = 'callback_receiver_polled_answers_total{provider="capsolver"} '
    async with running_receiver(tmp_path / "receiver.db") as api:
        if is_late:
            ref = (await api.register(taskId="t-1", outcome=outcome))["ref"]
            task = await api.task(ref)
        else:
            ref = (await api.register())["ref"]
            task = (await api.send("PUT", f"/v1/tasks/{ref}/outcome", json={**outcome, "taskId": "t-1"})).json["task"]
        metrics = (await api.send("GET", "/metrics")).body.decode()
        with open_read_only(tmp_path / "receiver.db") as connection:
            (recent,) = read_overview(connection, hour_ago=0, day_ago=0, most_polls={}).day
        answer = await api.send("PUT", f"/v1/tasks/{ref}/outcome", json={"source": "poll", "answer": READY})
        times = await counted(api)

    assert (task["status"], task["errorCode"], task["trust"]) == ("failed", CODE, "provisional")
    # No answer came, so no callback of one got lost.
    assert [line for line in metrics.splitlines() if line.startswith(polled) and line != f"{polled}0.0"] == []
    assert (recent.answered, recent.lost, recent.ended) == (0, 0, 1)
    assert (answer.json["verdict"], answer.json["task"]["status"]) == ("accepted", "ready")
    assert (answer.json["task"]["supersedes"], times) == (task["cursor"], 1.0)


async def test_at_create_task_a_reported_one_is_a_refusal(tmp_path: Path) -> None:
    """At createTask an unlisted code is a refusal, and so it is final."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        ref = (await api.register())["ref"]
        outcome = {"source": "submit", "answer": ODD}
        task = (await api.send("PUT", f"/v1/tasks/{ref}/outcome", json=outcome)).json["task"]

    assert (task["status"], task["errorCode"], task["source"], task["trust"]) == ("failed", CODE, "submit", "reported")


async def test_a_client_that_polls_ends_it_for_everyone_provisionally(tmp_path: Path) -> None:
    """A later callback is the outcome, and readers of the log get it."""
    clock = JumpingClock()

    async def jump(_: dict[str, Any]) -> None:
        clock.jump(8.0)

    odd = Reply(ODD, first=jump)
    dialects = fast(window_seconds=300.0, first_after_callback_seconds=0.05)
    async with (
        running_receiver(tmp_path / "receiver.db") as api,
        scripted_provider(createTask=CREATED, getTaskResult=odd) as provider,
        open_client(provider.url, api.url, timing=clock.timing, dialects=dialects) as tasks,
    ):
        with pytest.raises(TaskFailedError, match=CODE):
            await tasks.solve(image_task(), timeout_seconds=600)
        before = await api.task("task-1")
        await api.call_back(provider.calls["createTask"][0]["callbackUrl"], taskId="task-1")
        after = await api.task("task-1")
        log = await api.log()

    assert (before["status"], before["trust"], len(provider.calls["getTaskResult"])) == ("failed", "provisional", 3)
    assert (after["status"], after["source"], after["supersedes"]) == ("ready", "callback", before["cursor"])
    assert [entry["task"]["status"] for entry in log["results"] if "task" in entry] == ["failed", "ready"]


@pytest.mark.sqlite
async def test_codes_are_kept_by_name_and_bounded(tmp_path: Path) -> None:
    """The latest codes of each provider are kept. Counts add up over writes and processes."""
    database, now = tmp_path / "receiver.db", [NOW]
    async with running_store(database) as store:
        observers = [Observer(store, lambda: now[0]) for _ in range(2)]
        for number in range(50):
            now[0] += 1
            observers[number % 2].note_code("capsolver", f"ERROR_{number}")
            await observers[number % 2].save()
        for observer in observers:
            observer.note_code("onecaptcha", CODE)
            observer.note_code("onecaptcha", CODE)
            await observer.save()
            await observer.save()
    with open_read_only(database) as connection:
        seen = read_overview(connection, hour_ago=NOW, day_ago=NOW, most_polls={}).unlisted

    mine = [code for code in seen if code.provider == "capsolver"]
    assert {code.code for code in mine} == {f"ERROR_{number}" for number in range(29, 50)}
    assert [code for code in seen if code.provider == "onecaptcha"] == [
        UnlistedCode("onecaptcha", CODE, 4, now[0], now[0])
    ]


@pytest.mark.sqlite
async def test_codes_that_cannot_be_stored_are_stored_later(tmp_path: Path) -> None:
    """A database locked for a moment loses no counts."""
    database = tmp_path / "receiver.db"
    async with running_store(database) as store:
        observer = Observer(store, lambda: NOW)
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            observer.note_code("capsolver", CODE)
            await observer.save()
            observer.note_code("capsolver", CODE)
            other.execute("ROLLBACK")
        await eventually(lambda: store.failure is None)
        await observer.save()

    assert kept(database)[("capsolver", CODE)] >= 2


async def test_why_own_polls_bring_nothing_is_told_once_for_each_reason(tmp_path: Path) -> None:
    """Each reason for failing polls is logged once, with status and URL, and so is their recovery."""
    refused, broken, odd = Reply(b"<html>", 403), Reply(b"<html>", 502), Reply(ODD)
    quick = fast(first_after_seconds=0.05, first_after_callback_seconds=0.05, interval_seconds=0.02)
    async with scripted_provider(getTaskResult=[refused, refused, broken, broken, odd, Reply(READY)]) as provider:
        keys: dict[str, Any] = {"provider_keys": {"capsolver": "k"}, "provider_urls": {"capsolver": provider.url}}
        with capture_logs() as lines:
            async with running_receiver(tmp_path / "receiver.db", dialects=quick, **keys) as api:
                ref = (await api.register())["ref"]
                await api.send("PATCH", f"/v1/tasks/{ref}", json={"taskId": "t-1"})
                task = (await api.send("GET", f"/v1/tasks/{ref}", params={"wait": "20"})).json

    logged = [(line["event"], line.get("reason", "")) for line in lines if line["event"].startswith("polls.")]
    assert (task["status"], [event for event, _ in logged]) == (
        "ready",
        ["polls.failed", "polls.failed", "polls.answered"],
    )
    for (_, reason), status in zip(logged, (403, 502), strict=False):
        assert f"HTTP {status} without an answer of this provider, from {provider.url}/getTaskResult" in reason
    assert [line["errorCode"] for line in lines if line["event"] == "code.unlisted"] == [CODE]
