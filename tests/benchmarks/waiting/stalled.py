"""Subscribers that stop reading: the memory each one costs the server, and the delay of the others."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.load import Target, percentile
from tests.benchmarks.servers import kilobytes, serving
from tests.benchmarks.tasks import READ_KEY
from tests.benchmarks.waiting.transports import commits_of
from tests.benchmarks.waiting.waiters import Waiter, open_waiters, paced
from tests.raw import events_request, websocket_request

__all__ = ["ServerFigures", "Stalled", "measure_stalled"]

_LIMIT_SECONDS = 60.0
_READERS = 20
_PER_SECOND = {2_000: 150.0, 100_000: 20.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """Figures of one server: the growth of its memory, the delay of its readers, the subscribers it dropped."""

    grown_kilobytes: int
    readers_p99_ms: float
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalled:
    """Figures without and with `stalled` subscribers of everything that read nothing, for one size of results."""

    solution_bytes: int
    stalled: int
    without: ServerFigures
    with_them: ServerFigures

    @property
    def kilobytes_each(self) -> float:
        """The memory that one of them costs."""
        return (self.with_them.grown_kilobytes - self.without.grown_kilobytes) / self.stalled


async def measure_stalled(folder: Path, *, stalled: int, megabytes: int) -> Sequence[Stalled]:
    """Measure with small and with large results."""
    measured = []
    for size in _PER_SECOND:
        results = megabytes * 1_000_000 // size
        without = await _measure(folder / f"{size} alone.db", size, 0, results)
        with_them = await _measure(folder / f"{size} stalled.db", size, stalled, results)
        measured.append(Stalled(solution_bytes=size, stalled=stalled, without=without, with_them=with_them))
    return measured


async def _measure(database: Path, size: int, stalled: int, results: int) -> ServerFigures:
    arrivals: list[tuple[str, int]] = []
    async with serving("receiver with commit times", database) as server:
        readers = [
            Waiter(websocket_request(READ_KEY), lambda *arrival: arrivals.append(arrival)) for _ in range(_READERS)
        ]
        await open_waiters(server.port, readers)
        before = kilobytes(server.process)
        async with _silent(server.port, stalled), asyncio.timeout(_LIMIT_SECONDS):
            await asyncio.sleep(1)
            await paced(server.port, [_report(number, size) for number in range(results)], per_second=_PER_SECOND[size])
            while len(arrivals) < results * _READERS:
                await asyncio.sleep(0.05)
            grown = kilobytes(server.process) - before
            while (dropped := database.with_suffix(".log").read_text().count("stream.dropped")) < stalled:
                await asyncio.sleep(0.2)
        commits = await commits_of(server)
        for reader in readers:
            reader.transport.close()
    late = [(received_at - commits[ref]) / 1e6 for ref, received_at in arrivals]
    return ServerFigures(grown_kilobytes=grown, readers_p99_ms=percentile(late, 99), dropped=dropped)


def _report(number: int, size: int) -> bytes:
    answer = {"errorId": 0, "status": "ready", "solution": {"text": "x" * size}}
    outcome = {"source": "poll", "answer": answer}
    body = {"provider": "capsolver", "taskId": f"{size}-{number}", "outcome": outcome}
    return Target("/v1/tasks", json.dumps(body), key=READ_KEY).request()


@asynccontextmanager
async def _silent(port: int, number: int) -> AsyncIterator[None]:
    """Keep subscribers of everything that read nothing, half websockets, half server-sent events.

    Their receive buffers are small, so that the results pile up in the server and not in the system.
    """
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
