"""Callbacks as each family writes them (PROVIDERS.md 2): an outcome in, one HTTP request out. Pure."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from pydantic_core import to_json

__all__ = [
    "Message",
    "Outcome",
    "WriteMessage",
    "capsolution_event",
    "captchaai_query",
    "form_message",
    "hardcaptcha_envelope",
    "json_result",
    "low_balance_event",
    "scrapeless_envelope",
    "truncated",
    "ucaptcha_query",
]

_JSON = (("Content-Type", "application/json"),)
# What a capture showed (PROVIDERS.md 2.2); a User-Agent was not among it.
_FORM = (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "*/*"), ("Cache-Control", "no-cache"))
_RATE = "0.00299"
_TIMESTAMP = "2026-01-02T03:04:05Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a callback has to tell; `task_id` None: it is not to name the task.

    `answer` has the fields of the getTaskResult answer without an id; `wire_id` makes of an id what JSON has.
    """

    task_id: str | None
    wire_id: Callable[[str], int | str]
    answer: Mapping[str, Any] = field(repr=False)
    solution: Mapping[str, Any] | None = field(repr=False)
    error_code: str | None
    secret: bytes | None = field(repr=False)

    @property
    def named(self) -> dict[str, Any]:
        """`taskId`, where the callback tells it."""
        return {} if self.task_id is None else {"taskId": self.wire_id(self.task_id)}

    @property
    def code(self) -> str:
        """The error code, or of the solution the text that matters."""
        if self.error_code is not None:
            return self.error_code
        solution = self.solution or {}
        names = ("code", "gRecaptchaResponse", "token", "text")
        text = next((solution[name] for name in names if name in solution), None)
        return text if isinstance(text, str) else to_json(solution).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One callback, without its address; `query` is added to what the address has."""

    method: str = "POST"
    query: str = field(default="", repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    has_user_agent: bool = True


WriteMessage = Callable[[Outcome], Message]
"""How a provider writes its callback."""


def truncated(message: Message) -> Message:
    """Return the same with half of what it tells; a signature stays that of the whole."""
    return replace(message, query=message.query[: len(message.query) // 2], body=message.body[: len(message.body) // 2])


def json_result(outcome: Outcome) -> Message:
    """Return the getTaskResult answer, with the id in it where the provider sends one (PROVIDERS.md 2.1)."""
    return _json({**outcome.answer, **outcome.named})


def form_message(outcome: Outcome) -> Message:
    """Return a form of id, code and rate, also for API v2; no User-Agent (PROVIDERS.md 2.2)."""
    fields = {"id": outcome.task_id or "", "code": outcome.code, "rate": _RATE}
    return Message(headers=_FORM, body=urlencode(fields).encode(), has_user_agent=False)


def ucaptcha_query(outcome: Outcome) -> Message:
    """GET with `captcha_id`, `status`, and `code` only where the task was solved (PROVIDERS.md 2.3)."""
    fields = {"captcha_id": outcome.task_id or "", "status": "0" if outcome.error_code else "1"}
    if outcome.error_code is None:
        fields["code"] = outcome.code
    return Message(method="GET", query=urlencode(fields))


def captchaai_query(outcome: Outcome) -> Message:
    """GET with `id` and `code` (PROVIDERS.md 2.3); that a failure has its error code there is inferred."""
    return Message(method="GET", query=urlencode({"id": outcome.task_id or "", "code": outcome.code}))


def hardcaptcha_envelope(outcome: Outcome) -> Message:
    """`{id, status, result}`, signed over the raw body (PROVIDERS.md 2.4)."""
    fields = {
        "id": outcome.task_id,
        "status": "FAILED" if outcome.error_code else "SUCCESS",
        "result": {"token": None if outcome.error_code else outcome.code},
    }
    return _signed(_json(fields), "X-HardCaptcha-Hmac-SHA256", outcome.secret)


def capsolution_event(outcome: Outcome) -> Message:
    """Return an event of a task, signed (PROVIDERS.md 2.4); its time is invented, so that bodies repeat."""
    if outcome.error_code is not None:
        said = {"errorId": 1, "errorCode": outcome.error_code, "status": "failed"}
        fields = {"event": "task.failed", **outcome.named, **said}
    else:
        fields = {"event": "task.completed", **outcome.named, "status": "ready", "solution": outcome.solution}
    return _signed(_json({**fields, "timestamp": _TIMESTAMP}), "X-Webhook-Signature", outcome.secret)


def low_balance_event(secret: bytes | None) -> Message:
    """Return an event about the account, which names no task (PROVIDERS.md 2.4)."""
    return _signed(_json({"event": "balance.low", "timestamp": _TIMESTAMP}), "X-Webhook-Signature", secret)


def scrapeless_envelope(outcome: Outcome) -> Message:
    """That of the scraping product, since none is documented for captcha tasks (PROVIDERS.md 2.4, 3.7)."""
    if outcome.error_code is not None:
        said: dict[str, Any] = {"success": False, "status": {"code": 14500, "message": outcome.error_code}}
    else:
        encoded = b64encode(to_json(outcome.solution)).decode()
        said = {"success": True, "response": {"data": encoded, "encoding": "base64"}}
    return _json({**outcome.named, "state": "completed", **said})


def _json(fields: Mapping[str, Any]) -> Message:
    return Message(headers=_JSON, body=to_json(fields))


def _signed(message: Message, header: str, secret: bytes | None) -> Message:
    """Hex HMAC-SHA256 over the raw body; without a secret there is no signature."""
    if secret is None:
        return message
    signature = hmac.new(secret, message.body, hashlib.sha256).hexdigest()
    return replace(message, headers=(*message.headers, (header, signature)))
