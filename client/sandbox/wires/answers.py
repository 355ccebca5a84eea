"""Answers as each family of providers writes them (providers/README.md, "JSON requests"; both seeds). Pure.

An answer that no source shows is marked "inferred" or "unknown", here or in its row in `profiles`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic_core import from_json, to_json

from client.sandbox.settings import HttpFault

__all__ = ["Answer", "JsonWire", "ScrapelessWire", "V1Wire", "Wire", "as_text", "http_fault_answer", "json_answer"]

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


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, ready to be sent."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(fields: Mapping[str, Any], status: int = 200) -> Answer:
    """Return an answer with these fields."""
    return Answer(status, to_json(fields))


class Wire(Protocol):
    """The answers of one provider."""

    def wire_id(self, task_id: str) -> int | str:
        """Return the id as JSON has it."""

    def created(self, task_id: str) -> Answer:
        """Answer createTask: the task was taken, its outcome comes later."""

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Answer createTask with the solution."""

    def processing(self, task_id: str) -> Answer:
        """Answer getTaskResult: no outcome yet."""

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Answer getTaskResult with the solution."""

    def failed(self, task_id: str, error_code: str) -> Answer:
        """Answer getTaskResult: the task ended without a solution."""

    def balance(self, amount: float) -> Answer:
        """Answer getBalance."""

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return an error about the request. `status` is the HTTP status, if HTTP itself decides it."""


def http_fault_answer(fault: HttpFault, wire: Wire) -> Answer:
    """Return the answer that a fault puts in place of the right one."""
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


def _description(error_code: str) -> str:
    return _DESCRIPTIONS.get(error_code, "the task ended with this error")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonWire:
    """A provider whose answers are JSON with `errorId`. Each answer adds its fields, as `created_fields`.

    `codes` holds its names for our codes. `error_ids` and `statuses` hold its numbers and HTTP statuses by its names.
    `pending_error_id` is the error for processing, at a provider with such an error. A failed task has
    `failed_error_id`, and `failed_status` for `status` unless that is None. `is_failure_described`: it has an
    `errorDescription` too. `is_failure_refused`: it has the HTTP status of an error.

    `has_id_at_once`: synchronous createTask answers have a `taskId`. `has_id_in_result`: getTaskResult answers have
    it too.
    """

    created_fields: Mapping[str, Any] = field(default_factory=dict)
    pending_fields: Mapping[str, Any] = field(default_factory=dict)
    ready_fields: Mapping[str, Any] = field(default_factory=dict)
    refused_fields: Mapping[str, Any] = field(default_factory=dict)
    balance_fields: Mapping[str, Any] = field(default_factory=dict)
    pending_status: str = "processing"
    pending_error_id: int = 0
    failed_error_id: int = 1
    failed_status: str | None = None
    is_failure_described: bool = True
    is_failure_refused: bool = False
    refused_status: int = 200
    has_integer_ids: bool = True
    has_id_at_once: bool = True
    has_id_in_result: bool = False
    codes: Mapping[str, str] = field(default_factory=dict)
    error_ids: Mapping[str, int] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)

    def wire_id(self, task_id: str) -> int | str:
        """Return the id as JSON has it."""
        return int(task_id) if self.has_integer_ids else task_id

    def created(self, task_id: str) -> Answer:
        """Return the id, and nothing about the outcome."""
        return json_answer({"errorId": 0, **self.created_fields, "taskId": self.wire_id(task_id)})

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the solution. Asked for only if the provider may answer so, or if a test requests it."""
        named = self._named(task_id, is_named=self.has_id_at_once)
        return json_answer({"errorId": 0, **self.created_fields, "status": "ready", "solution": solution, **named})

    def processing(self, task_id: str) -> Answer:
        """Return the state, or the error that means it."""
        if self.pending_error_id:
            return json_answer({"errorId": self.pending_error_id, **self.pending_fields})
        named = self._named(task_id, is_named=self.has_id_in_result)
        return json_answer({"errorId": 0, **self.pending_fields, **named, "status": self.pending_status})

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the solution."""
        named = self._named(task_id, is_named=self.has_id_in_result)
        return json_answer({"errorId": 0, **self.ready_fields, **named, "status": "ready", "solution": solution})

    def failed(self, task_id: str, error_code: str) -> Answer:
        """Return an error; most providers send no `status` with it (providers/README.md, "JSON requests")."""
        code = self.codes.get(error_code, error_code)
        fields = {"errorId": self.error_ids.get(code, self.failed_error_id), "errorCode": code}
        if self.is_failure_described:
            fields["errorDescription"] = _description(error_code)
        fields |= self._named(task_id, is_named=self.has_id_in_result)
        if self.failed_status is not None:
            fields["status"] = self.failed_status
        return json_answer(fields, self._error_status(code) if self.is_failure_refused else 200)

    def balance(self, amount: float) -> Answer:
        """Return the amount."""
        return json_answer({"errorId": 0, **self.balance_fields, "balance": amount})

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return an error."""
        code = self.codes.get(error_code, error_code)
        fields = {
            "errorId": self.error_ids.get(code, 1),
            "errorCode": code,
            "errorDescription": description or _description(error_code),
        }
        return json_answer({**fields, **self.refused_fields}, status or self._error_status(code))

    def _named(self, task_id: str, *, is_named: bool) -> dict[str, Any]:
        return {"taskId": self.wire_id(task_id)} if is_named else {}

    def _error_status(self, code: str) -> int:
        return self.statuses.get(code, self.refused_status)


@dataclass(frozen=True, slots=True)
class ScrapelessWire:
    """Scrapeless (providers/README.md, "Scrapeless"): `success` instead of `errorId`.

    The HTTP status of errors is unknown, so `refused_status` is a choice.
    """

    refused_status: int = 200

    def wire_id(self, task_id: str) -> int | str:
        """Return a UUID, as text."""
        return task_id

    def created(self, task_id: str) -> Answer:
        """Return the id, and the state idle."""
        return json_answer({"state": "idle", "success": True, "taskId": task_id})

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the id as always: no such answer is known."""
        del solution
        return self.created(task_id)

    def processing(self, task_id: str) -> Answer:
        """Return the fields of createTask in another state (inferred: no example is shown)."""
        return json_answer({"state": "running", "success": True, "taskId": task_id})

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the solution. Its times are invented, so that answers repeat."""
        fields = {"actor": "captcha.recaptcha", "createTime": 1_730_800_000_000, "elapsed": 2254}
        return json_answer({**fields, "solution": solution, "success": True, "taskId": task_id})

    def failed(self, task_id: str, error_code: str) -> Answer:
        """Return the code as `message`, which is invented."""
        return json_answer({"success": False, "state": "completed", "message": error_code, "taskId": task_id})

    def balance(self, amount: float) -> Answer:
        """Return the amount. Never asked for: no such call is known."""
        return json_answer({"success": True, "balance": amount})

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return a `message`, and no code."""
        text = description or _description(error_code)
        return json_answer({"success": False, "message": text}, status or self.refused_status)


