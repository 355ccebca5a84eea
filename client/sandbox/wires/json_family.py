"""Answers of the relatives that differ in a few fields only: each is a row of data (PROVIDERS.md 3, 4, 5, 8). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from client.sandbox.wire import Answer, error_fields, json_answer

__all__ = ["JsonWire"]

_NULLS: dict[str, Any] = {"errorCode": None, "errorDescription": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonWire:
    """A relative whose answers are JSON with `errorId`; what is no error adds `created_fields` and its like."""

    created_fields: dict[str, Any] = field(default_factory=dict)
    pending_fields: dict[str, Any] = field(default_factory=dict)
    ready_fields: dict[str, Any] = field(default_factory=dict)
    pending_status: str = "processing"
    failed_error_id: int = 1
    refused_fields: dict[str, Any] = field(default_factory=dict)
    refused_status: int = 200
    has_integer_ids: bool = True

    def wire_id(self, task_id: str) -> int | str:
        """The id as JSON has it."""
        return int(task_id) if self.has_integer_ids else task_id

    def created(self, task_id: str) -> Answer:
        """The id, and nothing about the outcome."""
        return json_answer({"errorId": 0, **self.created_fields, "taskId": self.wire_id(task_id)})

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """The id and the solution; only where a test orders it, or the provider may do so."""
        fields = {"status": "ready", "solution": solution, "taskId": self.wire_id(task_id)}
        return json_answer({"errorId": 0, **self.created_fields, **fields})

    def processing(self, task_id: str) -> Answer:
        """No id: getTaskResult answers of the family have none."""
        del task_id
        return json_answer({"errorId": 0, **self.pending_fields, "status": self.pending_status})

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """The solution, without an id."""
        del task_id
        return json_answer({"errorId": 0, **self.ready_fields, "status": "ready", "solution": solution})

    def failed(self, task_id: str, error_code: str) -> Answer:
        """An error without `status` (PROVIDERS.md 8)."""
        del task_id
        return json_answer({**error_fields(error_code), "errorId": self.failed_error_id})

    def balance(self, amount: float) -> Answer:
        """The two fields of the family."""
        return json_answer({"errorId": 0, "balance": amount})

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """An error with the fields that this provider adds."""
        return json_answer(
            {**error_fields(error_code, description), **self.refused_fields}, status or self.refused_status
        )


CAPMONSTER = JsonWire(pending_fields=_NULLS, refused_fields={"taskId": 0})
"""An error has `taskId` 0, pending has nulls and ready neither (PROVIDERS.md 3.5, 8)."""

NEXTCAPTCHA = JsonWire(pending_status="pending", failed_error_id=12, refused_status=400)
"""Failure is errorId 12, without status; errors come under a status that is not 200, which one is unknown (3.7, 4)."""

YESCAPTCHA = JsonWire(
    created_fields={"errorCode": "", "errorDescription": ""},
    pending_fields=_NULLS,
    ready_fields=_NULLS,
    has_integer_ids=False,
)
"""Empty texts at createTask, nulls at getTaskResult (PROVIDERS.md 3.3, 8); pending is inferred from ready."""
