"""The learned times of polls behind a callback."""

from __future__ import annotations

import json
import math
from random import Random

import pytest

from client.providers import PollPlan
from receiver.domain.schedule import ENOUGH, MOST_TYPES, Change, Schedule

_PLAN = PollPlan(
    first_after_seconds=3.0,
    first_after_callback_seconds=35.0,
    interval_seconds=3.0,
    max_polls=120,
    window_seconds=300.0,
)
_LONGEST = 105.0


def _calls_back(schedule: Schedule, *latencies: float, task_type: str | None = None) -> list[Change]:
    changes = [
        schedule.count_answer(task_type, latency, "callback", called_back_late=False, at=0.0) for latency in latencies
    ]
    return [change for change in changes if change is not None]


def _is_polled(schedule: Schedule, times: int, *, start: float = 0.0) -> list[Change]:
    """Count an answer by poll every twenty seconds. Return the changes."""
    changes = [
        schedule.count_answer(None, 40.0, "poll", called_back_late=False, at=start + 20.0 * index)
        for index in range(times)
    ]
    return [change for change in changes if change is not None]


def _first(schedule: Schedule, task_type: str | None = None) -> float:
    return schedule.first_poll_after(task_type, expects_callback=True)


def _failing() -> Schedule:
    schedule = Schedule(_PLAN)
    _calls_back(schedule, *[12.0] * ENOUGH)
    _is_polled(schedule, 12)
    assert schedule.callbacks_failing
    return schedule


@pytest.mark.parametrize("seen", [0, ENOUGH - 1])
def test_the_plan_holds_until_enough_was_seen(seen: int) -> None:
    """A few callbacks are not enough: the provider's fixed wait stays."""
    schedule = Schedule(_PLAN)

    _calls_back(schedule, *[12.0] * seen)

    assert _first(schedule) == 35.0


def test_a_callback_is_overdue_after_what_callbacks_take() -> None:
    """The first poll comes at a third more than nine callbacks in ten took."""
    schedule = Schedule(_PLAN)

    _calls_back(schedule, *[12.0] * ENOUGH)

    assert _first(schedule) == 16.0


def test_without_a_callback_there_is_no_longer_wait() -> None:
    """A task without a callback is polled by the plan, not by the latencies."""
    schedule = Schedule(_PLAN)

    _calls_back(schedule, *[12.0] * ENOUGH)

    assert schedule.first_poll_after(None, expects_callback=False) == 3.0


@pytest.mark.parametrize(
    ("latency", "first"), [(0.1, 3.0), (1.0, 3.0), (6.0, 8.0), (60.0, 80.0), (100.0, _LONGEST), (299.0, _LONGEST)]
)
def test_the_learned_wait_stays_within_the_plan(latency: float, first: float) -> None:
    """It is never below the provider's first wait, nor so late that the window has room for too few polls."""
    schedule = Schedule(_PLAN)

    _calls_back(schedule, *[latency] * ENOUGH)

    assert _first(schedule) == first


def test_types_have_waits_of_their_own() -> None:
    """A type seen often enough has its own wait. Another one has the provider's."""
    schedule = Schedule(_PLAN)
    _calls_back(schedule, *[6.0] * ENOUGH, task_type="ImageToTextTask")

    _calls_back(schedule, *[30.0] * ENOUGH, task_type="RecaptchaV2Task")

    assert _first(schedule, "ImageToTextTask") == 8.0
    assert _first(schedule, "RecaptchaV2Task") == 40.0
    assert _first(schedule, "TurnstileTask") == _first(schedule) == 40.0


def test_a_few_stragglers_change_nothing() -> None:
    """Two very late callbacks do not lengthen the wait of all tasks."""
    schedule = Schedule(_PLAN)
    _calls_back(schedule, *[12.0] * 100)

    changes = _calls_back(schedule, 250.0, 250.0)

    assert (_first(schedule), changes) == (16.0, [])


