"""Bodies of requests, read within limits of bytes and time. A compressed body is inflated after it has arrived.

Inflating stops at the limit of a body, so a small compressed one cannot fill the memory.
"""

from __future__ import annotations

import asyncio
import zlib

from aiohttp import web

from receiver.errors import ReceiverError

__all__ = ["inflated", "is_inflated_below", "read_body"]

_READ_SECONDS = 10.0
_CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
# The other registered ones (IANA, "HTTP Content Coding Registry"). Anything else is ignored, because it changes no
# byte: senders write the charset there, as in "Content-Encoding: UTF-8".
_UNSUPPORTED = frozenset({"aes128gcm", "br", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress", "zstd"})
# Each member costs a copy of all that follows it, so a body of thousands of empty ones would cost seconds.
_MOST_MEMBERS = 16


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Return the body, counted while it is read.

    A compressed body is inflated once it is complete, up to the limit.

    Raises:
        ReceiverError: `body-too-large`. `too-slow` if it was not complete within 10 s. `bad-request` if it does not fit
            its Content-Encoding. `unsupported-media-type` if that is not gzip or deflate.
    """
    coding = _coding_of(request)
    try:
        if request.content.is_eof():
            # It is complete already: no need to wait for it.
            body = request.content.read_nowait()
        elif (request.content_length or 0) > limit:
            raise _too_large(limit)
        else:
            async with asyncio.timeout(_READ_SECONDS):
                body = await _read_chunks(request, limit)
    except TimeoutError:
        raise ReceiverError("too-slow", f"body: expected all of it within {_READ_SECONDS:g} s") from None
    except web.RequestPayloadError:
        raise _undecodable() from None
    if len(body) > limit:
        raise _too_large(limit)
    return body if coding is None else inflated(body, coding, limit)


def is_inflated_below(request: web.BaseRequest) -> bool:
    """Return True if aiohttp inflates the body while parsing it: another server with `auto_decompress`, not ours."""
    return getattr(request.content, "total_compressed_bytes", None) is not None


def inflated(body: bytes, coding: str, limit: int) -> bytes:
    """Return the inflated bytes. Inflating stops at `limit` bytes, however much is left.

    Raises:
        ReceiverError: `body-too-large`, or `bad-request` if the bytes are not of this coding or end too early.
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
            raise ReceiverError("body-too-large", f"body: expected at most {limit} bytes after inflating, got more")
        if not inflater.eof:
            raise _undecodable()
        parts.append(part)
        rest = inflater.unused_data
    return b"".join(parts)


def _coding_of(request: web.BaseRequest) -> str | None:
    """Return "gzip", "deflate", or None for a plain body, before a byte of it is read. Unknown names are ignored.

    Raises:
        ReceiverError: `unsupported-media-type`: another coding, several of them, or a server that inflates by itself.
    """
    if "Content-Encoding" not in request.headers or not request.body_exists:
        return None
    names = [name.strip() for value in request.headers.getall("Content-Encoding") for name in value.lower().split(",")]
    codings = [name for name in names if name in _CODINGS or name in _UNSUPPORTED]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _CODINGS:
        detail = f"Content-Encoding: expected gzip or deflate, once, or none, got {', '.join(codings)[:80]}"
        raise ReceiverError("unsupported-media-type", detail)
    if is_inflated_below(request):
        raise ReceiverError("unsupported-media-type", "Content-Encoding: a mounted receiver accepts only plain bodies")
    return _CODINGS[codings[0]]


async def _read_chunks(request: web.BaseRequest, limit: int) -> bytes:
    chunks = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _window(coding: str, body: bytes) -> int:
    """Return zlib's number for the format. Senders write deflate with the header of RFC 1950 or without one."""
    if coding == "gzip":
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if body[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS


def _too_large(limit: int) -> ReceiverError:
    return ReceiverError("body-too-large", f"body: expected at most {limit} bytes, got more")


def _undecodable() -> ReceiverError:
    return ReceiverError("bad-request", "body: it cannot be decoded")
