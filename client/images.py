"""Images as a provider wants them: base64 without line breaks, of a path, of bytes, or of base64 as people keep it."""

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
"""More than any provider takes; it keeps a wrong path from filling the memory."""

_IMAGE_TASKS = "ImageToText"
_DATA_URL = re.compile(r"\A\s*data:[^,]{0,100},", re.IGNORECASE)
_WHITESPACE = re.compile(r"\s+")


async def with_encoded_body(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task with its `body`, if it has one, as base64 without line breaks; a file is read off the loop.

    Bytes and files of any task are encoded; that they are images, and that text is base64 of one, is checked where the
    task's type says so. Other text is left as it is, because it may mean anything.

    Raises:
        BadArgumentError: the file cannot be read, or this is no image; the text names it.
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
        BadArgumentError: it cannot be read, is empty, too large, or no image; the text names the path.
    """
    raw = _read(path)
    check_image(raw, str(path))
    return raw


def check_image(raw: bytes, name: str) -> None:
    """Pass PNG, JPEG, GIF, WebP and BMP, told by their first bytes.

    Raises:
        BadArgumentError: it is something else, empty or too large; the text calls it `name`.
    """
    if not raw:
        raise BadArgumentError(f"{name}: it is empty, expected an image")
    if len(raw) > MAX_IMAGE_BYTES:
        raise BadArgumentError(f"{name}: more than {MAX_IMAGE_BYTES} bytes, expected an image")
    if not _is_image(raw):
        raise BadArgumentError(f"{name}: not an image, expected PNG, JPEG, GIF, WebP or BMP")


def clean_base64(text: str, name: str) -> str:
    """`text` without a `data:` prefix and without line breaks, once it was seen to be an image.

    Raises:
        BadArgumentError: it is not base64, or not of an image; the text calls it `name`.
    """
    cleaned = _WHITESPACE.sub("", _DATA_URL.sub("", text, count=1))
    try:
        raw = base64.b64decode(cleaned, validate=True)
    except (binascii.Error, ValueError):
        raise BadArgumentError(f"{name}: not base64") from None
    check_image(raw, name)
    return cleaned


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise BadArgumentError(f"{path}: cannot be read: {reason or error}") from None
    if not raw:
        raise BadArgumentError(f"{path}: it is empty")
    if len(raw) > MAX_IMAGE_BYTES:
        raise BadArgumentError(f"{path}: more than {MAX_IMAGE_BYTES} bytes")
    return raw


def _is_image(raw: bytes) -> bool:
    is_webp = raw[:4] == b"RIFF" and raw[8:12] == b"WEBP"
    return is_webp or raw.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM"))
