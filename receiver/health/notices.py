"""Notices about problems: one when a problem begins, reminders while it lasts, one when it is over. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from receiver.domain.records import SECOND
from receiver.health.findings import Finding

__all__ = ["NOTICED", "Message", "Notices"]

NOTICED = frozenset({"balance", "canary", "clock", "lost", "overdue", "refused", "server", "store"})
"""Subjects of findings that begin and end while a receiver runs. The others are mistakes in its settings."""

# A problem begins with the second look at it, and is over once it was not seen for a while.
_BEGINS_AFTER = 50 * SECOND
_ENDS_AFTER = 5 * 60 * SECOND
_REMINDER_AFTER = 12 * 3600 * SECOND
_MOST_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Message:
    """A message to the operator. `is_problem`: something in it has to be done."""

    title: str
    body: str
    is_problem: bool


@dataclass(frozen=True, slots=True)
class _Problem:
    """A problem, seen first at `since` and last at `seen`. The operator was told at `told_at`, or not yet."""

    since: int
    seen: int
    says: str
    todo: str
    told_at: int | None = None


class Notices:
    """The problems that the operator knows of. `receiver` names the receiver in the messages."""

    def __init__(self, receiver: str) -> None:
        self._receiver = receiver
        self._problems: dict[tuple[str, str], _Problem] = {}

    def look(self, findings: Iterable[Finding], now: int, *, is_whole: bool = True) -> Message | None:
        """Return a message if the findings of this moment have news. Call it about once a minute.

        Without the whole picture (`is_whole`) a missing finding does not mean that a problem is over.
        """
        found = {
            (finding.about, finding.of): finding
            for finding in findings
            if finding.is_wrong and finding.about in NOTICED
        }
        for key, finding in list(found.items())[:_MOST_PROBLEMS]:
            before = self._problems.get(key, _Problem(now, now, "", ""))
            # The clock may have been set back.
            since, told_at = min(before.since, now), before.told_at and min(before.told_at, now)
            self._problems[key] = _Problem(since, now, finding.says, finding.todo, told_at)
        began, lasting, ended = [], [], []
        for key, problem in list(self._problems.items()):
            if key not in found:
                if is_whole and problem.told_at is None:
                    del self._problems[key]
                elif is_whole and now - problem.seen >= _ENDS_AFTER:
                    ended.append(problem)
                    del self._problems[key]
                continue
            if problem.told_at is None and now - problem.since >= _BEGINS_AFTER:
                began.append(problem)
            elif problem.told_at is not None and now - problem.told_at >= _REMINDER_AFTER:
                lasting.append(problem)
            else:
                continue
            self._problems[key] = replace(problem, told_at=now)
        return self._message(began, lasting, ended)

    def _message(self, began: list[_Problem], lasting: list[_Problem], ended: list[_Problem]) -> Message | None:
        if not (began or lasting or ended):
            return None
        state = "action needed" if began else "action still needed" if lasting else "a problem is over"
        lines = []
        for word, problems in (("wrong", began), ("still wrong", lasting)):
            for problem in problems:
                lines += [f"{word}: {problem.says}", f"→ {problem.todo}"]
        lines += [f"over: {problem.says}" for problem in ended]
        return Message(f"{self._receiver}: {state}", "\n".join(lines), is_problem=bool(began or lasting))

    def as_json(self) -> list[Any]:
        """Return the state for JSON: a restart must not repeat what the operator knows."""
        return [[about, of, asdict(problem)] for (about, of), problem in self._problems.items()]

    def restore(self, state: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Continue from a state of `as_json`.

        Raises:
            TypeError, ValueError: it is not one.
        """
        self._problems = {(about, of): _Problem(**problem) for about, of, problem in state}
