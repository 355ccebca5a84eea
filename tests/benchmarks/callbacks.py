"""Callbacks taken by the receiver and by simpler servers, each beside bare, and fetches of the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
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
from tests.benchmarks.load import Target
from tests.benchmarks.peers import is_dbos_installed
from tests.benchmarks.registering import OpenTask, register_tasks
from tests.benchmarks.rounds import Plan, run_rounds
from tests.benchmarks.rows_alone import copy_database
from tests.benchmarks.servers import Server, serving
from tests.benchmarks.stages import Stages, measure_stages
from tests.benchmarks.tasks import in_any_order, prepare_tasks

__all__ = ["FULL", "QUICK", "Callbacks", "measure_callbacks"]

_GOAL_CONNECTIONS = 64
"""The goals and the fetches are for this number of connections."""
_FEW_CONNECTIONS = 8
FULL = Plan(rounds=9, requests=4000, connections=(1, _FEW_CONNECTIONS, _GOAL_CONNECTIONS, 256))
QUICK = Plan(rounds=5, requests=2000, connections=(_GOAL_CONNECTIONS,))
_WINDOW = 5000
_SEED = 5
_ABOUT = {
    "bare": "parses the same JSON and answers",
    "receiver": "everything on, durable",
    "no store": "everything on, stored nowhere",
    "rows alone": "everything on, the same rows found and written, nothing decided",
    "naive": "aiohttp and aiosqlite, one commit for each request",
    "DBOS": "send to a workflow, on SQLite",
}
_STAGED = "receiver with stages"
_STAGED_REQUESTS = 12_000
"""Enough for all its rounds."""
_DBOS_REQUESTS = 300
"""DBOS takes a few hundred callbacks a second."""
_LEAST_TO_BARE = {_GOAL_CONNECTIONS: 0.6, _FEW_CONNECTIONS: 0.4}
_LEAST_TO_NAIVE = {_GOAL_CONNECTIONS: 1.2, _FEW_CONNECTIONS: 1.0, 1: 0.9}
_COMPARED: Sequence[Figure] = ("per_second", "p99_ms", "cpu_us")
_DRIFT_NAMES: dict[Figure, str] = {"per_second": "rate", "cpu_us": "CPU"}


@dataclass(frozen=True, slots=True)
class Callbacks:
    """The figures of callbacks at each number of connections, and of fetches by id.

    `by_dbos` is None if DBOS is not installed.
    """

    called: Sequence[Comparison]
    fetched: Comparison
    stages: Stages
    by_dbos: Comparison | None

    def goals(self) -> Sequence[Goal]:
        """Return the figures that have a goal."""
        called = [goal for compared in self.called for goal in _goals(compared)]
        return [*called, _rate_goal("fetch by id ÷ bare GET", self.fetched, least=0.6)]

    def machine(self) -> dict[str, Any]:
        """Return facts about the machine: bare's CPU for a request, by connections, in µs."""
        measured = {compared.connections: _cpu_us(compared.bare) for compared in self.called}
        return {f"bareCpuUsAt{connections}": round(cpu_us) for connections, cpu_us in measured.items() if cpu_us}

    def figures(self) -> dict[str, Any]:
        """Return all rounds, and their ratios to bare, as JSON."""
        return {
            "window": _WINDOW,
            "seed": _SEED,
            "called": [_comparison_figures(compared) for compared in self.called],
            "fetched": _comparison_figures(self.fetched),
            "stages": self.stages.figures(),
            "dbos": None if self.by_dbos is None else _comparison_figures(self.by_dbos),
        }

    def tables(self) -> Sequence[Table]:
        """Return the medians and the ratios to bare as tables to print."""
        called = [shown for compared in self.called for shown in _comparison_tables("callbacks", compared, _ABOUT)]
        by_dbos = [] if self.by_dbos is None else _comparison_tables("callbacks", self.by_dbos, _ABOUT)
        return [*called, *by_dbos, self.stages.table(), *_comparison_tables("fetch by id", self.fetched, {})]


