"""Which tasks the demo submits, and what happens to each on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["Case", "all_cases"]


@dataclass(frozen=True, slots=True)
class Case:
    """One task: `story` is what a reader of the table is told, `sandbox` what the sandbox is asked to do."""

    provider: str
    story: str
    sandbox: dict[str, Any] = field(default_factory=dict)
    number: int = 0


_TIMES = (
    (4, Case("capsolver", "answered in createTask itself", {"sync": True})),
    (8, Case("capsolver", "called back", {"sync": False})),
    (3, Case("capsolver", "callback before the createTask answer", {"sync": False, "callback": "early"})),
    (3, Case("capsolver", "called back twice", {"sync": False, "callback": "twice"})),
    (4, Case("capsolver", "callback lost", {"sync": False, "callback": "lost"})),
    (2, Case("capsolver", "callback right behind the poll", {"sync": False, "callback": "late"})),
    (1, Case("capsolver", "half a callback: a hint to poll", {"sync": False, "callback": "truncated"})),
    (1, Case("capsolver", "callback with another taskId: a hint", {"sync": False, "callback": "otherTaskId"})),
    (8, Case("onecaptcha", "no callbacks there: polled")),
)


def all_cases() -> Sequence[Case]:
    """34 tasks of both services, mixed."""
    cases = [case for times, case in _TIMES for _ in range(times)]
    # Every seventh, around and around: kinds alternate, and each run is the same.
    mixed = [cases[index * 7 % len(cases)] for index in range(len(cases))]
    return [replace(case, number=number) for number, case in enumerate(mixed, 1)]
