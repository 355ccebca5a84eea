"""Callbacks taken by the receiver and by simpler servers, each beside bare, and fetches of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from tests.benchmarks.comparison import (
    UNSTEADY,
    Comparison,
    Figure,
    Figures,
    decisive,
    quotients,
    ratios,
    spread,
)
from tests.benchmarks.goals import Goal, table
from tests.benchmarks.rounds import Plan, run_rounds
from tests.benchmarks.servers import serving
from tests.benchmarks.tasks import Prepared, in_any_order, prepare_tasks

__all__ = ["FULL", "QUICK", "Callbacks", "measure_callbacks"]

_GOAL_CONNECTIONS = 64
"""The goals and the fetches are for this number of connections."""
FULL = Plan(rounds=9, requests=4000, connections=(1, 8, _GOAL_CONNECTIONS, 256))
QUICK = Plan(rounds=5, requests=2000, connections=(_GOAL_CONNECTIONS,))
_WINDOW = 5000
_SEED = 5
_ABOUT = {
    "bare": "parses the same JSON and answers",
    "receiver": "everything on, durable",
    "no store": "everything on, stored nowhere",
    "aiosqlite": "one commit for each request",
    "aiosqlite guarded": "the same, each in its own transaction",
}
_COMPARED: Sequence[Figure] = ("per_second", "p99_ms", "cpu_us")
_DRIFT_NAMES: dict[Figure, str] = {"per_second": "rate", "cpu_us": "CPU"}


@dataclass(frozen=True, slots=True)
class Callbacks:
    """The figures of callbacks at each number of connections, and of fetches by id."""

    called: Sequence[Comparison]
    fetched: Comparison

    def goals(self) -> Sequence[Goal]:
        """Return the figures that have a goal, all at 64 connections."""
        fetches = spread(ratios(self.fetched.rounds["receiver"], "per_second"))
        return [
            *(
                goal
                for compared in self.called
                if compared.connections == _GOAL_CONNECTIONS
                for goal in _goals(compared)
            ),
            Goal("fetch by id ÷ bare GET", fetches.median, least=0.7),
        ]

    def figures(self) -> dict[str, Any]:
        """Return all rounds, and their ratios to bare, as JSON."""
        return {
            "window": _WINDOW,
            "seed": _SEED,
            "called": [_comparison_figures(compared) for compared in self.called],
            "fetched": _comparison_figures(self.fetched),
        }

    def tables(self) -> Sequence[Table]:
        """Return the medians and the ratios to bare as tables to print."""
        called = [shown for compared in self.called for shown in _comparison_tables("callbacks", compared, _ABOUT)]
        return [*called, *_comparison_tables("fetch by id", self.fetched, {})]


async def measure_callbacks(folder: Path, plan: Plan) -> Callbacks:
    """Send callbacks to all servers, then fetch the results from the receiver and from bare.

    All tasks are registered before, through the store, because over HTTP that would take longer than the callbacks.
    """
    prepared = await prepare_tasks(folder / "receiver.db", plan.requests_in_all)
    other = await prepare_tasks(folder / "no store.db", 0)
    unstored = Prepared(prepared.tasks, other.signing_key)
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(serving(name, folder / f"{name}.db")) for name in _ABOUT}
        sent = {name: unstored if name == "no store" else prepared for name in _ABOUT if name != "bare"}
        targets = {name: in_any_order(tasks.callbacks(), window=_WINDOW, seed=_SEED) for name, tasks in sent.items()}
        called = [await run_rounds(folder, servers, targets, plan, connections) for connections in plan.connections]
        fetches = {"receiver": cycle(prepared.fetches())}
        fetched = await run_rounds(folder, servers, fetches, plan, _GOAL_CONNECTIONS)
    return Callbacks(called, fetched)


def _goals(compared: Comparison) -> Sequence[Goal]:
    receiver = compared.rounds["receiver"]

    def faster_than(other: str) -> float:
        return spread(quotients(receiver, compared.rounds[other], "per_second")).median

    return [
        Goal("callbacks, durable ÷ bare", spread(ratios(receiver, "per_second")).median, least=0.8),
        Goal("callbacks, durable ÷ no store", faster_than("no store"), least=0.65),
        Goal("p99 of the acknowledgement ÷ bare's", spread(ratios(receiver, "p99_ms")).median, most=2.5),
        Goal("callbacks, durable ÷ one aiosqlite commit each", faster_than("aiosqlite"), least=1.7),
        Goal("the same ÷ guarded by a lock", faster_than("aiosqlite guarded"), least=1.7),
    ]


def _comparison_figures(compared: Comparison) -> dict[str, Any]:
    return {
        "connections": compared.connections,
        "bareDrift": compared.drift(),
        "bareDrifts": compared.drifts,
        "servers": {
            name: {
                "toBare": {of: asdict(spread(values)) for of in _COMPARED if (values := ratios(rounds, of))},
                "decisive": decisive(rounds),
                "rounds": [asdict(one_round) for one_round in rounds],
            }
            for name, rounds in compared.rounds.items()
        },
    }


def _comparison_tables(name: str, compared: Comparison, about: Mapping[str, str]) -> Sequence[Table]:
    title = f"{name}, connections: {compared.connections}"
    medians = table(f"{title}: medians", "a second", "p50 ms", "p99 ms", "CPU µs each", "load busy")
    own = {server: [one_round.own for one_round in rounds] for server, rounds in compared.rounds.items()}
    for server, measured in {"bare": compared.bare, **own}.items():
        medians.add_row(f"{server}: {about[server]}" if server in about else server, *_medians(measured))
    to_bare = table(
        f"{title}: ÷ the neighbouring bare round, median (lowest to highest)", "a second", "p99", "CPU", "decides"
    )
    for server, rounds in compared.rounds.items():
        cells = (ratios(rounds, of) for of in _COMPARED)
        to_bare.add_row(server, *(str(spread(values)) if values else "" for values in cells), decisive(rounds))
    caption = [f"CPU decides where the lowest and the highest rate are more than {UNSTEADY:.0%} of the median apart."]
    if compared.drifts:
        widths = ", ".join(
            f"{_DRIFT_NAMES[of]} {width:.0%}" for of, width in compared.drift().items() if width > UNSTEADY
        )
        caption.append(f"Bare drifted by more than {UNSTEADY:.0%} between its rounds: {widths}.")
    to_bare.caption, to_bare.caption_justify = "\n".join(caption), "left"
    return [medians, to_bare]


def _medians(measured: Sequence[Figures]) -> Sequence[str]:
    cpu_us = [figures.cpu_us for figures in measured if figures.cpu_us is not None]
    return [
        f"{median(figures.per_second for figures in measured):,.0f}",
        f"{median(figures.p50_ms for figures in measured):.2f}",
        f"{median(figures.p99_ms for figures in measured):.2f}",
        f"{median(cpu_us):.0f}" if cpu_us else "",
        f"{median(figures.busy for figures in measured):.2f}",
    ]
