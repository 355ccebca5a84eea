"""The JSON createTask / getTaskResult family (PROVIDERS.md 2.1, 4, 5, 8): a provider of it is a `JsonDialect`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.errors import BadArgumentError, UnreadableError
from client.providers.declared import DeclaredDialect
from client.providers.dialect import Call
from client.providers.envelope import read_envelope
from client.providers.readings import Pending, Reading, Submitted, TaskId
from client.providers.values import parse_object, read_task_id

__all__ = ["JsonDialect", "read_amount", "written"]

_HEADERS = (("Content-Type", "application/json"), ("Accept", "application/json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonDialect(DeclaredDialect):
    """A provider of the family, declared by its facts.

    `has_api` false: how tasks are submitted is not known, so that only its callbacks are. `create_seconds` is how long
    createTask may take.
    """

    has_api: bool = True
    create_seconds: float = 60.0

    def create_task(
        self, client_key: str, task: Mapping[str, Any], *, callback_url: str | None = None, app_id: str | None = None
    ) -> Call:
        """createTask; `appId` and `callbackUrl` only where given.

        Raises:
            BadArgumentError: `task` is not JSON (bytes, NaN, a lone surrogate), or there is no such request.
        """
        fields: dict[str, Any] = {"clientKey": client_key}
        if app_id is not None:
            fields["appId"] = app_id
        fields["task"] = dict(task)
        if callback_url is not None:
            fields["callbackUrl"] = callback_url
        return self._call("createTask", fields, seconds=self.create_seconds)

    def get_task_result(self, client_key: str, task_id: TaskId) -> Call:
        """getTaskResult; the id keeps its JSON type."""
        return self._call("getTaskResult", {"clientKey": client_key, "taskId": task_id})

    def get_balance(self, client_key: str) -> Call:
        """GetBalance."""
        return self._call("getBalance", {"clientKey": client_key})

    def report(self, client_key: str, task_id: TaskId, task_type: str | None, *, is_good: bool) -> Call:
        """Return the report that is declared for such a task (PROVIDERS.md 7).

        Raises:
            BadArgumentError: none is known.
        """
        rule = self.report_rule(task_type, is_good=is_good)
        fields: dict[str, Any] = {"clientKey": client_key, "taskId": task_id}
        if rule.name == "feedbackTask":
            fields["result"] = {"invalid": not is_good}
        return self._call(rule.name, fields)

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """Return the JSON object, whatever its content type was."""
        return parse_object(raw)

    def read_create_task(self, answer: Any) -> Submitted:
        """Return the id and the state; ready at once for a synchronous answer (CapSolver's recognition types)."""
        fields = _object(answer)
        reading = self._read(fields)
        # CapMonster answers errors with taskId 0, which means none.
        return Submitted(read_task_id(fields.get("taskId")), reading)

    def read_task_result(self, answer: Any) -> Reading:
        """Return the state of the task, or what was wrong with asking."""
        return self._read(_object(answer))

    def read_balance(self, answer: Any) -> float | Reading:
        """Return the balance, or the error that came in its place."""
        fields = _object(answer)
        reading = self._read(fields)
        return read_amount(fields.get("balance")) if isinstance(reading, Pending) else reading

    def read_report(self, answer: Any) -> Reading:
        """`Pending` where `errorId` is 0."""
        return self._read(_object(answer))

    def _read(self, fields: Mapping[str, Any]) -> Reading:
        return read_envelope(fields, self.codes, self.pending_error_ids)

    def _call(self, name: str, fields: Mapping[str, Any], *, seconds: float | None = None) -> Call:
        if not self.has_api:
            raise BadArgumentError(f"{self.provider}: how it is asked is not known; only its callbacks are")
        return Call(name=name, path=f"/{name}", headers=_HEADERS, body=written(fields), seconds=seconds)


def written(fields: Mapping[str, Any]) -> bytes:
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


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise UnreadableError("expected a JSON object")
    return answer
