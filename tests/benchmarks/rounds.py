"""Rounds of load on servers side by side. The order rotates, so that drift of the machine cancels out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median

from tests.benchmarks.load import LoadReport, Target, run_load, write_targets
from tests.benchmarks.servers import Server, serving
from tests.benchmarks.tasks import Prepared, prepare_tasks

__all__ = ["CONNECTIONS", "Contender", "Plan", "ratio", "run_rounds"]

CONNECTIONS = 64
_WARM_UP = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size of a measurement."""

    rounds: int
    requests: int

    @property
    def requests_in_all(self) -> int:
        """The requests to one server, with its warm-up."""
        return _WARM_UP + self.rounds * self.requests


@dataclass(slots=True)
class Contender:
    """The figures of one server, round by round; `cpu_us` is its processor time for one request."""

    reports: list[LoadReport] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float | None]:
        """Return the medians over the rounds."""
        return {
            "perSecond": median(report.per_second for report in self.reports),
            "p50Ms": median(report.p50_ms for report in self.reports),
            "p99Ms": median(report.p99_ms for report in self.reports),
            "cpuMicroseconds": median(self.cpu_us) if self.cpu_us else None,
            "loadBusy": median(report.busy for report in self.reports),
        }


def ratio(one: Contender, other: Contender, *, of: str = "per_second") -> float:
    """Return the median of the ratios of each round, because a slow moment of the machine slows both servers."""
    pairs = zip(one.reports, other.reports, strict=True)
    return float(median(getattr(report, of) / getattr(base, of) for report, base in pairs))


async def run_rounds(folder: Path, plan: Plan) -> tuple[Mapping[str, Contender], Mapping[str, Contender]]:
    """Send callbacks to all servers, then fetch the results from two of them. Return both figures by server."""
    prepared = await prepare_tasks(folder / "receiver.db", plan.requests_in_all)
    other = await prepare_tasks(folder / "no store.db", 0)
    names = ("bare", "receiver", "no store", "aiosqlite", "aiosqlite guarded")
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(serving(name, folder / f"{name}.db")) for name in names}
        callbacks = {name: prepared.callbacks() for name in names}
        callbacks["no store"] = Prepared(prepared.tasks, other.signing_key).callbacks()
        called = await _Rounds(folder, servers).run(callbacks, plan)
        fetching = {name: servers[name] for name in ("bare", "receiver")}
        fetched = await _Rounds(folder, fetching).run({name: prepared.fetches() for name in fetching}, plan)
    return called, fetched


class _Rounds:
    def __init__(self, folder: Path, servers: Mapping[str, Server]) -> None:
        self._file = folder / "targets"
        self._servers = servers

    async def run(self, targets: Mapping[str, Iterator[Target]], plan: Plan) -> Mapping[str, Contender]:
        contenders = {name: Contender() for name in self._servers}
        for name in contenders:
            await self._load(name, islice(targets[name], _WARM_UP))
        for number in range(plan.rounds):
            for name in _rotated(list(contenders), number):
                await self._measure(name, islice(targets[name], plan.requests), contenders[name])
        return contenders

    async def _measure(self, name: str, targets: Iterable[Target], contender: Contender) -> None:
        before = self._servers[name].cpu_seconds()
        report = await self._load(name, targets)
        after = self._servers[name].cpu_seconds()
        contender.reports.append(report)
        if before is not None and after is not None:
            contender.cpu_us.append((after - before) / report.requests * 1e6)

    async def _load(self, name: str, targets: Iterable[Target]) -> LoadReport:
        file = write_targets(self._file, list(targets))
        return await run_load(self._servers[name].port, CONNECTIONS, file)


def _rotated(names: Sequence[str], number: int) -> Sequence[str]:
    start = number % len(names)
    return [*names[start:], *names[:start]]
