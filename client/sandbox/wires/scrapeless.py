"""Scrapeless (PROVIDERS.md 3.7): no `errorId` anywhere, the key in a header, the id in a path. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.sandbox.wires.capsolver import Answer, error_fields, json_answer

__all__ = ["KEY_HEADER", "ScrapelessWire", "fields_of_create", "fields_of_get"]

# Observed: in the code that its site hands out, and in clients that others wrote.
KEY_HEADER = "x-api-token"
_CREATED_MS = 1_730_800_000_000


@dataclass(frozen=True, slots=True)
class ScrapelessWire:
    """`success` says what `errorId` says elsewhere; which HTTP status errors have is unknown, so it is a choice."""

    error_status: int = 200

    def wire_id(self, task_id: str) -> int | str:
        """Return a UUID, as text."""
        return task_id

    def created(self, task_id: str) -> Answer:
        """Idle, with the id."""
        return json_answer({"state": "idle", "success": True, "taskId": task_id})

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """No such answer is known: the id, as always."""
        del solution
        return self.created(task_id)

    def processing(self, task_id: str) -> Answer:
        """Return the fields of createTask in another state (inferred: no example is shown)."""
        return json_answer({"state": "running", "success": True, "taskId": task_id})

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the solution; its times are invented, so that answers repeat."""
        said = {"actor": "captcha.recaptcha", "createTime": _CREATED_MS, "elapsed": 2254}
        return json_answer({**said, "solution": solution, "success": True, "taskId": task_id})

    def failed(self, task_id: str, error_code: str) -> Answer:
        """Return a `message`; that it holds the code is invented."""
        return json_answer({"success": False, "state": "completed", "message": error_code, "taskId": task_id})

    def balance(self, amount: float) -> Answer:
        """Never asked for: no such call is known."""
        return json_answer({"success": True, "balance": amount})

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return a `message`, and no code."""
        text = error_fields(error_code, description)["errorDescription"]
        return json_answer({"success": False, "message": text}, status or self.error_status)


def fields_of_create(fields: Mapping[str, Any], client_key: str | None) -> dict[str, Any]:
    """What its createTask was asked, under the names of the family: `actor` is the type of the task."""
    task = {name: value for name, value in fields.items() if name not in ("actor", "webhook")}
    webhook = fields.get("webhook")
    url = webhook.get("url") if isinstance(webhook, dict) else None
    return {"clientKey": client_key, "task": {"type": fields.get("actor"), **task}, "callbackUrl": url}


def fields_of_get(task_id: str, client_key: str | None) -> dict[str, Any]:
    """What its getTaskResult was asked, under the names of the family."""
    return {"clientKey": client_key, "taskId": task_id}
