"""Images for providers: base64 without line breaks, made from a path, from bytes or from other base64."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.errors import BadArgumentError

__all__ = ["MAX_IMAGE_BYTES", "check_image", "clean_base64", "read_image", "with_encoded_body"]

MAX_IMAGE_BYTES = 10 * 1024 * 1024
"""More than any provider takes. It keeps a wrong path from filling the memory."""

_IMAGE_TASKS = "ImageToText"
_DATA_URL = re.compile(r"\A\s*data:[^,]{0,100},", re.IGNORECASE)
_WHITESPACE = re.compile(r"\s+")


async def with_encoded_body(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task with its `body`, if it has one, as base64 without line breaks.

    Bytes and files are encoded for any type of task. A file is read in a thread. For an image task, bytes, files and
    base64 must hold an image. Text of other tasks stays as it is, because it may mean anything.

    Raises:
        BadArgumentError: the file cannot be read, or it is no image. The text names it.
    """
    body = task.get("body")
    is_image = str(task.get("type", "")).startswith(_IMAGE_TASKS)
    match body:
        case Path():
            raw = await asyncio.to_thread(read_image, body) if is_image else await asyncio.to_thread(_read, body)
            text = base64.b64encode(raw).decode()
        case bytes() | bytearray() | memoryview():
            raw = bytes(body)
            if is_image:
                check_image(raw, "body")
            text = base64.b64encode(raw).decode()
        case str() if is_image:
            text = clean_base64(body, "body")
        case _ if is_image:
            raise BadArgumentError(f"body: expected a path, bytes or base64, got {type(body).__name__}")
        case _:
            return dict(task)
    return {**task, "body": text}


def read_image(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        BadArgumentError: it cannot be read, is empty, too large, or no image. The text names the path.
    """
    raw = _read(path)
    check_image(raw, str(path))
    return raw


def check_image(raw: bytes, name: str) -> None:
    """Check by the first bytes that this is PNG, JPEG, GIF, WebP or BMP.

    Raises:
        BadArgumentError: it is something else, empty or too large. The text calls it `name`.
    """
    if not raw:
        raise BadArgumentError(f"{name}: expected an image, got no bytes")
    if len(raw) > MAX_IMAGE_BYTES:
        raise BadArgumentError(f"{name}: expected an image of at most {MAX_IMAGE_BYTES} bytes, got more")
    if not _is_image(raw):
        raise BadArgumentError(f"{name}: expected PNG, JPEG, GIF, WebP or BMP, got other data")


def clean_base64(text: str, name: str) -> str:
    """Return the base64 of an image without a `data:` prefix and without line breaks.

    Raises:
        BadArgumentError: it is not base64, or not of an image. The text calls it `name`.
    """
    cleaned = _WHITESPACE.sub("", _DATA_URL.sub("", text, count=1))
    try:
        raw = base64.b64decode(cleaned, validate=True)
    except (binascii.Error, ValueError):
        raise BadArgumentError(f"{name}: expected base64 of an image") from None
    check_image(raw, name)
    return cleaned


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise BadArgumentError(f"{path}: cannot be read ({reason or error})") from None
    if not raw:
        raise BadArgumentError(f"{path}: expected an image, got no bytes")
    if len(raw) > MAX_IMAGE_BYTES:
        raise BadArgumentError(f"{path}: expected at most {MAX_IMAGE_BYTES} bytes, got more")
    return raw


def _is_image(raw: bytes) -> bool:
    is_webp = raw[:4] == b"RIFF" and raw[8:12] == b"WEBP"
    return is_webp or raw.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM"))
