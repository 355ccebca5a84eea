"""What providers deliver, by wire family (PROVIDERS.md 2): a delivery is told by what its bytes are.

Content types are not asked: providers send JSON as text and forms without a type. Every function gives a reading or
raises `UnreadableError`. An error about a request is no news of a task: such a delivery is unreadable, and the next
poll tells. Nor is a solution an answer unless the state beside it is the one that the provider documents for success:
states get renamed and new ones come (https://github.com/AndreiDrang/python3-capsolver/issues/150).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from client.errors import UnreadableError
from client.providers.codes import REASON_NOT_GIVEN, Code, code_named, read_error
from client.providers.dialect import CallbackRule
from client.providers.envelope import read_envelope
from client.providers.readings import Bare, Callback, Failed, Notice, Pending, Reading, Ready, TaskId
from client.providers.values import canonical_json, parse_object, read_task_id

__all__ = ["JSON_SHAPES", "SHAPES", "Delivery"]

JSON_SHAPES = frozenset({"scrapeless"})
"""Shapes whose bare answers are JSON as text."""

_MOST_FIELDS = 1000
"""Fields of a form that are looked at: more take time, and no provider sends more than a handful."""
_BOM = b"\xef\xbb\xbf"
_LONGEST_INTEGER = 4300


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came, and what is known of who sent it; `query` is raw."""

    rule: CallbackRule
    codes: Mapping[str, Code]
    query: bytes
    body: bytes
    has_integer_ids: bool = False
    pending_error_ids: frozenset[int] = frozenset()

    def fields(self) -> dict[str, Any]:
        """Return the fields of a JSON object, or those that the rule names of a form or of the query.

        Raises:
            UnreadableError: JSON that is no object, or a form in which one of these fields cannot be read.
        """
        body = self.body.strip().removeprefix(_BOM).lstrip()
        if body.startswith((b"{", b"[")):
            return parse_object(body)
        return _form(body or self.query, self.rule)

    def task_id(self, value: Any) -> TaskId | None:
        """Return the id with the type that createTask gives it: a form has only text."""
        task_id = read_task_id(value)
        is_number = isinstance(task_id, str) and task_id.isascii() and task_id.isdigit()
        if self.has_integer_ids and is_number and len(str(task_id)) <= _LONGEST_INTEGER:
            return int(task_id or 0) or None
        return task_id


def _read_result(delivery: Delivery) -> Callback:
    """Return the getTaskResult answer, mostly with `taskId` in it (PROVIDERS.md 2.1)."""
    fields = parse_object(delivery.body)
    if not fields.keys() & {"errorId", "status", "solution"}:
        raise UnreadableError("expected errorId, status or solution in the object")
    reading = read_envelope(fields, delivery.codes, delivery.pending_error_ids)
    if isinstance(reading, Pending):
        reading = Pending(reading.state, fields.get("solution") is not None)
    return Callback(delivery.task_id(fields.get("taskId")), _about_a_task(reading))


def _read_code(delivery: Delivery) -> Callback:
    """Return an id and an answer or an error code (PROVIDERS.md 2.2, 2.3); `rate` and other fields are left alone.

    A `code` that looks like an error may be an answer: only listed codes and those that begin with ERROR are errors.
    A status, where the provider has one, is 1 beside an answer and 0 for a failure (PROVIDERS.md 2.3).
    """
    rule, fields = delivery.rule, delivery.fields()
    if rule.id_field not in fields:
        raise UnreadableError(f"{rule.id_field}: expected an id")
    task_id = delivery.task_id(fields[rule.id_field])
    given = None if rule.status_field is None else fields.get(rule.status_field)
    status = "" if given is None else str(given)
    if status == "0":
        return Callback(task_id, Failed(1, str(fields.get(rule.code_field) or REASON_NOT_GIVEN)))
    is_success = rule.status_field is None or status in ("1", "True")
    code = fields.get(rule.code_field)
    if not is_success and status and not code:
        return Callback(task_id, Pending(status))
    if isinstance(code, bool) or not isinstance(code, str | int | float) or code == "":
        raise UnreadableError(f"{rule.code_field}: expected an answer or an error code")
    text = str(code)
    if text.startswith(("ERROR_", "ERROR:")) or code_named(delivery.codes, text) is not None:
        return Callback(task_id, _about_a_task(read_error(delivery.codes, 1, text, None)))
    return Callback(task_id, Bare(text) if is_success else Pending(status, has_solution=True))


