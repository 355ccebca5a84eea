"""Acknowledgements and fetches with millions of finished tasks stored, beside the same on an empty database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks.comparison import Figures, Round, Spread, ratios, spread
from tests.benchmarks.goals import Goal, table
from tests.benchmarks.load import Target, percentile
from tests.benchmarks.registering import OpenTask, connected, register_tasks
from tests.benchmarks.rounds import Load
from tests.benchmarks.scale.database import drop_from_memory, read_into_memory, sample_refs
from tests.benchmarks.servers import Server, serving
from tests.benchmarks.tasks import READ_KEY, in_any_order
from tests.benchmarks.waiting.waiters import paced

__all__ = ["SETTINGS", "Cold", "Stored", "measure_stored"]

_CONNECTIONS = 64
_WINDOW = 5000
_SEED = 5
_PER_SECOND = 300
_PROBE_SECONDS = 0.002
_CENTURY = str(100 * 365 * 24 * 3600)
SETTINGS = {
    "RECEIVER_MAX_FINISHED_TASKS": "1000000000",
    "RECEIVER_RETENTION_RESULTS_SECONDS": _CENTURY,
    "RECEIVER_RETENTION_SOLUTIONS_SECONDS": _CENTURY,
    "RECEIVER_RETENTION_DELIVERIES_SECONDS": _CENTURY,
}
"""Limits beyond which nothing goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cold:
    """Figures of one database after its pages were dropped from memory.

    The loads over all connections have a round of their own, each after another drop. `stall_ms` is the p99, and
    `longest_stall_ms` the longest, of the time that a request to /healthz takes beside a steady load.
    """

    acknowledgement: Figures
    fetch: Figures
    stall_ms: float
    longest_stall_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """All rounds. In each, the empty database is the neighbour in place of bare."""

    tasks: int
    acknowledgements: Sequence[Round]
    fetches: Sequence[Round]
    cold: Sequence[Cold]
    cold_and_empty: Sequence[Cold]

    def goals(self) -> Sequence[Goal]:
        """Return the ratios of p99 to those of the empty database, and the stalls."""
        warm = {"acknowledgement": self.acknowledgements, "fetch": self.fetches}
        return [
            *(
                Goal(f"p99 of the {name} ÷ empty database, warm", spread(ratios(rounds, "p99_ms")).median, most=1.3)
                for name, rounds in warm.items()
            ),
            Goal("stall of the loop, p99 ms, cold", spread([cold.stall_ms for cold in self.cold]).median, most=20),
        ]

    def figures(self) -> dict[str, Any]:
        """Return all rounds as JSON."""
        return asdict(self)

    def tables(self) -> Sequence[Table]:
        """Return the figures as tables to print."""
        warm = table(
            f"{self.tasks:,} finished tasks, warm: median (lowest to highest)", "p50 ms", "p99 ms", "p99 ÷ empty"
        )
        for name, rounds in (("acknowledgement", self.acknowledgements), ("fetch by ref", self.fetches)):
            own = [pair.own for pair in rounds]
            p50, p99 = spread([one.p50_ms for one in own]), spread([one.p99_ms for one in own])
            warm.add_row(name, str(p50), str(p99), str(spread(ratios(rounds, "p99_ms"))))
        cold = table("cold: the pages were dropped from memory before each round", "these", "empty database")
        for name, of in _COLD.items():
            cold.add_row(name, *(str(of(rounds)) for rounds in (self.cold, self.cold_and_empty)))
        return [warm, cold]


