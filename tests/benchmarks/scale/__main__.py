"""`python -m tests.benchmarks.scale` measures with millions of tasks; `--help` lists its options."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Table

from tests.benchmarks.goals import Goal, goal_table, table
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.scale.crowd import Crowd, measure_crowd
from tests.benchmarks.scale.database import State, cache_folder, drop_from_memory, open_database
from tests.benchmarks.scale.stored import SETTINGS, Stored, measure_stored
from tests.benchmarks.servers import kilobytes, serving

_START_SECONDS = 300.0
_SETTLE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePlan:
    """The size of each measurement, and the folder for the large databases."""

    finished: int
    unfinished: int
    connections: int
    rounds: int
    requests: int
    cache: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The start of the receiver with unfinished tasks, its pages not in memory before."""

    unfinished: int
    seconds: float
    megabytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """All figures of a run."""

    stored: Stored
    start: Start
    crowd: Crowd

    def goals(self) -> Sequence[Goal]:
        """Return the figures that have a goal."""
        crowd = self.crowd
        return [
            *self.stored.goals(),
            Goal("waiting connections in one process", crowd.connections, least=15_000),
            Goal("kB for a waiting websocket", crowd.websocket_kilobytes, most=16),
            Goal("kB for a waiting long poll", crowd.long_poll_kilobytes, most=16),
        ]

    def tables(self) -> Sequence[Table]:
        """Return all figures as tables to print."""
        start = table("start, cold", "accepts after s", "memory MB")
        start.add_row(
            f"{self.start.unfinished:,} unfinished tasks", f"{self.start.seconds:.1f}", f"{self.start.megabytes:.0f}"
        )
        crowd = table("waiting connections, half websockets, half long polls", "kB a websocket", "kB a long poll")
        for column in ("opened in s", "all woken, own tasks, s", "all woken, one task, s"):
            crowd.add_column(column, justify="right")
        crowd.add_row(
            f"{self.crowd.connections:,} in one process",
            f"{self.crowd.websocket_kilobytes:.1f}",
            f"{self.crowd.long_poll_kilobytes:.1f}",
            f"{self.crowd.open_seconds:.1f}",
            f"{self.crowd.own_tasks_seconds:.1f}",
            f"{self.crowd.one_task_seconds:.1f}",
        )
        return [*self.stored.tables(), start, crowd]


@click.command()
@click.option("--finished", type=click.IntRange(min=1000), default=10_000_000, help="Finished tasks in the database.")
@click.option("--unfinished", type=click.IntRange(min=1), default=1_000_000, help="Unfinished tasks to start with.")
@click.option("--connections", type=click.IntRange(min=2), default=15_000, help="Waiting connections.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, help="Rounds beside the empty database.")
@click.option("--requests", type=click.IntRange(min=10), default=2000, help="Requests of a round.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--folder", type=click.Path(path_type=Path), default="build", help="The folder for small databases.")
@click.option("--cache", type=click.Path(path_type=Path), default=cache_folder, help="The folder for large databases.")
def main(json_file: Path | None, folder: Path, cache: Path, **options: Any) -> None:
    """Measure the receiver with millions of tasks, and with thousands of waiting connections.

    The large databases are built by the first run. Later runs use them again, and add a few thousand tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=folder.absolute()) as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        machine = describe_machine(Path(name))
        scale = runner.run(_measure(Path(name), ScalePlan(cache=cache.absolute(), **options)))
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    for shown in (*scale.tables(), goal_table(scale.goals())):
        console.print(shown)
    if json_file is not None:
        goals = [asdict(goal) for goal in scale.goals()]
        json_file.write_text(json.dumps({"machine": machine, **asdict(scale), "goals": goals}, indent=2) + "\n")


async def _measure(folder: Path, plan: ScalePlan) -> Scale:
    finished = await _build(plan.cache, plan.finished, "finished")
    unfinished = await _build(plan.cache, plan.unfinished, "unfinished")
    return Scale(
        stored=await measure_stored(folder, finished, plan.finished, rounds=plan.rounds, requests=plan.requests),
        start=await _measure_start(unfinished, plan.unfinished),
        crowd=await measure_crowd(folder, plan.connections),
    )


async def _build(cache: Path, count: int, state: State) -> Path:
    began_at = time.perf_counter()
    path = await open_database(cache, count, state)
    click.echo(f"{path}, {path.stat().st_size / 1e9:.2f} GB, ready after {time.perf_counter() - began_at:.0f} s")
    return path


async def _measure_start(database: Path, unfinished: int) -> Start:
    drop_from_memory(database)
    began_at = time.perf_counter()
    async with serving("receiver", database, SETTINGS, start_seconds=_START_SECONDS) as server:
        seconds = time.perf_counter() - began_at
        await asyncio.sleep(_SETTLE_SECONDS)
        return Start(unfinished=unfinished, seconds=seconds, megabytes=kilobytes(server.process) / 1000)


if __name__ == "__main__":
    main()
