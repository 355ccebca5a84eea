"""All that is measured of waiting: how soon, how many, and what those cost that stop reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks.crowd import Crowd, measure_crowd
from tests.benchmarks.goals import Goal, table
from tests.benchmarks.roads import Road, measure_roads
from tests.benchmarks.stalled import Stalled, measure_stalled
from tests.benchmarks.wakes import PER_SECOND, WAITERS, Wakes, measure_wakes

__all__ = ["FULL", "QUICK", "Waiting", "WaitingPlan", "measure_waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingPlan:
    """How much is measured: tasks for each waiter, connections, stalled subscribers, megabytes of results for them."""

    wakes: int
    each: int
    connections: int
    stalled: int
    megabytes: int


FULL = WaitingPlan(wakes=5000, each=5, connections=15_000, stalled=100, megabytes=4)
QUICK = WaitingPlan(wakes=500, each=1, connections=1000, stalled=20, megabytes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What was measured."""

    in_process: Mapping[str, Wakes]
    roads: Mapping[str, Road]
    crowd: Crowd
    stalled: Sequence[Stalled]

    def goals(self) -> Sequence[Goal]:
        """Against what is wanted."""
        name = "commit to wake, p99 ms: "
        return [
            Goal(f"{name}in process", self.in_process["tasks"].p99_ms, most=0.5),
            *(Goal(f"{name}{road}", measured.p99_ms, most=2) for road, measured in self.roads.items()),
            Goal("waiting connections in one process", self.crowd.connections, least=15_000),
            Goal("kB for each of them", self.crowd.kilobytes_each, most=16),
            *(
                Goal(
                    f"kB for one that stops reading, results of {each.solution_bytes:,} bytes",
                    each.kilobytes_each,
                    most=128,
                )
                for each in self.stalled
            ),
        ]

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "inProcess": {name: asdict(measured) for name, measured in self.in_process.items()},
            "roads": {name: asdict(measured) for name, measured in self.roads.items()},
            "crowd": asdict(self.crowd),
            "stalled": [{**asdict(each), "kilobytes_each": each.kilobytes_each} for each in self.stalled],
        }

    def tables(self) -> Sequence[Table]:
        """For eyes."""
        title = f"COMMIT to wake, {WAITERS:,} waiters, {PER_SECOND:,} callbacks/s"
        wakes = table(title, "p50 ms", "p99 ms", "wakes", "load late, p99 ms")
        for name, measured in self.in_process.items():
            wakes.add_row(
                f"in process: {name}", f"{measured.p50_ms:.2f}", f"{measured.p99_ms:.2f}", f"{measured.wakes}", ""
            )
        for name, road in self.roads.items():
            late = f"{road.late_p99_ms:.2f}"
            wakes.add_row(name, f"{road.p50_ms:.2f}", f"{road.p99_ms:.2f}", f"{road.wakes}", late)
        crowd = table("waiting connections, half websockets, half long polls", "connections", "kB each", "opened in s")
        crowd.add_column("all woken, own tasks, s", justify="right")
        crowd.add_column("all woken, one task, s", justify="right")
        crowd.add_row(
            "one server process",
            f"{self.crowd.connections:,}",
            f"{self.crowd.kilobytes_each:.1f}",
            f"{self.crowd.open_seconds:.1f}",
            f"{self.crowd.own_tasks_seconds:.2f}",
            f"{self.crowd.one_task_seconds:.2f}",
        )
        stalled = table("subscribers of everything that stop reading", "stalled", "kB each", "dropped")
        stalled.add_column("others' p99 ms", justify="right")
        stalled.add_column("without them", justify="right")
        for each in self.stalled:
            stalled.add_row(
                f"results of {each.solution_bytes:,} bytes",
                f"{each.stalled}",
                f"{each.kilobytes_each:.0f}",
                f"{each.with_them.dropped}",
                f"{each.with_them.readers_p99_ms:.1f}",
                f"{each.without.readers_p99_ms:.1f}",
            )
        return [wakes, crowd, stalled]


async def measure_waiting(folder: Path, plan: WaitingPlan) -> Waiting:
    """Return each part after the other, with servers of its own."""
    return Waiting(
        in_process=await measure_wakes(folder / "wakes.db", plan.wakes),
        roads=await measure_roads(folder, waiters=WAITERS, each=plan.each, per_second=PER_SECOND),
        crowd=await measure_crowd(folder, plan.connections),
        stalled=await measure_stalled(folder, stalled=plan.stalled, megabytes=plan.megabytes),
    )
