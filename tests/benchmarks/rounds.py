"""Rounds of load on servers side by side, each next to a round of bare with the same requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tests.benchmarks.comparison import Comparison, Figures, Round
from tests.benchmarks.load import Target, run_load, write_targets
from tests.benchmarks.servers import Server

__all__ = ["Load", "Plan", "run_rounds"]

_WARM_UP = 300
_PER_CONNECTION = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size of a measurement; `requests` counts those of one round."""

    rounds: int
    requests: int
    connections: Sequence[int]

    def requests_at(self, connections: int) -> int:
        """Return the requests of one round; few connections get fewer, because they take longer for each."""
        return min(self.requests, _PER_CONNECTION * connections)

    @property
    def requests_in_all(self) -> int:
        """The requests to one server at all numbers of connections, with the warm-ups."""
        return sum(_WARM_UP + self.rounds * self.requests_at(connections) for connections in self.connections)


async def run_rounds(
    folder: Path, servers: Mapping[str, Server], targets: Mapping[str, Iterator[Target]], plan: Plan, connections: int
) -> Comparison:
    """Measure each server that has targets, round by round, beside the server "bare".

    The order of servers rotates, and bare comes first in every second round, so that drift of the machine cancels out.
    """
    load = Load(folder / "targets", connections)
    rounds: dict[str, list[Round]] = {name: [] for name in targets}
    for name, requests in targets.items():
        warm_up = list(islice(requests, _WARM_UP))
        await load.run(servers["bare"], warm_up)
        await load.run(servers[name], warm_up)
    for number in range(plan.rounds):
        for name in _rotated(list(rounds), number):
            same = list(islice(targets[name], plan.requests_at(connections)))
            rounds[name].append(
                await load.run_pair(servers[name], servers["bare"], same, is_bare_first=number % 2 == 0)
            )
    return Comparison(connections, rounds)


@dataclass(frozen=True, slots=True)
class Load:
    """Loads over this number of connections. Their requests pass through `file`."""

    file: Path
    connections: int

    async def run_pair(self, server: Server, bare: Server, targets: Sequence[Target], *, is_bare_first: bool) -> Round:
        """Send the same requests to both servers, one right after the other."""
        if is_bare_first:
            base = await self.run(bare, targets)
            return Round(await self.run(server, targets), base)
        own = await self.run(server, targets)
        return Round(own, await self.run(bare, targets))

    async def run(self, server: Server, targets: Sequence[Target]) -> Figures:
        """Send the requests, and return the figures of the server."""
        file = write_targets(self.file, targets)
        before = server.cpu_seconds()
        report = await run_load(server.port, self.connections, file)
        after = server.cpu_seconds()
        return Figures(
            per_second=report.per_second,
            p50_ms=report.p50_ms,
            p99_ms=report.p99_ms,
            distribution_ms=report.distribution_ms,
            cpu_us=None if before is None or after is None else (after - before) / report.requests * 1e6,
            busy=report.busy,
        )


def _rotated(names: Sequence[str], number: int) -> Sequence[str]:
    start = number % len(names)
    return [*names[start:], *names[:start]]
