"""Learned schedules of several receivers: each one's observations are added to the schedule in the database. Pure.

So all learn one schedule, and none overwrites that of another. Observations of one receiver keep their order. Those of
several are added in the order of the writes, at most some minutes apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic_core import from_json, to_json

from client.providers import PollPlan
from receiver.domain.schedule import Change, Schedule
from receiver.domain.transaction import Transaction

__all__ = ["Learn", "Observation", "observe", "parse_schedule"]


class Observation(NamedTuple):
    """An answer to a task that expected a callback. `at` and `latency_seconds` are those of `Schedule.count_answer`.

    `came` is "late" for a callback after a poll had brought the answer, and "never" if only the poll brought it.
    """

    came: Literal["inTime", "late", "never"]
    task_type: str | None
    latency_seconds: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learn:
    """Observations to add to the schedule that is kept under `name`."""

    name: str
    plan: PollPlan
    observations: Sequence[Observation]
    refs: Sequence[str] = ()

    @property
    def weight(self) -> int:
        """The size of the observations, roughly."""
        return 64 * len(self.observations)

    def decide(self, transaction: Transaction) -> str:
        """Return the text of the whole schedule."""
        transaction.require(("meta", self.name))
        schedule = Schedule.from_json(self.plan, parse_schedule(transaction.row(("meta", self.name))))
        observe(schedule, self.observations)
        text = to_json(schedule.as_json()).decode()
        transaction.save_text(self.name, text)
        return text


def observe(schedule: Schedule, observations: Iterable[Observation]) -> Change | None:
    """Add observations to a schedule. Return the last change to report."""
    change = None
    for came, task_type, latency_seconds, at in observations:
        if came == "never":
            change = schedule.count_loss(at=at) or change
        else:
            change = (
                schedule.count_answer(task_type, latency_seconds, "callback", called_back_late=came == "late", at=at)
                or change
            )
    return change


def parse_schedule(text: str | None) -> object:
    """Return the JSON of a kept schedule, None if it is none."""
    try:
        return None if text is None else from_json(text)
    except ValueError:
        return None
