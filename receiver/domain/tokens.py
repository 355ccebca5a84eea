"""The token of a callback URL: making and checking it. Pure.

A token is 64 characters of `[A-Za-z0-9_-]`: base64url over 48 bytes. They are one of version and kind, 16 of the id and
31 of an HMAC-SHA256 over (version and kind, id, provider). 48 bytes leave no spare bits, so a token has one spelling.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

__all__ = ["CallbackToken", "Kind", "SigningKey", "check_token", "made_at", "make_token"]

_VERSION = 1
_MAC_BYTES = 31
_SHAPE = re.compile(r"[A-Za-z0-9_-]{64}", re.ASCII)
_NO_TOKEN = bytes(48)
_FROM_URL = str.maketrans("-_", "+/")


class Kind(Enum):
    """The subject of a token."""

    TASK = 1
    """One task: the id is its ref."""
    STANDING = 2
    """A standing URL: the id is its own."""
    READER = 3
    """No callback URL: the right to read the tasks of the receiver itself. The id is the ref of one."""


class CallbackToken(NamedTuple):
    """A token that was verified. `id` is a UUID as text. `is_ending`: its key was replaced, and will end."""

    kind: Kind
    id: str
    is_ending: bool = False


class SigningKey(NamedTuple):
    """A key of the store. Times are in µs since 1970; without an end, `accepted_until` is None."""

    key: bytes
    created_at: int
    accepted_until: int | None


_HEADERS = {kind: bytes([_VERSION << 4 | kind.value]) for kind in Kind}
_KINDS = {header[0]: kind for kind, header in _HEADERS.items()}


def make_token(kind: Kind, token_id: UUID, provider: str, key: bytes) -> str:
    """Return the token for `{public URL}/callback/{provider}/{token}`, signed with `key`."""
    head = _HEADERS[kind] + token_id.bytes
    return urlsafe_b64encode(head + _mac(key, head, provider)).decode()


def check_token(token: str, provider: str, keys: Sequence[bytes]) -> CallbackToken | None:
    """Return the verified token, or None if no key has signed it. Any text is accepted.

    Every key is tried and every token costs the same work, malformed ones too. So the time reveals nothing.
    """
    is_shaped = _SHAPE.fullmatch(token) is not None
    raw = a2b_base64(token.translate(_FROM_URL)) if is_shaped else _NO_TOKEN
    head, given = raw[:17], raw[17:]
    is_signed = False
    for key in keys:
        is_signed |= hmac.compare_digest(_mac(key, head, provider), given)
    kind = _KINDS.get(head[0])
    if not (is_shaped and is_signed) or kind is None:
        return None
    digits = head[1:].hex()
    # A UUID object costs twice as much.
    return CallbackToken(kind, f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def made_at(token: CallbackToken) -> int:
    """Return the time of the UUIDv7 in the token, in µs since 1970: when its task or standing URL was made."""
    return int(token.id[:8] + token.id[9:13], 16) * 1000


def _mac(key: bytes, head: bytes, provider: str) -> bytes:
    state = _keyed(key).copy()
    state.update(head + provider.encode("utf-8", "surrogatepass"))
    return state.digest()[:_MAC_BYTES]


@lru_cache(maxsize=64)
def _keyed(key: bytes) -> hmac.HMAC:
    """Return the state of an HMAC after its key, which is half of the work for a short text."""
    return hmac.new(key, digestmod=hashlib.sha256)
