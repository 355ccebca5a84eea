"""What a subscriber sends over a websocket, and what that is answered with.

Total: any text gives a request or an error.
"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from client.errors import UnreadableError
from client.protocol.frames import Add, Added, ProblemFrame, Remove, Removed, RequestFrame, Subscribe, Subscribed
from client.providers.values import parse_object
from receiver.errors import ReceiverError
from receiver.web.middleware import problem_fields
from receiver.web.request import first_wrong_field

__all__ = ["Request", "answer_bytes", "problem_bytes", "read_request"]

Request = Subscribe | Add | Remove

_REQUEST: TypeAdapter[Request] = TypeAdapter(RequestFrame)
_MOST_ID = 64
# What pydantic puts into a field's path beside the names that stand in the frame.
_HIDDEN = ("subscribe", "add", "remove", "int", "str", "constrained-str", "NamedTask")


def read_request(text: str) -> tuple[str | int | None, Request | ReceiverError]:
    """Return the id of a frame, as far as it can be given back, and what is asked, or what is wrong with it."""
    try:
        fields = parse_object(text.encode())
    except UnreadableError as error:
        return None, ReceiverError("not-json", str(error))
    try:
        return _id_of(fields), _REQUEST.validate_python(fields, by_alias=True, by_name=False)
    except ValidationError as error:
        return _id_of(fields), ReceiverError("wrong-field", _wrong_field(error))


def problem_bytes(given_id: str | int | None, error: ReceiverError) -> bytes:
    """Return the frame that tells that a request changed nothing."""
    return answer_bytes(ProblemFrame(id=given_id, problem=problem_fields(error)))


def answer_bytes(frame: Subscribed | Added | Removed | ProblemFrame) -> bytes:
    """Return the frame as it is sent."""
    return frame.model_dump_json(by_alias=True).encode()


def _id_of(fields: dict[str, Any]) -> str | int | None:
    given = fields.get("id")
    if isinstance(given, str):
        return given if len(given) <= _MOST_ID else None
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _wrong_field(error: ValidationError) -> str:
    if error.errors()[0]["type"].startswith("union_tag"):
        return "type: expected subscribe, add or remove"
    return first_wrong_field(error, hidden=_HIDDEN)
