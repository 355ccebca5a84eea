"""Tasks are submitted through the receiver and awaited by websocket while callbacks are lost, late and doubled.

The receiver is killed several times. All tasks end right, and no limit of the provider is broken.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sqlite3
from collections import Counter
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from client.sandbox import FaultRates, Sandbox, SandboxLimits, SandboxSettings, expected_solution
from client.sandbox.counts import Stats
from receiver.domain.records import CUT_OFF
from receiver.settings import Settings
from receiver.storage.opening import open_for_reading
from receiver.storage.sqlite.diagnostics import read_recent
from tests.client.support import PNG
from tests.support import ADMIN, PLACES, free_port, receiver_process

TASKS = int(os.environ.get("RECONCILING_TASKS", "600"))
KILLS = 3
CALLERS = 40
RATES = FaultRates(callback_lost=0.3, callback_late=0.1, callback_twice=0.1)
PROVIDERS = """
[capsolver.polls]
firstAfterSeconds = 1
firstAfterCallbackSeconds = 3
intervalSeconds = 3
[capsolver.limits]
requestsPerSecond = 100
"""


@dataclass
class Caller:
    """A user without our client. It submits over HTTP, each task under its own key, and reads a websocket."""

    url: str
    session: aiohttp.ClientSession
    refs: dict[str, int] = field(default_factory=dict)
    unclear: set[str] = field(default_factory=set)
    results: dict[str, Any] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    cursor: str = "start"

    async def submit(self, number: int) -> None:
        """Submit the task until there is an answer, under the same Idempotency-Key."""
        body = {"provider": "capsolver", "task": task_of(number), "timeoutSeconds": 60}
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.post(
                    f"{self.url}/v1/tasks", json=body, headers={"Idempotency-Key": f"task-{number}"}
                ) as answer:
                    task = await answer.json()
                    if answer.status == 201:
                        self.refs[task["ref"]] = number
                        if task["taskId"] is None:
                            self.unclear.add(task["ref"])
                        return
            await asyncio.sleep(0.2)

    async def read(self) -> None:
        """Read every result from the cursor on, over as many websockets as needed."""
        while True:
            with suppress(aiohttp.ClientError, ConnectionError):
                async with self.session.ws_connect(f"{self.url}/v1/subscribe") as ws:
                    await ws.send_json({"type": "subscribe", "id": 1, "cursor": self.cursor})
                    async for frame in ws:
                        self._take(json.loads(frame.data))
            await asyncio.sleep(0.1)

    def _take(self, frame: Any) -> None:
        assert frame["type"] != "gap", frame
        if frame["type"] == "result":
            ref = frame["task"]["ref"]
            self.outcomes[ref] += 1
            self.results[ref] = frame["task"]
        self.cursor = frame.get("cursor", self.cursor)


def task_of(number: int) -> dict[str, Any]:
    """Return a task with a picture of its own."""
    return {"type": "ImageToTextTask", "body": base64.b64encode(PNG + number.to_bytes(4)).decode()}


async def test_all_end_right(tmp_path: Path) -> None:
    """A third of the callbacks are lost, a tenth late, a tenth doubled. RECONCILING_TASKS=2000 runs 2,000 tasks."""
    database, port = tmp_path / "receiver.db", free_port()
    (tmp_path / "providers.toml").write_text(PROVIDERS)
    settings = SandboxSettings(
        seed=7,
        latency_seconds=(0.2, 1.0),
        async_images=True,
        rates=RATES,
        limits=SandboxLimits(poll_interval_seconds=2.9),
    )
    async with Sandbox("capsolver", settings) as sandbox, AsyncExitStack() as stack:
        environment = {
            "provider_keys": json.dumps({"capsolver": "the-client-key"}),
            "provider_urls": json.dumps({"capsolver": sandbox.url}),
            "providers_file": str(tmp_path / "providers.toml"),
        }
        headers = {"Authorization": f"Bearer {ADMIN}"}
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        caller = Caller(f"http://127.0.0.1:{port}", session)
        await _live(database, port, environment, caller, kills=KILLS)
        stats = sandbox.stats

    results = {caller.refs[ref]: task for ref, task in caller.results.items() if ref in caller.refs}
    unknown = [number for number, task in results.items() if task["errorCode"] == "RECEIVER_SUBMIT_UNKNOWN"]
    wrong = [
        number
        for number, task in results.items()
        if number not in unknown and task["solution"] != expected_solution("capsolver", task_of(number))
    ]
    assert (len(results), wrong) == (TASKS, [])
    # Only tasks without an answer to createTask after a crash may end so, and none of them is submitted again.
    assert len(unknown) <= KILLS * CALLERS
    assert stats.tasks_made <= TASKS
    assert stats.limits_broken == {}
    assert set(caller.outcomes.values()) <= {1, 2}
    _check_polls(database, stats.get_task_result_calls)
    _check_callbacks(database, stats, unknown=len(unknown))
    sources = Counter(task["source"] for task in results.values())
    # While the receiver is dead, further callbacks are lost.
    assert sources["poll"] >= TASKS * 0.2
    assert sources["callback"] >= TASKS * 0.1


async def _live(database: Path, port: int, environment: dict[str, Any], caller: Caller, *, kills: int) -> None:
    """Submit and read until every task has ended. Meanwhile the receiver is killed at regular points."""
    numbers = iter(range(TASKS))

    async def submit_some() -> None:
        for number in numbers:
            await caller.submit(number)

    async with asyncio.TaskGroup() as group, asyncio.timeout(240):
        reading = group.create_task(caller.read())
        submitting = [group.create_task(submit_some()) for _ in range(CALLERS)]
        for kill in range(kills + 1):
            async with receiver_process(database, port=port, **environment) as receiver:
                while len(caller.results) < TASKS * (kill + 1) / (kills + 1) and kill < kills:
                    await asyncio.sleep(0.05)
                if kill == kills:
                    await asyncio.wait(submitting)
                    while not caller.refs.keys() <= caller.results.keys():
                        await asyncio.sleep(0.1)
                    # A late callback comes after the poll, and changes nothing.
                    await asyncio.sleep(1)
                await receiver.stop(signal.SIGTERM if kill == kills else signal.SIGKILL)
        reading.cancel()


def _opened(database: Path) -> AbstractContextManager[sqlite3.Connection]:
    return open_for_reading(Settings(database=PLACES[database], _env_file=None))


def _check_polls(database: Path, calls: int) -> None:
    """Check that every poll counts, even an interrupted one, unless a callback ended the task before."""
    with _opened(database) as connection:
        (counted,) = connection.execute("SELECT sum(polls) FROM task").fetchone()
        (cut_off,) = connection.execute("SELECT count(*) FROM poll WHERE said = ?", (CUT_OFF,)).fetchone()
        (left,) = connection.execute("SELECT count(*) FROM task WHERE leased_until IS NOT NULL").fetchone()
    assert calls - left <= counted <= calls + cut_off


def _check_callbacks(database: Path, stats: Stats, *, unknown: int) -> None:
    """Check the counts of the doctor against the sandbox. Callbacks to a dead receiver are lost, too.

    A callback stored at the moment of the kill was not answered. A task without an id cannot be polled.
    """
    with _opened(database) as connection:
        (counted,) = read_recent(connection, 0, {})
    taken = stats.callback_answers.get(200, 0)
    lost = stats.faults["callback.lost"]
    assert taken <= sum(counted.verdicts.values()) <= stats.callbacks_sent
    assert lost - unknown <= counted.lost <= lost + stats.callbacks_sent - taken
