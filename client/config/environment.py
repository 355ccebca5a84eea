"""Environment variables of the client, and the checks of texts that people write."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from client.errors import BadArgumentError

__all__ = [
    "PROVIDERS_FILE",
    "RECEIVER_KEY",
    "RECEIVER_URL",
    "check_key",
    "check_url",
    "client_key_of",
    "key_variable",
    "read_key",
    "read_receiver",
    "read_text_file",
    "read_variable",
    "tidy",
    "url_variable",
]

RECEIVER_URL = "CALLBACK_RECEIVER_URL"
PROVIDERS_FILE = "CALLBACK_RECEIVER_PROVIDERS_FILE"
RECEIVER_KEY = "CALLBACK_RECEIVER_KEY"

_MAX_BYTES = 1024 * 1024
_BOM = "\ufeff"
# UTF-32 begins with the mark of UTF-16, or with NUL characters.
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def key_variable(provider: str) -> str:
    """Return the environment variable for the client key of a provider."""
    return f"{provider.upper()}_CLIENT_KEY"


def url_variable(provider: str) -> str:
    """Return the environment variable for another endpoint of a provider, such as a sandbox."""
    return f"{provider.upper()}_URL"


def client_key_of(provider: str, given: str | None, environ: Mapping[str, str]) -> str:
    """Return the client key of a provider: the given one, or the one in the environment.

    Raises:
        BadArgumentError: it is wrong or missing. The text names the variable.
    """
    variable = key_variable(provider)
    client_key = read_key(variable, given, environ)
    if client_key is None:
        raise BadArgumentError(f"{variable}: expected the client key of {provider} in this variable")
    return client_key


def read_receiver(url: str | None, key: str | None, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the receiver's address and the key to it, for callers that only read results.

    Raises:
        BadArgumentError: one is wrong, or the address is missing. The text names the variable.
    """
    address = url or read_variable(RECEIVER_URL, environ)
    if not address:
        raise BadArgumentError(f"{RECEIVER_URL}: expected the address of the receiver in this variable")
    return check_url(RECEIVER_URL, address), read_key(RECEIVER_KEY, key, environ)


def read_variable(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the text of an environment variable; None if it is missing or empty.

    Raises:
        BadArgumentError: the text holds an invisible character.
    """
    try:
        return tidy(environ.get(name, "")) or None
    except ValueError as error:
        raise BadArgumentError(f"{name}: {error}") from None


def read_key(name: str, given: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the given key, or the one in the environment variable; None if there is none.

    Raises:
        BadArgumentError: it is no key. The text names the variable and does not hold the key.
    """
    try:
        return check_key(given or environ.get(name) or "") or None
    except ValueError as error:
        raise BadArgumentError(f"{name}: {error}") from None


def tidy(text: str) -> str:
    """Return the text without white space around it, such as the line break at the end of a file.

    Raises:
        ValueError: it holds an invisible character. The error does not hold the text.
    """
    tidied = text.strip().strip(_BOM).strip()
    if not tidied.isprintable():
        raise ValueError("expected one line, without control characters or other invisible ones")
    return tidied


def check_key(key: str) -> str:
    """Return the key without white space around it. Keys are visible ASCII, because they are sent in headers too.

    Raises:
        ValueError: it is no such key. The error does not hold it.
    """
    key = key.strip()
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("expected a key of visible ASCII characters, without blanks")
    return key


def check_url(name: str, url: str) -> str:
    """Return the address without white space around it or a slash at its end. Errors call it `name`.

    Raises:
        BadArgumentError: it is no HTTP address, or has a user, a query or a fragment.
    """
    try:
        url = tidy(url)
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or parts.username is not None:
        raise BadArgumentError(f"{name}: expected http:// or https:// and a host, without user, query and fragment")
    return url.rstrip("/")


def read_text_file(path: Path | str, *, max_bytes: int = _MAX_BYTES) -> str:
    """Return the text of a file that people edit: UTF-8, with or without a byte order mark, and any line ends.

    Raises:
        BadArgumentError: it cannot be read, is too large, or is in another encoding. The text names the file.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise BadArgumentError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(raw) > max_bytes:
        raise BadArgumentError(f"{path}: expected at most {max_bytes} bytes")
    if raw.startswith(_WIDE_BOMS) or b"\0" in raw:
        # Notepad and PowerShell on Windows write UTF-16 unless told otherwise.
        raise BadArgumentError(f"{path}: expected text in UTF-8, got UTF-16; save the file as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadArgumentError(f"{path}: expected text in UTF-8, but byte {error.start + 1} is not UTF-8") from None
    return text.replace("\r\n", "\n")
