"""HTTP connections below the application: limits on their number, their memory and their time.

A connection is in one of four states:

* idle: no request, or a part of a head. Its kind is not known yet, and it gives way to a new connection.
* busy: a request is being handled. Requests other than callbacks leave a lane (`receiver.web.edge.edge`), so that among
  all connections there are always idle ones or free places.
* upgraded: a websocket, which counts as a request until its end.
* refused: its head was too long or too slow. The answer is sent, what still comes is dropped, and it is closed.

By default aiohttp inflates compressed bodies while it parses them, before any handler runs and after one has answered.
Here it never does: `read_body` inflates once the sender has proved itself, and only up to the limit of a body.

aiohttp makes a request, a response and a task of what it has parsed, a tenth of all work for a callback. A plain
callback is begun without them (`Connection._begin`), and answered once it is stored. Meanwhile aiohttp waits as if
nothing had come. It gets the callback after all if the answer is not the usual acknowledgement.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from pydantic_core import to_json

from receiver.errors import PROBLEMS, ReceiverError
from receiver.web.callbacks import Begun
from receiver.web.edge.edge import Edge
from receiver.web.middleware import problem_fields, problem_response
from receiver.web.server.prebuilt import SECURITY_HEADERS, problem_head
from receiver.web.server.sockets import has_unread
from receiver.web.streaming.pacing import Budget

__all__ = [
    "CAN_BEGIN",
    "CONNECTIONS",
    "HEAD_SECONDS",
    "LINGER_SECONDS",
    "Connection",
    "ConnectionRules",
    "Connections",
]

HEAD_SECONDS = 20.0
"""Time for the head of a request, as in Apache's mod_reqtimeout. A new connection has it for its first byte, too."""

LINGER_SECONDS = 2.0
"""Time in which the rest of a refused request is read and dropped, so that its sender sees the answer, and no reset."""

MAX_HEAD_BYTES = 32 * 1024
"""Longest head of a request, as in nginx; a longer one gets 431. aiohttp would keep 128 lines of 8 kB, each twice."""

_LOG_SECONDS = 60.0
# A plain body of this size is parsed in some 5 µs, one in chunks of one byte in 2 ms.
_PART_BYTES = 4096
_CHEAP_SECONDS = 0.0005
# Lines of a body in chunks, two for each chunk. Text of its own has lines, too, but longer ones.
_MOST_LINES = 500
_LINE_BYTES = 16
_LATER_SECONDS = 1.0
_MOST_DROPPED_BYTES = 256 * 1024
_TOO_MANY_LINES = "Too many headers received"
# At the end: time for a request on a connection without one, and for answers after that. A callback takes 1.5 s.
_IDLE_SECONDS = 1.0
_BUSY_SECONDS = 1.6
# A connection that was just accepted needs a turn for its transport, one for its protocol and one for its first step.
_TURNS = 3

_log = structlog.get_logger()


Begin = Callable[[Any, StreamReader], Begun | None]
"""Begins with a callback, given the head and the body that aiohttp has parsed. None: aiohttp has to handle it."""

