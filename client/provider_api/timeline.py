"""The events of one task so far, to see why it still waits. Most of them are in the log as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from client.logs import Log

__all__ = ["MAX_STEPS", "Timeline", "TimelineStep"]

MAX_STEPS = 64
"""Number of steps kept of one task. Beyond it the oldest poll is replaced by a count. Without polls it is the oldest
step after the first few."""

_FIRST_STEPS = 8
_POLLS = frozenset({"task.polled", "poll.failed"})
_COUNTS = frozenset({"polls.collapsed", "steps.collapsed"})

_log = Log()


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """One event of a task, with the name and the facts of its log line. It holds no secret and no solution.

    `polls.collapsed` and `steps.collapsed` replace `count` older steps, the last of them at `until`.
    """

    at: datetime
    happened: str
    facts: Mapping[str, Any]


class Timeline:
    """The steps of one task, oldest first, at most `MAX_STEPS`.

    `now` is the wall clock. `names` returns the ids of the task for log lines.
    """

    def __init__(self, now: Callable[[], datetime], names: Callable[[], Mapping[str, Any]]) -> None:
        self._now = now
        self._names = names
        self._steps: list[TimelineStep] = []

    def note(self, happened: str, /, **facts: Any) -> None:
        """Add a step without a log line."""
        self._steps.append(TimelineStep(self._now(), happened, MappingProxyType(facts)))
        while len(self._steps) > MAX_STEPS:
            self._collapse()

    def info(self, happened: str, /, **facts: Any) -> None:
        """Add a step and log it as information."""
        self.note(happened, **facts)
        _log.info(happened, **{**self._names(), **facts})

    def warning(self, happened: str, /, **facts: Any) -> None:
        """Add a step and log it as a warning: someone else misbehaved."""
        self.note(happened, **facts)
        _log.warning(happened, **{**self._names(), **facts})

    def steps(self) -> tuple[TimelineStep, ...]:
        """Return the steps so far, oldest first."""
        return tuple(self._steps)

    def _collapse(self) -> None:
        """Replace one step by its count, at the place of the first one counted."""
        polls = self._first(lambda step: step.happened in _POLLS, 0)
        later = self._first(lambda step: step.happened not in _COUNTS, _FIRST_STEPS)
        index, name = (later, "steps.collapsed") if polls is None else (polls, "polls.collapsed")
        assert index is not None  # noqa: S101 - of so many steps only a few are counts
        step = self._steps[index]
        counted = self._first(lambda step: step.happened == name, 0)
        if counted is None:
            self._steps[index] = _count(name, 1, step.at, step.at)
            return
        before = self._steps[counted]
        self._steps[counted] = _count(name, before.facts["count"] + 1, before.at, step.at)
        del self._steps[index]

    def _first(self, is_it: Callable[[TimelineStep], bool], start: int) -> int | None:
        return next((index for index in range(start, len(self._steps)) if is_it(self._steps[index])), None)


def _count(name: str, count: int, since: datetime, until: datetime) -> TimelineStep:
    return TimelineStep(since, name, MappingProxyType({"count": count, "until": until}))
