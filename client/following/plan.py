"""What to do next for a task that has no outcome yet: poll, wait, or give up. Pure.

All times are seconds on one axis that only grows. Kept here: the provider's limits (no poll before the first one is
due, none faster than the interval, none beyond the number allowed, none after the window), that every wait ends, and
that where only young answers are wanted, they are asked for often enough to be young.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.providers import PollPlan

__all__ = [
    "SILENCE_SECONDS",
    "GiveUp",
    "Known",
    "Poll",
    "Step",
    "UnknownIsFinal",
    "Wait",
    "first_poll_at",
    "hand_over_seconds",
    "next_step",
    "proof_poll_at",
]

SILENCE_SECONDS = 3.0
"""A receiver that has been failing for so long is not waited for: its tasks are polled."""

_HAND_OVER_SECONDS = 5.0
_LATE_IN_THE_WINDOW = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a task that waits.

    `submitted_at` is when createTask was called: the provider's window can only end after what is counted from it.
    `can_poll` is false while no `taskId` is known, and after the provider refused to be asked. `expects_callback`:
    the provider was given a URL. `is_polled_elsewhere`: the receiver polls the task itself, so that here it is polled
    only while the receiver is silent, where fresh answers are wanted, and late in the window all the same.
    `first_poll_seconds`, where set, replaces the plan's first wait behind a callback. `is_unknown`: the last poll was
    answered with "unknown id". `not_before` keeps polls apart that bring nothing that can be read. `silent_since`: the
    receiver has been failing since then. `fresh_for`: somebody waits who takes no answer that is older.
    `unfinished_at`: the last moment at which the task was known to be unfinished; None: it never was.
    """

    plan: PollPlan
    submitted_at: float
    deadline_at: float
    expects_callback: bool
    can_poll: bool = True
    is_polled_elsewhere: bool = False
    first_poll_seconds: float | None = None
    polls: int = 0
    last_poll_at: float | None = None
    is_hinted: bool = False
    is_unknown: bool = False
    not_before: float = -math.inf
    paused_until: float = -math.inf
    silent_since: float | None = None
    fresh_for: float | None = None
    unfinished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask the provider now, once."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done before `until`, unless something new becomes known."""

    until: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The deadline has come."""


@dataclass(frozen=True, slots=True)
class UnknownIsFinal:
    """The provider did not know the id, and its window and the grace are over: that was its last word."""


Step = Poll | Wait | GiveUp | UnknownIsFinal


def next_step(known: Known, now: float) -> Step:
    """What to do at `now`; a `Wait` is always for a time to come."""
    window_ends_at = known.submitted_at + known.plan.window_seconds
    unknown_is_final_at = window_ends_at + known.plan.grace_seconds if known.is_unknown else math.inf
    if now >= unknown_is_final_at:
        return UnknownIsFinal()
    if now >= known.deadline_at:
        return GiveUp()
    ends_at = min(known.deadline_at, unknown_is_final_at)
    poll_at = max(_next_poll_at(known), now)
    if poll_at >= min(window_ends_at, ends_at):
        return Wait(ends_at)
    return Poll() if poll_at <= now else Wait(poll_at)


def first_poll_at(known: Known) -> float:
    """When the first poll is due that neither a hint nor the receiver's silence brings forward.

    Behind a callback the first poll is late, because it is mostly needless; but it is made early enough to be made
    before the deadline, if the provider's own first wait allows that.
    """
    plan = known.plan
    if not known.expects_callback:
        return known.submitted_at + plan.first_after_seconds
    wanted = plan.first_after_callback_seconds if known.first_poll_seconds is None else known.first_poll_seconds
    latest = min(known.deadline_at - known.submitted_at, plan.window_seconds) - plan.interval_seconds
    return known.submitted_at + min(wanted, max(latest, min(wanted, plan.first_after_seconds)))


def proof_poll_at(known: Known) -> float:
    """When a poll is due so that an answer which only polls bring is young enough when it is handed over.

    It may have lain there since the task was last known to be unfinished. So that is asked in time, no more often, and
    not before the provider's first wait.
    """
    if known.fresh_for is None:
        return math.inf
    earliest = known.submitted_at + known.plan.first_after_seconds
    if known.unfinished_at is None:
        return earliest
    return max(earliest, known.unfinished_at + known.fresh_for - hand_over_seconds(known.fresh_for))


def hand_over_seconds(fresh_for: float) -> float:
    """Return the part of `fresh_for` that is left to the poll itself and to the way of its answer."""
    return min(_HAND_OVER_SECONDS, fresh_for / 4.0)


def _next_poll_at(known: Known) -> float:
    """When the next poll is due; infinity: never, as things are."""
    if not known.can_poll:
        return math.inf
    left = math.inf if known.plan.max_polls is None else known.plan.max_polls - known.polls
    # The receiver follows the hint itself, where it polls.
    if known.is_hinted and not known.is_polled_elsewhere:
        due = -math.inf if left > 0 else math.inf
    else:
        due = _unhinted_poll_at(known) if left > _reserve(known) else math.inf
    allowed = -math.inf if known.last_poll_at is None else known.last_poll_at + known.plan.interval_seconds
    return max(due, allowed, known.not_before, known.paused_until)


def _unhinted_poll_at(known: Known) -> float:
    first_at = first_poll_at(known)
    if known.is_polled_elsewhere:
        first_at = max(first_at, known.submitted_at + known.plan.window_seconds * _LATE_IN_THE_WINDOW)
    due = min(first_at, proof_poll_at(known))
    if known.silent_since is None:
        return due
    unattended = max(known.submitted_at + known.plan.first_after_seconds, known.silent_since + SILENCE_SECONDS)
    return min(due, unattended)


def _reserve(known: Known) -> int:
    """Poll that are kept for a hint: one, where a hint can come and there is one to spare."""
    return 1 if known.expects_callback and known.plan.max_polls is not None and known.plan.max_polls > 1 else 0
