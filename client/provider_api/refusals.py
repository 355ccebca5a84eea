"""Refused requests: createTask withheld after repeated refusals, and pauses after refused polls. Pure.

Providers ban keys and addresses that repeat refused requests:

* 1000 errors in a minute (providers/README.md, "CapSolver"),
* the same faulty request again and again (providers/README.md, "anti-captcha"),
* 30 errors about key or balance in a minute (providers/README.md, "Both hosts of EZ-Captcha").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.provider_api.http import ProviderAnswer
from client.providers.codes import Code, code_named
from client.providers.readings import Failed, Pending, Reaction, Ready, Refused, Submitted, Unknown

__all__ = ["IN_A_ROW", "POLL_PAUSE_SECONDS", "RepeatedRefusals", "pause_after_poll"]

IN_A_ROW = 5
"""Number of refusals with the same code before requests are withheld."""

POLL_PAUSE_SECONDS = 5.0
"""Pause after a refused poll whose answer and code name none."""

_FIRST_SECONDS = 10.0
_MOST_SECONDS = 600.0
_MOST_TASKS = 1000


@dataclass(slots=True)
class _Row:
    """Consecutive refusals with one code. At `until` the next request may be sent, as a trial."""

    answer: ProviderAnswer[Submitted]
    error_code: str
    count: int = 1
    until: float = 0.0
    seconds: float = _FIRST_SECONDS
    is_trying: bool = False


class RepeatedRefusals:
    """Circuit breaker for createTask with one key.

    A refusal of the request (a wrong key, no balance, a bad request) counts for every task. A refusal of the task
    counts for an identical task only. After `IN_A_ROW` refusals with the same code, the last answer is returned for
    further requests for 10 seconds. Then one request is sent as a trial. Each refused trial doubles the time, up to 10
    minutes. Any other answer ends it. Temporary refusals do not count. If the provider asks for a pause after a final
    refusal, the first one is enough, and the pause is its time.
    """

    def __init__(self, codes: Mapping[str, Code]) -> None:
        self._codes = codes
        self._account: _Row | None = None
        self._tasks: dict[bytes, _Row] = {}

    def answer_to(self, task: Mapping[str, Any], now: float) -> ProviderAnswer[Submitted] | None:
        """Return the refusal that the request would only get again; None if it may be sent."""
        return next((row.answer for row in self._rows(task) if now < row.until), None)

    def send(self, task: Mapping[str, Any], now: float) -> None:
        """Record that the request is sent. During a trial no other one is sent until its answer or its time limit."""
        for row in self._rows(task):
            row.until, row.is_trying = now + row.seconds, True

    def take(self, task: Mapping[str, Any], answer: ProviderAnswer[Submitted], now: float) -> None:
        """Record an answer to createTask."""
        match answer.reading.reading:
            case Refused() as refused if not refused.is_passing:
                self._account = _refused(self._account, answer, refused, now)
            case Failed() as failed if self._is_final(failed.error_code):
                self._account = None
                digest = _digest(task)
                # The newest row is last, so the first one is the oldest.
                self._tasks[digest] = _refused(self._tasks.pop(digest, None), answer, failed, now)
                if len(self._tasks) > _MOST_TASKS:
                    del self._tasks[next(iter(self._tasks))]
            case Pending() | Ready() | Failed() | Unknown():
                self._account = None
                if self._tasks:
                    self._tasks.pop(_digest(task), None)
            case Refused():
                pass

    def _rows(self, task: Mapping[str, Any]) -> list[_Row]:
        """Return the rows of refusals of this task that are long enough to withhold it."""
        rows = (self._account, self._tasks.get(_digest(task)) if self._tasks else None)
        return [row for row in rows if row is not None and row.count >= IN_A_ROW]

    def _is_final(self, error_code: str) -> bool:
        code = code_named(self._codes, error_code)
        return code is None or code.reaction in (Reaction.STOP, Reaction.CHANGE)


def pause_after_poll(refused: Refused, retry_after_seconds: float | None, *, was_banned: bool) -> float | None:
    """Return the pause after a refused poll in seconds; 0 if only this poll came too early, None if no pause helps.

    `was_banned`: the refusal before was a ban. A ban that still holds after its pause is final (providers/README.md,
    "Error codes").
    """
    if refused.reaction is Reaction.WAIT:
        return 0.0
    if refused.reaction is Reaction.SLOW and not (refused.is_ban and was_banned):
        return retry_after_seconds or refused.pause_seconds or POLL_PAUSE_SECONDS
    return None


def _refused(row: _Row | None, answer: ProviderAnswer[Submitted], reading: Refused | Failed, now: float) -> _Row:
    if row is None or row.error_code != reading.error_code:
        seconds = reading.pause_seconds if isinstance(reading, Refused) else 0.0
        code = reading.error_code
        return _Row(answer, code, IN_A_ROW, now + seconds, seconds) if seconds else _Row(answer, code)
    row.answer = answer
    if row.is_trying:
        row.is_trying, row.seconds = False, min(_MOST_SECONDS, row.seconds * 2)
        row.until = now + row.seconds
    elif row.count < IN_A_ROW:
        # Requests that were under way at the same time change nothing more.
        row.count += 1
        row.until = now + row.seconds
    return row


def _digest(task: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(task, sort_keys=True, default=repr).encode()).digest()
