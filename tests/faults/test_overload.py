"""A slow disk: reads are refused first, callbacks last, and both come back without a restart."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from receiver.storage.sqlite.writer import Writer
from tests.faults.wire import wired
from tests.raw import websocket_request
from tests.support import ADMIN, Answer, Api, eventually, running_receiver


@pytest.fixture(autouse=True)
def unhurried() -> None:
    """Keep the limits of lateness as they are."""


@dataclass
class SlowCommits:
    """The seconds that each commit of this process takes longer."""

    seconds: float = 0.0


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowCommits:
    """Return commits that can be slowed, as by a disk: on the thread of the writing connection."""
    commits, finish = SlowCommits(), Writer._finish

    def finish_later(writer: Writer, connection: sqlite3.Connection) -> None:
        started = time.monotonic()
        # Looked at again and again, so that a test can end it.
        while time.monotonic() < started + commits.seconds:
            time.sleep(0.005)
        finish(writer, connection)

    monkeypatch.setattr(Writer, "_finish", finish_later)
    return commits


async def is_refused(api: Api) -> bool:
    """Return True if reads are refused now."""
    return (await api.send("GET", "/v1/results")).status == 503


@pytest.mark.sqlite
@pytest.mark.parametrize("has_front", [True, False])
async def test_reads_are_refused_while_writes_are_late(tmp_path: Path, slow: SlowCommits, *, has_front: bool) -> None:
    """Reads and new streams get 503 and Retry-After, metrics and probes do not. Afterwards all are answered."""
    async with running_receiver(tmp_path / "receiver.db", has_front=has_front) as api:
        task, other = await api.register(), await api.register()
        with capture_logs() as logs:
            slow.seconds = 300
            async with asyncio.TaskGroup() as group:
                callback = group.create_task(api.call_back(task["callbackUrl"]))
                async with asyncio.timeout(30):
                    while not await is_refused(api):
                        await asyncio.sleep(0.01)
                reads = [
                    await api.send("GET", path)
                    for path in (f"/v1/tasks/{other['ref']}", "/v1/tasks", "/v1/results/stream")
                ]
                async with wired(api.url) as wire:
                    await wire.send(websocket_request(ADMIN, tasks=[]))
                    handshake = await wire.response()
                others = [await api.send("GET", path) for path in ("/metrics", "/healthz")]
                slow.seconds = 0
            async with asyncio.timeout(30):
                while await is_refused(api):
                    await asyncio.sleep(0.1)
            found = await api.task(task["ref"])
            await eventually(lambda: any(line["event"] == "overload.ended" for line in logs))

    # It was stored all the same.
    assert (callback.result().status in (200, 503), found["status"]) == (True, "ready")
    assert [read.status for read in reads] == [503] * 3
    assert {read.headers["Retry-After"] for read in reads} == {"5"}
    assert {read.json["type"] for read in reads} == {"urn:callback-receiver:problem:overloaded"}
    assert (handshake.status, handshake.headers["retry-after"]) == (503, "5")
    assert [other.status for other in others] == [200, 200]
    assert b"callback_receiver_overloaded 1.0" in others[0].body
    assert "overload.began" in [line["event"] for line in logs]


@pytest.mark.sqlite
async def test_a_disk_too_slow_for_callbacks_is_not_ready(tmp_path: Path, slow: SlowCommits) -> None:
    """Callbacks get 503 and Retry-After, and are stored all the same. `/readyz` is red until the disk is quick."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        slow.seconds = 300
        refused = await api.call_back(task["callbackUrl"])
        red = await api.send("GET", "/readyz")
        slow.seconds = 0
        again = await api.call_back(task["callbackUrl"])
        still = await api.send("GET", "/readyz")
        ready = await until_ready(api)
        results = (await api.log())["results"]

    assert (refused.status, int(refused.headers["Retry-After"]) > 0, again.status) == (503, True, 200)
    assert (red.status, still.status, ready.status) == (503, 503, 200)
    assert red.json["reason"] == "writing took too long for callbacks within the last 10 s"
    assert [result["task"]["status"] for result in results] == ["ready"]


async def until_ready(api: Api) -> Answer:
    """Return the first green answer of `/readyz`."""
    async with asyncio.timeout(60):
        while (answer := await api.send("GET", "/readyz")).status != 200:
            await asyncio.sleep(0.1)
        return answer
