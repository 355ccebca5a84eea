"""Faults are read strictly and drawn repeatably."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import BadArgumentError
from client.sandbox import FaultRates, Faults, SandboxSettings
from client.sandbox.faults import FaultPlanner, draw_faults, draw_http_fault, draw_latency, read_faults
from client.sandbox.settings import CallbackFault

_RATES = FaultRates(callback_lost=0.2, callback_late=0.2, callback_twice=0.1, fails=0.25, http_429=0.1, html=0.1)
_TASKS = [{"type": "ImageToTextTask", "body": str(number)} for number in range(40)]


def test_all_fields_are_read() -> None:
    """Every fault can be ordered on the wire, under camelCase names."""
    wire = {
        "latencySeconds": 1.5,
        "callback": "twice",
        "callbackDelaySeconds": 2,
        "fails": True,
        "errorCode": "ERROR_UNKNOWN_QUESTION",
        "createTask": "cut",
        "createTaskTimes": 2,
        "getTaskResult": "html",
        "getTaskResultTimes": 3,
        "sync": False,
    }

    assert read_faults(wire) == Faults(
        latency_seconds=1.5,
        callback="twice",
        callback_delay_seconds=2.0,
        fails=True,
        error_code="ERROR_UNKNOWN_QUESTION",
        create_task="cut",
        create_task_times=2,
        get_task_result="html",
        get_task_result_times=3,
        sync=False,
    )


def test_an_empty_order_means_no_faults() -> None:
    """An empty object orders no faults at all."""
    assert read_faults({}) == Faults()


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        ("lost", r"^sandbox: expected an object$"),
        (None, r"^sandbox: expected an object$"),
        ({"callbak": "lost"}, r"^sandbox\.callbak: no such field; there are latencySeconds, callback, "),
        ({"latency_seconds": 1}, r"^sandbox\.latency_seconds: no such field"),
        ({"callback": "gone"}, r"^sandbox\.callback: .*'lost'"),
        ({"latencySeconds": "1"}, r"^sandbox\.latencySeconds: .*number"),
        ({"latencySeconds": -1}, r"^sandbox\.latencySeconds: .*0"),
        ({"latencySeconds": 3601}, r"^sandbox\.latencySeconds: .*3600"),
        ({"fails": "yes"}, r"^sandbox\.fails: .*boolean"),
        ({"createTask": 429}, r"^sandbox\.createTask: "),
        ({"getTaskResult": "cut"}, r"^sandbox\.getTaskResult: "),
        ({"getTaskResultTimes": 1.5}, r"^sandbox\.getTaskResultTimes: "),
        ({"errorCode": ""}, r"^sandbox\.errorCode: "),
    ],
)
def test_wrong_orders_are_named(wire: Any, text: str) -> None:
    """A wrong order is an error with the name of the field."""
    with pytest.raises(BadArgumentError, match=text):
        read_faults(wire)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf")])
def test_rates_are_probabilities(rate: float) -> None:
    """A rate outside 0 to 1 is an error with its name."""
    with pytest.raises(BadArgumentError, match=r"^fails: expected a probability"):
        FaultRates(fails=rate)


def test_rates_of_callbacks_add_up_to_one_at_most() -> None:
    """At most one fault strikes a callback, so the rates must leave room for each other."""
    with pytest.raises(BadArgumentError, match="callback faults add up to more than 1"):
        FaultRates(callback_lost=0.6, callback_twice=0.6)


def test_rates_of_calls_add_up_to_one_at_most() -> None:
    """At most one fault strikes a call."""
    with pytest.raises(BadArgumentError, match="HTTP faults add up to more than 1"):
        FaultRates(http_429=0.6, html=0.6)


@pytest.mark.parametrize(
    ("rates", "fault"),
    [
        (FaultRates(callback_lost=1.0), "lost"),
        (FaultRates(callback_late=1.0), "late"),
        (FaultRates(callback_twice=1.0), "twice"),
        (FaultRates(callback_early=1.0), "early"),
        (FaultRates(callback_reordered=1.0), "reordered"),
        (FaultRates(callback_truncated=1.0), "truncated"),
        (FaultRates(callback_other_task_id=1.0), "otherTaskId"),
    ],
)
def test_each_rate_draws_its_own_fault(rates: FaultRates, fault: CallbackFault) -> None:
    """A rate of 1 strikes every task with the fault it is named after, and with nothing else."""
    assert draw_faults(rates, seed=1, key="a") == Faults(callback=fault)


def test_each_callback_fault_has_a_rate() -> None:
    """There is a rate for every fault of callbacks."""
    assert tuple(FaultRates().of_callbacks()) == get_args(CallbackFault)


def test_faults_come_about_as_often_as_asked() -> None:
    """Over many tasks the share of a fault comes near its rate."""
    drawn = Counter(draw_faults(_RATES, seed=7, key=str(number)).callback for number in range(4000))

    assert 0.17 < drawn["lost"] / 4000 < 0.23
    assert 0.47 < drawn[None] / 4000 < 0.53


@given(st.integers(), st.text())
def test_draws_repeat(seed: int, key: str) -> None:
    """The same seed and submission draw the same faults, latency and HTTP fault."""
    assert draw_faults(_RATES, seed=seed, key=key) == draw_faults(_RATES, seed=seed, key=key)
    assert draw_latency((0.1, 9.0), seed=seed, key=key) == draw_latency((0.1, 9.0), seed=seed, key=key)
    assert draw_http_fault(_RATES, seed=seed, call="createTask", key=key) == draw_http_fault(
        _RATES, seed=seed, call="createTask", key=key
    )


@given(st.integers(), st.text(), st.floats(0, 100), st.floats(0, 100))
def test_latency_stays_in_its_span(seed: int, key: str, shortest: float, more: float) -> None:
    """No task takes less than the shortest or more than the longest time."""
    assert shortest <= draw_latency((shortest, shortest + more), seed=seed, key=key) <= shortest + more


def test_the_plan_does_not_depend_on_the_order_of_tasks() -> None:
    """With one seed each task meets the same faults, in any order of the tasks."""
    settings = SandboxSettings(seed=3, rates=_RATES)
    forwards, backwards = FaultPlanner(settings, None), FaultPlanner(settings, None)

    one = [forwards.plan(task, None) for task in _TASKS]
    other = [backwards.plan(task, None) for task in reversed(_TASKS)]

    assert list(reversed(other)) == one


def test_another_seed_strikes_other_tasks() -> None:
    """Another seed strikes other tasks."""
    one, other = (
        FaultPlanner(SandboxSettings(seed=3, rates=_RATES), None),
        FaultPlanner(SandboxSettings(seed=4, rates=_RATES), None),
    )

    assert [one.plan(task, None).faults for task in _TASKS] != [other.plan(task, None).faults for task in _TASKS]


def test_submitting_again_draws_again() -> None:
    """The same content is not struck by the same faults for ever."""
    planner = FaultPlanner(SandboxSettings(seed=3, rates=_RATES), None)

    assert len({planner.plan(_TASKS[0], None).faults for _ in range(40)}) > 1


def test_each_poll_of_each_task_is_drawn_by_itself() -> None:
    """A rate strikes some polls of a task and not others, and other polls of another task."""
    planner = FaultPlanner(SandboxSettings(seed=3, rates=FaultRates(html=0.5)), None)

    plans = [planner.plan(task, None) for task in _TASKS[:2]]
    polls = [[plan.choose_for_poll(number) for number in range(40)] for plan in plans]

    assert set(polls[0]) == {None, "html"}
    assert polls[0] != polls[1]


def test_order_in_the_task_goes_before_the_callable_and_the_rates() -> None:
    """Faults come from the task, else from `faults_for`, else from the rates."""
    rates = FaultRates(callback_twice=1.0)
    planner = FaultPlanner(
        SandboxSettings(rates=rates), lambda task: Faults(callback="late") if task["body"] == "0" else None
    )

    assert planner.plan(_TASKS[0], Faults(callback="lost")).faults.callback == "lost"
    assert planner.plan(_TASKS[0], None).faults.callback == "late"
    assert planner.plan(_TASKS[1], None).faults.callback == "twice"


def test_ordered_faults_keep_the_rates_away() -> None:
    """A task with its own orders meets no other faults."""
    planner = FaultPlanner(SandboxSettings(rates=FaultRates(http_500=1.0)), None)

    plan = planner.plan(_TASKS[0], Faults())

    assert (plan.choose_for_create_task(), plan.choose_for_poll(1)) == (None, None)
