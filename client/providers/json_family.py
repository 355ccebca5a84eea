"""The JSON createTask / getTaskResult family (PROVIDERS.md 2.1, 4, 5, 8): a provider of it is a `JsonDialect`.

The shapes that must be told apart:

* no error is `errorId` 0 with `errorCode` "", null or absent, two of these at one provider even (PROVIDERS.md 6.1);
* an error is any other `errorId`, or a `status` of "failed" even with `errorId` 0 (uCaptcha does so, CapSolver's own
  samples test for it);
* only `status` "ready" with a solution is an answer; every other or unknown status means wait (CapSolver has said
  "idle" in async createTask answers since August 2025, which its documentation does not list).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from client.errors import BadArgumentError, UnreadableError
from client.providers.codes import FAMILY_CODES, REASON_NOT_GIVEN, Code, read_error
from client.providers.dialect import Call, CallbackRule, KeyLimits, PollPlan
from client.providers.facts import Fact
from client.providers.readings import Callback, Failed, Pending, Reading, Ready, Refused, Submitted, TaskId
from client.providers.values import parse_object, read_task_id

__all__ = ["JsonDialect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonDialect:
    """A provider of the family, declared by its facts; see `Dialect` for what each means."""

    provider: str
    base_url: str | None
    callback: CallbackRule | None
    polls: PollPlan
    key_limits: KeyLimits = field(default_factory=KeyLimits)
    answer_life_seconds: float | None = None
    has_app_id: bool = False
    codes: Mapping[str, Code] = field(default_factory=lambda: FAMILY_CODES)
    facts: Sequence[Fact] = ()

    def create_task(
        self, client_key: str, task: Mapping[str, Any], *, callback_url: str | None = None, app_id: str | None = None
    ) -> Call:
        """createTask; `appId` and `callbackUrl` only where given.

        Raises:
            BadArgumentError: `task` is not JSON (bytes, NaN, a lone surrogate).
        """
        fields: dict[str, Any] = {"clientKey": client_key}
        if app_id is not None:
            fields["appId"] = app_id
        fields["task"] = dict(task)
        if callback_url is not None:
            fields["callbackUrl"] = callback_url
        return _call("createTask", fields)

    def get_task_result(self, client_key: str, task_id: TaskId) -> Call:
        """getTaskResult; the id keeps its JSON type."""
        return _call("getTaskResult", {"clientKey": client_key, "taskId": task_id})

    def get_balance(self, client_key: str) -> Call:
        """GetBalance."""
        return _call("getBalance", {"clientKey": client_key})

    def report(self, client_key: str, task_id: TaskId, task_type: str | None, *, is_good: bool) -> Call:
        """None is known here."""
        del client_key, task_id, task_type, is_good
        raise BadArgumentError(f"{self.provider}: no way to report an answer is known")

    def parse_answer(self, raw: bytes) -> dict[str, Any]:
        """The JSON object, whatever its content type was."""
        return parse_object(raw)

    def read_create_task(self, answer: Any) -> Submitted:
        """The id and the state; ready at once for a synchronous answer (CapSolver's recognition types)."""
        fields = _object(answer)
        return Submitted(read_task_id(fields.get("taskId")), self._read(fields))

    def read_task_result(self, answer: Any) -> Reading:
        """The state of the task, or what was wrong with asking."""
        return self._read(_object(answer))

    def read_balance(self, answer: Any) -> float | Reading:
        """The balance, or the error that came in its place."""
        fields = _object(answer)
        reading = self._read(fields)
        if not isinstance(reading, Pending):
            return reading
        balance = fields.get("balance")
        if isinstance(balance, bool) or not isinstance(balance, int | float):
            raise UnreadableError("no balance in the answer")
        return _amount(balance)

    def read_callback(self, *, query: bytes, body: bytes) -> Callback:
        """A callback of this family repeats the getTaskResult answer, mostly with `taskId` in it (PROVIDERS.md 2.1).

        An error about a request is no news of a task, and a solution without `status` "ready" is not how an answer
        looks: such a body is unreadable, and the next poll tells.
        """
        del query
        fields = parse_object(body)
        if not fields.keys() & {"errorId", "status", "solution"}:
            raise UnreadableError("expected errorId, status or solution in the object")
        reading = self._read(fields)
        if isinstance(reading, Pending) and fields.get("solution") is not None:
            raise UnreadableError(f"status: {reading.state!r} beside a solution")
        if not isinstance(reading, Ready | Failed | Pending):
            raise UnreadableError(f"errorCode: {reading.error_code} says nothing about a task")
        return Callback(read_task_id(fields.get("taskId")), reading)

    def read_report(self, answer: Any) -> Reading:
        """`Pending` where `errorId` is 0."""
        return self._read(_object(answer))

    def solution_of(self, code: str, task_type: str | None) -> Any | None:
        """No callback of this family is a bare code."""
        del code, task_type
        return None

    def refuses_callback_url(self, reading: Reading) -> bool:
        """Whether the refusal names the address. No provider here documents a code for it, so the text decides."""
        if not isinstance(reading, Failed | Refused):
            return False
        said = f"{reading.error_code} {reading.error_description or ''}".lower()
        return "callback" in said or "pingback" in said

    def _read(self, fields: dict[str, Any]) -> Reading:
        error_id = _error_id(fields.get("errorId"))
        error_code = _text(fields, "errorCode")
        status = _text(fields, "status")
        if error_id != 0 or status.lower() == "failed":
            return read_error(
                self.codes, error_id, error_code or REASON_NOT_GIVEN, _text(fields, "errorDescription") or None
            )
        if status == "ready" and fields.get("solution") is not None:
            return Ready(fields["solution"])
        return Pending(status)


def _call(name: str, fields: Mapping[str, Any]) -> Call:
    headers = (("Content-Type", "application/json"), ("Accept", "application/json"))
    return Call(name=name, path=f"/{name}", headers=headers, body=_written(fields))


def _written(fields: Mapping[str, Any]) -> bytes:
    # Not pydantic's to_json: it writes NaN, which is no JSON, and takes bytes and dates without being asked.
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArgumentError(f"the request cannot be written as JSON: {error}") from None


def _amount(balance: int | float) -> float:
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


def _error_id(value: Any) -> int:
    """`errorId` as a number: absent and null mean 0; digits in text are taken, as lenient clients of the family do."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UnreadableError("errorId: expected an integer")
    try:
        return int(value)
    except ValueError:
        raise UnreadableError("errorId: expected an integer") from None


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UnreadableError(f"{name}: expected a string")
    return str(value)
