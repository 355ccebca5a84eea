"""Laws of every plan and of every course of learning."""

from __future__ import annotations

import json
import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from client.providers import PollPlan
from receiver.domain.schedule import LATENCIES_KEPT, QUANTILE, Latencies, Schedule

_EVENT = st.tuples(
    st.sampled_from([None, "ImageToTextTask", "TurnstileTask"]),
    st.floats(0.0, 1000.0),
    st.sampled_from(["callback", "late", "poll", "lost"]),
    st.floats(0.0, 200.0),
)

_NAMES = st.sampled_from(["all", "types", "doubt", "doubtedSince", "polledInARow", "isFailing"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(_NAMES, inner),
)


@st.composite
def _plans(draw: st.DrawFn) -> PollPlan:
    """Return a plan with room in its window for the first poll and one more."""
    first = draw(st.floats(0.1, 60.0))
    interval = draw(st.floats(0.5, 20.0))
    return PollPlan(
        first_after_seconds=first,
        first_after_callback_seconds=first + draw(st.floats(0.0, 400.0)),
        interval_seconds=interval,
        max_polls=draw(st.none() | st.integers(1, 200)),
        window_seconds=first + interval + draw(st.floats(0.0, 900.0)),
    )


@st.composite
def _taught(draw: st.DrawFn) -> tuple[PollPlan, Schedule]:
    """Return a plan, and a schedule after any events."""
    plan = draw(_plans())
    schedule, at = Schedule(plan), 0.0
    for task_type, latency, kind, later in draw(st.lists(_EVENT, max_size=120)):
        at += later
        if kind == "lost":
            schedule.count_loss(at=at)
        else:
            schedule.count_answer(
                task_type, latency, "poll" if kind == "poll" else "callback", called_back_late=kind == "late", at=at
            )
    return plan, schedule


def _polls(plan: PollPlan, schedule: Schedule, *, expects_callback: bool) -> list[float]:
    """Return the times of the polls of a task without an answer."""
    times: list[float] = []
    at = schedule.first_poll_after("TurnstileTask", expects_callback=expects_callback)
    while at < math.inf:
        times.append(at)
        at += schedule.next_poll_after(len(times), elapsed_seconds=at)
    return times


@given(_taught(), st.booleans())
def test_limits_of_the_plan_hold(taught: tuple[PollPlan, Schedule], expects_callback: bool) -> None:
    """No poll is before the first wait, closer than the interval, beyond the number allowed or after the window."""
    plan, schedule = taught

    times = _polls(plan, schedule, expects_callback=expects_callback)

    assert times[0] >= plan.first_after_seconds
    assert all(at < plan.window_seconds + 1e-9 for at in times)
    assert all(later - earlier >= plan.interval_seconds - 1e-9 for earlier, later in pairwise(times))
    assert plan.max_polls is None or len(times) <= plan.max_polls


@given(_taught())
def test_the_window_is_used_to_its_end(taught: tuple[PollPlan, Schedule]) -> None:
    """Unless the polls are used up, the last one leaves no room in the window for one more."""
    plan, schedule = taught

    times = _polls(plan, schedule, expects_callback=True)

    is_used_up = plan.max_polls is not None and len(times) == plan.max_polls
    assert is_used_up or times[-1] + 2.0 * plan.interval_seconds >= plan.window_seconds - 1e-9


@given(_taught())
def test_half_of_the_window_is_left_for_polls(taught: tuple[PollPlan, Schedule]) -> None:
    """Latencies never move the first poll into the second half of the window. Only the plan itself does."""
    plan, schedule = taught

    first = schedule.first_poll_after("TurnstileTask", expects_callback=True)

    assert first <= max(plan.window_seconds / 2.0, plan.first_after_callback_seconds)


@given(_taught())
def test_storing_changes_nothing(taught: tuple[PollPlan, Schedule]) -> None:
    """A schedule read back from JSON is equal to the one written."""
    plan, schedule = taught

    again = Schedule.from_json(plan, json.loads(json.dumps(schedule.as_json())))

    assert (again.as_json(), again.explain("TurnstileTask")) == (schedule.as_json(), schedule.explain("TurnstileTask"))


@given(_JSON, _plans())
def test_anything_stored_gives_a_schedule(stored: object, plan: PollPlan) -> None:
    """No stored value breaks it."""
    schedule = Schedule.from_json(plan, stored)

    assert schedule.first_poll_after(None, expects_callback=True) < plan.window_seconds
    assert schedule.explain()


@given(st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=500))
def test_the_quantile_follows_the_weights(seconds: list[float]) -> None:
    """It is the smallest latency with at most a tenth of the weight above it."""
    latencies = Latencies(seconds)
    kept = seconds[-LATENCIES_KEPT:]
    weights = [0.5 ** ((len(kept) - 1 - index) / 25) for index in range(len(kept))]

    quantile = latencies.quantile()

    above = sum(weight for weight, latency in zip(weights, kept, strict=True) if latency > quantile)
    from_it_on = sum(weight for weight, latency in zip(weights, kept, strict=True) if latency >= quantile)
    most = (1.0 - QUANTILE) * sum(weights)
    assert list(latencies.oldest_first()) == kept
    assert above <= most + 1e-9 < from_it_on + 2e-9
