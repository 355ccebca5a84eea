"""The one decision about a task's next poll: an event and the provider's limits give its time. Pure, in µs.

Only `next_poll` plans polls. A task made by a delivery begins without one. Each event moves a task between states:

* *registered*: the first poll is planned for `poll_after`, or later by the time that createTask took;
* *due*: a poll is planned. A hint plans it for now, and so does a callback that has to be confirmed;
* *polled*: under a lease, `next_poll_at` stays as it was. One that is given back unsent is due an interval later;
* *quiet*: no poll is planned. The task has an outcome, or its polls or its window are used up. A hint ends it, and so
  does the adoption of a task without an outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from client.provider_api.unlisted import WIDEST
from client.providers import PollPlan
from client.providers.readings import Reading, Unknown
from receiver.domain.records import SECOND, PollRecord, TaskRecord

__all__ = [
    "MOST_DELAY_SECONDS",
    "Adopted",
    "Bound",
    "CameDue",
    "GivenBack",
    "Hinted",
    "PollEvent",
    "PollLimits",
    "Polled",
    "Registered",
    "Settled",
    "limits_of",
    "next_poll",
]

MOST_DELAY_SECONDS = 15.0
"""The longest time for which a command waits for the database, as is assumed.

The time of a command is taken before that wait. So the plans and leases of other commands lie further ahead of it than
its own ever do. Only beyond this time they are a sign of a clock that was set back.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollLimits:
    """The limits of a provider on the polls of one task, in µs. No poll is planned further ahead than `reach`."""

    interval: int
    window: int
    grace: int
    reach: int
    max_polls: int | None

    def are_used_up(self, task: TaskRecord) -> bool:
        """Return True if the task may not be polled any more."""
        return self.max_polls is not None and task.polls >= self.max_polls


def limits_of(plan: PollPlan) -> PollLimits:
    """Return the limits in a plan."""
    last_look = WIDEST * plan.interval_seconds + plan.grace_seconds
    longest = max(plan.first_after_callback_seconds, plan.window_seconds / 2.0, last_look)
    return PollLimits(
        interval=round(plan.interval_seconds * SECOND),
        window=round(plan.window_seconds * SECOND),
        grace=round(plan.grace_seconds * SECOND),
        reach=round(SECOND * (longest + MOST_DELAY_SECONDS)),
        max_polls=plan.max_polls,
    )


@dataclass(frozen=True, slots=True)
class Registered:
    """A client registered the task."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """The receiver was given the key to poll the task with."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The answer of createTask told the id. The provider counts from that answer."""


@dataclass(frozen=True, slots=True)
class Hinted:
    """Something came for the task that only a poll can complete or confirm."""

    at: int


@dataclass(frozen=True, slots=True)
class CameDue:
    """The time of the planned poll has come."""

    limits: PollLimits


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The planned poll was not sent, because the key or the process was paused."""

    at: int
    limits: PollLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """A poll has ended and is counted, if it was sent. `reading` is None if it brought no statement about the task.

    `wait` is the time until the next poll by the learned schedule; None: the schedule has none.
    """

    poll: PollRecord
    reading: Reading | None
    wait: int | None
    limits: PollLimits


@dataclass(frozen=True, slots=True)
class Settled:
    """The task has its outcome, or a poll has answered the question in a dispute."""


PollEvent = Registered | Adopted | Bound | Hinted | CameDue | GivenBack | Polled | Settled


def next_poll(task: TaskRecord, event: PollEvent) -> int | None:
    """Return the time of the task's next poll after an event; None: no poll is planned.

    `task` is as the event has changed it, but its `next_poll_at` is the one from before.
    """
    match event:
        case Settled():
            return None
        case Hinted(at):
            return at
        case Registered() | Adopted():
            return task.poll_after if task.next_poll_at is None else task.next_poll_at
        case Bound():
            is_first_planned = not task.polls and task.hinted_at is None and task.next_poll_at == task.poll_after
            return task.poll_after + task.counts_from - task.created_at if is_first_planned else task.next_poll_at
        case CameDue(limits):
            return None if limits.are_used_up(task) else task.next_poll_at
        case GivenBack(at, limits):
            return None if task.next_poll_at is None else at + limits.interval
        case Polled():
            return _after_poll(task, event)
        case unexpected:
            assert_never(unexpected)


def _after_poll(task: TaskRecord, polled: Polled) -> int | None:
    limits, ended_at = polled.limits, polled.poll.ended_at
    was_hinted = task.hinted_at is not None and task.hinted_at > polled.poll.started_at
    is_ended = task.outcome is not None and not task.is_disputed
    if is_ended and not _is_asked_again(task, polled, was_hinted=was_hinted):
        return None
    if limits.are_used_up(task):
        return None
    window_ends_at = task.counts_from + limits.window
    wait = limits.interval if was_hinted else polled.wait
    row = polled.poll.unlisted
    if row is not None and wait is not None and not was_hinted:
        wait = max(wait, round(row.least_wait(limits.interval, window_left=window_ends_at - ended_at)))
    if wait is not None and (at := ended_at + max(wait, limits.interval)) < window_ends_at:
        return at
    # Beyond the window there is one thing left to learn: that the provider still does not know the id.
    last_at = window_ends_at + limits.grace
    if not isinstance(polled.reading, Unknown) or ended_at >= last_at:
        return None
    return max(last_at, ended_at + limits.interval)


def _is_asked_again(task: TaskRecord, polled: Polled, *, was_hinted: bool) -> bool:
    """Return True if a hint asks about a provisional outcome, and no answer came since."""
    outcome, hinted_at = task.outcome, task.hinted_at
    if outcome is None or not outcome.is_provisional or hinted_at is None or hinted_at < outcome.finished_at:
        return False
    return was_hinted or polled.reading is None
