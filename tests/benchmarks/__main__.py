"""`python -m tests.benchmarks [--quick] [--only PART] [--json FILE] [--folder FOLDER]`: the figures of this machine.

Only the ratios are comparable between machines. FOLDER holds the databases while it runs, so its disk is measured.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console

from tests.benchmarks.goals import Goal, table
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.rounds import CONNECTIONS, Contender, Plan, ratio, run_rounds
from tests.benchmarks.waiting import FULL, QUICK, Waiting, measure_waiting
from tests.benchmarks.week import DAYS, QUICK_DAYS, Week, simulate_week

_FULL = Plan(rounds=5, requests=6000)
_QUICK = Plan(rounds=3, requests=1000)
_SERVERS = {
    "bare": "parses the same JSON and answers",
    "receiver": "everything on, durable",
    "no store": "everything on, stored nowhere",
    "aiosqlite": "one commit for each request",
    "aiosqlite guarded": "the same, each in its own transaction",
}
Contenders = Mapping[str, Contender]


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of all parts; None for a part not measured."""

    machine: Mapping[str, Any]
    callbacks: tuple[Contenders, Contenders] | None
    waiting: Waiting | None
    week: Week | None

    @property
    def parts(self) -> Mapping[str, Waiting | Week]:
        """The measured parts with figures and tables of their own, by name."""
        named = {"waiting": self.waiting, "week": self.week}
        return {name: part for name, part in named.items() if part is not None}

    def goals(self) -> Sequence[Goal]:
        """Return all figures that have a goal."""
        goals = [] if self.callbacks is None else list(_goals(*self.callbacks))
        return goals + [goal for part in self.parts.values() for goal in part.goals()]


@click.command()
@click.option("--quick", is_flag=True, help="About a minute, with figures that scatter more.")
@click.option("--only", type=click.Choice(["callbacks", "waiting", "week"]), help="Measure this part alone.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--folder", type=click.Path(path_type=Path), default="build", help="The folder for the databases.")
def main(*, quick: bool, only: str | None, json_file: Path | None, folder: Path) -> None:
    """Measure the receiver beside simpler servers, the delay of its waiters, and its schedule over a simulated week."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=folder.absolute()) as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        measured = runner.run(_measure(Path(name), only, is_quick=quick))
    _show(measured)
    if json_file is not None:
        json_file.write_text(json.dumps(_figures(measured), indent=2) + "\n")


async def _measure(folder: Path, only: str | None, *, is_quick: bool) -> Measured:
    machine = describe_machine(folder)
    callbacks = await run_rounds(folder, _QUICK if is_quick else _FULL) if only in {None, "callbacks"} else None
    waiting = await measure_waiting(folder, QUICK if is_quick else FULL) if only in {None, "waiting"} else None
    week = simulate_week(QUICK_DAYS if is_quick else DAYS) if only in {None, "week"} else None
    return Measured(machine, callbacks, waiting, week)


def _goals(called: Contenders, fetched: Contenders) -> Sequence[Goal]:
    receiver, bare = called["receiver"], called["bare"]
    return [
        Goal("callbacks, durable ÷ bare", ratio(receiver, bare), least=0.8),
        Goal("callbacks, durable ÷ no store", ratio(receiver, called["no store"]), least=0.65),
        Goal("p99 of the acknowledgement ÷ bare's", ratio(receiver, bare, of="p99_ms"), most=2.5),
        Goal("callbacks, durable ÷ one aiosqlite commit each", ratio(receiver, called["aiosqlite"]), least=1.7),
        Goal("the same ÷ guarded by a lock", ratio(receiver, called["aiosqlite guarded"]), least=1.7),
        Goal("fetch by id ÷ bare GET", ratio(fetched["receiver"], fetched["bare"]), least=0.7),
    ]


def _figures(measured: Measured) -> dict[str, Any]:
    figures: dict[str, Any] = {"machine": measured.machine}
    if measured.callbacks is not None:
        called, fetched = measured.callbacks
        figures["connections"] = CONNECTIONS
        figures["callbacks"] = {name: contender.figures() for name, contender in called.items()}
        figures["fetches"] = {name: contender.figures() for name, contender in fetched.items()}
    figures |= {name: part.figures() for name, part in measured.parts.items()}
    return figures | {"goals": [asdict(goal) for goal in measured.goals()]}


def _show(measured: Measured) -> None:
    console = Console(width=120)
    console.print(", ".join(f"{name} {value}" for name, value in measured.machine.items()), highlight=False)
    if measured.callbacks is not None:
        called, fetched = measured.callbacks
        _show_rounds(console, f"callbacks, {CONNECTIONS} connections", called, _SERVERS)
        _show_rounds(console, "fetch by id", fetched, {})
    for part in measured.parts.values():
        for shown in part.tables():
            console.print(shown)
    goals = table("against the goals", "measured", "goal")
    for goal in measured.goals():
        goals.add_row(goal.name, f"{goal.value:,.2f}", goal.wanted)
    console.print(goals)


def _show_rounds(console: Console, title: str, contenders: Contenders, about: Mapping[str, str]) -> None:
    shown = table(title, "a second", "p50 ms", "p99 ms", "CPU µs each", "load busy")
    for name, contender in contenders.items():
        values = contender.figures()
        shown.add_row(
            f"{name}: {about[name]}" if name in about else name,
            f"{values['perSecond']:,.0f}",
            f"{values['p50Ms']:.2f}",
            f"{values['p99Ms']:.2f}",
            "" if values["cpuMicroseconds"] is None else f"{values['cpuMicroseconds']:.0f}",
            f"{values['loadBusy']:.2f}",
        )
    console.print(shown)


if __name__ == "__main__":
    main()
