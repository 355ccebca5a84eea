"""The arithmetic of the benchmarks: ratios of neighbouring rounds, their spread, the drift of bare, the order."""

from __future__ import annotations

import pytest

from tests.benchmarks.comparison import Comparison, Figures, Round, Spread, decisive, quotients, ratios, spread
from tests.benchmarks.rounds import Plan
from tests.benchmarks.tasks import in_any_order


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
