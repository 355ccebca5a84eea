"""The state of one task, as its client knows it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from client.errors import ProviderUnreachableError
from client.provider_api.http import ProviderAnswer
from client.provider_api.unlisted import UnlistedRow, row_after
from client.providers import PollPlan
from client.providers.readings import Failed, Reading, TaskId

__all__ = ["Stage", "TaskState"]

Stage = Literal["submitting", "waiting", "concluding"]


@dataclass(slots=True, kw_only=True)
class TaskState:
    """Everything known about one task without an outcome. Times are seconds by the client's clock.

    The stages, in their order:

    * `submitting`: from the registration until the provider's id is bound. An outcome that the receiver reports ends
      the task, but createTask goes on, because its id still has to be bound.
    * `waiting`: the task is polled, or waits for its callback. The first outcome ends it and cancels its follower.
    * `concluding`: the provider's own answer is being reported to the receiver. Its answer to the report ends the task.
      An outcome from the log waits for that, and a provisional one is ignored, because the report replaces it.
    """

    plan: PollPlan
    submitted_at: float
    """The time of the createTask request. The provider's window ends no earlier than counted from it."""
    deadline_at: float
    created_at: datetime
    task_id: TaskId | None = None
    stage: Stage = "submitting"

    # The receiver's record
    ref: str | None = None
    """The receiver's id of the task. It stays known after the record is lost."""
    has_record: bool = False
    record_made_at: float | None = None
    """A time no later than the making of the record, by anyone; None without a record of known age."""
    is_bind_refused: bool = False
    has_callback_url: bool = False
    """True if the provider was given a callback URL."""
    is_polled_elsewhere: bool = False
    """True if the receiver polls the task itself.

    Here it is then polled only while the receiver is silent, for fresh answers, and late in the window all the same.
    """
    silent_since: float | None = None
    """The time at which the receiver stopped answering; None while it answers."""

    # Polls
    first_poll_seconds: float | None = None
    """The caller's choice instead of the plan's first wait behind a callback."""
    polls: int = 0
    last_poll_at: float | None = None
    not_before: float = -math.inf
    """The earliest next poll after one that could not be read."""
    paused_until: float = -math.inf
    is_hinted: bool = False
    is_poll_refused: bool = False
    failed_polls: int = 0
    last_failure: tuple[type[ProviderUnreachableError], int | None] | None = None
    was_banned: bool = False
    unknown_answer: ProviderAnswer[Reading] | None = None
    """The answer to the last poll, if it was "unknown id"."""
    unlisted: UnlistedRow | None = None

    # The age of the answer
    unfinished_at: float | None = None
    """The last time at which the task was certainly unfinished; None if there was none."""
    wanted_ages: list[float] = field(default_factory=list)
    """The `fresh_for` of each wait that accepts no older answer."""
    ready_since: float = -math.inf
    """The start of the answer's age; minus infinity if it cannot be known."""

    @property
    def can_poll(self) -> bool:
        """True if the task has an id and the provider does not refuse to be asked."""
        return self.task_id is not None and not self.is_poll_refused

    @property
    def expects_callback(self) -> bool:
        """True if the provider has a callback URL, and the receiver a record behind it."""
        return self.has_callback_url and self.has_record

    @property
    def window_ends_at(self) -> float:
        """The time after which the provider may have forgotten the answer."""
        return self.submitted_at + self.plan.window_seconds

    @property
    def fresh_for(self) -> float | None:
        """The age of the oldest answer that every current wait accepts; None if any age will do."""
        return min(self.wanted_ages, default=None)

    def take_unlisted(self, failed: Failed, now: float) -> bool:
        """Note a poll with an unlisted code. Return True if the code came often enough to be the outcome."""
        self.unlisted = row = row_after(self.unlisted, failed, now)
        if row is None or row.is_enough(now):
            return row is not None
        self.not_before = now + row.least_wait(self.plan.interval_seconds, window_left=self.window_ends_at - now)
        return False