_COLD: Mapping[str, Callable[[Sequence[Cold]], Spread]] = {
    "acknowledgement, p99 ms": lambda rounds: spread([cold.acknowledgement.p99_ms for cold in rounds]),
    "fetch by ref, p99 ms": lambda rounds: spread([cold.fetch.p99_ms for cold in rounds]),
    "stall of the loop, p99 ms": lambda rounds: spread([cold.stall_ms for cold in rounds]),
    "longest stall, ms": lambda rounds: spread([cold.longest_stall_ms for cold in rounds]),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One database with its server, its open tasks in the order of their ends, and fetches of finished ones."""

    database: Path
    server: Server
    callbacks: Iterator[Target]
    fetches: Iterator[Target]


async def measure_stored(folder: Path, database: Path, tasks: int, *, rounds: int, requests: int) -> Stored:
    """Measure `database`, which holds so many finished tasks, beside a new one in `folder`."""
    load = Load(folder / "targets", _CONNECTIONS)
    cold_rounds = max(1, rounds // 3)
    steady = min(requests, 4 * _PER_SECOND)
    needed = rounds * requests + cold_rounds * (requests + steady) + requests
    async with AsyncExitStack() as stack:

        async def open_side(path: Path, refs: Sequence[str]) -> _Side:
            server = await stack.enter_async_context(serving("receiver", path, SETTINGS))
            opened = await register_tasks(server.port, needed, first=time.time_ns())
            ended = list(in_any_order(opened, window=_WINDOW, seed=_SEED))
            # The first ones end before all others, so that an empty database has tasks to fetch.
            await load.run(server, [task.callback() for task in ended[:requests]])
            found = refs or [task.ref for task in ended[:requests]] * (needed // requests + 1)
            fetches = (Target(f"/v1/tasks/{ref}", key=READ_KEY) for ref in found)
            return _Side(path, server, map(OpenTask.callback, ended[requests:]), fetches)

        full = await open_side(database, sample_refs(database, needed, tasks, seed=time.time_ns()))
        empty = await open_side(folder / "empty.db", ())
        await asyncio.to_thread(read_into_memory, database)
        measured: Mapping[str, list[Round]] = {"callbacks": [], "fetches": []}
        for number in range(rounds):
            sides = (full, empty) if number % 2 else (empty, full)
            for kind, pairs in measured.items():
                figures = {side: await load.run(side.server, _some(side, kind, requests)) for side in sides}
                pairs.append(Round(figures[full], figures[empty]))
        cold: Mapping[_Side, list[Cold]] = {full: [], empty: []}
        for _ in range(cold_rounds):
            for side, figures_of in cold.items():
                figures_of.append(await _measure_cold(side, load, requests, steady))
    return Stored(
        tasks=tasks,
        acknowledgements=measured["callbacks"],
        fetches=measured["fetches"],
        cold=cold[full],
        cold_and_empty=cold[empty],
    )


def _some(side: _Side, kind: str, requests: int) -> Sequence[Target]:
    return list(islice(side.callbacks if kind == "callbacks" else side.fetches, requests))


async def _measure_cold(side: _Side, load: Load, requests: int, steady: int) -> Cold:
    figures = {}
    for kind in ("callbacks", "fetches"):
        await asyncio.to_thread(drop_from_memory, side.database)
        figures[kind] = await load.run(side.server, _some(side, kind, requests // 2))
    pairs = zip(_some(side, "callbacks", steady // 2), _some(side, "fetches", steady // 2), strict=True)
    mixed = [target.request() for pair in pairs for target in pair]
    await asyncio.to_thread(drop_from_memory, side.database)
    async with asyncio.TaskGroup() as group:
        loading = group.create_task(paced(side.server.port, mixed, per_second=2 * _PER_SECOND))
        stalls = await _probe(side.server.port, loading)
    return Cold(
        acknowledgement=figures["callbacks"],
        fetch=figures["fetches"],
        stall_ms=percentile(stalls, 99),
        longest_stall_ms=max(stalls),
    )


async def _probe(port: int, until: asyncio.Task[Any]) -> Sequence[float]:
    """Ask for /healthz all the time. Return the milliseconds that each answer took."""
    taken = []
    async with connected(port) as connection:
        while not until.done():
            began_at = time.perf_counter()
            await connection.ask(Target("/healthz"))
            seconds = time.perf_counter() - began_at
            # One slow answer stands for all that would have been asked meanwhile.
            while seconds > 0:
                taken.append(seconds * 1000)
                seconds -= _PROBE_SECONDS
            await asyncio.sleep(_PROBE_SECONDS)
    return taken
