"""How a task ended, as callers get it: the final `Task`, or the error that says what they can do. Pure."""

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
from client.providers import Dialect
from client.providers.codes import Code, code_named
from client.providers.readings import Failed, Pending, Reaction, Reading, Ready, Refused, TaskId, Unknown

__all__ = ["LocalTask", "failure_of", "refusal_of", "words_of"]

_MAX_WORD = 64

_REFUSALS: Mapping[str, type[ProviderRefusedError]] = {"key": WrongKeyError, "balance": NoBalanceError}
_FAILURES: Mapping[Reaction, type[TaskFailedError]] = {
    Reaction.AGAIN: UnsolvableError,
    Reaction.CHANGE: TaskParametersError,
}
_OURS: Mapping[str, type[TaskFailedError]] = {NO_ANSWER: TaskTimedOutError, SUBMIT_UNKNOWN: SubmitUnknownError}


def failure_of(task: Task, codes: Mapping[str, Code]) -> TaskFailedError:
    """Return the error that a task which ended as failed is raised as; `codes` are those of its provider."""
    error_code = task.error_code or ""
    error = _OURS.get(error_code)
    if error is None:
        known = code_named(codes, error_code)
        error = TaskFailedError if known is None else _FAILURES.get(known.reaction, TaskFailedError)
    return error(task)


def refusal_of(provider: str, said: Refused | Unknown | Failed) -> ProviderRefusedError:
    """Return the error that a refused request is raised as."""
    about = said.about if isinstance(said, Refused) else "request"
    is_busy = isinstance(said, Refused) and said.is_passing
    error = SlowDownError if is_busy else _REFUSALS.get(about, ProviderRefusedError)
    return error(provider, said.error_id, said.error_code, said.error_description)


def words_of(said: Reading) -> dict[str, str]:
    """What the provider called it, for logs: a state or a code, never a solution."""
    match said:
        case Ready():
            return {}
        case Pending(state):
            return {"state": state[:_MAX_WORD]}
        case Failed() | Refused() | Unknown():
            return {"errorCode": said.error_code[:_MAX_WORD]}
        case _:
            assert_never(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTask:
    """A task as this client alone knows it: what its final state is made of where no receiver tells it.

    `ref` is "" where no receiver gave one.
    """

    dialect: Dialect
    ref: str
    task_id: TaskId | None
    type: str | None
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    created_at: datetime
    deadline_at: datetime

    def ended(self, said: Ready | Failed | Refused | Unknown, source: Source, now: datetime) -> Task:
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
        if isinstance(said, Ready):
            life = self.dialect.answer_life_seconds
            valid_until = None if life is None else now + timedelta(seconds=life)
            return Task(**fields, status="ready", solution=said.solution, valid_until=valid_until)
        return Task(
            **fields,
            status="failed",
            trust=PROVISIONAL if source == "poll" and isinstance(said, Failed) and not said.is_listed else None,
            error_id=said.error_id,
            error_code=said.error_code,
            error_description=said.error_description,
        )

    def given_up(self, now: datetime) -> Task:
        """Return the task as it ends at its deadline."""
        if self.task_id is None:
            said = Failed(1, SUBMIT_UNKNOWN, "the answer to createTask never became known, and no callback came")
        else:
            said = Failed(1, NO_ANSWER, "no answer came until deadlineAt")
        return self.ended(said, "deadline", now)
