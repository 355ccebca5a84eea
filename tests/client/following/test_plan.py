"""What to do next for a task that waits: the limits hold, whatever is known, and every wait ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.following.plan import (
    SILENCE_SECONDS,
    GiveUp,
    Known,
    Poll,
    Step,
    UnknownIsFinal,
    Wait,
    first_poll_at,
    hand_over_seconds,
    next_step,
    proof_poll_at,
)
from client.providers import PollPlan

_PLAN = PollPlan(
    first_after_seconds=3.0,
    first_after_callback_seconds=35.0,
    interval_seconds=3.0,
    max_polls=120,
    window_seconds=300.0,
    grace_seconds=30.0,
)
_KNOWN = Known(plan=_PLAN, submitted_at=1000.0, deadline_at=1330.0, expects_callback=True)


@pytest.mark.parametrize(
    ("changes", "now", "step"),
    [
        pytest.param({}, 1000.0, Wait(1035.0), id="behind-a-callback-the-first-poll-is-late"),
        pytest.param({}, 1035.0, Poll(), id="and-made-when-it-is-due"),
        pytest.param({"expects_callback": False}, 1000.0, Wait(1003.0), id="without-one-it-is-made-early"),
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
        pytest.param({"is_hinted": True, "can_poll": False}, 1001.0, Wait(1330.0), id="and-not-without-an-id"),
        pytest.param({"is_hinted": True, "paused_until": 1060.0}, 1001.0, Wait(1060.0), id="nor-in-a-pause-of-the-key"),
        pytest.param({"polls": 1, "last_poll_at": 1035.0}, 1036.0, Wait(1038.0), id="then-the-interval-rules"),
        pytest.param({"polls": 1, "last_poll_at": 1001.0}, 1004.0, Wait(1035.0), id="a-hinted-poll-starts-no-series"),
        pytest.param({"silent_since": 1010.0}, 1010.0, Wait(1010.0 + SILENCE_SECONDS), id="silence-is-borne-a-while"),
        pytest.param({"silent_since": 1010.0}, 1010.0 + SILENCE_SECONDS, Poll(), id="then-polls-take-over"),
        pytest.param({"silent_since": 990.0}, 1000.0, Wait(1003.0), id="but-not-before-the-providers-first-wait"),
        pytest.param({"polls": 119, "last_poll_at": 1035.0}, 1040.0, Wait(1330.0), id="one-poll-is-kept-for-a-hint"),
        pytest.param({"polls": 119, "is_hinted": True}, 1040.0, Poll(), id="and-given-to-it"),
        pytest.param({"polls": 120, "is_hinted": True}, 1040.0, Wait(1330.0), id="beyond-the-limit-there-is-none"),
        pytest.param({"polls": 119, "expects_callback": False}, 1040.0, Poll(), id="without-callbacks-all-are-used"),
        pytest.param({"is_hinted": True}, 1300.0, Wait(1330.0), id="after-the-window-nothing-is-asked"),
        pytest.param({}, 1330.0, GiveUp(), id="the-deadline-ends-it"),
        pytest.param(
            {"is_unknown": True, "deadline_at": 2000.0}, 1301.0, Wait(1330.0), id="unknown-waits-for-the-grace"
        ),
        pytest.param({"is_unknown": True, "deadline_at": 2000.0}, 1330.0, UnknownIsFinal(), id="then-it-is-final"),
        pytest.param({"is_unknown": True}, 1330.0, UnknownIsFinal(), id="and-says-more-than-the-deadline"),
        pytest.param(
            {"deadline_at": 1020.0}, 1000.0, Wait(1017.0), id="an-early-deadline-pulls-the-first-poll-forward"
        ),
        pytest.param(
            {"deadline_at": 1002.0}, 1000.0, Wait(1002.0), id="but-not-before-the-providers-first-wait-either"
        ),
        pytest.param(
            {"fresh_for": 20.0, "unfinished_at": 1000.0}, 1000.0, Wait(1015.0), id="young-answers-are-asked-for-in-time"
        ),
        pytest.param(
            {"fresh_for": 20.0, "unfinished_at": 1014.0, "polls": 1, "last_poll_at": 1015.0},
            1015.0,
            Wait(1029.0),
            id="and-no-more-often-than-it-takes",
        ),
        pytest.param(
            {"fresh_for": 2.0, "unfinished_at": 1000.0}, 1000.0, Wait(1003.0), id="nor-before-the-providers-first-wait"
        ),
        pytest.param(
            {"fresh_for": 2.0, "unfinished_at": 1014.0, "polls": 5, "last_poll_at": 1015.0},
            1015.0,
            Wait(1018.0),
            id="nor-below-the-interval",
        ),
        pytest.param({"fresh_for": 90.0, "unfinished_at": 1000.0}, 1000.0, Wait(1035.0), id="nor-later-than-otherwise"),
        pytest.param({"fresh_for": 20.0}, 1003.0, Poll(), id="what-was-never-known-is-asked-at-once"),
    ],
)
def test_step(changes: dict[str, Any], now: float, step: Step) -> None:
    """Each fact that is known changes the next step as the plan of the provider says."""
    assert next_step(replace(_KNOWN, **changes), now) == step


_SECONDS = st.floats(0.0, 400.0, allow_nan=False)


@st.composite
def _known(draw: st.DrawFn) -> Known:
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
    return Known(
        plan=plan,
        submitted_at=start,
        deadline_at=start + draw(_SECONDS),
        expects_callback=draw(st.booleans()),
        can_poll=draw(st.booleans()),
        first_poll_seconds=draw(st.none() | st.floats(0.1, 100.0)),
        is_hinted=draw(st.booleans()),
        paused_until=start + draw(_SECONDS),
        silent_since=draw(st.none() | _SECONDS.map(lambda seconds: start + seconds)),
        fresh_for=draw(st.none() | st.floats(0.5, 100.0)),
        unfinished_at=draw(st.none() | st.just(start)),
    )


def _lives(known: Known) -> tuple[list[tuple[Known, float]], Step, float]:
    """Follows a task whose polls are all answered with "processing": its polls, its last step and when that came."""
    now = known.submitted_at
    polls: list[tuple[Known, float]] = []
    for _ in range(2000):
        match next_step(known, now):
            case Wait(until):
                assert until > now
                now = until
            case Poll():
                polls.append((known, now))
                known = replace(known, polls=known.polls + 1, last_poll_at=now, is_hinted=False, unfinished_at=now)
            case last:
                return polls, last, now
    raise AssertionError("it never ends")


@given(_known())
def test_ends_at_its_deadline(known: Known) -> None:
    """Every task that gets no answer is given up, exactly at its deadline."""
    _, last, now = _lives(known)

    assert (last, now) == (GiveUp(), known.deadline_at if known.deadline_at > known.submitted_at else now)


@given(_known())
def test_an_unknown_id_ends_it_no_later(known: Known) -> None:
    """Where the provider said "unknown id" last, the task ends with the window and the grace, or at its deadline."""
    final_at = known.submitted_at + known.plan.window_seconds + known.plan.grace_seconds

    _, last, now = _lives(replace(known, is_unknown=True))

    assert now <= max(known.submitted_at, min(known.deadline_at, final_at))
    assert last == (UnknownIsFinal() if now >= final_at else GiveUp())


@given(_known())
def test_limits_of_the_provider_hold(known: Known) -> None:
    """No poll is beyond the number allowed, after the window, after the deadline, in a pause, or without an id."""
    polls, _, _ = _lives(known)

    assert known.plan.max_polls is None or len(polls) <= known.plan.max_polls
    assert all(now < known.submitted_at + known.plan.window_seconds for _, now in polls)
    assert all(now < known.deadline_at for _, now in polls)
    assert all(now >= known.paused_until for _, now in polls)
    assert known.can_poll or not polls


@given(_known())
def test_polls_keep_their_distance(known: Known) -> None:
    """Two polls of a task are never closer than the interval."""
    polls, _, _ = _lives(known)

    times = [now for _, now in polls]
    assert all(later >= earlier + known.plan.interval_seconds for earlier, later in pairwise(times))


@given(_known())
def test_no_poll_before_the_first_is_due(known: Known) -> None:
    """Unless a hint came or the receiver is silent, no poll comes before one is due, or needed to know an age."""
    polls, _, _ = _lives(known)

    due = [(min(first_poll_at(at), proof_poll_at(at)), now) for at, now in polls if not at.is_hinted]
    assert known.silent_since is not None or all(now >= due_at for due_at, now in due)


@given(_known())
def test_a_first_poll_is_never_before_the_providers_wait(known: Known) -> None:
    """Neither silence nor an early deadline makes a poll come before the provider's documented first wait."""
    wait = min(known.plan.first_after_seconds, known.first_poll_seconds or known.plan.first_after_seconds)
    polls, _, _ = _lives(known)

    assert all(now >= known.submitted_at + wait for at, now in polls if not at.is_hinted)


