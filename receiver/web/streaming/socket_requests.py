"""The requests of a subscriber over a websocket.

Reading is total: any text gives a request or an error.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from client.errors import UnreadableError
from client.protocol.frames import REQUESTS, NamedTask, ProblemFrame, Request, read_request, type_of
from client.providers.values import parse_object
from receiver.errors import ReceiverError
from receiver.web.middleware import problem_fields
from receiver.web.request import first_wrong_field

__all__ = ["problem_frame", "read_text_frame"]

_TYPES = tuple(map(type_of, REQUESTS))
_MOST_ID = 64
# Parts that pydantic adds to the path of a field. They do not stand in the frame.
_HIDDEN = (*_TYPES, "int", "str", "constrained-str", NamedTask.__name__)


def read_text_frame(text: str) -> tuple[str | int | None, Request | ReceiverError]:
    """Return the id of a frame, and its request or the error in it. The id is None if it cannot be given back."""
    try:
        fields = parse_object(text.encode())
    except UnreadableError as error:
        return None, ReceiverError("not-json", str(error))
    try:
        return _id_of(fields), read_request(fields)
    except ValidationError as error:
        return _id_of(fields), ReceiverError("wrong-field", _wrong_field(error))


def problem_frame(given_id: str | int | None, error: ReceiverError) -> ProblemFrame:
    """Return the answer to a request with this error: it changed nothing."""
    return ProblemFrame(id=given_id, problem=problem_fields(error))


def _id_of(fields: dict[str, Any]) -> str | int | None:
    given = fields.get("id")
    if isinstance(given, str):
        return given if len(given) <= _MOST_ID else None
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _wrong_field(error: ValidationError) -> str:
    if error.errors()[0]["type"].startswith("union_tag"):
        return f"type: expected {', '.join(_TYPES[:-1])} or {_TYPES[-1]}"
    return first_wrong_field(error, hidden=_HIDDEN)
