"""The readers of callbacks, one for each shape (providers/README.md, "Callbacks").

The bytes decide, not the content type: providers send JSON as text and forms without a type. Each function returns a
reading or raises `UnreadableError`. An error about a request says nothing about a task. Such a callback is unreadable,
and the next poll brings the state. A solution is an answer only with the state documented for success. Providers rename
states and add new ones (https://github.com/AndreiDrang/python3-capsolver/issues/150).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from client.errors import UnreadableError
from client.providers.codes import REASON_NOT_GIVEN, Code, code_named, read_error
from client.providers.envelope import read_envelope
from client.providers.readings import Bare, CallbackReading, Failed, Notice, Pending, Reading, Ready, TaskId
from client.providers.rules import CallbackRule, CallbackShape
from client.providers.values import MAX_TASK_ID_LENGTH, canonical_json, parse_object, read_task_id

__all__ = ["JSON_SHAPES", "SHAPES", "CallbackBytes"]

JSON_SHAPES = frozenset({"scrapeless"})
"""Shapes with JSON text as their bare answers."""

_MOST_FIELDS = 1000
"""The limit on the fields read from a form. More take time, and no provider sends more than a handful."""
_BOM = b"\xef\xbb\xbf"
_LONGEST_INTEGER = 4300


# Not frozen, as one is made for each callback. Nothing changes it.
@dataclass(slots=True)
class CallbackBytes:
    """The bytes of a callback, and the facts about its provider for reading them. `query` is raw."""

    rule: CallbackRule
    codes: Mapping[str, Code]
    query: bytes
    body: bytes
    has_integer_ids: bool = False
    pending_error_ids: frozenset[int] = frozenset()

    def fields(self) -> dict[str, Any]:
        """Return the fields of a JSON object, or the rule's fields from a form or from the query.

        Raises:
            UnreadableError: the JSON is no object, or one of the rule's fields in the form cannot be read.
        """
        body = self.body.strip().removeprefix(_BOM).lstrip()
        if body.startswith((b"{", b"[")):
            return parse_object(body)
        return _form(body or self.query, self.rule)

    def task_id(self, value: Any) -> TaskId | None:
        """Return the id with its type in createTask answers. A form has only text."""
        task_id = read_task_id(value)
        is_number = isinstance(task_id, str) and task_id.isascii() and task_id.isdigit()
        if self.has_integer_ids and is_number and len(str(task_id)) <= _LONGEST_INTEGER:
            return int(task_id or 0) or None
        return task_id


def _read_result(received: CallbackBytes) -> CallbackReading:
    """Read a getTaskResult answer, mostly with `taskId` in it (providers/README.md, "Result callbacks")."""
    fields = parse_object(received.body)
    if _is_plain(fields) and not received.has_integer_ids and 0 not in received.pending_error_ids:
        return CallbackReading(fields["taskId"], Ready(fields["solution"]))
    if not fields.keys() & {"errorId", "status", "solution"}:
        raise UnreadableError("expected errorId, status or solution in the object")
    reading = read_envelope(fields, received.codes, received.pending_error_ids)
    if isinstance(reading, Pending):
        reading = Pending(reading.state, fields.get("solution") is not None)
    return CallbackReading(received.task_id(fields.get("taskId")), _about_a_task(reading))


def _read_code(received: CallbackBytes) -> CallbackReading:
    """Read an id and an answer or an error code. Other fields such as `rate` are ignored.

    Source: providers/README.md, "Form callbacks", "Query callbacks".

    An answer may look like an error. Therefore only listed codes and texts beginning with ERROR are errors. If the
    provider has a status, it is 1 for an answer and 0 for a failure (providers/README.md, "Query callbacks").
    """
    rule, fields = received.rule, received.fields()
    if rule.id_field not in fields:
        raise UnreadableError(f"{rule.id_field}: expected an id")
    task_id = received.task_id(fields[rule.id_field])
    given = None if rule.status_field is None else fields.get(rule.status_field)
    status = "" if given is None else str(given)
    if status == "0":
        return CallbackReading(task_id, Failed(1, str(fields.get(rule.code_field) or REASON_NOT_GIVEN)))
    is_success = rule.status_field is None or status in ("1", "True")
    code = fields.get(rule.code_field)
    if not is_success and status and not code:
        return CallbackReading(task_id, Pending(status))
    if isinstance(code, bool) or not isinstance(code, str | int | float) or code == "":
        raise UnreadableError(f"{rule.code_field}: expected an answer or an error code")
    text = str(code)
    if text.startswith(("ERROR_", "ERROR:")) or code_named(received.codes, text) is not None:
        return CallbackReading(task_id, _about_a_task(read_error(received.codes, 1, text, None)))
    return CallbackReading(task_id, Bare(text) if is_success else Pending(status, has_solution=True))


def _read_hardcaptcha(received: CallbackBytes) -> CallbackReading:
    """Read `{id, status: SUCCESS or FAILED, result: {token}}` (providers/README.md, "Envelope callbacks")."""
    fields = parse_object(received.body)
    status = str(fields.get("status") or "")
    task_id = received.task_id(fields.get("id"))
    result = fields.get("result")
    if status == "SUCCESS" and result is not None and result != {"token": None}:
        return CallbackReading(task_id, Ready(result))
    if status == "FAILED":
        return CallbackReading(task_id, Failed(1, REASON_NOT_GIVEN))
    if status == "SUCCESS" or result not in (None, {"token": None}) or not status:
        # Polls of such a task are unknown. The provider repeats a refused callback, and the receiver keeps its body.
        raise UnreadableError("status: expected SUCCESS with a result, or FAILED")
    return CallbackReading(task_id, Pending(status))


def _read_capsolution(received: CallbackBytes) -> CallbackReading:
    """Read `{event, taskId, status, solution, timestamp}`. Events without a task are notices.

    Source: providers/README.md, "Envelope callbacks".
    """
    fields = parse_object(received.body)
    event = fields.get("event")
    if not isinstance(event, str) or not event:
        raise UnreadableError("event: expected the name of one")
    task_id = received.task_id(fields.get("taskId"))
    if task_id is None:
        return CallbackReading(None, Notice(event))
    has_solution = fields.get("solution") is not None
    if event == "task.completed" and has_solution and fields.get("status") in (None, "ready"):
        return CallbackReading(task_id, Ready(fields["solution"]))
    if event == "task.failed":
        reading = read_envelope({**fields, "status": "failed"}, received.codes)
        return CallbackReading(task_id, _about_a_task(reading))
    return CallbackReading(task_id, Pending(event, has_solution))


def _read_scrapeless(received: CallbackBytes) -> CallbackReading:
    """Read one of two envelopes, from the scraping API or from the other product.

    Source: providers/README.md, "Envelope callbacks".

    They are `{taskId, state, success, response or status}` and `{task_id, status: success or failed, task_result}`.
    Only a `solution` equals the one of getTaskResult. Answers of the other products become JSON text.
    """
    fields = parse_object(received.body)
    task_id = received.task_id(fields.get("taskId", fields.get("task_id")))
    is_success = fields.get("success", fields.get("status"))
    state = fields.get("state")
    answer = next((name for name in ("solution", "response", "task_result") if fields.get(name) is not None), None)
    if is_success in (True, "success") and state in (None, "completed") and answer is not None:
        content = fields[answer]
        return CallbackReading(task_id, Ready(content) if answer == "solution" else Bare(canonical_json(content)))
    if is_success in (False, "failed"):
        status = fields.get("status")
        reason = status if isinstance(status, dict) else {}
        code, text = reason.get("code"), reason.get("message")
        error_code = str(code) if isinstance(code, int | str) and code else REASON_NOT_GIVEN
        return CallbackReading(task_id, Failed(1, error_code, text if isinstance(text, str) else None))
    words = (text for text in (state, is_success) if isinstance(text, str) and text not in ("completed", "success"))
    word = next(words, None)
    if answer is not None or word is not None or (state == "completed" and "success" not in fields):
        return CallbackReading(task_id, Pending(word or str(state or ""), answer is not None))
    raise UnreadableError("success: expected true with a response, or false")


SHAPES: Mapping[CallbackShape, Callable[[CallbackBytes], CallbackReading]] = {
    "result": _read_result,
    "code": _read_code,
    "hardcaptcha": _read_hardcaptcha,
    "capsolution": _read_capsolution,
    "scrapeless": _read_scrapeless,
}
"""The reader of each shape: a getTaskResult answer, a bare code, or an envelope of its own."""


def _is_plain(fields: Mapping[str, Any]) -> bool:
    """Return True for a ready answer in its usual form. It needs none of the exceptions in the general reading.

    It is most callbacks, and a quarter of the time for reading one is saved.
    """
    error_id, task_id = fields.get("errorId"), fields.get("taskId")
    return (
        type(error_id) is int
        and error_id == 0
        and fields.get("errorCode") in ("", None)
        and fields.get("status") == "ready"
        and fields.get("solution") is not None
        and type(task_id) is str
        and 0 < len(task_id) <= MAX_TASK_ID_LENGTH
    )


def _about_a_task(reading: Reading) -> Ready | Failed | Pending:
    if not isinstance(reading, Ready | Failed | Pending):
        raise UnreadableError(f"errorCode: {reading.error_code[:80]} says nothing about a task")
    return reading


def _form(raw: bytes, rule: CallbackRule) -> dict[str, Any]:
    """Return the fields named by `rule`. All others are ignored, even if they are malformed.

    An extra separator, a name without a value, or another field in another encoding does not lose the answer. It did in
    dotnet/aspnetcore#12381 and spray/spray#32. A field may come twice with the same value.
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
