"""`python -m tests.benchmarks` measures the figures of this machine; `--help` lists its options.

Only the ratios are comparable between machines. FOLDER holds the databases while it runs, so its disk is measured.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console

from tests.benchmarks import broadcast, callbacks, several
from tests.benchmarks.broadcast import Broadcast, measure_broadcast
from tests.benchmarks.callbacks import Callbacks, measure_callbacks
from tests.benchmarks.goals import Goal, goal_table
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.peers import is_dbos_installed
from tests.benchmarks.several import Several, measure_several
from tests.benchmarks.waiting import measurements as waiting
from tests.benchmarks.waiting.measurements import Waiting, measure_waiting
from tests.benchmarks.week import DAYS, QUICK_DAYS, Week, simulate_week
from tests.postgres import missing_tools


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of all parts; None for a part not measured."""

    machine: Mapping[str, Any]
    callbacks: Callbacks | None
    broadcast: Broadcast | None
    waiting: Waiting | None
    postgres: Several | None
    week: Week | None

    @property
    def parts(self) -> Mapping[str, Callbacks | Broadcast | Waiting | Several | Week]:
        """The measured parts, by name."""
        named = {
            "callbacks": self.callbacks,
            "broadcast": self.broadcast,
            "waiting": self.waiting,
            "postgres": self.postgres,
            "week": self.week,
        }
        return {name: part for name, part in named.items() if part is not None}

    def goals(self) -> Sequence[Goal]:
        """Return all figures that have a goal."""
        return [goal for part in self.parts.values() for goal in part.goals()]


@click.command()
@click.option("--quick", is_flag=True, help="About two minutes, with figures that scatter more.")
@click.option(
    "--only",
    type=click.Choice(["callbacks", "broadcast", "waiting", "postgres", "week"]),
    help="Measure this part alone.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    multiple=True,
    help="Send callbacks over so many connections; may be given again. The default is 1, 8, 64 and 256; 64 if quick.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--folder", type=click.Path(path_type=Path), default="build", help="The folder for the databases.")
def main(*, quick: bool, only: str | None, connections: Sequence[int], json_file: Path | None, folder: Path) -> None:
    """Measure the receiver beside simpler servers, the delay of its waiters, and its schedule over a simulated week."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=folder.absolute()) as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        measured = runner.run(_measure(Path(name), only, connections, is_quick=quick))
    _show(measured)
    if json_file is not None:
        json_file.write_text(json.dumps(_figures(measured), indent=2) + "\n")


async def _measure(folder: Path, only: str | None, connections: Sequence[int], *, is_quick: bool) -> Measured:
    calls = callbacks.QUICK if is_quick else callbacks.FULL
    calls = replace(calls, connections=connections or calls.connections)
    wakes = broadcast.QUICK if is_quick else broadcast.FULL
    waits = waiting.QUICK if is_quick else waiting.FULL
    joint = several.QUICK if is_quick else several.FULL
    machine = describe_machine(folder)
    called = await measure_callbacks(folder, calls) if only in {None, "callbacks"} else None
    return Measured(
        machine=machine if called is None else {**machine, **called.machine()},
        callbacks=called,
        broadcast=await measure_broadcast(folder, wakes) if only in {None, "broadcast"} else None,
        waiting=await measure_waiting(folder, waits) if only in {None, "waiting"} else None,
        postgres=await measure_several(folder, joint) if only in {None, "postgres"} else None,
        week=simulate_week(QUICK_DAYS if is_quick else DAYS) if only in {None, "week"} else None,
    )


def _figures(measured: Measured) -> dict[str, Any]:
    parts = {name: part.figures() for name, part in measured.parts.items()}
    return {"machine": measured.machine, **parts, "goals": [asdict(goal) for goal in measured.goals()]}


def _show(measured: Measured) -> None:
    console = Console(width=120)
    console.print(", ".join(f"{name} {value}" for name, value in measured.machine.items()), highlight=False)
    for part in measured.parts.values():
        for shown in part.tables():
            console.print(shown)
    if (reason := missing_tools()) is not None:
        console.print(f"Several receivers were skipped: {reason}.")
    if not is_dbos_installed():
        console.print("DBOS was skipped, because it is not installed: `pip install dbos` adds it to the comparison.")
    console.print(goal_table(measured.goals()))


if __name__ == "__main__":
    main()
