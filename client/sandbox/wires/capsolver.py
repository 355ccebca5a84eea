"""Answers as CapSolver and 1captcha.vip write them, field by field (PROVIDERS.md 3.1, 3.2, 4, 5, 8; both seeds).

Pure. What no source shows is marked "inferred" or "unknown" where it is decided.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic_core import to_json

from client.sandbox.faults import HttpFault

__all__ = ["Answer", "CapSolverWire", "OneCaptchaWire", "Wire", "error_fields", "http_fault_answer", "json_answer"]

_JSON = "application/json"
_DESCRIPTIONS = {
    "ERROR_BAD_REQUEST": "the request cannot be read",
    "ERROR_CAPTCHA_UNSOLVABLE": "the task could not be solved; it is not charged",
    "ERROR_INVALID_TASK_DATA": "invalid task data",
    "ERROR_IP_BANNED": "too many errors from this address; it is blocked for a while",
    "ERROR_KEY_DOES_NOT_EXIST": "the clientKey is not known",
    "ERROR_KEY_TEMP_BLOCKED": "too many errors with this key; it is blocked for a while",
    "ERROR_RATE_LIMIT": "too many requests; ask again later",
    "ERROR_TASKID_INVALID": "the taskId is not known, or not any more",
    "ERROR_TASK_TIMEOUT": "the task took too long",
    "ERROR_ZERO_BALANCE": "the balance does not pay for the task",
}
_KEY_CODES = frozenset({"ERROR_KEY_DOES_NOT_EXIST", "ERROR_KEY_DENIED_ACCESS"})


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, ready to be sent."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: dict[str, str] = field(default_factory=dict)


class Wire(Protocol):
    """How one service writes each of its answers."""

    def wire_id(self, task_id: str) -> int | str:
        """Return the id as JSON has it."""

    def created(self, task_id: str) -> Answer:
        """For createTask: the task was taken, its outcome comes later."""

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """For createTask: the solution at once."""

    def processing(self, task_id: str) -> Answer:
        """For getTaskResult: no outcome yet."""

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """For getTaskResult: the solution."""

    def failed(self, task_id: str, error_code: str) -> Answer:
        """For getTaskResult: the task ended without a solution."""

    def balance(self, amount: float) -> Answer:
        """For getBalance: what is left."""

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return an error about the request; `status` is the HTTP status where HTTP itself decides it."""


@dataclass(frozen=True, slots=True)
class CapSolverWire:
    """CapSolver: "" for no error at createTask, errors under HTTP 400, a wrong key under 401."""

    is_status_sent: bool = True

    def wire_id(self, task_id: str) -> int | str:
        """Return a UUID, as text."""
        return task_id

    def created(self, task_id: str) -> Answer:
        """With `status` "idle" (observed since August 2025), or without one, as the seed has it."""
        state = {"status": "idle"} if self.is_status_sent else {}
        return json_answer({**_NO_ERROR_TEXTS, **state, "taskId": task_id})

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the synchronous answer of the seed."""
        return json_answer({**_NO_ERROR_TEXTS, "status": "ready", "solution": solution, "taskId": task_id})

    def processing(self, task_id: str) -> Answer:
        """Return the fields of the ready example without its solution (inferred: no example is shown)."""
        return json_answer({"errorId": 0, "taskId": task_id, "status": "processing"})

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """As the newer documentation shows it: with `taskId`, without error texts."""
        return json_answer({"errorId": 0, "taskId": task_id, "solution": solution, "status": "ready"})

    def failed(self, task_id: str, error_code: str) -> Answer:
        """Return an error with `status` "failed", for which the vendor's own samples test (observed)."""
        fields = {**error_fields(error_code), "taskId": task_id, "status": "failed"}
        return json_answer(fields, self._error_status(error_code))

    def balance(self, amount: float) -> Answer:
        """Without error texts, with `packages`, as documented."""
        return json_answer({"errorId": 0, "balance": amount, "packages": []})

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return the documented error envelope."""
        return json_answer(error_fields(error_code, description), status or self._error_status(error_code))

    def _error_status(self, error_code: str) -> int:
        return 401 if error_code in _KEY_CODES else 400


@dataclass(frozen=True, slots=True)
class OneCaptchaWire:
    """1captcha.vip: "" for no error at createTask, null at getTaskResult; the HTTP status of errors is unknown."""

    error_status: int = 200

    def wire_id(self, task_id: str) -> int | str:
        """Return a UUID, as text."""
        return task_id

    def created(self, task_id: str) -> Answer:
        """Return the answer of the seed."""
        return json_answer({**_NO_ERROR_TEXTS, "taskId": task_id})

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Never asked for without a test's order: every type is fetched with getTaskResult here."""
        return json_answer({**_NO_ERROR_TEXTS, "status": "ready", "solution": solution, "taskId": task_id})

    def processing(self, task_id: str) -> Answer:
        """Return the fields of the ready example without its solution (inferred); no id."""
        del task_id
        return json_answer({**_NO_ERROR_NULLS, "status": "processing"})

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the ready example of the seed; no id."""
        del task_id
        return json_answer({**_NO_ERROR_NULLS, "status": "ready", "solution": solution})

    def failed(self, task_id: str, error_code: str) -> Answer:
        """`errorId` above 0 says it all: only processing and ready are documented for `status`."""
        del task_id
        return self.refused(error_code)

    def balance(self, amount: float) -> Answer:
        """Unknown; written like its getTaskResult."""
        return json_answer({**_NO_ERROR_NULLS, "balance": amount})

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return the documented fields; the codes are those of the family (unknown: none is listed)."""
        return json_answer(error_fields(error_code, description), status or self.error_status)


def http_fault_answer(fault: HttpFault, wire: Wire) -> Answer:
    """What comes in place of an answer."""
    match fault:
        case "429":
            refused = wire.refused("ERROR_RATE_LIMIT", status=429)
            return Answer(429, refused.body, headers={"Retry-After": "1"})
        case "500":
            return Answer(500, b"Internal Server Error", "text/plain")
        case "html":
            page = b"<!DOCTYPE html><html><head><title>Sandbox</title></head><body>Be right back</body></html>"
            return Answer(200, page, "text/html")
        case "500json":
            # Observed: 2captcha/2captcha-javascript#29.
            return json_answer({"errorId": 1, "errorDescription": "Internal server error"}, 500)
        case "403":
            return Answer(403, b"<!DOCTYPE html><html><body>Access denied</body></html>", "text/html")
        case "unlisted":
            return wire.refused("ERROR_SANDBOX_UNLISTED")


_NO_ERROR_TEXTS: dict[str, Any] = {"errorId": 0, "errorCode": "", "errorDescription": ""}
_NO_ERROR_NULLS: dict[str, Any] = {"errorId": 0, "errorCode": None, "errorDescription": None}


def error_fields(error_code: str, description: str | None = None) -> dict[str, Any]:
    """Return the three fields of an error, with `errorId` 1 and the usual text unless another is given."""
    text = description or _DESCRIPTIONS.get(error_code, "the task ended with this error")
    return {"errorId": 1, "errorCode": error_code, "errorDescription": text}


def json_answer(fields: dict[str, Any], status: int = 200) -> Answer:
    """Return an answer with these fields."""
    return Answer(status, to_json(fields))