def test_late_callbacks_lengthen_it_soon() -> None:
    """Four callbacks after the poll with the answer are enough to wait longer for the next ones."""
    schedule = Schedule(_PLAN)
    _calls_back(schedule, *[12.0] * 200)

    changes = [
        change
        for index in range(4)
        for change in (
            *_is_polled(schedule, 1, start=60.0 * index),
            schedule.count_answer(None, 45.0, "callback", called_back_late=True, at=60.0 * index + 25.0),
        )
        if change is not None
    ]

    assert _first(schedule) == 60.0
    assert [change.kind for change in changes] == ["schedule"]
    assert not schedule.callbacks_failing


def test_callbacks_after_the_window_are_not_waited_for() -> None:
    """Callbacks hours late show that callbacks work, and leave the waits alone."""
    schedule = _failing()

    changes = _calls_back(schedule, *[7200.0] * 10)

    assert [change.kind for change in changes] == ["left"]
    assert _first(schedule) == 16.0


def test_a_wait_follows_back_down() -> None:
    """After as many quick callbacks as are remembered, the wait is short again."""
    schedule = Schedule(_PLAN)
    _calls_back(schedule, *[40.0] * 200)

    _calls_back(schedule, *[12.0] * 200)

    assert _first(schedule) == 16.0


def test_failing_callbacks_are_polled_as_if_there_were_none() -> None:
    """After many polled answers and no callback the wait is the plan's shortest. It is reported once."""
    schedule = Schedule(_PLAN)
    _calls_back(schedule, *[12.0] * ENOUGH)

    changes = _is_polled(schedule, 19)

    assert [change.kind for change in changes] == ["entered"]
    assert "the last 12 tasks ended without a callback" in changes[0].words
    assert (schedule.callbacks_failing, _first(schedule)) == (True, 3.0)


def test_slow_callbacks_are_not_mistaken_for_failing_ones() -> None:
    """Any number of polled answers proves nothing before the latest time of a callback."""
    schedule = Schedule(_PLAN)

    changes = [schedule.count_loss(at=index / 10.0) for index in range(1000)]

    assert changes == [None] * 1000


def test_failing_ends_when_callbacks_come_again() -> None:
    """A few callbacks, even late ones, end it. It is reported once."""
    schedule = _failing()

    changes = [
        change
        for index in range(12)
        for change in (
            *_is_polled(schedule, 1, start=1000.0 + 20.0 * index),
            schedule.count_answer(None, 12.0, "callback", called_back_late=True, at=1012.0 + 20.0 * index),
        )
        if change is not None
    ]

    assert [change.kind for change in changes] == ["left"]
    assert (schedule.callbacks_failing, _first(schedule)) == (False, 16.0)


def test_a_single_callback_does_not_end_it() -> None:
    """One callback among many lost ones does not end it, so the schedule does not flap."""
    schedule = _failing()

    changes = _calls_back(schedule, 10.0)

    assert (changes, schedule.callbacks_failing) == ([], True)


def test_failing_callbacks_are_probed() -> None:
    """Now and then a task still waits for its callback. A provider may call back only for unfetched answers."""
    schedule = _failing()
    waits = []

    for index in range(40):
        _is_polled(schedule, 1, start=1000.0 + 20.0 * index)
        waits.append(_first(schedule))

    assert (waits.count(16.0), waits.count(3.0)) == (2, 38)


@pytest.mark.parametrize("lost_share", [0.01, 0.1, 0.3])
def test_losses_alone_are_no_failure(lost_share: float) -> None:
    """While most callbacks come, polls stay the exception, and no failure is reported."""
    schedule, random = Schedule(_PLAN), Random(7)

    changes = [
        schedule.count_loss(at=20.0 * index)
        if random.random() < lost_share
        else schedule.count_answer(None, random.uniform(8.0, 12.0), "callback", called_back_late=False, at=20.0 * index)
        for index in range(20_000)
    ]

    assert {change.kind for change in changes if change is not None} == {"schedule"}


