"""The benchmarks: ratios of neighbouring rounds, spread, drift, order, goals, plots and large databases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks.broadcast import Broadcast
from tests.benchmarks.callbacks import Callbacks
from tests.benchmarks.comparison import Comparison, Figures, Round, Spread, decisive, quotients, ratios, spread
from tests.benchmarks.goals import Goal
from tests.benchmarks.load import PERCENTS, Target, distribution
from tests.benchmarks.plots import write_plots
from tests.benchmarks.registering import connected
from tests.benchmarks.rounds import Plan
from tests.benchmarks.scale.database import open_database, sample_refs
from tests.benchmarks.servers import serving
from tests.benchmarks.stages import TIMED, Stages
from tests.benchmarks.tasks import READ_KEY, in_any_order
from tests.benchmarks.waiting.wakes import measure_wakes

STAGES = Stages(64, {"decide": 5.0, "the rest": 60.0})


def figures(per_second: float, cpu_us: float | None = 100.0, p99_ms: float = 10.0) -> Figures:
    """Return the figures of one server in one round."""
    return Figures(per_second=per_second, p50_ms=1.0, p99_ms=p99_ms, cpu_us=cpu_us, busy=0.5)


def rounds(*rates: tuple[float, float]) -> list[Round]:
    """Return rounds with the rates of a server and of its neighbouring bare."""
    return [Round(figures(own), figures(bare)) for own, bare in rates]


def test_a_ratio_is_taken_within_its_round() -> None:
    """A machine at half its speed changes no ratio, because both servers of the round are slower."""
    measured = rounds((500, 1000), (250, 500), (600, 1000))

    assert ratios(measured, "per_second") == [0.5, 0.5, 0.6]
    assert spread(ratios(measured, "per_second")) == Spread(0.5, 0.5, 0.6)


def test_two_servers_are_compared_by_their_own_bare_rounds() -> None:
    """The ratio of two servers is free of the speed of the machine while each of them was measured."""
    receiver, other = rounds((800, 1000), (400, 500)), rounds((200, 500), (400, 1000))

    assert quotients(receiver, other, "per_second") == [2.0, 2.0]


def test_a_system_without_cpu_figures_has_no_ratios_of_them() -> None:
    """Without CPU figures, the rate decides even if it spreads, and bare drifts by its rate alone."""
    measured = [Round(figures(rate, None), figures(1000, None)) for rate in (300, 500, 900)]

    assert ratios(measured, "cpu_us") == []
    assert decisive(measured) == "rate"
    assert Comparison(64, {"receiver": measured}).drift() == {"per_second": 0.0}


@pytest.mark.parametrize(("highest", "figure"), [(550, "rate"), (620, "CPU")])
def test_cpu_decides_if_rates_spread(highest: float, figure: str) -> None:
    """The rate decides up to 20 % of the median between its lowest and its highest ratio, CPU beyond."""
    assert decisive(rounds((500, 1000), (500, 1000), (highest, 1000))) == figure


def test_drift_is_taken_over_the_bare_rounds_of_all_servers() -> None:
    """Bare drifts if its rate or its CPU is more than 20 % of the median apart between any two of its rounds."""
    steady = [Round(figures(500), figures(1000, 100)), Round(figures(900), figures(1100, 100))]
    slower = [Round(figures(500), figures(1000, 130))]

    assert not Comparison(64, {"receiver": steady}).drifts
    compared = Comparison(64, {"receiver": steady, "naive": slower})
    assert compared.drift() == {"per_second": pytest.approx(0.1), "cpu_us": pytest.approx(0.3)}
    assert compared.drifts


def test_tasks_end_in_any_order_within_the_window() -> None:
    """Each item comes once and never before the window reaches it; the same seed gives the same order."""
    ended = list(in_any_order(range(1000), window=50, seed=1))

    assert sorted(ended) == list(range(1000))
    assert all(item < place + 50 for place, item in enumerate(ended))
    assert ended == list(in_any_order(range(1000), window=50, seed=1))
    assert ended != list(in_any_order(range(1000), window=50, seed=2))
    assert list(in_any_order([], window=50, seed=1)) == []


def test_few_connections_get_fewer_requests() -> None:
    """A round sends at most a thousand requests for each connection; tasks are made for all rounds and warm-ups."""
    plan = Plan(rounds=9, requests=4000, connections=(1, 64))

    assert [plan.requests_at(connections) for connections in plan.connections] == [1000, 4000]
    assert plan.requests_in_all == 9 * (1000 + 4000) + 2 * 300


def test_the_deciding_figure_is_compared_with_the_goal() -> None:
    """If CPU decides, it says if the goal is met, and both figures are shown."""
    assert Goal("rate", 0.7, least=0.6).is_met
    assert not Goal("rate", 0.7, least=0.6, by_cpu=0.5).is_met
    assert Goal("p99", 2.5, most=2.5).is_met
    assert Goal("rate", 0.7, least=0.6, by_cpu=0.5).measured == "0.70, by CPU 0.50"


def test_goals_depend_on_the_connections() -> None:
    """Each number of connections has its own goals, against bare and against the naive server."""
    slow, fast = rounds((500, 1000)), rounds((250, 1000))
    called = [Comparison(connections, {"receiver": slow, "naive": fast}) for connections in (1, 8, 64, 256)]
    fetched = Comparison(64, {"receiver": slow})

    goals = {goal.name: (goal.value, goal.wanted) for goal in Callbacks(called, fetched, STAGES, None).goals()}

    assert goals == {
        "the same ÷ naive, at 1": (2.0, "≥ 0.9"),
        "callbacks, durable ÷ bare, at 8": (0.5, "≥ 0.4"),
        "the same ÷ naive, at 8": (2.0, "≥ 1"),
        "callbacks, durable ÷ bare, at 64": (0.5, "≥ 0.6"),
        "the same ÷ naive, at 64": (2.0, "≥ 1.2"),
        "CPU for each callback ÷ bare's, at 64": (1.0, "≤ 1.6"),
        "p99 of the acknowledgement ÷ bare's, at 64": (1.0, "≤ 2.5"),
        "fetch by id ÷ bare GET": (0.5, "≥ 0.6"),
    }


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, name, _ in TIMED])
def test_every_stage_is_a_function_of_the_receiver(owner: Any, name: str) -> None:
    """A function that moved would fail the measurement, which no other test runs."""
    assert callable(getattr(owner, name))


def test_a_distribution_has_a_latency_for_each_percentage() -> None:
    """The latencies grow with the percentages, and have four digits."""
    latencies = distribution([number / 7 for number in range(10_000)])

    assert len(latencies) == len(PERCENTS)
    assert list(latencies) == sorted(latencies)
    assert latencies[PERCENTS.index(50.0)] == 714.1


def test_plots_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    """Each plot is well-formed and names its servers; a part not measured has none."""
    measured = Round(
        Figures(per_second=900, p50_ms=1, p99_ms=5, distribution_ms=[1.0] * len(PERCENTS), cpu_us=None, busy=0),
        Figures(per_second=2000, p50_ms=1, p99_ms=2, distribution_ms=[0.3] * len(PERCENTS), cpu_us=None, busy=0),
    )
    called = [Comparison(connections, {"receiver": [measured, measured]}) for connections in (1, 64)]
    figures = Callbacks(called, called[0], STAGES, None).figures()
    wake = Broadcast([{"receiver": measured.own, "broadcaster": measured.bare, "storing broadcaster": measured.own}])

    plots = write_plots({"callbacks": figures, "broadcast": wake.figures()}, tmp_path)

    assert [plot.stem for plot in plots] == ["throughput", "p99", "acknowledgement", "wake"]
    for plot, servers in zip(plots, [{"receiver", "bare"}] * 3 + [{"receiver", "storing broadcaster"}], strict=True):
        assert servers <= {element.text for element in ET.fromstring(plot.read_text()).iter()}  # noqa: S314
    alone = Callbacks(called[:1], called[0], STAGES, None).figures()
    assert [plot.stem for plot in write_plots({"callbacks": alone}, tmp_path)] == ["acknowledgement"]
    assert write_plots({"week": {}}, tmp_path) == []


async def test_wake_ups_are_measured_in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each callback wakes its waiter, on the real store with a connection that notes the time of a COMMIT."""
    monkeypatch.setattr("tests.benchmarks.waiting.wakes.tune", lambda: None)

    measured = await measure_wakes(tmp_path / "receiver.db", 20)

    assert {kind: figures.wakes for kind, figures in measured.items()} == {"tasks": 20, "hub": 20}


async def test_a_large_database_is_one_of_the_receiver(tmp_path: Path) -> None:
    """Its tasks are found by SQL in their order, and the receiver serves them. It is built once."""
    path = await open_database(tmp_path, 300, "finished")
    refs = sample_refs(path, 30, 300, seed=1)

    assert await open_database(tmp_path, 300, "finished") == path
    assert len(set(refs)) == 30
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(DISTINCT task_id) FROM task").fetchone() == (300,)
        ordered = [ref for (ref,) in connection.execute("SELECT ref FROM task ORDER BY id")]
    assert ordered == sorted(ordered)
    async with serving("receiver", path) as server, connected(server.port) as connection_to_it:
        for ref in refs:
            found = await connection_to_it.ask(Target(f"/v1/tasks/{ref}", key=READ_KEY))
            assert found["status"] == "ready"
