"""`python -m tests.benchmarks [--quick] [--json FILE] [--folder FOLDER]`: the figures of this machine.

Only the ratios travel to other machines. The databases lie in FOLDER while it runs: name one on the disk that matters.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import describe_machine
from tests.benchmarks.rounds import CONNECTIONS, Contender, Plan, ratio, run_rounds
from tests.benchmarks.wakes import PER_SECOND, WAITERS, Wakes, measure_wakes

_FULL = Plan(rounds=5, requests=6000)
_QUICK = Plan(rounds=3, requests=1000)
_WAKES = {_FULL: 5000, _QUICK: 500}
_SERVERS = {
    "bare": "parses the same JSON and answers",
    "receiver": "everything on, durable",
    "no store": "everything on, stored nowhere",
    "aiosqlite": "one commit for each request",
    "aiosqlite guarded": "the same, each in a transaction of its own",
}


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure and what it is to be: at least `least`, or at most `most`."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def wanted(self) -> str:
        """The goal, for eyes."""
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


@click.command()
@click.option("--quick", is_flag=True, help="Under 20 s, with figures that scatter more.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures to this file.")
@click.option("--folder", type=click.Path(path_type=Path), default="build", help="Where the databases lie meanwhile.")
def main(*, quick: bool, json_file: Path | None, folder: Path) -> None:
    """Measure the receiver beside what it is compared with."""
    plan = _QUICK if quick else _FULL
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder.absolute()) as name:
        machine = describe_machine(Path(name))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            called, fetched = runner.run(run_rounds(Path(name), plan))
            wakes = runner.run(measure_wakes(Path(name) / "wakes.db", _WAKES[plan]))
    goals = _goals(called, fetched, wakes)
    _show(machine, called, fetched, wakes, goals)
    if json_file is not None:
        json_file.write_text(json.dumps(_figures(machine, plan, called, fetched, wakes, goals), indent=2) + "\n")


def _goals(
    called: Mapping[str, Contender], fetched: Mapping[str, Contender], wakes: Mapping[str, Wakes]
) -> tuple[Goal, ...]:
    receiver, bare = called["receiver"], called["bare"]
    return (
        Goal("callbacks, durable ÷ bare", ratio(receiver, bare), least=0.8),
        Goal("callbacks, durable ÷ no store", ratio(receiver, called["no store"]), least=0.65),
        Goal("p99 of the acknowledgement ÷ bare's", ratio(receiver, bare, of="p99_ms"), most=2.5),
        Goal("callbacks, durable ÷ one aiosqlite commit each", ratio(receiver, called["aiosqlite"]), least=1.7),
        Goal("the same ÷ guarded by a lock", ratio(receiver, called["aiosqlite guarded"]), least=1.7),
        Goal("commit to wake in process, inbox, p99 ms", wakes["inbox"].p99_ms, most=0.5),
        Goal("fetch by id ÷ bare GET", ratio(fetched["receiver"], fetched["bare"]), least=0.7),
    )


def _figures(
    machine: Mapping[str, Any],
    plan: Plan,
    called: Mapping[str, Contender],
    fetched: Mapping[str, Contender],
    wakes: Mapping[str, Wakes],
    goals: tuple[Goal, ...],
) -> dict[str, Any]:
    return {
        "machine": machine,
        "plan": {**asdict(plan), "connections": CONNECTIONS, "waiters": WAITERS, "callbacksPerSecond": PER_SECOND},
        "callbacks": {name: contender.figures() for name, contender in called.items()},
        "fetches": {name: contender.figures() for name, contender in fetched.items()},
        "wakes": {name: asdict(measured) for name, measured in wakes.items()},
        "ratios": [asdict(goal) for goal in goals],
    }


def _show(
    machine: Mapping[str, Any],
    called: Mapping[str, Contender],
    fetched: Mapping[str, Contender],
    wakes: Mapping[str, Wakes],
    goals: tuple[Goal, ...],
) -> None:
    console = Console(width=110)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    for title, contenders in ((f"callbacks, {CONNECTIONS} connections", called), ("fetch by id", fetched)):
        table = _table(title, "a second", "p50 ms", "p99 ms", "CPU µs each", "load busy")
        for name, contender in contenders.items():
            values = contender.figures()
            table.add_row(
                f"{name}: {_SERVERS[name]}" if contenders is called else name,
                f"{values['perSecond']:,.0f}",
                f"{values['p50Ms']:.2f}",
                f"{values['p99Ms']:.2f}",
                "" if values["cpuMicroseconds"] is None else f"{values['cpuMicroseconds']:.0f}",
                f"{values['loadBusy']:.2f}",
            )
        console.print(table)
    table = _table(f"COMMIT to wake, {WAITERS:,} waiters, {PER_SECOND:,} callbacks/s", "p50 ms", "p99 ms", "wakes")
    for name, measured in wakes.items():
        table.add_row(name, f"{measured.p50_ms:.3f}", f"{measured.p99_ms:.3f}", f"{measured.wakes}")
    console.print(table)
    table = _table("against the goals", "measured", "goal")
    for goal in goals:
        table.add_row(goal.name, f"{goal.value:.2f}", goal.wanted)
    console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


if __name__ == "__main__":
    main()
