"""Subscribers that stop reading: what each costs the server, and what those that read notice of them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.crowd import kilobytes
from tests.benchmarks.load import Target, percentile
from tests.benchmarks.roads import commits_of
from tests.benchmarks.servers import serving
from tests.benchmarks.tasks import READ_KEY
from tests.benchmarks.waiters import Waiter, open_waiters, paced
from tests.raw import events_request, websocket_request

__all__ = ["Course", "Stalled", "measure_stalled"]

_LIMIT_SECONDS = 60.0
_READERS = 20
_PER_SECOND = {2_000: 150.0, 100_000: 20.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What one server did: how much it grew, how late its readers were, how many it dropped."""

    grown_kilobytes: int
    readers_p99_ms: float
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled:
    """Results of so many bytes each while `stalled` subscribers of everything read nothing, and the same without."""

    solution_bytes: int
    stalled: int
    without: Course
    with_them: Course

    @property
    def kilobytes_each(self) -> float:
        """What one of them costs."""
        return (self.with_them.grown_kilobytes - self.without.grown_kilobytes) / self.stalled


async def measure_stalled(folder: Path, *, stalled: int, megabytes: int) -> Sequence[Stalled]:
    """With small and with large results."""
    measured = []
    for size in _PER_SECOND:
        results = megabytes * 1_000_000 // size
        without = await _measure(folder / f"{size} alone.db", size, 0, results)
        with_them = await _measure(folder / f"{size} stalled.db", size, stalled, results)
        measured.append(Stalled(solution_bytes=size, stalled=stalled, without=without, with_them=with_them))
    return measured


async def _measure(database: Path, size: int, stalled: int, results: int) -> Course:
    came: list[tuple[str, int]] = []
    async with serving("noting receiver", database) as server:
        readers = [Waiter(websocket_request(READ_KEY), lambda *told: came.append(told)) for _ in range(_READERS)]
        await open_waiters(server.port, readers)
        before = kilobytes(server.process)
        async with _silent(server.port, stalled), asyncio.timeout(_LIMIT_SECONDS):
            await asyncio.sleep(1)
            await paced(server.port, [_report(number, size) for number in range(results)], per_second=_PER_SECOND[size])
            while len(came) < results * _READERS:
                await asyncio.sleep(0.05)
            grown = kilobytes(server.process) - before
            while (dropped := database.with_suffix(".log").read_text().count("stream.dropped")) < stalled:
                await asyncio.sleep(0.2)
        commits = await commits_of(server)
        for reader in readers:
            reader.transport.close()
    late = [(came_at - commits[ref]) / 1e6 for ref, came_at in came]
    return Course(grown_kilobytes=grown, readers_p99_ms=percentile(late, 99), dropped=dropped)


def _report(number: int, size: int) -> bytes:
    answer = {"errorId": 0, "status": "ready", "solution": {"text": "x" * size}}
    outcome = {"source": "poll", "answer": answer}
    body = {"provider": "capsolver", "taskId": f"{size}-{number}", "outcome": outcome}
    return Target("/v1/tasks", json.dumps(body), key=READ_KEY).request()


@asynccontextmanager
async def _silent(port: int, number: int) -> AsyncIterator[None]:
    """So many subscribers of everything, by both roads, that read nothing; the system holds little for them."""
    loop = asyncio.get_running_loop()
    peers = []
    try:
        for request in (websocket_request(READ_KEY), events_request(READ_KEY)) * (number // 2):
            peer = socket.socket()
            peers.append(peer)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.setblocking(False)
            await loop.sock_connect(peer, ("127.0.0.1", port))
            await loop.sock_sendall(peer, request)
        yield
    finally:
        for peer in peers:
            peer.close()
