"""A response whose bytes are made in advance: the acknowledgement of a callback, the most frequent of all."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

__all__ = ["PrebuiltResponse"]


class PrebuiltResponse(web.StreamResponse):
    """A 200 with the same short text for every request, from one object.

    aiohttp makes the headers of each response anew, a tenth of all the work for a callback. Here only the date changes,
    once a second. Requests that `fits` refuses need headers about the connection, so they get a response of their own.
    """

    def __init__(self, text: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._text = text
        self._clock = clock
        self._second = -1
        self._bytes = b""

    @staticmethod
    def fits(request: web.BaseRequest) -> bool:
        """Return True if the connection stays open without a header that says so, and a body may be sent."""
        return request.keep_alive and request.version == HttpVersion11 and request.method != "HEAD"

    @property
    def keep_alive(self) -> bool:
        """Always True; see `fits`."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Send all of the response. Wait if the peer does not read."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._bytes = self._made_at(second)
        writer = request.writer
        await writer.write(self._bytes)
        await writer.drain()
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: `prepare` has sent everything."""

    def _made_at(self, second: int) -> bytes:
        lines = (
            "HTTP/1.1 200 OK",
            "Cache-Control: no-store",
            "Content-Type: text/plain",
            "X-Content-Type-Options: nosniff",
            f"Content-Length: {len(self._text)}",
            f"Date: {formatdate(second, usegmt=True)}",
        )
        return "\r\n".join((*lines, "", self._text)).encode("ascii")