def _read_hardcaptcha(delivery: Delivery) -> Callback:
    """`{id, status: SUCCESS or FAILED, result: {token}}` (PROVIDERS.md 2.4)."""
    fields = parse_object(delivery.body)
    status = str(fields.get("status") or "")
    task_id = delivery.task_id(fields.get("id"))
    result = fields.get("result")
    if status == "SUCCESS" and result is not None and result != {"token": None}:
        return Callback(task_id, Ready(result))
    if status == "FAILED":
        return Callback(task_id, Failed(1, REASON_NOT_GIVEN))
    if status == "SUCCESS" or result not in (None, {"token": None}) or not status:
        # How such a task is polled is not known. A refusal is repeated by the provider, and its body is kept.
        raise UnreadableError("status: expected SUCCESS with a result, or FAILED")
    return Callback(task_id, Pending(status))


def _read_capsolution(delivery: Delivery) -> Callback:
    """`{event, taskId, status, solution, timestamp}`; events without a task tell of the account (PROVIDERS.md 2.4)."""
    fields = parse_object(delivery.body)
    event = fields.get("event")
    if not isinstance(event, str) or not event:
        raise UnreadableError("event: expected the name of one")
    task_id = delivery.task_id(fields.get("taskId"))
    if task_id is None:
        return Callback(None, Notice(event))
    has_solution = fields.get("solution") is not None
    if event == "task.completed" and has_solution and fields.get("status") in (None, "ready"):
        return Callback(task_id, Ready(fields["solution"]))
    if event == "task.failed":
        reading = read_envelope({**fields, "status": "failed"}, delivery.codes)
        return Callback(task_id, _about_a_task(reading))
    return Callback(task_id, Pending(event, has_solution))


def _read_scrapeless(delivery: Delivery) -> Callback:
    """Two envelopes, that of the scraping API and that of the other product (PROVIDERS.md 2.4).

    `{taskId, state, success, response or status}`; `{task_id, status: success or failed, task_result}`. Only a
    `solution` is what getTaskResult brings; the others are of other products, and stand here as JSON.
    """
    fields = parse_object(delivery.body)
    task_id = delivery.task_id(fields.get("taskId", fields.get("task_id")))
    is_success = fields.get("success", fields.get("status"))
    state = fields.get("state")
    answer = next((name for name in ("solution", "response", "task_result") if fields.get(name) is not None), None)
    if is_success in (True, "success") and state in (None, "completed") and answer is not None:
        said = fields[answer]
        return Callback(task_id, Ready(said) if answer == "solution" else Bare(canonical_json(said)))
    if is_success in (False, "failed"):
        said = fields.get("status")
        reason = said if isinstance(said, dict) else {}
        code, text = reason.get("code"), reason.get("message")
        error_code = str(code) if isinstance(code, int | str) and code else REASON_NOT_GIVEN
        return Callback(task_id, Failed(1, error_code, text if isinstance(text, str) else None))
    words = (text for text in (state, is_success) if isinstance(text, str) and text not in ("completed", "success"))
    word = next(words, None)
    if answer is not None or word is not None or (state == "completed" and "success" not in fields):
        return Callback(task_id, Pending(word or str(state or ""), answer is not None))
    raise UnreadableError("success: expected true with a response, or false")


SHAPES: Mapping[str, Callable[[Delivery], Callback]] = {
    "result": _read_result,
    "code": _read_code,
    "hardcaptcha": _read_hardcaptcha,
    "capsolution": _read_capsolution,
    "scrapeless": _read_scrapeless,
}
"""How each shape of a callback is read: the answer to getTaskResult, a bare code, or an envelope of its own."""


def _about_a_task(reading: Reading) -> Ready | Failed | Pending:
    if not isinstance(reading, Ready | Failed | Pending):
        raise UnreadableError(f"errorCode: {reading.error_code[:80]} says nothing about a task")
    return reading


def _form(raw: bytes, rule: CallbackRule) -> dict[str, Any]:
    """Return the fields that `rule` names; all others are left alone, however they are written.

    A separator too many, a name without a value, or another field in another encoding does not cost the answer (as in
    dotnet/aspnetcore#12381 and spray/spray#32). A field may come twice with the same value.
    """
    wanted = (rule.id_field, rule.code_field, rule.status_field)
    fields: dict[str, Any] = {}
    for part in raw.split(b"&", _MOST_FIELDS)[:_MOST_FIELDS]:
        name, _, value = part.partition(b"=")
        field = _unescaped(name).decode("utf-8", "replace")
        if field not in wanted:
            continue
        try:
            text = _unescaped(value).decode()
        except UnicodeDecodeError:
            raise UnreadableError(f"{field[:80]}: expected UTF-8") from None
        if fields.setdefault(field, text) != text:
            raise UnreadableError(f"{field[:80]}: given twice with different values")
    return fields


def _unescaped(raw: bytes) -> bytes:
    is_plain = b"%" not in raw and b"+" not in raw
    return raw if is_plain else unquote_to_bytes(raw.replace(b"+", b" "))
