"""Compressed bodies, inflated after the proof and only as far as a body may be large."""

from __future__ import annotations

import zlib

from aiohttp import web

from receiver.errors import ReceiverError

__all__ = ["coding_of", "inflated", "is_inflated_below"]

_CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
# The other ones that are registered (IANA, "HTTP Content Coding Registry"). What is none of all these changes no byte:
# senders write the charset there, as in "Content-Encoding: UTF-8".
_UNSUPPORTED = frozenset({"aes128gcm", "br", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress", "zstd"})
# Each member costs a copy of all that follows it, so a body of thousands of empty ones would cost seconds.
_MOST_MEMBERS = 16


def coding_of(values: list[str]) -> str | None:
    """Return the coding that the Content-Encoding headers name: "gzip", "deflate", or None for a plain body.

    What is no coding is left out.

    Raises:
        ReceiverError: `unsupported-media-type`: another coding, or several.
    """
    names = [name.strip() for value in values for name in value.lower().split(",")]
    names = [name for name in names if name in _CODINGS or name in _UNSUPPORTED]
    if not names:
        return None
    if len(names) > 1 or names[0] not in _CODINGS:
        raise ReceiverError("unsupported-media-type", "Content-Encoding: expected gzip or deflate, once, or none")
    return _CODINGS[names[0]]


def is_inflated_below(request: web.BaseRequest) -> bool:
    """Return whether aiohttp inflates the body while it parses it: a server with `auto_decompress`, not ours."""
    return getattr(request.content, "total_compressed_bytes", None) is not None


def inflated(body: bytes, coding: str, limit: int) -> bytes:
    """Return what was compressed. Inflating stops at `limit` bytes, whatever is left.

    Raises:
        ReceiverError: `body-too-large`, or `bad-request` where the bytes are not of this coding or end too early.
    """
    parts: list[bytes] = []
    size = 0
    members = 0
    rest = body
    while rest:
        members += 1
        if members > _MOST_MEMBERS:
            raise _undecodable()
        inflater = zlib.decompressobj(_window(coding, rest))
        try:
            # Never 0, which would be no limit.
            part = inflater.decompress(rest, limit + 1 - size)
        except zlib.error:
            raise _undecodable() from None
        size += len(part)
        if size > limit:
            raise ReceiverError("body-too-large", f"the body has more than {limit} bytes when it is inflated")
        if not inflater.eof:
            raise _undecodable()
        parts.append(part)
        rest = inflater.unused_data
    return b"".join(parts)


def _window(coding: str, body: bytes) -> int:
    """Return what zlib calls the format; senders write deflate with the header of RFC 1950 or without one."""
    if coding == "gzip":
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if body[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS


def _undecodable() -> ReceiverError:
    return ReceiverError("bad-request", "the body cannot be decoded")
