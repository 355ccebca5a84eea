"""The start of an answer's age, and the rules refused before a task is paid for."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import BadArgumentError, StaleAnswerError
from client.following.freshness import FreshnessRule, name_of, ready_since
from client.protocol.models import Task
from client.providers import PollPlan

_CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_PLAN = PollPlan(
    first_after_seconds=10.0,
    first_after_callback_seconds=35.0,
    interval_seconds=3.0,
    max_polls=None,
    window_seconds=300.0,
)


def _answer(after_seconds: float = 20.0, **fields: Any) -> Task:
    named = {
        "ref": "ref-1",
        "provider": "capsolver",
        "status": "ready",
        "source": "callback",
        "created_at": _CREATED_AT,
        "deadline_at": _CREATED_AT + timedelta(seconds=330),
        "finished_at": _CREATED_AT + timedelta(seconds=after_seconds),
    }
    return Task(**{**named, **fields})


@pytest.mark.parametrize(
    ("task", "moments", "since"),
    [
        pytest.param(_answer(), {}, 1020.0, id="a-callback-counts-from-its-arrival"),
        pytest.param(_answer(source="poll"), {}, 1003.0, id="a-poll-from-when-it-was-last-known-to-be-unfinished"),
        pytest.param(_answer(source="submit"), {}, 1003.0, id="so-does-an-answer-to-createTask"),
        pytest.param(_answer(source="poll"), {"unfinished_at": None}, -math.inf, id="or-from-nobody-knows-when"),
        pytest.param(_answer(), {"unfinished_at": None}, 1020.0, id="a-callback-has-an-age-all-the-same"),
        pytest.param(_answer(), {"unfinished_at": 1025.0}, 1025.0, id="it-was-not-ready-while-polls-said-so"),
        pytest.param(_answer(), {"record_made_at": None}, 1003.0, id="without-the-age-of-the-record-it-is-like-a-poll"),
        pytest.param(_answer(finished_at=None), {}, 1003.0, id="so-it-is-without-a-time"),
        pytest.param(_answer(-3600.0), {}, 1003.0, id="a-clock-set-back-makes-it-older"),
        pytest.param(_answer(3600.0), {}, 1003.0, id="a-clock-set-forward-tells-nothing"),
        pytest.param(_answer(100.5), {}, 1100.0, id="a-clock-that-runs-fast-makes-it-no-younger-than-now"),
    ],
)
def test_ready_since(task: Task, moments: dict[str, Any], since: float) -> None:
    """The age counts from the earliest time at which the answer may have been there."""
    times = {"unfinished_at": 1003.0, "record_made_at": 1000.0, "heard_at": 1100.0, **moments}

    assert ready_since(task, **times) == pytest.approx(since, abs=0.11)


@given(
    offset=st.timedeltas(min_value=timedelta(days=-9000), max_value=timedelta(days=9000)),
    way_seconds=st.floats(0.0, 5.0),
    callback_seconds=st.floats(0.0, 3600.0),
    delay_seconds=st.floats(0.0, 3600.0),
    drift=st.floats(-0.0005, 0.0005),
)
def test_never_younger_than_it_is(
    offset: timedelta, way_seconds: float, callback_seconds: float, delay_seconds: float, drift: float
) -> None:
    """However wrong the receiver's clock is, a callback never counts as younger than it is, and hardly as older."""
    made_at = 1000.0 + way_seconds
    arrived_at = made_at + callback_seconds
    elapsed = timedelta(seconds=callback_seconds * (1.0 + drift))
    created_at = _CREATED_AT + offset
    task = _answer(created_at=created_at, finished_at=created_at + elapsed)

    since = ready_since(task, unfinished_at=1000.0, record_made_at=1000.0, heard_at=arrived_at + delay_seconds)

    assert since <= arrived_at + 0.001
    assert since >= arrived_at - way_seconds - 0.002 * callback_seconds - 0.001


@pytest.mark.parametrize(
    ("rule", "has_callback", "name"),
    [
        *[(FreshnessRule(seconds, 3), True, "fresh_for") for seconds in (0.0, -1.0, math.nan, math.inf)],
        (FreshnessRule(cast(float, "45"), 3), True, "fresh_for"),
        *[(FreshnessRule(45.0, tries), True, "fresh_tries") for tries in (0, -1, True)],
        (FreshnessRule(10.0, 3), False, "fresh_for"),
    ],
)
def test_refused_rule(rule: FreshnessRule, has_callback: bool, name: str) -> None:
    """A number out of its range is refused by name. So is an age too short for polls, if there are no callbacks."""
    with pytest.raises(BadArgumentError, match=name):
        rule.check(_PLAN, has_callback=has_callback)


@pytest.mark.parametrize(
    ("rule", "has_callback"),
    [(FreshnessRule(None, 3), False), (FreshnessRule(0.5, 1), True), (FreshnessRule(10.5, 3), False)],
)
def test_accepted_rule(rule: FreshnessRule, has_callback: bool) -> None:
    """Callbacks allow any age. Polls allow an age longer than their distance."""
    rule.check(_PLAN, has_callback=has_callback)


def test_error_tells_of_each_try() -> None:
    """The error says how many tasks were submitted and how old each answer was, and nothing of the solution."""
    solved = _answer(task_id="task-1", solution={"text": "44795sds"})
    ages = (60.0, math.inf, 46.25)
    stale = [StaleAnswerError(solved, fresh_for=45.0, ages_seconds=[age]) for age in ages]

    error = FreshnessRule(45.0, 3).too_old(stale)

    assert FreshnessRule(45.0, 3).too_old(stale[:2]) is None
    assert error is not None
    assert (error.age_seconds, error.ages_seconds, error.fresh_for, error.task) == (46.25, ages, 45.0, solved)
    assert str(error) == (
        "capsolver task task-1: 3 answers were too old: expected at most 45 s, "
        "got 60.0 s, an unknown age, 46.2 s: allow older answers, or submit a new task"
    )


def test_names() -> None:
    """The name of a discarded task is its ref, or the provider's id if no receiver gave a ref."""
    assert [name_of(_answer(task_id=7)), name_of(_answer(task_id=7, ref=""))] == ["ref-1", "7"]


def test_plan_of_one_poll() -> None:
    """The first wait and the interval both limit the ages known from polls."""
    with pytest.raises(BadArgumentError, match="30 s old"):
        FreshnessRule(30.0, 3).check(replace(_PLAN, interval_seconds=30.0), has_callback=False)
