"""The processor time of a callback by stage, inside a receiver: `receiver with stages` of `tests.benchmarks.servers`.

Each stage is a function of the receiver, and is timed on its own thread. The rest is HTTP, the event loop and the
system calls for the sockets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any

from aiohttp import web
from rich.table import Table

import receiver.logs
import receiver.service.callbacks
import receiver.storage.sqlite.writer
from receiver.domain.transaction import Transaction
from receiver.metrics import Metrics
from receiver.service.signing_keys import SigningKeys
from receiver.storage.sqlite.batch import Batch
from receiver.storage.sqlite.writer import Writer
from receiver.upkeep.relay import Relay
from tests.benchmarks.goals import table
from tests.benchmarks.load import Target, run_load, write_targets
from tests.benchmarks.servers import Server

__all__ = ["REST", "TIMED", "Stages", "add_stages", "measure_stages"]

REST = "HTTP, event loop, sockets"
TIMED: Sequence[tuple[Any, str, str]] = (
    (SigningKeys, "check", "check the token"),
    (receiver.service.callbacks, "delivery_command", "read the callback"),
    (receiver.storage.sqlite.writer, "begin_at_once", "begin the transaction"),
    (Batch, "__init__", "begin the transaction"),
    (Batch, "_fetch", "fetch the rows"),
    (Transaction, "decide", "decide"),
    (Batch, "_write_changes", "write the rows"),
    (Writer, "_finish", "COMMIT, and check the files"),
    (Relay, "take", "wake readers and waiters"),
    (Metrics, "delivered", "count for /metrics"),
    (Metrics, "committed", "count for /metrics"),
    (receiver.logs._Lines, "flush", "write the log"),
)
"""The owner of each function, its name, and the stage that it is a part of."""
_ROUNDS = 5
_REQUESTS = 2000


@dataclass(frozen=True, slots=True)
class Stages:
    """Processor time of one callback by stage, in µs: the median of several rounds."""

    connections: int
    microseconds: Mapping[str, float]

    def figures(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        return {"connections": self.connections, "microseconds": dict(self.microseconds)}

    def table(self) -> Table:
        """Return the figures as a table to print."""
        shown = table(f"a callback by stage, connections: {self.connections}", "CPU µs")
        for stage, microseconds in self.microseconds.items():
            shown.add_row(stage, f"{microseconds:.1f}")
        shown.add_row("all", f"{sum(self.microseconds.values()):.1f}")
        return shown


def add_stages(app: web.Application) -> None:
    """Time the stages of all callbacks in this process, and add `GET /bench/stages`: seconds by stage."""
    seconds = dict.fromkeys((stage for _, _, stage in TIMED), 0.0)

    async def show(_: web.Request) -> web.Response:
        return web.json_response(seconds)

    for owner, name, stage in TIMED:
        setattr(owner, name, _timed(getattr(owner, name), stage, seconds))
    app.router.add_get("/bench/stages", show)


async def measure_stages(folder: Path, server: Server, targets: Iterator[Target], *, connections: int) -> Stages:
    """Send rounds of callbacks to a server with stages."""
    rounds: list[dict[str, float]] = []
    for _ in range(1 + _ROUNDS):
        callbacks = list(islice(targets, _REQUESTS))
        file = write_targets(folder / "targets", callbacks)
        before, started = await _stages(server.port), server.cpu_seconds() or 0.0
        await run_load(server.port, connections, file)
        after, ended = await _stages(server.port), server.cpu_seconds() or 0.0
        spent = {stage: after[stage] - before[stage] for stage in before}
        spent[REST] = max(0.0, ended - started - sum(spent.values()))
        rounds.append({stage: seconds / len(callbacks) * 1e6 for stage, seconds in spent.items()})
    # The first round was to warm up.
    return Stages(connections, {stage: median(one_round[stage] for one_round in rounds[1:]) for stage in rounds[0]})


async def _stages(port: int) -> dict[str, float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /bench/stages HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    response = await reader.read()
    writer.close()
    seconds: dict[str, float] = json.loads(response.partition(b"\r\n\r\n")[2])
    return seconds


def _timed(function: Callable[..., Any], stage: str, seconds: dict[str, float]) -> Callable[..., Any]:
    @wraps(function)
    def timed(*arguments: Any, **options: Any) -> Any:
        started = thread_time()
        try:
            return function(*arguments, **options)
        finally:
            seconds[stage] += thread_time() - started

    return timed
