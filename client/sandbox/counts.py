"""The counters of a sandbox, and their snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic.alias_generators import to_camel

__all__ = ["Counts", "Stats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A snapshot of everything counted so far.

    `polls` is by `taskId`, in the order of creation (the newest 50,000). `callbacks_sent` counts requests begun,
    `callbacks_answered` counts HTTP answers of any status, and `callback_answers` counts them by status. `errors` is
    by `errorCode`, under the names of CapSolver where it has one. `limits_broken` has `window`, `maxPolls`, `interval`
    (only advised, unless enforced), `submits`, `allPolls`, `ipBanned` and `keyBlocked`. `faults` has `callback.lost`
    and the like, `task.fails`, `createTask.429` and so on. `reports` is by the provider's
    name for each (providers/README.md, "Balance and reports").
    """

    create_task_calls: int
    get_task_result_calls: int
    get_balance_calls: int
    tasks_made: int
    callbacks_sent: int
    callbacks_answered: int
    callback_answers: Mapping[int, int]
    errors: Mapping[str, int]
    limits_broken: Mapping[str, int]
    faults: Mapping[str, int]
    reports: Mapping[str, int]
    polls: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the counts under camelCase names, for `GET /sandbox/stats`."""
        return {to_camel(count.name): getattr(self, count.name) for count in fields(self)}


@dataclass(slots=True, kw_only=True)
class Counts:
    """The counters behind `Stats`."""

    calls: Counter[str] = field(default_factory=Counter)
    tasks_made: int = 0
    callbacks_sent: int = 0
    callback_answers: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    limits_broken: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    reports: Counter[str] = field(default_factory=Counter)

    def snapshot(self, polls: Mapping[str, int]) -> Stats:
        """Return the counts as they are now."""
        return Stats(
            create_task_calls=self.calls["createTask"],
            get_task_result_calls=self.calls["getTaskResult"],
            get_balance_calls=self.calls["getBalance"],
            tasks_made=self.tasks_made,
            callbacks_sent=self.callbacks_sent,
            callbacks_answered=self.callback_answers.total(),
            callback_answers=dict(self.callback_answers),
            errors=dict(self.errors),
            limits_broken=dict(self.limits_broken),
            faults=dict(self.faults),
            reports=dict(self.reports),
            polls=polls,
        )
