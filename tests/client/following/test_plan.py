"""The next step for a waiting task: the limits hold in every state, and every wait ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.following.plan import (
    SILENCE_SECONDS,
    GiveUp,
    NextStep,
    Poll,
    UnknownIsFinal,
    Wait,
    first_poll_at,
    hand_over_seconds,
    next_step,
    proof_poll_at,
)
from client.following.state import TaskState
from client.provider_api.http import ProviderAnswer
from client.providers import PollPlan
from client.providers.readings import Reading, Unknown

_PLAN = PollPlan(
    first_after_seconds=3.0,
    first_after_callback_seconds=35.0,
    interval_seconds=3.0,
    max_polls=120,
    window_seconds=300.0,
    grace_seconds=30.0,
)
_CREATED_AT = datetime(2026, 1, 2, tzinfo=UTC)
_STATE = TaskState(
    plan=_PLAN,
    submitted_at=1000.0,
    deadline_at=1330.0,
    created_at=_CREATED_AT,
    task_id="task-1",
    has_record=True,
    has_callback_url=True,
)
_UNKNOWN: ProviderAnswer[Reading] = ProviderAnswer({}, Unknown(1, "ERROR_TASK_NOT_FOUND"))


@pytest.mark.parametrize(
    ("changes", "now", "step"),
    [
        pytest.param({}, 1000.0, Wait(1035.0), id="behind-a-callback-the-first-poll-is-late"),
        pytest.param({}, 1035.0, Poll(), id="and-made-when-it-is-due"),
        pytest.param({"has_callback_url": False}, 1000.0, Wait(1003.0), id="without-one-it-is-made-early"),
        pytest.param({"is_polled_elsewhere": True}, 1100.0, Wait(1180.0), id="where-the-receiver-polls-late-at-most"),
        pytest.param({"is_polled_elsewhere": True}, 1180.0, Poll(), id="but-then-all-the-same"),
        pytest.param({"is_polled_elsewhere": True, "is_hinted": True}, 1050.0, Wait(1180.0), id="hints-are-not-for-us"),
        pytest.param(
            {"is_polled_elsewhere": True, "silent_since": 1010.0},
            1010.0 + SILENCE_SECONDS,
            Poll(),
            id="a-silent-receiver-does-not-poll",
        ),
        pytest.param({"first_poll_seconds": 5.0}, 1005.0, Poll(), id="the-caller-may-choose-when"),
        pytest.param({"is_hinted": True}, 1001.0, Poll(), id="a-hint-brings-it-to-now"),
        pytest.param(
            {"is_hinted": True, "last_poll_at": 1000.0}, 1001.0, Wait(1003.0), id="but-not-below-the-interval"
        ),
        pytest.param({"is_hinted": True, "task_id": None}, 1001.0, Wait(1330.0), id="and-not-without-an-id"),
        pytest.param({"is_hinted": True, "paused_until": 1060.0}, 1001.0, Wait(1060.0), id="nor-in-a-pause-of-the-key"),
        pytest.param({"polls": 1, "last_poll_at": 1035.0}, 1036.0, Wait(1038.0), id="then-the-interval-rules"),
        pytest.param({"polls": 1, "last_poll_at": 1001.0}, 1004.0, Wait(1035.0), id="a-hinted-poll-starts-no-series"),
        pytest.param({"silent_since": 1010.0}, 1010.0, Wait(1010.0 + SILENCE_SECONDS), id="silence-is-borne-a-while"),
        pytest.param({"silent_since": 1010.0}, 1010.0 + SILENCE_SECONDS, Poll(), id="then-polls-take-over"),
        pytest.param({"silent_since": 990.0}, 1000.0, Wait(1003.0), id="but-not-before-the-providers-first-wait"),
        pytest.param({"polls": 119, "last_poll_at": 1035.0}, 1040.0, Wait(1330.0), id="one-poll-is-kept-for-a-hint"),
        pytest.param({"polls": 119, "is_hinted": True}, 1040.0, Poll(), id="and-given-to-it"),
        pytest.param({"polls": 120, "is_hinted": True}, 1040.0, Wait(1330.0), id="beyond-the-limit-there-is-none"),
        pytest.param({"polls": 119, "has_callback_url": False}, 1040.0, Poll(), id="without-callbacks-all-are-used"),
        pytest.param({"is_hinted": True}, 1300.0, Wait(1330.0), id="after-the-window-nothing-is-asked"),
        pytest.param({}, 1330.0, GiveUp(), id="the-deadline-ends-it"),
        pytest.param(
            {"unknown_answer": _UNKNOWN, "deadline_at": 2000.0}, 1301.0, Wait(1330.0), id="unknown-waits-for-the-grace"
        ),
        pytest.param(
            {"unknown_answer": _UNKNOWN, "deadline_at": 2000.0}, 1330.0, UnknownIsFinal(), id="then-it-is-final"
        ),
        pytest.param({"unknown_answer": _UNKNOWN}, 1330.0, UnknownIsFinal(), id="and-says-more-than-the-deadline"),
        pytest.param(
            {"deadline_at": 1020.0}, 1000.0, Wait(1017.0), id="an-early-deadline-pulls-the-first-poll-forward"
        ),
        pytest.param(
            {"deadline_at": 1002.0}, 1000.0, Wait(1002.0), id="but-not-before-the-providers-first-wait-either"
        ),
        pytest.param(
            {"wanted_ages": [20.0], "unfinished_at": 1000.0},
            1000.0,
            Wait(1015.0),
            id="young-answers-are-asked-for-in-time",
        ),
        pytest.param(
            {"wanted_ages": [20.0], "unfinished_at": 1014.0, "polls": 1, "last_poll_at": 1015.0},
            1015.0,
            Wait(1029.0),
            id="and-no-more-often-than-it-takes",
        ),
        pytest.param(
            {"wanted_ages": [2.0], "unfinished_at": 1000.0},
            1000.0,
            Wait(1003.0),
            id="nor-before-the-providers-first-wait",
        ),
        pytest.param(
            {"wanted_ages": [2.0], "unfinished_at": 1014.0, "polls": 5, "last_poll_at": 1015.0},
            1015.0,
            Wait(1018.0),
            id="nor-below-the-interval",
        ),
        pytest.param(
            {"wanted_ages": [90.0], "unfinished_at": 1000.0}, 1000.0, Wait(1035.0), id="nor-later-than-otherwise"
        ),
        pytest.param({"wanted_ages": [20.0]}, 1003.0, Poll(), id="what-was-never-known-is-asked-at-once"),
    ],
)
def test_step(changes: dict[str, Any], now: float, step: NextStep) -> None:
    """Each fact of the state changes the next step as the plan of the provider says."""
    assert next_step(replace(_STATE, **changes), now) == step


_SECONDS = st.floats(0.0, 400.0, allow_nan=False)


@st.composite
def _states(draw: st.DrawFn) -> TaskState:
    first = draw(st.floats(0.0, 60.0))
    plan = PollPlan(
        first_after_seconds=first,
        first_after_callback_seconds=first + draw(st.floats(0.0, 60.0)),
        interval_seconds=draw(st.floats(0.5, 20.0)),
        max_polls=draw(st.none() | st.integers(0, 200)),
        window_seconds=draw(st.floats(1.0, 400.0)),
        grace_seconds=draw(st.floats(0.0, 40.0)),
    )
    start = draw(st.floats(0.0, 1e6))
    return TaskState(
        plan=plan,
        submitted_at=start,
        deadline_at=start + draw(_SECONDS),
        created_at=_CREATED_AT,
        task_id=draw(st.none() | st.just("task-1")),
        has_record=draw(st.booleans()),
        has_callback_url=draw(st.booleans()),
        first_poll_seconds=draw(st.none() | st.floats(0.1, 100.0)),
        is_hinted=draw(st.booleans()),
        paused_until=start + draw(_SECONDS),
        silent_since=draw(st.none() | _SECONDS.map(lambda seconds: start + seconds)),
        wanted_ages=draw(st.lists(st.floats(0.5, 100.0), max_size=2)),
        unfinished_at=draw(st.none() | st.just(start)),
    )


def _lives(state: TaskState) -> tuple[list[tuple[TaskState, float]], NextStep, float]:
    """Follow a task through polls with "processing" only. Return its polls, its last step and the time of that."""
    now = state.submitted_at
    polls: list[tuple[TaskState, float]] = []
    for _ in range(2000):
        match next_step(state, now):
            case Wait(until):
                assert until > now
                now = until
            case Poll():
                polls.append((state, now))
                state = replace(state, polls=state.polls + 1, last_poll_at=now, is_hinted=False, unfinished_at=now)
            case last:
                return polls, last, now
    raise AssertionError("it never ends")


@given(_states())
def test_ends_at_its_deadline(state: TaskState) -> None:
    """Every task without an answer is given up, exactly at its deadline."""
    _, last, now = _lives(state)

    assert (last, now) == (GiveUp(), state.deadline_at if state.deadline_at > state.submitted_at else now)


@given(_states())
def test_an_unknown_id_ends_it_no_later(state: TaskState) -> None:
    """If the last answer was "unknown id", the task ends with the window and the grace, or at its deadline."""
    final_at = state.submitted_at + state.plan.window_seconds + state.plan.grace_seconds

    _, last, now = _lives(replace(state, unknown_answer=_UNKNOWN))

    assert now <= max(state.submitted_at, min(state.deadline_at, final_at))
    assert last == (UnknownIsFinal() if now >= final_at else GiveUp())


@given(_states())
def test_limits_of_the_provider_hold(state: TaskState) -> None:
    """No poll is beyond the number allowed, after the window, after the deadline, in a pause, or without an id."""
    polls, _, _ = _lives(state)

    assert state.plan.max_polls is None or len(polls) <= state.plan.max_polls
    assert all(now < state.submitted_at + state.plan.window_seconds for _, now in polls)
    assert all(now < state.deadline_at for _, now in polls)
    assert all(now >= state.paused_until for _, now in polls)
    assert state.can_poll or not polls


@given(_states())
def test_polls_keep_their_distance(state: TaskState) -> None:
    """Two polls of a task are never closer than the interval."""
    polls, _, _ = _lives(state)

    times = [now for _, now in polls]
    assert all(later >= earlier + state.plan.interval_seconds for earlier, later in pairwise(times))


@given(_states())
def test_no_poll_before_the_first_is_due(state: TaskState) -> None:
    """Unless a hint came or the receiver is silent, no poll comes before one is due, or needed to know an age."""
    polls, _, _ = _lives(state)

    due = [(min(first_poll_at(at), proof_poll_at(at)), now) for at, now in polls if not at.is_hinted]
    assert state.silent_since is not None or all(now >= due_at for due_at, now in due)


@given(_states())
def test_a_first_poll_is_never_before_the_providers_wait(state: TaskState) -> None:
    """Neither silence nor an early deadline makes a poll come before the provider's documented first wait."""
    wait = min(state.plan.first_after_seconds, state.first_poll_seconds or state.plan.first_after_seconds)
    polls, _, _ = _lives(state)

    assert all(now >= state.submitted_at + wait for at, now in polls if not at.is_hinted)


