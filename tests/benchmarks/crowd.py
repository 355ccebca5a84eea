"""Thousands of waiting connections in one server process: what each costs, and how long it takes to wake them all."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.load import run_load, write_targets
from tests.benchmarks.servers import Server, serving
from tests.benchmarks.tasks import READ_KEY, prepare_tasks
from tests.benchmarks.waiters import Noted, Waiter, open_waiters, paced, waiter_of
from tests.raw import poll_request, text_frame

__all__ = ["Crowd", "kilobytes", "measure_crowd"]

_SETTLE_SECONDS = 3.0
_LIMIT_SECONDS = 45.0
_SPARE_FILES = 500
_CALLERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """So many connections, half of them websockets, half long polls, and what all of them took."""

    connections: int
    open_seconds: float
    kilobytes_each: float
    own_tasks_seconds: float
    one_task_seconds: float


async def measure_crowd(folder: Path, wanted: int) -> Crowd:
    """As many connections as are wanted and the limit of open files allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connections = min(wanted, hard - _SPARE_FILES)
    prepared = await prepare_tasks(folder / "crowd.db", connections + 1)
    *own, one = [task.ref for task in prepared.tasks]
    *callbacks, last = prepared.callbacks()
    burst = write_targets(folder / "burst", callbacks)
    noted: Noted = {}

    def note(ref: str, came_at: int) -> None:
        noted.setdefault(ref, came_at)

    async with serving("noting receiver", folder / "crowd.db") as server:
        await paced(server.port, [b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"] * 100, per_second=1000)
        before = kilobytes(server.process)
        began_at = time.perf_counter()
        roads = ("websocket", "long poll")
        waiting = [waiter_of(roads[number % 2], READ_KEY, [ref], note) for number, ref in enumerate(own)]
        await open_waiters(server.port, waiting)
        await asyncio.sleep(_SETTLE_SECONDS)
        open_seconds = time.perf_counter() - began_at - _SETTLE_SECONDS
        each = (kilobytes(server.process) - before) / connections
        own_tasks = await _burst(server, burst, noted, set(own))
        one_task = await _one_for_all(server, waiting, one, last.request())
        for waiter in waiting:
            waiter.transport.close()
    return Crowd(
        connections=connections,
        open_seconds=open_seconds,
        kilobytes_each=each,
        own_tasks_seconds=own_tasks,
        one_task_seconds=one_task,
    )


async def _burst(server: Server, callbacks: Path, noted: Noted, refs: set[str]) -> float:
    """Return all callbacks as fast as they are answered; how long until the last waiter has its result."""
    noted.clear()
    began_at = time.monotonic_ns()
    async with asyncio.timeout(_LIMIT_SECONDS):
        await run_load(server.port, _CALLERS, callbacks)
        while len(noted.keys() & refs) < len(refs):
            await asyncio.sleep(0.05)
    return (max(noted[ref] for ref in refs) - began_at) / 1e9


async def _one_for_all(server: Server, waiting: Sequence[Waiter], ref: str, callback: bytes) -> float:
    """Everybody waits for the same task; how long from its callback until the last one has it."""
    came: list[int] = []
    for number, waiter in enumerate(waiting):
        waiter.note_by(lambda _ref, came_at: came.append(came_at))
        again = poll_request(READ_KEY, ref) if number % 2 else text_frame({"type": "add", "id": 2, "tasks": [ref]})
        waiter.transport.write(again)
        if number % 500 == 0:
            await asyncio.sleep(0.05)
    await asyncio.sleep(_SETTLE_SECONDS)
    came.clear()
    began_at = time.monotonic_ns()
    async with asyncio.timeout(_LIMIT_SECONDS):
        await paced(server.port, [callback], per_second=1, connections=1)
        while len(came) < len(waiting):
            await asyncio.sleep(0.05)
    return (max(came) - began_at) / 1e9


def kilobytes(process: asyncio.subprocess.Process) -> int:
    """Return the resident set of the process."""
    (line,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1])
