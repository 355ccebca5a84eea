"""What requests say: bodies, query parameters, headers, each with an error that names the field."""

from __future__ import annotations

import asyncio
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
from receiver.web.server.inflating import coding_of, inflated, is_inflated_below

__all__ = [
    "MAX_WAIT_SECONDS",
    "check_query",
    "coding_of_body",
    "first_wrong_field",
    "read_body",
    "read_id",
    "read_int",
    "read_model",
    "read_text",
    "read_wait",
]

Model = TypeVar("Model", bound=BaseModel)

MAX_WAIT_SECONDS = 50.0
_READ_SECONDS = 10.0
_PREFER_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE | re.ASCII)


async def read_body(request: web.Request, limit: int) -> bytes:
    """Return the body, counted while it is read.

    A compressed one is inflated when it is all there, at most up to the limit.

    Raises:
        ReceiverError: `body-too-large`, `too-slow` where it was not all there within 10 s, `bad-request` where its
            Content-Encoding does not fit it, or `unsupported-media-type` where that is not gzip or deflate.
    """
    coding = coding_of_body(request)
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    try:
        if request.content.is_eof():
            # It is all there already: no need to wait for it.
            body = request.content.read_nowait()
        else:
            async with asyncio.timeout(_READ_SECONDS):
                body = await _read_chunks(request, limit)
    except TimeoutError:
        raise ReceiverError("too-slow", f"the body was not all there within {_READ_SECONDS:g} s") from None
    except web.RequestPayloadError:
        raise ReceiverError("bad-request", "the body cannot be decoded") from None
    if len(body) > limit:
        raise _too_large(limit)
    return body if coding is None else inflated(body, coding, limit)


def coding_of_body(request: web.Request) -> str | None:
    """Return how the body is compressed, before a byte of it is read; None where it is not.

    Raises:
        ReceiverError: `unsupported-media-type`: not by gzip or deflate, or the server below inflates by itself.
    """
    if "Content-Encoding" not in request.headers or not request.body_exists:
        return None
    coding = coding_of(request.headers.getall("Content-Encoding"))
    if coding is not None and is_inflated_below(request):
        raise ReceiverError("unsupported-media-type", "Content-Encoding: a mounted receiver takes plain bodies only")
    return coding


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
    """Return the first field that is wrong, and what was expected; parts of its path that nobody wrote are hidden."""
    errors = error.errors(include_url=False, include_input=False)
    detail = errors[0]
    if detail["loc"] and detail["loc"][-1] in hidden:
        # Of a value that may be one of several things: what it comes closest to, which has the longest path.
        same = detail["loc"][:-1]
        detail = max((other for other in errors if other["loc"][: len(same)] == same), key=_depth)
    path = ".".join(str(part)[:80] for part in detail["loc"] if part not in hidden)
    return f"{path or 'body'}: {detail['msg'].removeprefix('Value error, ')}"


def check_query(request: web.Request, names: Collection[str]) -> None:
    """Refuse parameters other than `names`: nothing would read them."""
    if "?" not in request.raw_path:
        # What aiohttp makes of a query, it keeps as long as the request, which may be a websocket's.
        return
    for name in request.query:
        if name not in names:
            raise ReceiverError("wrong-field", f"{name[:80]}: there is no such parameter here")


def read_text(request: web.Request, name: str) -> str | None:
    """Return a query parameter; None where it is not given.

    Raises:
        ReceiverError: `wrong-field`, also for one given twice.
    """
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise ReceiverError("wrong-field", f"{name}: expected once")
    value = values[0] if values else None
    if value is not None and not _is_text(value):
        raise ReceiverError("wrong-field", f"{name}: expected text in UTF-8")
    return value


def read_id(request: web.Request) -> str:
    """Return the ref or taskId in the path.

    Raises:
        ReceiverError: `unknown-task`: no task has an id as long as this.
    """
    task_or_ref = request.match_info["id"]
    if is_too_long(task_or_ref):
        raise ReceiverError("unknown-task", f"id: expected at most {MAX_TASK_ID_LENGTH} characters")
    return task_or_ref


def read_int(request: web.Request, name: str, *, default: int, most: int) -> int:
    """Return a query parameter from 1 to `most`."""
    value = read_text(request, name)
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII) or not 1 <= int(value) <= most:
        raise ReceiverError("wrong-field", f"{name}: expected a number from 1 to {most}")
    return int(value)


def read_wait(request: web.Request) -> float:
    """How long the caller would wait: `?wait=` wins over `Prefer: wait=`; at most the ceiling, 0 for not at all."""
    value = read_text(request, "wait")
    if value is None:
        preferred = _PREFER_WAIT.search(request.headers.get("Prefer", ""))
        return min(float(preferred[1]), MAX_WAIT_SECONDS) if preferred else 0.0
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ReceiverError("wrong-field", "wait: expected seconds, 0 or more")
    return min(seconds, MAX_WAIT_SECONDS)


async def _read_chunks(request: web.Request, limit: int) -> bytes:
    chunks = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> ReceiverError:
    return ReceiverError("body-too-large", f"the body has more than {limit} bytes")


def _depth(error: ErrorDetails) -> int:
    return len(error["loc"])


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value