@given(_states())
def test_a_poll_is_left_for_a_hint(state: TaskState) -> None:
    """If a callback may come, polls without a hint leave one of several for a hint."""
    polls, _, _ = _lives(replace(state, is_hinted=False, has_record=True, has_callback_url=True))

    assert state.plan.max_polls is None or state.plan.max_polls < 2 or len(polls) < state.plan.max_polls


@given(_states(), st.floats(0.5, 100.0))
def test_ages_are_known_where_the_limits_allow(state: TaskState, fresh_for: float) -> None:
    """Whenever the task ends between two polls, the later one brings its answer young enough, or as soon as allowed."""
    state = replace(state, wanted_ages=[fresh_for], unfinished_at=state.submitted_at, task_id="task-1")
    polls, _, _ = _lives(state)

    plan, start = state.plan, state.submitted_at
    needed = fresh_for - hand_over_seconds(fresh_for)
    distance = max(needed, plan.interval_seconds)
    allowed_at = max(start + plan.first_after_seconds, state.paused_until)
    times = [now for _, now in polls]
    assert all(now <= max(start + needed, allowed_at) + 1e-6 for now in times[:1])
    assert all(later <= max(earlier + distance, allowed_at) + 1e-6 for earlier, later in pairwise(times))


@given(_states(), st.floats(0.5, 100.0))
def test_ages_are_known_until_the_end(state: TaskState, fresh_for: float) -> None:
    """Asking for young answers goes on until the polls are used up, or the window or the task ends."""
    state = replace(state, wanted_ages=[fresh_for], unfinished_at=state.submitted_at, task_id="task-1")
    polls, _, _ = _lives(state)

    plan = state.plan
    last = polls[-1][1] if polls else state.submitted_at
    ends_at = min(state.submitted_at + plan.window_seconds, state.deadline_at)
    next_at = max(
        last + max(fresh_for, plan.interval_seconds),
        state.submitted_at + plan.first_after_seconds,
        state.paused_until,
    )
    assert (plan.max_polls is not None and len(polls) >= plan.max_polls - 1) or next_at >= ends_at - 1e-6