async def measure_callbacks(folder: Path, plan: Plan) -> Callbacks:
    """Register all tasks over HTTP, send their callbacks to all servers, then fetch the results.

    All servers get the same bodies. Fetches go to the receiver and to bare.
    """
    other = await prepare_tasks(folder / "no store.db", 0)
    async with AsyncExitStack() as stack:

        async def start(name: str) -> Server:
            return await stack.enter_async_context(serving(name, folder / f"{name}.db"))

        servers = {name: await start(name) for name in _ABOUT if name not in ("DBOS", "rows alone")}
        tasks = await register_tasks(servers["receiver"].port, plan.requests_in_all)
        copy_database(folder / "receiver.db", folder / "rows alone.db")
        servers["rows alone"] = await start("rows alone")
        sent = {name: tasks for name in servers if name != "bare"}
        sent["no store"] = [task.signed_with(other.signing_key) for task in tasks]
        targets = {name: _callbacks_in_any_order(open_tasks) for name, open_tasks in sent.items()}
        called = [await run_rounds(folder, servers, targets, plan, connections) for connections in plan.connections]
        fetches = {"receiver": cycle(task.fetch() for task in tasks)}
        fetched = await run_rounds(folder, servers, fetches, plan, _GOAL_CONNECTIONS)
        staged = await start(_STAGED)
        open_tasks = await register_tasks(staged.port, _STAGED_REQUESTS)
        callbacks = _callbacks_in_any_order(open_tasks)
        stages = await measure_stages(folder, staged, callbacks, connections=_GOAL_CONNECTIONS)
        by_dbos = None
        if is_dbos_installed():
            servers["DBOS"] = await start("DBOS")
            few = replace(plan, requests=_DBOS_REQUESTS)
            sendings = {"DBOS": cycle(map(OpenTask.callback, tasks))}
            by_dbos = await run_rounds(folder, servers, sendings, few, _GOAL_CONNECTIONS)
    return Callbacks(called, fetched, stages, by_dbos)


def _callbacks_in_any_order(tasks: Sequence[OpenTask]) -> Iterator[Target]:
    return map(OpenTask.callback, in_any_order(tasks, window=_WINDOW, seed=_SEED))


def _goals(compared: Comparison) -> Sequence[Goal]:
    """Return the goals at this number of connections."""
    at, least = compared.connections, _LEAST_TO_BARE.get(compared.connections)
    goals = [] if least is None else [_rate_goal(f"callbacks, durable ÷ bare, at {at}", compared, least=least)]
    if at in _LEAST_TO_NAIVE:
        goals.append(_rate_goal(f"the same ÷ naive, at {at}", compared, "naive", least=_LEAST_TO_NAIVE[at]))
    if at == _GOAL_CONNECTIONS:
        receiver = compared.rounds["receiver"]
        if cpu := ratios(receiver, "cpu_us"):
            goals.append(Goal(f"CPU for each callback ÷ bare's, at {at}", spread(cpu).median, most=1.6))
        p99 = spread(ratios(receiver, "p99_ms")).median
        goals.append(Goal(f"p99 of the acknowledgement ÷ bare's, at {at}", p99, most=2.5))
    return goals


def _rate_goal(name: str, compared: Comparison, other: str | None = None, *, least: float) -> Goal:
    """Return a goal of the receiver's rate ÷ bare's or another server's, and by CPU where that decides."""
    rounds = compared.rounds["receiver"]

    def ratio(of: Figure) -> Sequence[float]:
        return ratios(rounds, of) if other is None else quotients(rounds, compared.rounds[other], of)

    is_steady = all(decisive(compared.rounds[server]) == "rate" for server in {"receiver", other or "receiver"})
    by_cpu = None if is_steady else 1 / spread(ratio("cpu_us")).median
    return Goal(name, spread(ratio("per_second")).median, least=least, by_cpu=by_cpu)


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


def _cpu_us(measured: Sequence[Figures]) -> float | None:
    cpu_us = [figures.cpu_us for figures in measured if figures.cpu_us is not None]
    return median(cpu_us) if cpu_us else None


def _medians(measured: Sequence[Figures]) -> Sequence[str]:
    cpu_us = _cpu_us(measured)
    return [
        f"{median(figures.per_second for figures in measured):,.0f}",
        f"{median(figures.p50_ms for figures in measured):.2f}",
        f"{median(figures.p99_ms for figures in measured):.2f}",
        "" if cpu_us is None else f"{cpu_us:.0f}",
        f"{median(figures.busy for figures in measured):.2f}",
    ]