@given(_known())
def test_a_poll_is_left_for_a_hint(known: Known) -> None:
    """Where a callback may come, polls that nobody hinted at leave one of several for a hint."""
    polls, _, _ = _lives(replace(known, is_hinted=False, expects_callback=True))

    assert known.plan.max_polls is None or known.plan.max_polls < 2 or len(polls) < known.plan.max_polls


@given(_known(), st.floats(0.5, 100.0))
def test_ages_are_known_where_the_limits_allow(known: Known, fresh_for: float) -> None:
    """Whenever the task ends between two polls, the later one brings its answer young enough, or as soon as allowed."""
    known = replace(known, fresh_for=fresh_for, unfinished_at=known.submitted_at, can_poll=True)
    polls, _, _ = _lives(known)

    plan, start = known.plan, known.submitted_at
    needed = fresh_for - hand_over_seconds(fresh_for)
    distance = max(needed, plan.interval_seconds)
    allowed_at = max(start + plan.first_after_seconds, known.paused_until)
    times = [now for _, now in polls]
    assert all(now <= max(start + needed, allowed_at) + 1e-6 for now in times[:1])
    assert all(later <= max(earlier + distance, allowed_at) + 1e-6 for earlier, later in pairwise(times))


@given(_known(), st.floats(0.5, 100.0))
def test_ages_are_known_until_the_end(known: Known, fresh_for: float) -> None:
    """Asking for young answers goes on until the polls are used up, or the window or the task ends."""
    known = replace(known, fresh_for=fresh_for, unfinished_at=known.submitted_at, can_poll=True)
    polls, _, _ = _lives(known)

    plan = known.plan
    last = polls[-1][1] if polls else known.submitted_at
    ends_at = min(known.submitted_at + plan.window_seconds, known.deadline_at)
    next_at = max(
        last + max(fresh_for, plan.interval_seconds),
        known.submitted_at + plan.first_after_seconds,
        known.paused_until,
    )
    assert (plan.max_polls is not None and len(polls) >= plan.max_polls - 1) or next_at >= ends_at - 1e-6
