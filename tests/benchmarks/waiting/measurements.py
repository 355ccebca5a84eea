"""Measurements of waiting: the delay, and the cost of waiters that stop reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks.goals import Goal, table
from tests.benchmarks.waiting.stalled import Stalled, measure_stalled
from tests.benchmarks.waiting.transports import TransportWakes, measure_transports
from tests.benchmarks.waiting.wakes import PER_SECOND, WAITERS, Wakes, measure_wakes

__all__ = ["FULL", "QUICK", "Waiting", "WaitingPlan", "measure_waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingPlan:
    """The size of each measurement.

    `megabytes` counts the results for the stalled subscribers. 1 or 2 MB fit into the buffers of the system, so that
    nobody is dropped.
    """

    wakes: int
    tasks_each: int
    stalled: int
    megabytes: int


FULL = WaitingPlan(wakes=5000, tasks_each=5, stalled=100, megabytes=4)
QUICK = WaitingPlan(wakes=500, tasks_each=1, stalled=20, megabytes=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The figures of all measurements of waiting."""

    in_process: Mapping[str, Wakes]
    transports: Mapping[str, TransportWakes]
    stalled: Sequence[Stalled]

    def goals(self) -> Sequence[Goal]:
        """Return the figures that have a goal."""
        name = "commit to wake, p99 ms: "
        return [
            Goal(f"{name}in process", self.in_process["tasks"].p99_ms, most=0.5),
            *(Goal(f"{name}{transport}", measured.p99_ms, most=2) for transport, measured in self.transports.items()),
            *(
                Goal(
                    f"kB for one that stops reading, results of {stalled.solution_bytes:,} bytes",
                    stalled.kilobytes_each,
                    most=128,
                )
                for stalled in self.stalled
            ),
        ]

    def figures(self) -> dict[str, Any]:
        """Return all figures as JSON."""
        return {
            "inProcess": {name: asdict(measured) for name, measured in self.in_process.items()},
            "transports": {name: asdict(measured) for name, measured in self.transports.items()},
            "stalled": [{**asdict(stalled), "kilobytes_each": stalled.kilobytes_each} for stalled in self.stalled],
        }

    def tables(self) -> Sequence[Table]:
        """Return all figures as tables to print."""
        title = f"COMMIT to wake, {WAITERS:,} waiters, {PER_SECOND:,} callbacks/s"
        wakes = table(title, "p50 ms", "p99 ms", "wakes", "load late, p99 ms")
        for name, measured in self.in_process.items():
            wakes.add_row(
                f"in process: {name}", f"{measured.p50_ms:.2f}", f"{measured.p99_ms:.2f}", f"{measured.wakes}", ""
            )
        for name, transport in self.transports.items():
            late = f"{transport.late_p99_ms:.2f}"
            wakes.add_row(name, f"{transport.p50_ms:.2f}", f"{transport.p99_ms:.2f}", f"{transport.wakes}", late)
        subscribers = table("subscribers of everything that stop reading", "stalled", "kB each", "dropped")
        subscribers.add_column("others' p99 ms", justify="right")
        subscribers.add_column("without them", justify="right")
        for stalled in self.stalled:
            subscribers.add_row(
                f"results of {stalled.solution_bytes:,} bytes",
                f"{stalled.stalled}",
                f"{stalled.kilobytes_each:.0f}",
                f"{stalled.with_them.dropped}",
                f"{stalled.with_them.readers_p99_ms:.1f}",
                f"{stalled.without.readers_p99_ms:.1f}",
            )
        return [wakes, subscribers]


async def measure_waiting(folder: Path, plan: WaitingPlan) -> Waiting:
    """Measure one part after the other, each with its own servers."""
    return Waiting(
        in_process=await measure_wakes(folder / "wakes.db", plan.wakes),
        transports=await measure_transports(folder, waiters=WAITERS, tasks_each=plan.tasks_each, per_second=PER_SECOND),
        stalled=await measure_stalled(folder, stalled=plan.stalled, megabytes=plan.megabytes),
    )
