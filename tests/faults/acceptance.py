"""`python -m tests.faults.acceptance`: 5,000 tasks through three receivers over one PostgreSQL, with all faults.

Tasks are submitted by REST through Caddy, which leads each request to any receiver. The provider is a sandbox: it loses
a third of the callbacks, and delays or doubles others. At each receiver a websocket reads the log. Each receiver is
killed once and started again, and PostgreSQL is restarted once. A reader whose receiver is gone goes on at the next one
with its cursor.

The program prints a table, and ends with 1 if one of these does not hold:

* *ended*: every task has an outcome, and it is the right one. Only a task whose createTask answer was cut off by a kill
  may end as RECEIVER_SUBMIT_UNKNOWN.
* *elsewhere*: every reader has every task, so two of three got it from a receiver that was not called back.
* *once*: no reader got a cursor twice, and all readers got the same entries in the same order.
* *acknowledged*: the store has each delivery that was answered 200.
* *limits*: the sandbox saw no limit broken, and in no second clearly more polls than the key may send.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any

import aiohttp
import click

from client.sandbox import (
    FaultRates,
    Sandbox,
    SandboxLimits,
    SandboxSettings,
    SentCallback,
    Stats,
    expected_solution,
)
from tests.client.support import PNG
from tests.faults.fleet import Fleet, running_fleet
from tests.postgres import Cluster, execute, running_cluster
from tests.support import release_ports

__all__ = ["Acceptance", "accept"]

_RECEIVERS = 3
_SUBMITTERS = 40
_LIMIT_SECONDS = 900.0
_DOWN_SECONDS = 2.0
_POLLS_PER_SECOND = 50
# Polls leave evenly spaced, but a busy machine delivers some of them together. Without a budget that receivers share,
# 90 came in a second.
_BUNCHED = 1.4
_SAMPLE_SECONDS = 0.02
_RATES = FaultRates(callback_lost=0.3, callback_late=0.1, callback_twice=0.1)
_PROVIDERS = f"""
[capsolver.polls]
firstAfterSeconds = 1
firstAfterCallbackSeconds = 5
intervalSeconds = 3
[capsolver.limits]
requestsPerSecond = {_POLLS_PER_SECOND}
"""


@dataclass
class Reader:
    """A websocket on the log, at one receiver after another. `entries` are the cursors and refs in their order."""

    fleet: Fleet
    at: int
    cursor: str = "start"
    entries: list[tuple[str, str]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    moves: int = 0
    gaps: int = 0

    async def read(self) -> None:
        """Read until cancelled. A broken connection is continued at the next receiver."""
        while True:
            api = self.fleet.api(self.at)
            with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
                async with self.fleet.balancer.session.ws_connect(
                    f"{api.url}/v1/subscribe", headers=api.authorization, heartbeat=10
                ) as ws:
                    await ws.send_json({"type": "subscribe", "id": 1, "cursor": self.cursor})
                    async for frame in ws:
                        self._take(json.loads(frame.data))
            self.at = (self.at + 1) % len(self.fleet.ports)
            self.moves += 1
            await asyncio.sleep(0.2)

    def _take(self, frame: Any) -> None:
        self.gaps += frame["type"] == "gap"
        if frame["type"] == "result":
            self.entries.append((frame["cursor"], frame["task"]["ref"]))
            self.results[frame["task"]["ref"]] = frame["task"]
        self.cursor = frame.get("cursor", self.cursor)


@dataclass
class Provider:
    """Facts about the sandbox, taken while it runs."""

    sandbox: Sandbox
    seen: dict[int, SentCallback] = field(default_factory=dict)
    most_polls: int = 0
    _polls: deque[tuple[float, int]] = field(default_factory=deque)

    async def watch(self) -> None:
        """Note the acknowledged callbacks and the most polls of a second, until cancelled."""
        while True:
            now = time.monotonic()
            self._polls.append((now, self.sandbox.stats.get_task_result_calls))
            while self._polls[0][0] < now - 1:
                self._polls.popleft()
            self.most_polls = max(self.most_polls, self._polls[-1][1] - self._polls[0][1])
            await self.note_callbacks()
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def note_callbacks(self) -> None:
        """Note the callbacks that were sent since the last time."""
        self.seen |= {id(sent): sent for sent in await self.sandbox.sent_callbacks()}

    @property
    def acknowledged(self) -> Counter[str]:
        """The callbacks answered with 200, by the id of the task."""
        return Counter(sent.task_id for sent in self.seen.values() if sent.status == 200)


@dataclass(kw_only=True)
class Acceptance:
    """The measured figures and the conditions that failed."""

    facts: dict[str, Any]
    failed: list[str]


async def accept(cluster: Cluster, folder: Path, *, tasks: int) -> Acceptance:
    """Run everything once. All receivers are killed, and the server is restarted, at regular shares of the results."""
    (folder / "providers.toml").write_text(_PROVIDERS)
    database = cluster.new_database()
    settings = SandboxSettings(
        seed=7,
        latency_seconds=(0.2, 1.0),
        async_images=True,
        rates=_RATES,
        limits=SandboxLimits(poll_interval_seconds=2.9),
    )
    async with Sandbox("capsolver", settings) as sandbox:
        accounts = {
            "provider_keys": json.dumps({"capsolver": "the-client-key"}),
            "provider_urls": json.dumps({"capsolver": sandbox.url}),
            "providers_file": str(folder / "providers.toml"),
        }
        async with running_fleet(database, folder, settings=accounts) as fleet:
            run = _Run(cluster, fleet, Provider(sandbox), tasks)
            await run.run()
        await run.provider.note_callbacks()
        return run.judged(database, sandbox.stats)


class _Run:
    """One run: who submits, who reads, and who breaks things."""

    def __init__(self, cluster: Cluster, fleet: Fleet, provider: Provider, tasks: int) -> None:
        self.provider = provider
        self._cluster, self._fleet, self._tasks = cluster, fleet, tasks
        self._readers = [Reader(fleet, number) for number in range(_RECEIVERS)]
        self._refs: dict[str, int] = {}
        self._unclear: set[str] = set()
        self._seconds = 0.0

    async def run(self) -> None:
        """Return once all tasks have ended at all readers."""
        started = time.monotonic()
        numbers = iter(range(self._tasks))

        async def submit_some() -> None:
            for number in numbers:
                await self._submit(number)

        async with asyncio.TaskGroup() as group, asyncio.timeout(_LIMIT_SECONDS):
            lasting = [group.create_task(reader.read()) for reader in self._readers]
            lasting.append(group.create_task(self.provider.watch()))
            submitting = [group.create_task(submit_some()) for _ in range(_SUBMITTERS)]
            await self._break_things()
            await asyncio.wait(submitting)
            while any(not self._refs.keys() <= reader.results.keys() for reader in self._readers):
                await asyncio.sleep(0.1)
            # A late callback comes after the poll, and changes nothing.
            await asyncio.sleep(2)
            for task in lasting:
                task.cancel()
        self._seconds = time.monotonic() - started

    async def _submit(self, number: int) -> None:
        """Submit a task until there is an answer, under the same Idempotency-Key."""
        balancer = self._fleet.balancer
        headers = {**balancer.authorization, "Idempotency-Key": f"task-{number}"}
        body = {"provider": "capsolver", "task": _task_of(number), "timeoutSeconds": 60}
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with balancer.session.post(f"{balancer.url}/v1/tasks", json=body, headers=headers) as answer:
                    if answer.status in (200, 201):
                        task = await answer.json()
                        self._refs[task["ref"]] = number
                        if task["taskId"] is None:
                            self._unclear.add(task["ref"])
                        return
            await asyncio.sleep(0.3)

    async def _break_things(self) -> None:
        """Kill each receiver once, and restart the server once."""
        for fault in range(_RECEIVERS + 1):
            while min(len(reader.results) for reader in self._readers) < self._tasks * (fault + 1) / (_RECEIVERS + 3):
                await asyncio.sleep(0.05)
            if fault < _RECEIVERS:
                await self._fleet.stop(fault, SIGKILL)
                await asyncio.sleep(_DOWN_SECONDS)
                await self._fleet.start(fault)
            else:
                self._cluster.stop()
                await asyncio.sleep(_DOWN_SECONDS)
                self._cluster.start()

    def judged(self, database: str, stats: Stats) -> Acceptance:
        """Compare what the readers, the store and the provider have."""
        first = self._readers[0]
        results = {number: first.results.get(ref) for ref, number in self._refs.items()}
        unknown = [number for number, task in results.items() if task and _is_unknown(task)]
        wrong = [
            number
            for number, task in results.items()
            if task is None
            or not (_is_unknown(task) or task["solution"] == expected_solution("capsolver", _task_of(number)))
        ]
        repeated = [len(reader.entries) - len(dict(reader.entries)) for reader in self._readers]
        stored: Counter[str] = Counter(dict(execute(database, "SELECT task_id, deliveries FROM task")))
        lost = self.provider.acknowledged - stored
        called_back = {
            line["ref"]: number
            for number, process in enumerate(self._fleet.processes)
            for line in process.events("callback.stored")
            if line.get("verdict") == "accepted"
        }
        conditions = {
            "ended": len(results) == self._tasks and not wrong and len(unknown) <= _RECEIVERS * _SUBMITTERS,
            "elsewhere": all(self._refs.keys() <= reader.results.keys() for reader in self._readers),
            "once": not any(repeated)
            and all(reader.entries == first.entries for reader in self._readers)
            and not any(reader.gaps for reader in self._readers),
            "acknowledged": not lost,
            "limits": not stats.limits_broken and self.provider.most_polls <= _POLLS_PER_SECOND * _BUNCHED,
            "submitted once": stats.tasks_made <= self._tasks,
        }
        sources = Counter(task["source"] for task in first.results.values())
        facts = {
            "tasks": len(results),
            "seconds": round(self._seconds, 1),
            "outcomes by callback, poll": f"{sources['callback']}, {sources['poll']}",
            "wrong or missing outcomes": len(wrong),
            "ended as RECEIVER_SUBMIT_UNKNOWN": len(unknown),
            "entries of the log": len(first.entries),
            "entries handed out twice": sum(repeated),
            "moves of readers to another receiver": sum(reader.moves for reader in self._readers),
            "callbacks by receiver process": dict(sorted(Counter(called_back.values()).items())),
            "callbacks lost, late, doubled": ", ".join(
                str(stats.faults.get(f"callback.{fault}", 0)) for fault in ("lost", "late", "twice")
            ),
            "callbacks sent, by answer": f"{stats.callbacks_sent}, {dict(stats.callback_answers)}",
            "acknowledged and not stored": lost.total(),
            "createTask calls, tasks made": f"{stats.create_task_calls}, {stats.tasks_made}",
            "polls, most in a second (limit)": (
                f"{stats.get_task_result_calls}, {self.provider.most_polls} ({_POLLS_PER_SECOND})"
            ),
            "limits broken": dict(stats.limits_broken),
        }
        return Acceptance(facts=facts, failed=[name for name, holds in conditions.items() if not holds])


def _task_of(number: int) -> dict[str, Any]:
    """Return a task with a picture of its own."""
    return {"type": "ImageToTextTask", "body": base64.b64encode(PNG + number.to_bytes(4)).decode()}


def _is_unknown(task: Any) -> bool:
    return bool(task["errorCode"] == "RECEIVER_SUBMIT_UNKNOWN")


@click.command()
@click.option("--tasks", default=5000, show_default=True)
def main(tasks: int) -> None:
    """Run the acceptance and print its figures."""
    with tempfile.TemporaryDirectory() as folder, running_cluster() as cluster:
        acceptance = asyncio.run(accept(cluster, Path(folder), tasks=tasks))
    release_ports()
    for name, value in acceptance.facts.items():
        click.echo(f"{name:40} {value}")
    click.echo(f"failed: {', '.join(acceptance.failed)}" if acceptance.failed else "all conditions hold")
    sys.exit(1 if acceptance.failed else 0)


if __name__ == "__main__":
    main()
