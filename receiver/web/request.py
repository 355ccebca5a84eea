"""Parameters and models in requests, read with an error that names the wrong field."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from client.errors import UnreadableError
from client.protocol.models import MAX_REPORT_BYTES
from client.providers.values import MAX_TASK_ID_LENGTH, is_too_long, parse_json
from receiver.errors import ReceiverError
from receiver.web.context import RUNTIME
from receiver.web.server.bodies import read_body

__all__ = [
    "MAX_WAIT_SECONDS",
    "check_query",
    "first_wrong_field",
    "read_id",
    "read_int",
    "read_model",
    "read_text",
    "read_wait",
]

Model = TypeVar("Model", bound=BaseModel)

MAX_WAIT_SECONDS = 50.0
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE | re.ASCII)
_SHOWN_CHARS = 80


async def read_model(request: web.Request, model: type[Model]) -> Model:
    """Return the body as `model`.

    Raises:
        ReceiverError: `not-json` (400), `wrong-field` (422) with the name of the field, `body-too-large`.
    """
    body = await read_body(request, max(request.app[RUNTIME].max_body_bytes, MAX_REPORT_BYTES))
    try:
        value = parse_json(body)
    except UnreadableError as error:
        raise ReceiverError("not-json", str(error)) from None
    try:
        return model.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        raise ReceiverError("wrong-field", first_wrong_field(error)) from None


def first_wrong_field(error: ValidationError, *, hidden: Collection[object] = ("int", "str")) -> str:
    """Return the first wrong field, and the expected value. Parts of its path in `hidden` are left out.

    These parts are pydantic's names for the members of a union, so no sender wrote them.
    """
    errors = error.errors(include_url=False, include_input=False)
    detail = errors[0]
    if detail["loc"] and detail["loc"][-1] in hidden:
        # Of a value that may be one of several things: what it comes closest to, which has the longest path.
        parent = detail["loc"][:-1]
        detail = max((other for other in errors if other["loc"][: len(parent)] == parent), key=_depth)
    path = ".".join(str(part)[:_SHOWN_CHARS] for part in detail["loc"] if part not in hidden)
    return f"{path or 'body'}: {detail['msg'].removeprefix('Value error, ')}"


def check_query(request: web.Request, names: Collection[str]) -> None:
    """Refuse parameters other than `names`, because nothing would read them.

    Raises:
        ReceiverError: `wrong-field`.
    """
    if "?" not in request.raw_path:
        # What aiohttp makes of a query, it keeps as long as the request, which may be a websocket's.
        return
    for name in request.query:
        if name not in names:
            raise ReceiverError("wrong-field", f"{name[:_SHOWN_CHARS]}: there is no such parameter here")


def read_text(request: web.Request, name: str) -> str | None:
    """Return a query parameter, or None if it is not given.

    Raises:
        ReceiverError: `wrong-field`, also if it is given twice.
    """
    # Without a query there is no need to parse the URL.
    values = request.query.getall(name, []) if "?" in request.raw_path else []
    if len(values) > 1:
        raise ReceiverError("wrong-field", f"{name}: expected once")
    value = values[0] if values else None
    if value is not None and not _is_text(value):
        raise ReceiverError("wrong-field", f"{name}: expected text in UTF-8")
    return value


def read_id(request: web.Request) -> str:
    """Return the ref or taskId in the path.

    Raises:
        ReceiverError: `unknown-task`, because no task has an id of this length.
    """
    task_or_ref = request.match_info["id"]
    if is_too_long(task_or_ref):
        raise ReceiverError("unknown-task", f"id: expected at most {MAX_TASK_ID_LENGTH} characters")
    return task_or_ref


def read_int(request: web.Request, name: str, *, default: int, most: int) -> int:
    """Return a query parameter from 1 to `most`.

    Raises:
        ReceiverError: `wrong-field`.
    """
    value = read_text(request, name)
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII) or not 1 <= int(value) <= most:
        raise ReceiverError("wrong-field", f"{name}: expected a number from 1 to {most}, got {value[:_SHOWN_CHARS]!r}")
    return int(value)


def read_wait(request: web.Request) -> float:
    """Return the seconds to hold the request: `?wait=`, or else `Prefer: wait=`, at most 50. 0 means no wait.

    Raises:
        ReceiverError: `wrong-field`.
    """
    value = read_text(request, "wait")
    if value is None:
        preferred = _PREFER_WAIT.search(request.headers.get("Prefer", ""))
        return min(float(preferred[1]), MAX_WAIT_SECONDS) if preferred else 0.0
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ReceiverError("wrong-field", f"wait: expected seconds, 0 or more, got {value[:_SHOWN_CHARS]!r}")
    return min(seconds, MAX_WAIT_SECONDS)


def _depth(error: ErrorDetails) -> int:
    return len(error["loc"])


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value
