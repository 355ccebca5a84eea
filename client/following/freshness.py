"""How old an answer is when it is handed over, and what is old enough to be thrown away. Pure.

An answer is as old as it may be: its age counts from the earliest moment at which it may have been ready, as far as
anyone knows. For one that a callback brought, that is when the receiver got it. One that a poll brought may have lain
at the provider since the last moment at which the task was known to be unfinished: when the last poll that was
answered with "processing" was sent, or else when createTask was called. The same holds for one that somebody else
polled. Of a task that was attached to, nobody knows when createTask was called: until a poll has said "processing",
only a callback has an age.

The receiver's clock may be wrong, so it is never compared with this machine's. What is read from it is the time between
two of its own moments: the making of the record, which was not before the registration was sent, and the callback.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from client.errors import BadArgumentError, StaleAnswerError
from client.protocol.models import Task
from client.providers import PollPlan

__all__ = ["DATE_SECONDS", "FreshnessRule", "check_seconds", "name_of", "ready_since"]

DATE_SECONDS = 1.0
"""The resolution of the `Date` by which a receiver tells the age of a record: it may be older by that much."""

_DRIFT = 0.001
_STEP_SECONDS = 1.0


def ready_since(task: Task, *, unfinished_at: float | None, record_made_at: float | None, heard_at: float) -> float:
    """Return the moment from which the answer's age counts; minus infinity where it cannot be told.

    All moments are on the axis of the client's clock: when the task was last known to be unfinished (None: never), a
    moment not after the making of the record (None: unknown), and when the answer was heard of.
    """
    earliest = -math.inf if unfinished_at is None else unfinished_at
    if task.source != "callback" or record_made_at is None or task.finished_at is None:
        return earliest
    seconds = (task.finished_at - task.created_at).total_seconds()
    # Two clocks that are both right run apart by less than a thousandth.
    arrived_at = record_made_at + seconds * (1.0 - _DRIFT)
    if arrived_at > heard_at + _STEP_SECONDS:
        # It came before it was sent: the receiver's clock was set forward in between, and tells nothing.
        return earliest
    return max(earliest, min(arrived_at, heard_at))


def check_seconds(fresh_for: float | None) -> None:
    """Refuses what is no time.

    Raises:
        BadArgumentError: it is not a number above 0.
    """
    if fresh_for is None:
        return
    is_number = isinstance(fresh_for, int | float) and not isinstance(fresh_for, bool)
    if not is_number or not (math.isfinite(fresh_for) and fresh_for > 0):
        raise BadArgumentError(f"fresh_for: expected a number of seconds above 0, got {fresh_for!r}")


def name_of(task: Task) -> str:
    """What a task that was thrown away is called: its ref, or the provider's id where there is none."""
    return task.ref or str(task.task_id)


@dataclass(frozen=True, slots=True)
class FreshnessRule:
    """No answer older than `seconds` (None: of any age) is handed over, and at most `tries` tasks are submitted."""

    seconds: float | None
    tries: int

    def check(self, plan: PollPlan, *, has_callback: bool) -> None:
        """Refuses what cannot be held at this provider, before any task is paid for.

        Raises:
            BadArgumentError: a number is out of its range, or polls alone cannot tell that an answer is so young.
        """
        check_seconds(self.seconds)
        if isinstance(self.tries, bool) or not isinstance(self.tries, int) or self.tries < 1:
            raise BadArgumentError(f"fresh_tries: expected an integer above 0, got {self.tries!r}")
        least = max(plan.first_after_seconds, plan.interval_seconds)
        if self.seconds is not None and not has_callback and self.seconds <= least:
            raise BadArgumentError(
                f"fresh_for: without callbacks an answer may be {least:g} s old when a poll brings it, "
                f"got {self.seconds:g}"
            )

    def too_old(self, stale: Sequence[StaleAnswerError]) -> StaleAnswerError | None:
        """What to raise after so many answers were too old; None: one more task may be submitted."""
        if len(stale) < self.tries:
            return None
        ages = tuple(age for each in stale for age in each.ages_seconds)
        return StaleAnswerError(stale[-1].task, fresh_for=stale[-1].fresh_for, ages_seconds=ages)
