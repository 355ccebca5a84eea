"""Responses whose bytes are made in advance, all or the head: to the most frequent requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE

__all__ = ["SECURITY_HEADERS", "SENT", "PrebuiltHead", "PrebuiltResponse", "json_head", "problem_head"]

SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
    }
)
"""Headers of every response. No answer is a page: a browser must not take it for one, frame it, or name its URL.

`Strict-Transport-Security` is left to the proxy, because only it knows about TLS.
"""

_NO_STORE = "Cache-Control: no-store"
_SECURITY = tuple(f"{name}: {value}" for name, value in SECURITY_HEADERS.items())


class PrebuiltHead:
    """The head of a response. The length and the date stand between the lines `before` and `after`.

    aiohttp makes the headers of each response anew, a tenth of all the work for a callback. Here only the date changes,
    once a second.
    """

    def __init__(self, *before: str, after: Sequence[str] = (), clock: Callable[[], float] = time.time) -> None:
        self._before = "\r\n".join((*before, "Content-Length: ")).encode("ascii")
        self._after_lines = after
        self._clock = clock
        self._second = -1
        self._after = b""

    def with_body(self, body: bytes) -> bytes:
        """Return the whole response."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            lines = ("", f"Date: {formatdate(second, usegmt=True)}", *self._after_lines, "", "")
            self._after = "\r\n".join(lines).encode("ascii")
        return b"%b%d%b%b" % (self._before, len(body), self._after, body)


def json_head(status: str, *more: str, kind: str = "application/json") -> PrebuiltHead:
    """Return the head of a response with JSON. It has the order of `json_response` sent by aiohttp."""
    before = f"HTTP/1.1 {status}", _NO_STORE, *more, f"Content-Type: {kind}"
    return PrebuiltHead(*before, after=(f"Server: {SERVER_SOFTWARE}", *_SECURITY))


def problem_head(status: int) -> PrebuiltHead:
    """Return the head of a problem after which the connection is closed."""
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    before = first, _NO_STORE, "Content-Type: application/problem+json", *_SECURITY
    return PrebuiltHead(*before, after=("Connection: close",))


class _SentResponse(web.StreamResponse):
    """A response that was sent before it is returned to aiohttp. It has no state, so one object serves all requests."""

    @property
    def keep_alive(self) -> bool:
        """Always True; see `PrebuiltResponse.fits`."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Do nothing."""
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing."""


SENT = _SentResponse()
"""To be returned once the bytes of a response are sent."""


class PrebuiltResponse(_SentResponse):
    """A 200 with the same short text for every request, from one object.

    Requests that `fits` refuses need headers about the connection, so they get a response of their own.
    """

    def __init__(self, text: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        first, text_type = "HTTP/1.1 200 OK", "Content-Type: text/plain"
        self._head = PrebuiltHead(first, _NO_STORE, text_type, *_SECURITY, clock=clock)
        self._content = text.encode("ascii")

    @staticmethod
    def fits(request: web.BaseRequest) -> bool:
        """Return True if the connection stays open without a header that says so, and a body may be sent."""
        return request.keep_alive and request.version == HttpVersion11 and request.method != "HEAD"

    def whole(self) -> bytes:
        """Return all bytes of the response."""
        return self._head.with_body(self._content)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Send all of the response. Wait if the peer does not read."""
        writer = request.writer
        await writer.write(self.whole())
        await writer.drain()
        return writer