@pytest.mark.parametrize("lost_share", [0.5, 0.6, 0.7, 0.75, 0.8, 0.95])
def test_it_does_not_flap(lost_share: float) -> None:
    """If most callbacks are lost, then changes are far less frequent than callbacks."""
    schedule, random = Schedule(_PLAN), Random(7)

    changes = [
        schedule.count_loss(at=20.0 * index)
        if random.random() < lost_share
        else schedule.count_answer(None, 10.0, "callback", called_back_late=False, at=20.0 * index)
        for index in range(20_000)
    ]

    assert len([change for change in changes if change is not None]) < 20_000 / 60


def test_a_clock_that_was_set_back_does_not_blind_it() -> None:
    """If the clock goes back by a day, then failing callbacks are noticed as soon as before."""
    schedule = Schedule(_PLAN)
    schedule.count_loss(at=86_400.0)

    changes = _is_polled(schedule, 12)

    assert [change.kind for change in changes] == ["entered"]


def test_polls_back_off_gently() -> None:
    """A wait is a little longer than the one before, from the plan's interval up to four of them."""
    schedule = Schedule(_PLAN)

    waits = [schedule.next_poll_after(polls) for polls in (1, 2, 8, 20, 119, 120)]

    assert waits == pytest.approx([3.0, 3.3, 5.846, 12.0, 12.0, math.inf], rel=1e-3)


def test_a_last_poll_comes_before_the_window_ends() -> None:
    """A wait beyond the end of the window is cut, so that one more poll falls inside it."""
    schedule = Schedule(_PLAN)

    waits = [schedule.next_poll_after(40, elapsed_seconds=elapsed) for elapsed in (250.0, 290.0, 296.0, 297.0)]

    assert waits == [12.0, 7.0, 3.0, math.inf]


def test_a_schedule_survives_a_restart() -> None:
    """A schedule made from the stored JSON of another one goes on exactly like it."""
    schedule, random = Schedule(_PLAN), Random(3)
    _calls_back(schedule, *(random.uniform(1.0, 30.0) for _ in range(500)), task_type="TurnstileTask")
    _is_polled(schedule, 12)

    again = Schedule.from_json(_PLAN, json.loads(json.dumps(schedule.as_json())))

    assert again.as_json() == schedule.as_json()
    assert again.explain("TurnstileTask") == schedule.explain("TurnstileTask")
    assert (again.callbacks_failing, _first(again)) == (True, _first(schedule))
    assert [change.kind for change in _calls_back(again, *[12.0] * 10)] == ["left"]


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        "x",
        {"all": 5, "types": [], "doubt": "x", "doubtedSince": None, "polledInARow": -1, "isFailing": 1},
        {"all": ["x", None, math.nan, math.inf, -1.0, True, 10**400], "types": {"t": {}}, "doubt": 10**400},
        {"isFailing": True},
    ],
)
def test_unreadable_parts_are_learned_anew(stored: object) -> None:
    """Any stored value makes a working schedule."""
    schedule = Schedule.from_json(_PLAN, stored)

    assert (_first(schedule), schedule.callbacks_failing) == (35.0, False)


def test_the_stored_schedule_is_bounded() -> None:
    """Any number of answers and types takes some kilobytes at most."""
    schedule = Schedule(_PLAN)

    for index in range(10_000):
        _calls_back(schedule, index % 300 / 7.0, task_type=f"Task{index // 250}")

    stored = schedule.as_json()
    assert len(stored["types"]) == MOST_TYPES
    assert len(json.dumps(stored)) < 15_000


def test_it_explains_itself() -> None:
    """In each state it gives the time of the first poll in words, with its reason."""
    schedule = Schedule(_PLAN)

    assert schedule.explain() == "polled from 35 s on, the fixed schedule: 0 of 20 callbacks seen"
    _calls_back(schedule, *[12.0] * ENOUGH)
    assert schedule.explain("TurnstileTask") == (
        "polled from 16 s on: callbacks took 12 s at the 90th percentile of the last 20, newer ones counting more"
    )
    assert _failing().explain() == "polled from 3 s on, because the last 12 tasks ended without a callback"
