"""Commit to wake over a socket, for each transport.

The time runs from the return of COMMIT in the server to the arrival of the result in another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.benchmarks.load import Target, percentile
from tests.benchmarks.servers import Server, serving
from tests.benchmarks.tasks import READ_KEY, prepare_tasks
from tests.benchmarks.waiting.waiters import ReceivedAt, Waiter, open_waiters, paced, waiter_of

__all__ = ["TransportWakes", "commits_of", "measure_transports"]

_TRANSPORTS = ("long poll", "websocket", "server-sent events")
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportWakes:
    """Milliseconds from the return of a COMMIT to the waiter; `late_p99_ms` is the delay of the load itself."""

    wakes: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float


async def measure_transports(
    folder: Path, *, waiters: int, tasks_each: int, per_second: float
) -> Mapping[str, TransportWakes]:
    """Measure each transport with this many waiters and tasks for each of them, then one websocket for all tasks."""
    measured = {}
    for transport in _TRANSPORTS:
        measured[transport] = await _measure(folder / f"{transport}.db", transport, (waiters, tasks_each), per_second)
    one_for_all = (1, waiters * tasks_each)
    measured["one websocket for all"] = await _measure(folder / "one.db", "websocket", one_for_all, per_second)
    return measured


async def _measure(database: Path, transport: str, shape: tuple[int, int], per_second: float) -> TransportWakes:
    waiters, tasks_each = shape
    prepared = await prepare_tasks(database, waiters * tasks_each)
    refs = [task.ref for task in prepared.tasks]
    callbacks = [Target.request(target) for target in prepared.callbacks()]
    received_at: ReceivedAt = {}
    async with serving("receiver with commit times", database) as server:
        waiting = [
            waiter_of(transport, READ_KEY, refs[number::waiters], received_at.setdefault) for number in range(waiters)
        ]
        await open_waiters(server.port, waiting)
        await asyncio.sleep(1)
        received_at.clear()
        sent = await paced(server.port, callbacks, per_second=per_second)
        async with asyncio.timeout(_LIMIT_SECONDS):
            while len(received_at) < len(refs):
                await asyncio.sleep(0.05)
        commits = await commits_of(server)
        _close(waiting)
    latencies = [(received_at[ref] - commits[ref]) / 1e6 for ref in refs]
    return TransportWakes(
        wakes=len(latencies),
        p50_ms=percentile(latencies, 50),
        p99_ms=percentile(latencies, 99),
        late_p99_ms=percentile([(one.sent_at - one.due_at) / 1e6 for one in sent], 99),
    )


async def commits_of(server: Server) -> Mapping[str, int]:
    """Return for the ref of each outcome the time at which its COMMIT returned.

    The unit is nanoseconds of the monotonic clock, which all processes share.
    """
    url = f"http://127.0.0.1:{server.port}/bench/commits"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        found: Mapping[str, int] = await response.json()
    return found


def _close(waiting: list[Waiter]) -> None:
    for waiter in waiting:
        waiter.transport.close()
