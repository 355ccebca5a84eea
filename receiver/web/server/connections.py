"""HTTP connections below the application: limits on their number, their memory and their time.

By default aiohttp inflates compressed bodies while it parses them, before any handler runs and after one has answered.
Here it never does: `read_body` inflates once the sender has proved itself, and only up to the limit of a body.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import StreamReader, web

from receiver.web.streaming.pacing import Budget

__all__ = ["CONNECTIONS", "HEAD_SECONDS", "Connection", "Connections"]

HEAD_SECONDS = 20.0
"""Time in which a new connection must send the head of its first request, as in Apache's mod_reqtimeout."""

MAX_HEAD_BYTES = 32 * 1024
"""Longest head of a request, as in nginx; a longer one is cut off. aiohttp would keep 128 lines of 8 kB, each twice."""

_LOG_SECONDS = 60.0
# A plain body of this size is parsed in some 5 µs, one in chunks of one byte in 2 ms.
_PART_BYTES = 4096
_CHEAP_SECONDS = 0.0005
# Lines of a body in chunks, two for each chunk. Text of its own has lines, too, but longer ones.
_MOST_LINES = 500
_LINE_BYTES = 16
_LATER_SECONDS = 1.0

_log = structlog.get_logger()


class Connections:
    """All connections of a server. If there are too many, the one that was idle longest is closed.

    An idle connection has no request. HTTP lets a server close it at any moment, and a client open another one.

    `closed` is called with the reason of each close:

    * "full": there are too many;
    * "silent": no request came;
    * "head": the head has no end;
    * "chunks": the body comes in chunks of a few bytes.
    """

    def __init__(
        self,
        most: int,
        closed: Callable[[str], None],
        budget: Budget,
        *,
        send_seconds: float,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        self.budget = budget
        self.send_seconds = send_seconds
        self.head_seconds = head_seconds
        self._most = most
        self._closed = closed
        self._count = 0
        self._idle: dict[web.RequestHandler, None] = {}
        self._next_log = time.monotonic()

    def __len__(self) -> int:
        return self._count

    @property
    def idle(self) -> int:
        """Number of connections without a request."""
        return len(self._idle)

    def opened(self, connection: web.RequestHandler) -> None:
        """Count a new connection. At the limit, close the one idle longest, or this one if all others have requests."""
        self._count += 1
        self._idle[connection] = None
        if self._count > self._most:
            self.close(next(iter(self._idle)), "full")
            self._warn()

    def began(self, connection: web.RequestHandler) -> None:
        """Count the connection as busy: a request has come."""
        self._idle.pop(connection, None)

    def ended(self, connection: web.RequestHandler) -> None:
        """Count the connection as idle: its request was answered."""
        if connection.transport is not None:
            self._idle[connection] = None

    def lost(self, connection: web.RequestHandler) -> None:
        """Stop counting a connection."""
        self._count -= 1
        self._idle.pop(connection, None)

    def close(self, connection: web.RequestHandler, reason: str) -> None:
        """Close a connection, and say why."""
        self._idle.pop(connection, None)
        self._closed(reason)
        connection.force_close()

    def _warn(self) -> None:
        if time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + _LOG_SECONDS
            _log.warning(
                "connections.full",
                most=self._most,
                consequence="connections without a request are closed, the oldest first",
            )


class Connection(web.RequestHandler):
    """One connection, counted in `Connections`. It paces the parsing of its bytes, and cuts off peers that stall."""

    __slots__ = (
        "_backlog",
        "_body",
        "_body_bytes",
        "_body_lines",
        "_connections",
        "_head_bytes",
        "_head_handle",
        "_is_chunked",
        "_parse_handle",
        "_send_handle",
    )

    def __init__(self, connections: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections
        self._body: StreamReader | None = None
        self._head_bytes = self._body_bytes = self._body_lines = 0
        self._is_chunked = False
        self._backlog = b""
        self._head_handle: asyncio.TimerHandle | None = None
        self._parse_handle: asyncio.TimerHandle | None = None
        self._send_handle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        # What the system does not take is noticed at once, and not when 64 kB are kept.
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=0)
        self._head_handle = self._loop.call_later(
            self._connections.head_seconds, self._connections.close, self, "silent"
        )
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_waiting()
        self._stop_watching()
        if self._parse_handle is not None:
            self._parse_handle.cancel()
        self._connections.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes; see `asyncio.Protocol`. If that takes long, parse them in parts at the pace of a budget.

        A body in chunks of one byte costs 300 times as much as a plain one. Only its sender waits for that.
        """
        if self._upgraded or not data:
            # A websocket has a pace of its own. Without data, aiohttp goes on with the bytes it has kept.
            super().data_received(data)
        elif self._parse_handle is not None:
            self._backlog += data
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        for place in range(0, len(data), _PART_BYTES):
            started = self._loop.time()
            self._take(data[place : place + _PART_BYTES])
            now = self._loop.time()
            if now - started > _CHEAP_SECONDS and not self._upgraded:
                self._backlog = data[place + _PART_BYTES :]
                self._pause_transport_reading()
                wait = self._connections.budget.spend(now - started, now)
                self._parse_handle = self._loop.call_later(wait, self._parse_on)
                return

    def _parse_on(self) -> None:
        self._parse_handle = None
        data, self._backlog = self._backlog, b""
        self._parse(data)
        if not self._reading_paused and not self._buffer_paused:
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        """Go on reading, unless there are bytes left to parse."""
        if self._parse_handle is None:
            super()._resume_transport_reading()

    def _take(self, data: bytes) -> None:
        """Parse a part. Cut off a peer that sends a head without an end, or a body in tiny chunks."""
        if self._force_close:
            return
        is_body = self._body is not None and not self._body.is_eof()
        if is_body and self._is_shredded(data):
            self._connections.close(self, "chunks")
            return
        super().data_received(data)
        if is_body or self._messages or self._upgraded:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._connections.close(self, "head")

    def _is_shredded(self, data: bytes) -> bool:
        """Return True if the body comes in chunks of a few bytes. Each of them costs as much as a kilobyte."""
        if not self._is_chunked:
            return False
        self._body_bytes += len(data)
        self._body_lines += data.count(b"\r\n")
        return self._body_lines > _MOST_LINES + self._body_bytes // _LINE_BYTES

    def pause_writing(self) -> None:
        """Start watching the peer, see `asyncio.Protocol`: it must take some bytes now, or is cut off."""
        super().pause_writing()
        if self.transport is not None:
            self._watch_sending(self.transport)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._stop_watching()
        super().resume_writing()

    def request_began(self, body: StreamReader, *, is_chunked: bool) -> None:
        """Record that the head of a request has come, and that `body` follows."""
        self._body = body
        self._is_chunked = is_chunked
        self._body_bytes = self._body_lines = 0
        self._head_bytes = 0
        self._stop_waiting()
        self._connections.began(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the rest of the response; then the connection is idle."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._connections.ended(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return aiohttp's answer to bytes that are not HTTP, with `nosniff`."""
        response = super().handle_error(request, status, exc, message)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    def _watch_sending(self, transport: asyncio.Transport, unsent_before: int | None = None) -> None:
        """Cut the peer off if it has taken nothing since the last look. The sender's own limit ends a moment earlier.

        This also holds for a closed connection: its transport would wait for such a peer without a limit.
        """
        unsent = transport.get_write_buffer_size()
        if unsent == unsent_before:
            transport.abort()
            return
        seconds = self._connections.send_seconds + _LATER_SECONDS
        self._send_handle = self._loop.call_later(seconds, self._watch_sending, transport, unsent)

    def _stop_watching(self) -> None:
        if self._send_handle is not None:
            self._send_handle.cancel()
            self._send_handle = None

    def _stop_waiting(self) -> None:
        if self._head_handle is not None:
            self._head_handle.cancel()
            self._head_handle = None


CONNECTIONS: web.AppKey[Connections] = web.AppKey("connections", Connections)
"""Connections of the server that runs an application. Missing if the application is mounted in another one."""
