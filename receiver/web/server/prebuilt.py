"""An answer whose bytes are made before it is asked for: the acknowledgement, most frequent of all answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

__all__ = ["ReadyAnswer"]


class ReadyAnswer(web.StreamResponse):
    """The same 200 with the same small text for every request; one object serves them all.

    aiohttp makes the headers of each response anew, which is a tenth of all the work for a callback; here only the
    date changes, once a second. Not for requests that `fits` refuses: their answer has to speak of the connection.
    """

    def __init__(self, text: str, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._text = text
        self._clock = clock
        self._second = -1
        self._bytes = b""

    @staticmethod
    def fits(request: web.BaseRequest) -> bool:
        """Whether the connection stays open without a word about it, and a body may be sent."""
        return request.keep_alive and request.version == HttpVersion11 and request.method != "HEAD"

    @property
    def keep_alive(self) -> bool:
        """True: see `fits`."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Send the whole answer; waits where the peer does not read."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._bytes = self._made_at(second)
        writer = request.writer
        await writer.write(self._bytes)
        await writer.drain()
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: all was sent."""

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
