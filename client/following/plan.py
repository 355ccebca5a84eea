"""The next step for a task without an outcome: poll, wait or give up. Pure.

All times are seconds on one axis that only grows. The plan keeps the provider's limits. No poll comes before the first
one is due, faster than the interval, beyond the number allowed, or after the window. Every wait ends. If a caller wants
only young answers, then polls are frequent enough to know their age.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.following.state import TaskState

__all__ = [
    "SILENCE_SECONDS",
    "GiveUp",
    "NextStep",
    "Poll",
    "UnknownIsFinal",
    "Wait",
    "first_poll_at",
    "hand_over_seconds",
    "next_step",
    "proof_poll_at",
]

SILENCE_SECONDS = 3.0
"""The time for which a failing receiver is waited for. After it, its tasks are polled."""

_HAND_OVER_SECONDS = 5.0
_LATE_IN_THE_WINDOW = 0.6


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask the provider now, once."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing before `until`, unless the state changes."""

    until: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the task: its deadline has come."""


@dataclass(frozen=True, slots=True)
class UnknownIsFinal:
    """End the task: the provider did not know the id, and its window and the grace are over."""


NextStep = Poll | Wait | GiveUp | UnknownIsFinal


def next_step(state: TaskState, now: float) -> NextStep:
    """Return the step to take at `now`. A `Wait` always ends in the future."""
    is_unknown = state.unknown_answer is not None
    unknown_is_final_at = state.window_ends_at + state.plan.grace_seconds if is_unknown else math.inf
    if now >= unknown_is_final_at:
        return UnknownIsFinal()
    if now >= state.deadline_at:
        return GiveUp()
    ends_at = min(state.deadline_at, unknown_is_final_at)
    poll_at = max(_next_poll_at(state), now)
    if poll_at >= min(state.window_ends_at, ends_at):
        return Wait(ends_at)
    return Poll() if poll_at <= now else Wait(poll_at)


def first_poll_at(state: TaskState) -> float:
    """Return the time of the first poll, if neither a hint nor the receiver's silence brings it forward.

    Behind a callback the first poll is late, because it is mostly needless. It still comes before the deadline, if the
    provider's own first wait allows that.
    """
    plan = state.plan
    if not state.expects_callback:
        return state.submitted_at + plan.first_after_seconds
    wanted = plan.first_after_callback_seconds if state.first_poll_seconds is None else state.first_poll_seconds
    latest = min(state.deadline_at - state.submitted_at, plan.window_seconds) - plan.interval_seconds
    return state.submitted_at + min(wanted, max(latest, min(wanted, plan.first_after_seconds)))


def proof_poll_at(state: TaskState) -> float:
    """Return the time of the poll that keeps an answer young enough, if only a poll can bring it.

    The answer may have been there since the task was last known to be unfinished. So the poll comes in time for that,
    no more often, and not before the provider's first wait.
    """
    if state.fresh_for is None:
        return math.inf
    earliest = state.submitted_at + state.plan.first_after_seconds
    if state.unfinished_at is None:
        return earliest
    return max(earliest, state.unfinished_at + state.fresh_for - hand_over_seconds(state.fresh_for))


def hand_over_seconds(fresh_for: float) -> float:
    """Return the part of `fresh_for` that is left for the poll itself and for handing over its answer."""
    return min(_HAND_OVER_SECONDS, fresh_for / 4.0)


def _next_poll_at(state: TaskState) -> float:
    """Return the time of the next poll; infinity: never, as things are."""
    if not state.can_poll:
        return math.inf
    left = math.inf if state.plan.max_polls is None else state.plan.max_polls - state.polls
    # The receiver follows the hint itself, where it polls.
    if state.is_hinted and not state.is_polled_elsewhere:
        due = -math.inf if left > 0 else math.inf
    else:
        due = _unhinted_poll_at(state) if left > _reserve(state) else math.inf
    allowed = -math.inf if state.last_poll_at is None else state.last_poll_at + state.plan.interval_seconds
    return max(due, allowed, state.not_before, state.paused_until)


def _unhinted_poll_at(state: TaskState) -> float:
    first_at = first_poll_at(state)
    if state.is_polled_elsewhere:
        first_at = max(first_at, state.submitted_at + state.plan.window_seconds * _LATE_IN_THE_WINDOW)
    due = min(first_at, proof_poll_at(state))
    if state.silent_since is None:
        return due
    unattended = max(state.submitted_at + state.plan.first_after_seconds, state.silent_since + SILENCE_SECONDS)
    return min(due, unattended)


def _reserve(state: TaskState) -> int:
    """Return the number of polls that are kept for a hint: one, if a hint can come and there is one to spare."""
    return 1 if state.expects_callback and state.plan.max_polls is not None and state.plan.max_polls > 1 else 0
