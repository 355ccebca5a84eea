"""The time of a task's next poll after each event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.provider_api.unlisted import UnlistedRow
from client.providers import DIALECTS
from client.providers.readings import Pending, Reading, Unknown
from receiver.domain.next_poll import (
    Adopted,
    Bound,
    CameDue,
    GivenBack,
    Hinted,
    Polled,
    PollEvent,
    Registered,
    Settled,
    limits_of,
    next_poll,
)
from receiver.domain.records import SECOND, Outcome, PollRecord, TaskRecord
from tests.receiver.storage.stores import NOW, a_task

LIMITS = limits_of(DIALECTS["capsolver"].polls)
FIRST = NOW + 35 * SECOND
LATER = NOW + 60 * SECOND
GIVEN_UP = Outcome("failed", None, 1, "RECEIVER_NO_ANSWER", None, "deadline", "reported", NOW, None)


def planned_task(**fields: Any) -> TaskRecord:
    """Return a task whose first poll is planned."""
    given_fields: dict[str, Any] = {"created_at": NOW, "poll_after": FIRST, "next_poll_at": FIRST, **fields}
    return a_task("0199", **given_fields)


def a_poll(
    ended_at: int, reading: Reading | None = None, wait: int | None = 0, row: UnlistedRow | None = None
) -> Polled:
    """Return the end of a poll that took a second."""
    return Polled(
        poll=PollRecord(ended_at - SECOND, ended_at, 1, "pending", row), reading=reading, wait=wait, limits=LIMITS
    )


@pytest.mark.parametrize(
    ("fields", "event", "at"),
    [
        ({"next_poll_at": None}, Registered(), FIRST),
        ({"next_poll_at": None}, Adopted(), FIRST),
        ({"next_poll_at": LATER}, Adopted(), LATER),
        ({"bound_by": "create", "bound_at": NOW + 5 * SECOND}, Bound(), FIRST + 5 * SECOND),
        ({"bound_by": "create", "bound_at": NOW + 5 * SECOND, "polls": 1}, Bound(), FIRST),
        ({"bound_by": "create", "bound_at": NOW + 5 * SECOND, "next_poll_at": LATER}, Bound(), LATER),
        ({}, Hinted(NOW), NOW),
        ({"next_poll_at": None}, Hinted(NOW), NOW),
        ({"polls": 119}, CameDue(LIMITS), FIRST),
        ({"polls": 120}, CameDue(LIMITS), None),
        ({}, GivenBack(LATER, LIMITS), LATER + 3 * SECOND),
        ({"next_poll_at": None}, GivenBack(LATER, LIMITS), None),
        ({}, Settled(), None),
        ({"polls": 1}, a_poll(LATER, Pending("processing"), 5 * SECOND), LATER + 5 * SECOND),
        ({"polls": 1}, a_poll(LATER), LATER + 3 * SECOND),
        ({"polls": 1}, a_poll(LATER, row=UnlistedRow("A", 1, 0)), LATER + 6 * SECOND),
        ({"polls": 1}, a_poll(LATER, wait=None), None),
        ({"polls": 1, "hinted_at": LATER}, a_poll(LATER, wait=None), LATER + 3 * SECOND),
        ({"polls": 1}, a_poll(NOW + 299 * SECOND), None),
        ({"polls": 1}, a_poll(NOW + 299 * SECOND, Unknown(1, "ERROR_TASKID_INVALID")), NOW + 330 * SECOND),
        ({"polls": 1}, a_poll(NOW + 329 * SECOND, Unknown(1, "ERROR_TASKID_INVALID")), NOW + 332 * SECOND),
        ({"polls": 1}, a_poll(NOW + 330 * SECOND, Unknown(1, "ERROR_TASKID_INVALID")), None),
        ({"polls": 120}, a_poll(LATER), None),
        ({"polls": 1, "outcome": GIVEN_UP}, a_poll(LATER), None),
        ({"polls": 1, "outcome": GIVEN_UP, "is_disputed": True}, a_poll(LATER), LATER + 3 * SECOND),
        ({"polls": 1, "outcome": GIVEN_UP, "hinted_at": NOW}, a_poll(LATER), LATER + 3 * SECOND),
        ({"polls": 1, "outcome": GIVEN_UP, "hinted_at": NOW}, a_poll(LATER, Pending("processing")), None),
    ],
)
def test_each_event_plans_the_next_poll(fields: dict[str, Any], event: PollEvent, at: int | None) -> None:
    """The table of events, with the states that make a difference."""
    assert next_poll(planned_task(**fields), event) == at


@given(
    fields=st.fixed_dictionaries(
        {
            "polls": st.integers(0, 121),
            "hinted_at": st.none() | st.integers(NOW, NOW + LIMITS.window),
            "outcome": st.sampled_from([None, GIVEN_UP]),
            "is_disputed": st.booleans(),
        }
    ),
    ended_at=st.integers(NOW, NOW + 2 * LIMITS.window),
    reading=st.sampled_from([None, Pending("processing"), Unknown(1, "ERROR_TASKID_INVALID")]),
    wait=st.none() | st.integers(0, LIMITS.window // 2),
    times=st.none() | st.integers(1, 100),
)
def test_limits_hold_after_each_poll(
    fields: dict[str, Any], ended_at: int, reading: Reading | None, wait: int | None, times: int | None
) -> None:
    """No poll is nearer than the interval, further ahead than the reach, behind the window or one too many."""
    task = planned_task(**fields)
    row = None if times is None else UnlistedRow("A", times, 0)
    at = next_poll(task, a_poll(ended_at, reading, wait, row=row))
    last_at = NOW + LIMITS.window + LIMITS.grace

    if at is not None:
        assert at <= ended_at + LIMITS.reach or at == last_at
        assert at >= ended_at + LIMITS.interval
        is_last = last_at <= at < last_at + LIMITS.interval
        assert at < NOW + LIMITS.window or (is_last and isinstance(reading, Unknown))
        assert not LIMITS.are_used_up(task)
        assert task.outcome is None or task.is_disputed or task.hinted_at is not None


def test_unlimited_polls_are_never_used_up() -> None:
    """Some providers document no number of polls."""
    assert not replace(LIMITS, max_polls=None).are_used_up(planned_task(polls=10_000))