_NAMES_OF_AIOHTTP = (
    "_close",
    "_force_close",
    "_handler_waiter",
    "_keepalive_handle",
    "_keepalive_timeout",
    "_manager",
    "_messages",
    "_next_keepalive_close_time",
    "_parser",
    "_paused",
    "_process_keepalive",
    "_request_in_progress",
    "_waiter",
)
CAN_BEGIN = hasattr(HttpRequestParser, "message_consumed") and all(
    hasattr(web.RequestHandler, name) for name in _NAMES_OF_AIOHTTP
)
"""True if this aiohttp has all names that are needed to begin with requests. They are not public."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRules:
    """Limits on connections: their number, the time for a head, and the time in which a peer must read something."""

    most: int
    send_seconds: float
    head_seconds: float = HEAD_SECONDS


class Connections:
    """All connections of a server. If there are too many, the one that was idle longest is closed.

    An idle connection has no request. HTTP lets a server close it at any moment, and a client open another one.

    `closed` is called with the reason of each close:

    * "full": there are too many;
    * "address": its address has too many;
    * "silent": no request came;
    * "head": the head is too long, or did not arrive in time;
    * "chunks": the body comes in chunks of a few bytes.
    """

    def __init__(self, rules: ConnectionRules, closed: Callable[[str], None], budget: Budget, edge: Edge) -> None:
        self.rules = rules
        self.budget = budget
        self.edge = edge
        self.begin: Begin | None = None
        self._closed = closed
        self._count = 0
        # With the owners of their addresses, the one that is idle longest first.
        self._idle: dict[Connection, object] = {}
        self._next_log = time.monotonic()
        self.is_draining = False
        self._closes_idle = False
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return self._count

    @property
    def idle(self) -> int:
        """Number of connections without a request."""
        return len(self._idle)

    def opened(self, connection: Connection, owner: object) -> bool:
        """Count a new connection. At the limit, close the one idle longest, or this one if all others have requests.

        `owner` is that of its address, `Edge.connection_owner`. If the address has too many, close one of its own, and
        return False.
        """
        self._count += 1
        self._idle[connection] = owner
        if not self.edge.connection_opened(owner):
            self.close(next(idle for idle, other in self._idle.items() if other == owner), "address")
            return False
        if self._count > self.rules.most:
            self.close(next(iter(self._idle)), "full")
            self._warn()
        return True

    def began(self, connection: Connection) -> None:
        """Count the connection as busy: a request has come."""
        self._idle.pop(connection, None)

    def ended(self, connection: Connection, owner: object) -> None:
        """Count the connection as idle: its request was answered."""
        if connection.transport is not None:
            self._idle[connection] = owner
            if self._closes_idle:
                connection.end()

    def is_idle(self, connection: Connection) -> bool:
        """Return True if the connection has no request."""
        return connection in self._idle

    def lost(self, connection: Connection, owner: object) -> None:
        """Stop counting a connection."""
        self.edge.connection_lost(owner)
        self._count -= 1
        self._idle.pop(connection, None)
        if not self._count:
            self._empty.set()

    async def drain(self) -> None:
        """Let each connection end with its next answer. Return after 2.6 s at most, or when none is left.

        After 1 s, connections without a request are closed. Nobody accepts new ones.
        """
        self.is_draining = True
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await self._until_empty(_IDLE_SECONDS)
        self._closes_idle = True
        for connection in tuple(self._idle):
            connection.end()
        await self._until_empty(_BUSY_SECONDS)

    async def _until_empty(self, seconds: float) -> None:
        self._empty.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds if self._count else 0):
                await self._empty.wait()

    def close(self, connection: Connection, reason: str) -> None:
        """Close a connection, and say why."""
        self.count_closed(reason)
        self._idle.pop(connection, None)
        connection.force_close()

    def count_closed(self, reason: str) -> None:
        """Count a connection that the receiver closes."""
        self._closed(reason)

    def _warn(self) -> None:
        if time.monotonic() >= self._next_log:
            self._next_log = time.monotonic() + _LOG_SECONDS
            _log.warning(
                "connections.full",
                most=self.rules.most,
                consequence="connections without a request are closed, the oldest first",
            )


class Connection(web.RequestHandler):
    """One connection, counted in `Connections`. It paces the parsing of its bytes, and cuts off peers that stall."""

    __slots__ = (
        "_backlog",
        "_begun",
        "_body",
        "_body_bytes",
        "_body_lines",
        "_connections",
        "_head_bytes",
        "_head_handle",
        "_idle_waiter",
        "_is_chunked",
        "_owner",
        "_parse_handle",
        "_peer",
        "_send_handle",
    )

    def __init__(self, connections: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections
        self._body: StreamReader | None = None
        self._head_bytes = self._body_bytes = self._body_lines = 0
        self._is_chunked = False
        self._backlog = b""
        self._begun: Begun | None = None
        self._idle_waiter: asyncio.Future[None] | None = None
        self._peer = ""
        self._owner: object = None
        self._head_handle: asyncio.TimerHandle | None = None
        self._parse_handle: asyncio.TimerHandle | None = None
        self._send_handle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        # What the system does not take is noticed at once, and not when 64 kB are kept.
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=0)
        self._peer = str((transport.get_extra_info("peername") or ("",))[0])
        self._owner = self._connections.edge.connection_owner(self._peer)
        self._wait_for_head()
        if not self._connections.opened(self, self._owner) and self._connections.edge.logs_peer(self._peer):
            _log.warning(
                "connections.address_full",
                address=self._peer,
                consequence="connections of this address without a request are closed, the oldest first",
            )

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_waiting()
        self._stop_watching()
        if self._parse_handle is not None:
            self._parse_handle.cancel()
        if self._begun is not None:
            self._begun.stored.cancel()
            self._end_wait_of_shutdown()
        self._connections.lost(self, self._owner)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes; see `asyncio.Protocol`. If that takes long, parse them in parts at the pace of a budget.

        A body in chunks of one byte costs 300 times as much as a plain one. Only its sender waits for that.
        """
        if self._force_close:
            self._drop(data)
        elif self._upgraded or not data:
            # A websocket has a pace of its own. Without data, aiohttp goes on with the bytes it has kept.
            super().data_received(data)
        elif self._parse_handle is not None:
            self._backlog += data
        else:
            self._parse(data)

    def _drop(self, data: bytes) -> None:
        """Drop what comes after a refusal. Of much more nothing is read, so that a flood costs nothing."""
        self._head_bytes += len(data)
        if self._head_bytes > _MOST_DROPPED_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _parse(self, data: bytes) -> None:
        for place in range(0, len(data), _PART_BYTES):
            started = self._loop.time()
            waiter = self._take(data[place : place + _PART_BYTES])
            now = self._loop.time()
            if waiter is not None:
                # No part of the parsing, which is paced.
                self._begin(waiter)
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

    def _take(self, data: bytes) -> asyncio.Future[None] | None:
        """Parse a part. Cut off a peer that sends a head without an end, or a body in tiny chunks.

        Return the future by which aiohttp waits for a request, if it does and one has come.
        """
        if self._force_close:
            return None
        is_body = self._body is not None and not self._body.is_eof()
        if is_body and self._is_shredded(data):
            self._connections.close(self, "chunks")
            return None
        begun = 0 if self._begun is None else 1
        waiter = self._feed(data)
        if is_body or len(self._messages) > begun or self._upgraded:
            return waiter
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse("head-too-large", f"head: expected at most {MAX_HEAD_BYTES} bytes, got more")
        elif self._head_handle is None:
            self._wait_for_head()
        return None

    def _feed(self, data: bytes) -> asyncio.Future[None] | None:
        """Parse a part. If that completes a request while aiohttp waits for one, return its `_waiter`.

        Without that, aiohttp keeps what has come in `_messages`, as while it handles a request.
        """
        waiter = self._waiter
        if self._connections.begin is None or waiter is None or waiter.done():
            super().data_received(data)
            return None
        self._waiter = None
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        return waiter if self._messages else None

    def _begin(self, waiter: asyncio.Future[None]) -> None:
        """Begin with a request that has come alone, or let aiohttp handle all that have come.

        The request stays in `_messages` until its answer, because they limit how many may wait behind it.
        """
        begin, begun = self._connections.begin, None
        message: Any
        message, body = self._messages[0]
        is_alone = len(self._messages) == 1
        if begin is not None and is_alone and not self._paused and not self._connections.is_draining:
            # Reading the body lets aiohttp parse what it has kept. That must not wake it up.
            self._waiter = None
            try:
                begun = begin(message, body)
            finally:
                self._waiter = waiter
        if begun is None:
            waiter.set_result(None)
            return
        self.request_began(body, is_chunked=message.chunked)
        self._begun = begun
        self._idle_waiter, self._waiter = waiter, None
        self._request_in_progress = True
        begun.stored.add_done_callback(self._answer)

    def _answer(self, stored: asyncio.Future[Any]) -> None:
        """Answer the request that was begun, or let aiohttp answer it."""
        if self._begun is None or stored.cancelled():
            return
        answer = None
        # The same error comes again in `receive`, which has an answer for it.
        with suppress(Exception):
            answer = self._begun.acknowledgement()
        if answer is None:
            if self._idle_waiter is not None and not self._idle_waiter.done():
                self._idle_waiter.set_result(None)
            return
        self._begun = None
        self._messages.popleft()
        self._end_wait_of_shutdown()
        if self._parser is None or self._manager is None or self.transport is None or self.transport.is_closing():
            return
        self._parser.message_consumed()
        self._manager.requests_count += 1
        self.transport.write(answer)
        if not self._paused:
            self._end_request()

    def _end_request(self) -> None:
        """Wait for the next request, once the system has taken all of the answer."""
        waiter = self._idle_waiter
        self._waiter, self._idle_waiter = waiter, None
        self._connections.ended(self, self._owner)
        if self._close or self._force_close or waiter is None or waiter.done():
            self.force_close()
        elif self._messages:
            self._begin(waiter)
        else:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def take_begun(self) -> Begun | None:
        """Return what was begun with the request that aiohttp handles now, once; None for other requests."""
        begun = self._begun
        if begun is not None:
            self._begun = self._idle_waiter = None
        return begun

    def _end_wait_of_shutdown(self) -> None:
        """Let aiohttp's `shutdown` go on, which waits for the request that was begun."""
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    def _wait_for_head(self) -> None:
        self._head_handle = self._loop.call_later(self._connections.rules.head_seconds, self._miss_head)

    def _miss_head(self) -> None:
        """Close the connection, because the head of a request is not complete in time."""
        self._head_handle = None
        if not self._connections.is_idle(self):
            # A part of the next head came early. Its time begins anew with its next byte; until then it is idle.
            return
        if self._head_bytes:
            self._refuse("too-slow", f"head: expected all of it within {self._connections.rules.head_seconds:g} s")
        else:
            self._connections.close(self, "silent")

    def _refuse(self, slug: str, detail: str) -> None:
        """Answer a head that no handler will see, and close the connection."""
        self._stop_waiting()
        if self.transport is None or not self._connections.is_idle(self):
            # The answer of another request is on its way.
            self._connections.close(self, "head")
            return
        self._connections.count_closed("head")
        status = PROBLEMS[slug].status
        self.transport.write(problem_head(status).with_body(to_json(problem_fields(ReceiverError(slug, detail)))))
        self.transport.write_eof()
        # From now on the connection parses nothing.
        self._force_close = True
        self._head_handle = self._loop.call_later(LINGER_SECONDS, self.transport.close)

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
        if self._begun is None and self._idle_waiter is not None:
            self._end_request()

    def request_began(self, body: StreamReader, *, is_chunked: bool) -> None:
        """Record that the head of a request has come, and that `body` follows."""
        self._body = body
        self._is_chunked = is_chunked
        self._body_bytes = self._body_lines = 0
        self._head_bytes = 0
        self._stop_waiting()
        self._connections.began(self)

    def end(self) -> None:
        """Close the connection if it has no request, else after the one that has come."""
        is_waiting = self._waiter is not None and not self._waiter.done()
        if is_waiting and not (self.transport is not None and has_unread(self.transport)):
            self.force_close()
        elif not is_waiting:
            self.close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the rest of the response; then the connection is idle."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._connections.ended(self, self._owner)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to bytes that are not HTTP: aiohttp's, or 431 if a line is too long, or has too many."""
        response = super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong) or (isinstance(exc, BadHttpMessage) and exc.message == _TOO_MANY_LINES):
            text = "head: expected at most 128 lines of at most 8190 bytes each, got more"
            response = problem_response(ReceiverError("head-too-large", text))
            response.force_close()
        response.headers.update(SECURITY_HEADERS)
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an error of the server. Of malformed requests, log only the kind: the text may show a token."""
        error = kw.get("exc_info")
        if not isinstance(error, HttpProcessingError):
            super().log_exception(*args, **kw)
        elif self._connections.edge.logs_peer(self._peer):
            _log.warning("request.malformed", reason=type(error).__name__, address=self._peer)

    def _watch_sending(self, transport: asyncio.Transport, unsent_before: int | None = None) -> None:
        """Cut the peer off if it has taken nothing since the last look. The sender's own limit ends a moment earlier.

        This also holds for a closed connection: its transport would wait for such a peer without a limit.
        """
        unsent = transport.get_write_buffer_size()
        if unsent == unsent_before:
            transport.abort()
            return
        seconds = self._connections.rules.send_seconds + _LATER_SECONDS
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
