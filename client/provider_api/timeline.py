"""What happened to one task so far, for those that ask why it still waits; most of it stands in the log as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from client.logs import Log

__all__ = ["MAX_STEPS", "Step", "Timeline"]

MAX_STEPS = 64
"""So many steps of a task are kept. Beyond that the oldest polls, and where there are none the oldest steps after the
first few, give way to a count."""

_FIRST_STEPS = 8
_POLLS = frozenset({"task.polled", "poll.failed"})
_COUNTS = frozenset({"polls.collapsed", "steps.collapsed"})

_log = Log()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened, with the name and the facts of its log line; never a secret, never a solution.

    `polls.collapsed` and `steps.collapsed` stand for `count` older ones, the last of them at `until`.
    """

    at: datetime
    happened: str
    facts: Mapping[str, Any]


class Timeline:
    """The steps of one task, oldest first, at most `MAX_STEPS`.

    `now` is the wall clock; `names` gives what the task is called in log lines.
    """

    def __init__(self, now: Callable[[], datetime], names: Callable[[], Mapping[str, Any]]) -> None:
        self._now = now
        self._names = names
        self._steps: list[Step] = []

    def note(self, happened: str, /, **facts: Any) -> None:
        """Take a step that needs no log line."""
        self._steps.append(Step(self._now(), happened, MappingProxyType(facts)))
        while len(self._steps) > MAX_STEPS:
            self._collapse()

    def info(self, happened: str, /, **facts: Any) -> None:
        """Take a step, and log it: something went as it should."""
        self.note(happened, **facts)
        _log.info(happened, **{**self._names(), **facts})

    def warning(self, happened: str, /, **facts: Any) -> None:
        """Take a step, and log it: someone else misbehaved."""
        self.note(happened, **facts)
        _log.warning(happened, **{**self._names(), **facts})

    def steps(self) -> tuple[Step, ...]:
        """Return the steps so far, oldest first."""
        return tuple(self._steps)

    def _collapse(self) -> None:
        """Lets one step give way to its count, which stands where the first of them stood."""
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

    def _first(self, is_it: Callable[[Step], bool], start: int) -> int | None:
        return next((index for index in range(start, len(self._steps)) if is_it(self._steps[index])), None)


def _count(name: str, count: int, since: datetime, until: datetime) -> Step:
    return Step(since, name, MappingProxyType({"count": count, "until": until}))
