"""The wire format of the JSON createTask / getTaskResult family.

Source: providers/README.md, "Result callbacks", "JSON requests".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.errors import BadArgumentError, UnreadableError
from client.providers.callbacks import JSON_SHAPES
from client.providers.dialect import Call, Dialect
from client.providers.envelope import read_envelope
from client.providers.readings import Pending, Reading, Submitted, TaskId
from client.providers.rules import ReportRule
from client.providers.values import parse_json, parse_object, read_task_id

__all__ = ["JSON_FAMILY", "as_object", "encode_json", "read_amount", "solution_from_code"]

_HEADERS = (("Content-Type", "application/json"), ("Accept", "application/json"))


@dataclass(frozen=True, slots=True)
class _JsonFamily:
    """JSON objects over POST, with the client key in the body."""

    requests: str = "createTask"
    image_type: str | None = "ImageToTextTask"

    def create_task(
        self,
        dialect: Dialect,
        client_key: str,
        task: Mapping[str, Any],
        *,
        callback_url: str | None,
        app_id: str | None,
    ) -> Call:
        """Return a createTask request, with `appId` and `callbackUrl` only if they are given.

        Raises:
            BadArgumentError: `task` is not JSON (bytes, NaN, a lone surrogate), or there is no such request.
        """
        fields: dict[str, Any] = {"clientKey": client_key}
        if app_id is not None:
            fields["appId"] = app_id
        fields["task"] = dict(task)
        if callback_url is not None:
            fields["callbackUrl"] = callback_url
        return _call(dialect, "createTask", fields, seconds=dialect.create_seconds)

    def get_task_result(self, dialect: Dialect, client_key: str, task_id: TaskId) -> Call:
        """Return a getTaskResult request. The id keeps its JSON type."""
        return _call(dialect, "getTaskResult", {"clientKey": client_key, "taskId": task_id})

    def get_balance(self, dialect: Dialect, client_key: str) -> Call:
        """Return a getBalance request."""
        return _call(dialect, "getBalance", {"clientKey": client_key})

    def report(self, dialect: Dialect, client_key: str, task_id: TaskId, rule: ReportRule) -> Call:
        """Return the request of the rule. feedbackTask alone says in its body if the answer was wrong."""
        fields: dict[str, Any] = {"clientKey": client_key, "taskId": task_id}
        if rule.name == "feedbackTask":
            fields["result"] = {"invalid": not rule.is_good}
        return _call(dialect, rule.name, fields)

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """Return the JSON object, regardless of its content type."""
        return parse_object(raw)

    def read_create_task(self, dialect: Dialect, answer: Any) -> Submitted:
        """Return the id and the state. Synchronous answers are ready (CapSolver's recognition types)."""
        fields = as_object(answer)
        reading = _read(dialect, fields)
        # CapMonster answers errors with taskId 0: it means that there is none.
        return Submitted(read_task_id(fields.get("taskId")), reading)

    def read_task_result(self, dialect: Dialect, answer: Any) -> Reading:
        """Return the state of the task, or the error about the request."""
        return _read(dialect, as_object(answer))

    def read_balance(self, dialect: Dialect, answer: Any) -> float | Reading:
        """Return the balance, or the error in its place."""
        fields = as_object(answer)
        reading = _read(dialect, fields)
        return read_amount(fields.get("balance")) if isinstance(reading, Pending) else reading

    def read_report(self, dialect: Dialect, answer: Any) -> Reading:
        """Return `Pending` if `errorId` is 0."""
        return _read(dialect, as_object(answer))

    def solution_of(self, dialect: Dialect, code: str, task_type: str | None) -> Any | None:
        """Return the solution made from the fields declared for the type."""
        return solution_from_code(dialect, code, task_type)


JSON_FAMILY = _JsonFamily()


def solution_from_code(dialect: Dialect, code: str, task_type: str | None) -> Any | None:
    """Return the solution for a bare answer: the fields declared for the type, each with `code` as its value.

    Without a type it is the content of the callback: `{"code": …}`, or the JSON in `code`.
    """
    if dialect.callback is not None and dialect.callback.shape in JSON_SHAPES:
        return parse_json(code.encode()) if task_type is None else None
    if task_type is None:
        return {"code": code}
    names = dialect.solutions.get(task_type)
    return None if names is None else dict.fromkeys(names, code)


def encode_json(fields: Mapping[str, Any]) -> bytes:
    """Return the fields as JSON.

    Raises:
        BadArgumentError: they are no JSON.
    """
    # Not pydantic's to_json: it writes NaN, which is no JSON, and takes bytes and dates without being asked.
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArgumentError(f"the request cannot be written as JSON: {error}") from None


def read_amount(balance: Any) -> float:
    """Return an amount of money.

    Raises:
        UnreadableError: it is none.
    """
    if isinstance(balance, bool) or not isinstance(balance, int | float):
        raise UnreadableError("no balance in the answer")
    try:
        amount = float(balance)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        raise UnreadableError("balance: the number is too large")
    return amount


def as_object(answer: Any) -> dict[str, Any]:
    """Return the answer if it is a JSON object.

    Raises:
        UnreadableError: it is another value.
    """
    if not isinstance(answer, dict):
        raise UnreadableError("expected a JSON object")
    return answer


def _read(dialect: Dialect, fields: Mapping[str, Any]) -> Reading:
    return read_envelope(fields, dialect.codes, dialect.pending_error_ids)


def _call(dialect: Dialect, name: str, fields: Mapping[str, Any], *, seconds: float | None = None) -> Call:
    if not dialect.has_api:
        raise BadArgumentError(f"{dialect.provider}: how it is asked is not known; only its callbacks are")
    return Call(name=name, path=f"/{name}", headers=_HEADERS, body=encode_json(fields), seconds=seconds)
