"""Callbacks as each family writes them: their content in, one HTTP request out. Pure.

Source: providers/README.md, "Callbacks".
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from pydantic_core import to_json

from client.providers import CallbackRule

__all__ = [
    "CallbackContent",
    "Message",
    "WriteMessage",
    "capsolution_event",
    "code_message",
    "form_message",
    "hardcaptcha_envelope",
    "json_result",
    "low_balance_event",
    "scrapeless_envelope",
    "truncated",
]

_JSON = (("Content-Type", "application/json"),)
# What a capture showed (providers/README.md, "Form callbacks"); a User-Agent was not among it.
_FORM = (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "*/*"), ("Cache-Control", "no-cache"))
_RATE = "0.00299"
_TIMESTAMP = "2026-01-02T03:04:05Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackContent:
    """The content of a callback. With `task_id` None, it does not name the task.

    `answer` has the fields of the getTaskResult answer without an id. `wire_id` converts an id to its JSON value.
    """

    task_id: str | None
    wire_id: Callable[[str], int | str]
    answer: Mapping[str, Any] = field(repr=False)
    solution: Mapping[str, Any] | None = field(repr=False)
    error_code: str | None
    secret: bytes | None = field(repr=False)

    @property
    def named(self) -> dict[str, Any]:
        """The field `taskId`, unless the callback leaves it out."""
        return {} if self.task_id is None else {"taskId": self.wire_id(self.task_id)}

    @property
    def code(self) -> str:
        """The error code, or the text of the solution."""
        if self.error_code is not None:
            return self.error_code
        solution = self.solution or {}
        names = ("code", "gRecaptchaResponse", "token", "text")
        text = next((solution[name] for name in names if name in solution), None)
        return text if isinstance(text, str) else to_json(solution).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One callback, without its address. `query` is added to the query of the address."""

    method: str = "POST"
    query: str = field(default="", repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    has_user_agent: bool = True


WriteMessage = Callable[[CallbackContent], Message]
"""Writes the callback of a provider."""


def truncated(message: Message) -> Message:
    """Return the same with half its body and half its query. A signature stays that of the whole."""
    return replace(message, query=message.query[: len(message.query) // 2], body=message.body[: len(message.body) // 2])


def json_result(content: CallbackContent) -> Message:
    """Return the getTaskResult answer, with the id if the provider sends one.

    Source: providers/README.md, "Result callbacks".
    """
    return _json({**content.answer, **content.named})


def form_message(content: CallbackContent) -> Message:
    """Return a form of id, code and rate, also for API v2; no User-Agent (providers/README.md, "Form callbacks")."""
    fields = {"id": content.task_id or "", "code": content.code, "rate": _RATE}
    return Message(headers=_FORM, body=urlencode(fields).encode(), has_user_agent=False)


def code_message(rule: CallbackRule) -> WriteMessage:
    """Return a writer of the fields that the rule names, by GET or in a form.

    A field for the status is "1", or "0" for a failure, which has no code then (providers/README.md, "uCaptcha").
    Without it, a failure has its error code in place of the code. That is inferred of CaptchaAI (providers/README.md,
    "Query callbacks").
    """

    def write(content: CallbackContent) -> Message:
        fields = {rule.id_field: content.task_id or ""}
        if rule.status_field is not None:
            fields[rule.status_field] = "0" if content.error_code else "1"
        if rule.status_field is None or content.error_code is None:
            fields[rule.code_field] = content.code
        if "GET" in rule.methods:
            return Message(method="GET", query=urlencode(fields))
        return Message(headers=_FORM, body=urlencode(fields).encode())

    return write


def hardcaptcha_envelope(content: CallbackContent) -> Message:
    """Return `{id, status, result}`, signed over the raw body (providers/README.md, "Envelope callbacks")."""
    fields = {
        "id": content.task_id,
        "status": "FAILED" if content.error_code else "SUCCESS",
        "result": {"token": None if content.error_code else content.code},
    }
    return _signed(_json(fields), "X-HardCaptcha-Hmac-SHA256", content.secret)


def capsolution_event(content: CallbackContent) -> Message:
    """Return an event of a task, signed. Its time is invented, so that bodies repeat.

    Source: providers/README.md, "Envelope callbacks".
    """
    if content.error_code is not None:
        error = {"errorId": 1, "errorCode": content.error_code, "status": "failed"}
        fields = {"event": "task.failed", **content.named, **error}
    else:
        fields = {"event": "task.completed", **content.named, "status": "ready", "solution": content.solution}
    return _signed(_json({**fields, "timestamp": _TIMESTAMP}), "X-Webhook-Signature", content.secret)


def low_balance_event(secret: bytes | None) -> Message:
    """Return an event about the account, without a task (providers/README.md, "Envelope callbacks")."""
    return _signed(_json({"event": "balance.low", "timestamp": _TIMESTAMP}), "X-Webhook-Signature", secret)


def scrapeless_envelope(content: CallbackContent) -> Message:
    """Return the envelope of the scraping product: none is documented for captcha tasks.

    Source: providers/README.md, "Envelope callbacks", "Scrapeless".
    """
    if content.error_code is not None:
        fields: dict[str, Any] = {"success": False, "status": {"code": 14500, "message": content.error_code}}
    else:
        encoded = b64encode(to_json(content.solution)).decode()
        fields = {"success": True, "response": {"data": encoded, "encoding": "base64"}}
    return _json({**content.named, "state": "completed", **fields})


def _json(fields: Mapping[str, Any]) -> Message:
    return Message(headers=_JSON, body=to_json(fields))


def _signed(message: Message, header: str, secret: bytes | None) -> Message:
    """Add a hex HMAC-SHA256 over the raw body. Without a secret there is no signature."""
    if secret is None:
        return message
    signature = hmac.new(secret, message.body, hashlib.sha256).hexdigest()
    return replace(message, headers=(*message.headers, (header, signature)))
