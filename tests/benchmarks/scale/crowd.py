"""Thousands of waiting connections in one server process: the memory of each one, and the time until all are woken."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.load import run_load, write_targets
from tests.benchmarks.servers import Server, kilobytes, serving
from tests.benchmarks.tasks import READ_KEY, prepare_tasks
from tests.benchmarks.waiting.waiters import ReceivedAt, Waiter, open_waiters, paced, waiter_of
from tests.raw import poll_request, text_frame

__all__ = ["Crowd", "measure_crowd"]

_SETTLE_SECONDS = 3.0
_LIMIT_SECONDS = 45.0
_SPARE_FILES = 500
_CALLERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Figures of all connections together; half of them are websockets, half long polls."""

    connections: int
    open_seconds: float
    websocket_kilobytes: float
    long_poll_kilobytes: float
    own_tasks_seconds: float
    one_task_seconds: float


async def measure_crowd(folder: Path, wanted: int) -> Crowd:
    """Measure `wanted` connections, or fewer if the limit of open files is lower."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections = min(wanted, hard - _SPARE_FILES)
    prepared = await prepare_tasks(folder / "crowd.db", connections + 1)
    *own, one = [task.ref for task in prepared.tasks]
    *callbacks, last = prepared.callbacks()
    burst = write_targets(folder / "burst", callbacks)
    received_at: ReceivedAt = {}

    async with serving("receiver", folder / "crowd.db") as server:
        await paced(server.port, [b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"] * 100, per_second=1000)
        before = kilobytes(server.process)
        began_at = time.perf_counter()
        waiting: list[Waiter] = []
        grown: list[int] = []
        for transport, refs in (("websocket", own[: connections // 2]), ("long poll", own[connections // 2 :])):
            opened = [waiter_of(transport, READ_KEY, [ref], received_at.setdefault) for ref in refs]
            await open_waiters(server.port, opened)
            await asyncio.sleep(_SETTLE_SECONDS)
            grown.append(kilobytes(server.process) - before - sum(grown))
            waiting += opened
        open_seconds = time.perf_counter() - began_at - 2 * _SETTLE_SECONDS
        own_tasks = await _burst(server, burst, received_at, set(own))
        one_task = await _one_for_all(server, waiting, one, last.request())
        for waiter in waiting:
            waiter.transport.close()
    return Crowd(
        connections=connections,
        open_seconds=open_seconds,
        websocket_kilobytes=grown[0] / (connections // 2),
        long_poll_kilobytes=grown[1] / (connections - connections // 2),
        own_tasks_seconds=own_tasks,
        one_task_seconds=one_task,
    )


async def _burst(server: Server, callbacks: Path, received_at: ReceivedAt, refs: set[str]) -> float:
    """Send all callbacks as fast as they are answered. Return the seconds until the last waiter has its result."""
    received_at.clear()
    began_at = time.monotonic_ns()
    async with asyncio.timeout(_LIMIT_SECONDS):
        await run_load(server.port, _CALLERS, callbacks)
        while len(received_at.keys() & refs) < len(refs):
            await asyncio.sleep(0.05)
    return (max(received_at[ref] for ref in refs) - began_at) / 1e9


async def _one_for_all(server: Server, waiting: Sequence[Waiter], ref: str, callback: bytes) -> float:
    """Let all wait for the same task. Return the seconds from its callback until the last one has the result."""
    arrivals: list[int] = []
    for number, waiter in enumerate(waiting):
        waiter.record_with(lambda _ref, received_at: arrivals.append(received_at))
        again = (
            poll_request(READ_KEY, ref)
            if number >= len(waiting) // 2
            else text_frame({"type": "add", "id": 2, "tasks": [ref]})
        )
        waiter.transport.write(again)
        if number % 500 == 0:
            await asyncio.sleep(0.05)
    await asyncio.sleep(_SETTLE_SECONDS)
    arrivals.clear()
    began_at = time.monotonic_ns()
    async with asyncio.timeout(_LIMIT_SECONDS):
        await paced(server.port, [callback], per_second=1, connections=1)
        while len(arrivals) < len(waiting):
            await asyncio.sleep(0.05)
    return (max(arrivals) - began_at) / 1e9
