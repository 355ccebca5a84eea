"""Requests that a provider would only refuse again: they are answered here for a while, and not sent. Pure.

Providers ban keys and addresses that go on with them (PROVIDERS.md 3.1: 1000 errors in a minute; 3.4: the same faulty
request again and again; 3.7: 30 errors about key or balance in a minute).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.provider_api.http import Answered
from client.providers.codes import Code, code_named
from client.providers.readings import Failed, Pending, Reaction, Ready, Refused, Submitted, Unknown

__all__ = ["IN_A_ROW", "Circuit"]

IN_A_ROW = 5
"""After so many refusals with the same code nothing is sent for a while."""

_FIRST_SECONDS = 10.0
_MOST_SECONDS = 600.0
_MOST_TASKS = 1000


@dataclass(slots=True)
class _Row:
    """Refusals with one code, one after the other; `until` is when the next request may be sent, as a trial."""

    answered: Answered[Submitted]
    count: int = 1
    until: float = 0.0
    seconds: float = _FIRST_SECONDS
    is_trying: bool = False


class Circuit:
    """What createTask was refused with lately, for one key.

    A refusal of the request (a wrong key, no balance, a bad request) holds for every task, one of the task itself for
    the very same task alone. After `IN_A_ROW` of them with the same code, the last answer stands for all further ones
    for 10 seconds; then one request is let through as a trial, and each that is refused as well doubles the time, up to
    10 minutes. Any other answer ends it. What a pause may mend does not count. Where the provider wants a pause after a
    refusal that is final, the first one is enough, and the pause is the time.
    """

    def __init__(self, codes: Mapping[str, Code]) -> None:
        self._codes = codes
        self._account: _Row | None = None
        self._tasks: dict[bytes, _Row] = {}

    def answer_to(self, task: Mapping[str, Any], now: float) -> Answered[Submitted] | None:
        """Return the answer that a request would only get again; None where it may be sent."""
        return next((row.answered for row in self._rows(task) if now < row.until), None)

    def send(self, task: Mapping[str, Any], now: float) -> None:
        """The request is sent now: until it is known what came of a trial, or it took too long, nobody else tries."""
        for row in self._rows(task):
            row.until, row.is_trying = now + row.seconds, True

    def take(self, task: Mapping[str, Any], answered: Answered[Submitted], now: float) -> None:
        """Take what createTask answered."""
        match answered.said.reading:
            case Refused() as said if not said.is_passing:
                self._account = _refused(self._account, answered, said.error_code, now)
            case Failed() as said if self._is_final(said.error_code):
                self._account = None
                digest = _digest(task)
                # The latest stands last, so that the oldest goes first.
                self._tasks[digest] = _refused(self._tasks.pop(digest, None), answered, said.error_code, now)
                if len(self._tasks) > _MOST_TASKS:
                    del self._tasks[next(iter(self._tasks))]
            case Pending() | Ready() | Failed() | Unknown():
                self._account = None
                if self._tasks:
                    self._tasks.pop(_digest(task), None)
            case Refused():
                pass

    def _rows(self, task: Mapping[str, Any]) -> list[_Row]:
        """What was refused often enough of those that this task belongs to."""
        rows = (self._account, self._tasks.get(_digest(task)) if self._tasks else None)
        return [row for row in rows if row is not None and row.count >= IN_A_ROW]

    def _is_final(self, error_code: str) -> bool:
        code = code_named(self._codes, error_code)
        return code is None or code.reaction in (Reaction.STOP, Reaction.CHANGE)


def _refused(row: _Row | None, answered: Answered[Submitted], error_code: str, now: float) -> _Row:
    if row is None or getattr(row.answered.said.reading, "error_code", None) != error_code:
        seconds = getattr(answered.said.reading, "pause_seconds", 0.0)
        return _Row(answered, IN_A_ROW, now + seconds, seconds) if seconds else _Row(answered)
    row.answered = answered
    if row.is_trying:
        row.is_trying, row.seconds = False, min(_MOST_SECONDS, row.seconds * 2)
        row.until = now + row.seconds
    elif row.count < IN_A_ROW:
        # Those that were under way meanwhile change nothing more.
        row.count += 1
        row.until = now + row.seconds
    return row


def _digest(task: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(task, sort_keys=True, default=repr).encode()).digest()
