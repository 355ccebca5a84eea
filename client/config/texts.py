"""Texts that people give: variables of the environment, settings, and files that they edit."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path

from client.errors import BadArgumentError

__all__ = ["check_key", "read_text_file", "read_variable", "tidy"]

_MAX_BYTES = 1024 * 1024
_BOM = "\ufeff"
# That of UTF-32 begins with that of UTF-16, or with NUL characters.
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def tidy(text: str) -> str:
    """Return the text without the white space around it, such as the line break at the end of a file.

    Raises:
        ValueError: a character inside it cannot be seen; the text of the error does not hold it.
    """
    tidied = text.strip().strip(_BOM).strip()
    if not tidied.isprintable():
        raise ValueError("expected one line, without control characters and others that cannot be seen")
    return tidied


def read_variable(name: str, environ: Mapping[str, str]) -> str | None:
    """Return what the environment variable holds; None if it is not set, or set to nothing.

    Raises:
        BadArgumentError: a character inside it cannot be seen.
    """
    try:
        return tidy(environ.get(name, "")) or None
    except ValueError as error:
        raise BadArgumentError(f"{name}: {error}") from None


def check_key(key: str) -> str:
    """Return the key, tidied. Keys travel in headers as well, so they are visible ASCII.

    Raises:
        ValueError: it is no such key; the text of the error does not hold it.
    """
    key = key.strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("a key has only visible ASCII characters, without blanks")
    return key


def read_text_file(path: Path | str, *, max_bytes: int = _MAX_BYTES) -> str:
    """Return the text of a file that people edit: UTF-8, with or without a byte order mark, and any line ends.

    Raises:
        BadArgumentError: it cannot be read, is too large, or is in another encoding; the text names the file.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise BadArgumentError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(raw) > max_bytes:
        raise BadArgumentError(f"{path}: larger than {max_bytes} bytes")
    if raw.startswith(_WIDE_BOMS) or b"\0" in raw:
        # Windows' Notepad and PowerShell write it where they are not told otherwise.
        raise BadArgumentError(f"{path}: expected text in UTF-8, but this is UTF-16; save it as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadArgumentError(f"{path}: expected text in UTF-8, but byte {error.start + 1} is not") from None
    return text.replace("\r\n", "\n")
