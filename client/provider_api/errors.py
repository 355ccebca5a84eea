"""Ends of tasks, as callers get them: the final `Task`, or an error that names the reaction. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never

from client.errors import (
    NoBalanceError,
    ProviderRefusedError,
    SlowDownError,
    SubmitUnknownError,
    TaskFailedError,
    TaskParametersError,
    TaskTimedOutError,
    UnsolvableError,
    WrongKeyError,
)
from client.protocol.models import NO_ANSWER, PROVISIONAL, SUBMIT_UNKNOWN, Source, Task
from client.provider_api.unlisted import is_provisional
from client.providers import Dialect
from client.providers.codes import Code, code_named
from client.providers.readings import Failed, Pending, Reaction, Reading, Ready, Refused, TaskId, Unknown

__all__ = ["LocalTask", "failure_at_deadline", "failure_of", "refusal_of", "words_of"]

_MAX_WORD = 64

_REFUSALS: Mapping[str, type[ProviderRefusedError]] = {"key": WrongKeyError, "balance": NoBalanceError}
_FAILURES: Mapping[Reaction, type[TaskFailedError]] = {
    Reaction.AGAIN: UnsolvableError,
    Reaction.CHANGE: TaskParametersError,
}
_OURS: Mapping[str, type[TaskFailedError]] = {NO_ANSWER: TaskTimedOutError, SUBMIT_UNKNOWN: SubmitUnknownError}


def failure_of(task: Task, codes: Mapping[str, Code]) -> TaskFailedError:
    """Return the error to raise for a failed task. `codes` are the codes of its provider."""
    error_code = task.error_code or ""
    error = _OURS.get(error_code)
    if error is None:
        code = code_named(codes, error_code)
        error = TaskFailedError if code is None else _FAILURES.get(code.reaction, TaskFailedError)
    return error(task)


def refusal_of(provider: str, refusal: Refused | Unknown | Failed) -> ProviderRefusedError:
    """Return the error to raise for a refused request."""
    about = refusal.about if isinstance(refusal, Refused) else "request"
    is_busy = isinstance(refusal, Refused) and refusal.is_passing
    error = SlowDownError if is_busy else _REFUSALS.get(about, ProviderRefusedError)
    return error(provider, refusal.error_id, refusal.error_code, refusal.error_description)


def failure_at_deadline(task_id: TaskId | None) -> Failed:
    """Return the provisional outcome of a task at its deadline, by what is known of it."""
    if task_id is None:
        return Failed(1, SUBMIT_UNKNOWN, "the answer to createTask was lost, and no callback came until deadlineAt")
    return Failed(1, NO_ANSWER, "no answer came until deadlineAt")


def words_of(reading: Reading) -> dict[str, str]:
    """Return the provider's word in an answer, for logs: a state or a code, never a solution."""
    match reading:
        case Ready():
            return {}
        case Pending(state):
            return {"state": state[:_MAX_WORD]}
        case Failed() | Refused() | Unknown():
            return {"errorCode": reading.error_code[:_MAX_WORD]}
        case _:
            assert_never(reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTask:
    """The fields of a task known to this client, to make its final state without a receiver.

    `ref` is "" without a receiver's record.
    """

    dialect: Dialect
    ref: str
    task_id: TaskId | None
    type: str | None
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    created_at: datetime
    deadline_at: datetime

    def ended(self, reading: Ready | Failed | Refused | Unknown, source: Source, now: datetime) -> Task:
        """Return the task with this outcome, finished `now`."""
        fields: dict[str, Any] = {
            "ref": self.ref,
            "provider": self.dialect.provider,
            "type": self.type,
            "task_id": self.task_id,
            "tags": self.tags,
            "metadata": dict(self.metadata),
            "source": source,
            "created_at": self.created_at,
            "deadline_at": self.deadline_at,
            "finished_at": now,
        }
        if isinstance(reading, Ready):
            life = self.dialect.answer_life_seconds
            valid_until = None if life is None else now + timedelta(seconds=life)
            return Task(**fields, status="ready", solution=reading.solution, valid_until=valid_until)
        return Task(
            **fields,
            status="failed",
            trust=PROVISIONAL if is_provisional(reading, source) else None,
            error_id=reading.error_id,
            error_code=reading.error_code,
            error_description=reading.error_description,
        )

    def given_up(self, now: datetime) -> Task:
        """Return the task as it ends at its deadline without an outcome."""
        return self.ended(failure_at_deadline(self.task_id), "deadline", now)
