"""The age of an answer when it is handed over, and the rule for discarding old answers. Pure.

An answer counts as old as it may be: its age begins at the earliest time at which it may have been ready.

* An answer by callback: its arrival at the receiver.
* An answer by poll, of this client or another: the last time at which the task was certainly unfinished. That is the
  sending of the last poll with the answer "processing", or of createTask if there was none.
* An attached task: the time of createTask is unknown. Until a poll is answered with "processing", only a callback has
  an age.

The receiver's clock may be wrong, so it is never compared with this machine's. Only the time between two of its own
moments is used: the making of the record and the callback. The record was not made before the registration was sent.
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
"""The resolution of the `Date` header, from which the age of a record is read. It may be older by that much."""

_DRIFT = 0.001
_STEP_SECONDS = 1.0


def ready_since(task: Task, *, unfinished_at: float | None, record_made_at: float | None, heard_at: float) -> float:
    """Return the time from which the answer's age counts; minus infinity if it cannot be known.

    All times are by the client's clock. `unfinished_at` is the last time at which the task was certainly unfinished
    (None: never). `record_made_at` is no later than the making of the record (None: unknown). `heard_at` is the time at
    which this client got the answer.
    """
    earliest = -math.inf if unfinished_at is None else unfinished_at
    if task.source != "callback" or record_made_at is None or task.finished_at is None:
        return earliest
    seconds = (task.finished_at - task.created_at).total_seconds()
    # Two clocks that are both right run apart by less than a thousandth.
    arrived_at = record_made_at + seconds * (1.0 - _DRIFT)
    if arrived_at > heard_at + _STEP_SECONDS:
        # The callback cannot be later than its arrival here: the clock of the receiver was set forward in between.
        return earliest
    return max(earliest, min(arrived_at, heard_at))


def check_seconds(fresh_for: float | None) -> None:
    """Refuse a `fresh_for` that is no time.

    Raises:
        BadArgumentError: it is not a number above 0.
    """
    if fresh_for is None:
        return
    is_number = isinstance(fresh_for, int | float) and not isinstance(fresh_for, bool)
    if not is_number or not (math.isfinite(fresh_for) and fresh_for > 0):
        raise BadArgumentError(f"fresh_for: expected a number of seconds above 0, got {fresh_for!r}")


def name_of(task: Task) -> str:
    """Return the name of a discarded task: its ref, or the provider's id if there is none."""
    return task.ref or str(task.task_id)


@dataclass(frozen=True, slots=True)
class FreshnessRule:
    """The rule of `solve`: no answer older than `seconds` (None: of any age), and at most `tries` tasks."""

    seconds: float | None
    tries: int

    def check(self, plan: PollPlan, *, has_callback: bool) -> None:
        """Refuse a rule that cannot be kept at this provider, before any task is paid for.

        Raises:
            BadArgumentError: a number is out of its range, or polls alone cannot prove that an answer is so young.
        """
        check_seconds(self.seconds)
        if isinstance(self.tries, bool) or not isinstance(self.tries, int) or self.tries < 1:
            raise BadArgumentError(f"fresh_tries: expected an integer above 0, got {self.tries!r}")
        least = max(plan.first_after_seconds, plan.interval_seconds)
        if self.seconds is not None and not has_callback and self.seconds <= least:
            raise BadArgumentError(
                f"fresh_for: without callbacks a poll may bring an answer that is {least:g} s old: expected more, "
                f"got {self.seconds:g}"
            )

    def too_old(self, stale: Sequence[StaleAnswerError]) -> StaleAnswerError | None:
        """Return the error to raise after these old answers, or None if one more task may be submitted."""
        if len(stale) < self.tries:
            return None
        ages = tuple(age for error in stale for age in error.ages_seconds)
        return StaleAnswerError(stale[-1].task, fresh_for=stale[-1].fresh_for, ages_seconds=ages)
