"""A day of the simulated week: the worth of learning, and equal figures for equal seeds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

import pytest

from client.providers import DIALECTS
from receiver.domain.schedule import Schedule
from tests.benchmarks.week import CALLBACK_DELAYS, PollFigures, Task, make_tasks, poll_tasks

_PLAN = DIALECTS["anticaptcha"].polls


@cache
def _day(weather: str) -> tuple[PollFigures, PollFigures]:
    """Return the fixed schedule, then the learned one."""
    tasks = make_tasks(Random(1), 1.0, CALLBACK_DELAYS[weather])
    return poll_tasks(_PLAN, None, tasks), poll_tasks(_PLAN, Schedule(_PLAN), tasks)


@pytest.mark.parametrize("weather", ["1 % lost", "30 % lost", "2 h a day none"])
def test_lost_callbacks_cost_less_time(weather: str) -> None:
    """After lost callbacks the median wait is well below that of the fixed schedule."""
    fixed, learned = _day(weather)

    assert learned.wait_p50_seconds < 0.6 * fixed.wait_p50_seconds


@pytest.mark.parametrize("weather", ["1 % lost", "30 % lost", "6 h a day late"])
def test_it_takes_few_polls(weather: str) -> None:
    """No more than one poll in eight tasks is wasted, beside one for each lost callback."""
    _, learned = _day(weather)

    assert learned.wasted_per_task < 0.125


def test_late_callbacks_are_polled_for_less() -> None:
    """If callbacks come late, then learning to wait for them saves most of the needless polls."""
    fixed, learned = _day("6 h a day late")

    assert learned.wasted_per_task < 0.7 * fixed.wasted_per_task


def test_a_failure_is_reported_once() -> None:
    """Two hours without callbacks make few reports: of the failure, its end, and waits changed by half."""
    _, learned = _day("2 h a day none")

    assert 2 <= learned.reports <= 8


def test_the_same_seed_gives_the_same_figures() -> None:
    """The figures depend neither on the clock nor on chance."""
    tasks = make_tasks(Random(1), 0.2, CALLBACK_DELAYS["30 % lost"])

    assert poll_tasks(_PLAN, Schedule(_PLAN), tasks) == poll_tasks(_PLAN, Schedule(_PLAN), tasks)
    assert make_tasks(Random(1), 0.2, CALLBACK_DELAYS["30 % lost"]) == tasks


def test_polls_are_counted() -> None:
    """The fixed schedule polls a lost task after its first wait and then at each interval, up to the answer."""
    lost = Task("TurnstileTaskProxyless", 0.0, 48.0, float("inf"))
    plan = replace(_PLAN, first_after_callback_seconds=45.0, interval_seconds=2.0)

    fared = poll_tasks(plan, None, [lost])

    assert (fared.polls_per_task, fared.wasted_per_task, fared.wait_p50_seconds) == (3.0, 2.0, 1.0)
