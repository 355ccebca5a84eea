"""in.php and res.php (PROVIDERS.md 3.6, 3.7): what a call asks for, and how it is answered. Pure.

Answers are made as JSON; who did not ask for that with `json=1` gets them as text.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from client.errors import UnreadableError
from client.providers.values import parse_object
from client.sandbox.wires.capsolver import Answer, json_answer

__all__ = ["V1Wire", "as_asked", "as_text", "fields_of_in", "fields_of_res", "text_task"]

# What in.php reads itself; the rest is the task.
_PLUMBING = frozenset({"key", "method", "json", "pingback", "soft_id"})
_CODES = {
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
    """`{"status": …, "request": …}` for everything, under HTTP 200."""

    def wire_id(self, task_id: str) -> int | str:
        """Digits in text."""
        return task_id

    def created(self, task_id: str) -> Answer:
        """Return the id."""
        return _said(1, task_id)

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """There is no such answer (PROVIDERS.md 4): the id, as always."""
        del solution
        return self.created(task_id)

    def processing(self, task_id: str) -> Answer:
        """Return an error that is none, spelt so."""
        del task_id
        return _said(0, "CAPCHA_NOT_READY")

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the bare answer."""
        del task_id
        return _said(1, solution["code"])

    def failed(self, task_id: str, error_code: str) -> Answer:
        """Return the code."""
        del task_id
        return _said(0, _CODES.get(error_code, error_code))

    def balance(self, amount: float) -> Answer:
        """Return the amount, as text."""
        return _said(1, f"{amount:.5f}".rstrip("0").rstrip("."))

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return the code, and beside it what was wrong."""
        fields: dict[str, Any] = {"status": 0, "request": _CODES.get(error_code, error_code)}
        return json_answer(fields if description is None else {**fields, "error_text": description}, status or 200)


def as_text(value: Any) -> str:
    """Return a value as a form has it."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def text_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task as it arrives: all its values are text."""
    return {name: as_text(value) for name, value in task.items()}


def fields_of_in(form: Mapping[str, str | bytes], *, is_get: bool) -> dict[str, Any]:
    """What in.php was asked, under the names of createTask; a file becomes base64, `sandbox` is JSON in text."""
    values = {name: b64encode(value).decode() if isinstance(value, bytes) else value for name, value in form.items()}
    task: dict[str, Any] = {"type": values.get("method", "")}
    task |= {name: value for name, value in values.items() if name not in _PLUMBING}
    with suppress(UnreadableError):
        task["sandbox"] = parse_object(values["sandbox"].encode()) if "sandbox" in values else None
    if task.get("sandbox") is None:
        task.pop("sandbox", None)
    pingback = values.get("pingback")
    if is_get and pingback is not None:
        # Asked by GET, only the first parameter of the address survives (PROVIDERS.md 2.2).
        pingback = pingback.partition("&")[0]
    return {"clientKey": values.get("key"), "task": task, "callbackUrl": pingback}


def fields_of_res(query: Mapping[str, str]) -> dict[str, Any]:
    """What res.php was asked, under the names of getTaskResult."""
    return {**query, "clientKey": query.get("key"), "taskId": query.get("id")}


def as_asked(answer: Answer, action: str, *, is_json: bool) -> Answer:
    """Return the answer as JSON, or as the text that stands for it."""
    if is_json or answer.content_type != "application/json":
        return answer
    fields = from_json(answer.body)
    said = fields["request"]
    text = said if isinstance(said, str) else to_json(said).decode()
    if fields["status"] == 1:
        text = {"in": f"OK|{text}", "get": f"OK|{text}", "add_pingback": "OK", "del_pingback": "OK"}.get(action, text)
        if action == "get_pingback":
            text = "|".join(("OK", *said))
    return Answer(answer.status, text.encode(), "text/plain", answer.headers)


def _said(status: int, request: Any) -> Answer:
    return json_answer({"status": status, "request": request})
