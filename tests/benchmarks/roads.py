"""Commit to wake over a socket, by road: from the return of COMMIT in the server to the waiter in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.benchmarks.load import Target, percentile
from tests.benchmarks.servers import Server, serving
from tests.benchmarks.tasks import READ_KEY, prepare_tasks
from tests.benchmarks.waiters import Noted, Waiter, open_waiters, paced, waiter_of

__all__ = ["Road", "commits_of", "measure_roads"]

_ROADS = ("long poll", "websocket", "server-sent events")
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """Milliseconds from a commit's return to the waiter; `late_p99_ms` is how late the load itself was."""

    wakes: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float


async def measure_roads(folder: Path, *, waiters: int, each: int, per_second: float) -> Mapping[str, Road]:
    """Each road with so many waiters, each of which waits for some tasks; and one websocket that waits for all."""
    measured = {}
    for road in _ROADS:
        measured[road] = await _measure(folder / f"{road}.db", road, (waiters, each), per_second)
    measured["one websocket for all"] = await _measure(folder / "one.db", "websocket", (1, waiters * each), per_second)
    return measured


async def _measure(database: Path, road: str, shape: tuple[int, int], per_second: float) -> Road:
    waiters, each = shape
    prepared = await prepare_tasks(database, waiters * each)
    refs = [task.ref for task in prepared.tasks]
    callbacks = [Target.request(target) for target in prepared.callbacks()]
    noted: Noted = {}
    async with serving("noting receiver", database) as server:
        waiting = [waiter_of(road, READ_KEY, refs[number::waiters], noted.setdefault) for number in range(waiters)]
        await open_waiters(server.port, waiting)
        await asyncio.sleep(1)
        noted.clear()
        late = await paced(server.port, callbacks, per_second=per_second)
        async with asyncio.timeout(_LIMIT_SECONDS):
            while len(noted) < len(refs):
                await asyncio.sleep(0.05)
        commits = await commits_of(server)
        _close(waiting)
    latencies = [(noted[ref] - commits[ref]) / 1e6 for ref in refs]
    return Road(
        wakes=len(latencies),
        p50_ms=percentile(latencies, 50),
        p99_ms=percentile(latencies, 99),
        late_p99_ms=percentile(late, 99) * 1000,
    )


async def commits_of(server: Server) -> Mapping[str, int]:
    """For each outcome, by ref, when its COMMIT returned: nanoseconds of the clock that all processes share."""
    url = f"http://127.0.0.1:{server.port}/bench/commits"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        found: Mapping[str, int] = await response.json()
    return found


def _close(waiting: list[Waiter]) -> None:
    for waiter in waiting:
        waiter.transport.close()