_V1_CODES = {
    "ERROR_BAD_REQUEST": "ERROR_BAD_PARAMETERS",
    # Documented without the prefix (https://2captcha.com/2captcha-api).
    "ERROR_IP_BANNED": "IP_BANNED",
    "ERROR_INVALID_TASK_DATA": "ERROR_BAD_PARAMETERS",
    "ERROR_RATE_LIMIT": "ERROR_NO_SLOT_AVAILABLE",
    "ERROR_TASKID_INVALID": "ERROR_WRONG_CAPTCHA_ID",
    "ERROR_TASK_TIMEOUT": "ERROR_CAPTCHA_UNSOLVABLE",
}


@dataclass(frozen=True, slots=True)
class V1Wire:
    """in.php and res.php: `{"status": …, "request": …}` for everything, under HTTP 200.

    Source: providers/README.md, "Older API", "CaptchaAI".

    Answers are made as JSON. `as_text` turns them into text for requests without `json=1`.
    """

    def wire_id(self, task_id: str) -> int | str:
        """Return digits in text."""
        return task_id

    def created(self, task_id: str) -> Answer:
        """Return the id."""
        return _v1(1, task_id)

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the id as always: there is no such answer (providers/README.md, "JSON requests")."""
        del solution
        return self.created(task_id)

    def processing(self, task_id: str) -> Answer:
        """Return the error that means processing, in its own spelling."""
        del task_id
        return _v1(0, "CAPCHA_NOT_READY")

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the bare answer."""
        del task_id
        return _v1(1, solution["code"])

    def failed(self, task_id: str, error_code: str) -> Answer:
        """Return the code."""
        del task_id
        return _v1(0, _V1_CODES.get(error_code, error_code))

    def balance(self, amount: float) -> Answer:
        """Return the amount, as text."""
        return _v1(1, f"{amount:.5f}".rstrip("0").rstrip("."))

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return the code, and the description beside it."""
        fields: dict[str, Any] = {"status": 0, "request": _V1_CODES.get(error_code, error_code)}
        return json_answer(fields if description is None else {**fields, "error_text": description}, status or 200)


def _v1(status: int, request: Any) -> Answer:
    return json_answer({"status": status, "request": request})


def as_text(answer: Answer, action: str) -> Answer:
    """Return the text that in.php and res.php send instead of an answer in JSON. `action` is "in" for in.php."""
    if answer.content_type != _JSON:
        return answer
    fields = from_json(answer.body)
    request = fields["request"]
    text = request if isinstance(request, str) else to_json(request).decode()
    if fields["status"] == 1:
        text = {"in": f"OK|{text}", "get": f"OK|{text}", "add_pingback": "OK", "del_pingback": "OK"}.get(action, text)
        if action == "get_pingback":
            text = "|".join(("OK", *request))
    return Answer(answer.status, text.encode(), "text/plain", answer.headers)
