"""aiohttp's server, with the connections of this package: it runs the receiver on its own sockets."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from receiver.web.callbacks import BEGUN
from receiver.web.context import RUNTIME
from receiver.web.front import Handler, beginner, front
from receiver.web.server.connections import (
    CAN_BEGIN,
    CONNECTIONS,
    HEAD_SECONDS,
    LINGER_SECONDS,
    Connection,
    ConnectionRules,
    Connections,
)

__all__ = ["Runner", "Site", "SocketSite", "make_runner", "most_connections"]

_ROOM = 4096
# Files that are no connections: the database, the log, polls of its own.
_MOST_OTHER_FILES = 256
_RECEIVE_BYTES = 32 * 1024
# The router of aiohttp looks a path up once for each slash, which costs 10 ms for 8,000 of them.
_MOST_SLASHES = 64
_NOWHERE = URL("/")


def most_connections(waiting: int, file_limit: int | None) -> int:
    """Return the limit on connections: `waiting` ones and 4,096 more, as far as the limit on open files allows."""
    wanted = waiting + _ROOM
    if file_limit is None:
        return wanted
    return min(wanted, file_limit - min(_MOST_OTHER_FILES, file_limit // 4))


class Runner(web.AppRunner):
    """An `AppRunner` of an application that has its `CONNECTIONS` once it has started.

    With `has_front` requests come to `receiver.web.front` first. If it also `is_direct`, plain callbacks come there
    before aiohttp makes requests of them. `leave` comes before `drain`, that before `cleanup`.
    """

    def __init__(
        self, app: web.Application, *, has_front: bool = False, is_direct: bool = False, **options: Any
    ) -> None:
        self._has_front = has_front
        self._is_direct = is_direct
        super().__init__(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            lingering_time=LINGER_SECONDS,
            **options,
        )

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        handler, connections = server.request_handler, self._app[CONNECTIONS]
        if self._has_front:
            handler = front(self._app[RUNTIME], handler)
            if self._is_direct and CAN_BEGIN:
                connections.begin = beginner(self._app[RUNTIME])
        return _Server(connections, server, handler, self._kwargs)

    async def leave(self, seconds: float) -> None:
        """Let `/healthz` and `/readyz` be 503, and serve all for so long. Load balancers then send nothing more."""
        self._app[RUNTIME].waits.is_leaving = True
        await asyncio.sleep(seconds)

    async def drain(self) -> None:
        """Accept no more connections, answer the requests that come over the others, and end waits and streams.

        Each answer closes its connection. A sender may be about to use a connection when it closes, and would lose its
        request. So connections without a request stay open for another second.
        """
        runtime = self._app[RUNTIME]
        for site in self.sites:
            await site.stop()
        runtime.waits.close()
        async with asyncio.TaskGroup() as group:
            group.create_task(runtime.streams.end())
            group.create_task(self._app[CONNECTIONS].drain())


class Site(web.TCPSite):
    """A `TCPSite` with a small receive buffer for each connection.

    By default the system keeps megabytes of unread bytes, and uvloop hands over 256 kB of them at once.
    """

    async def start(self) -> None:
        """Listen, with a receive buffer of 32 kB for each connection."""
        await super().start()
        for listener in getattr(self._server, "sockets", ()):
            _bound_receiving(listener)


class SocketSite(web.SockSite):
    """A `SockSite` with the same buffer, on a listening TCP or Unix socket."""

    async def start(self) -> None:
        """Accept connections from the socket."""
        _bound_receiving(self._sock)
        if self._sock.family != getattr(socket, "AF_UNIX", None):
            await super().start()
            return
        # uvloop would take it for a TCP socket.
        await web.BaseSite.start(self)
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None  # noqa: S101  (checked by BaseSite)
        # The path belongs to the service manager. From Python 3.13 on, a loop would remove it at the end.
        kept: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await loop.create_unix_server(server, sock=self._sock, backlog=self._backlog, **kept)


def _bound_receiving(listener: socket.socket) -> None:
    """Limit the buffer of unread bytes of each connection. Connections inherit it from the listening socket."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)


def make_runner(
    app: web.Application,
    *,
    most: int,
    head_seconds: float = HEAD_SECONDS,
    has_front: bool = True,
    is_direct: bool = True,
    **options: Any,
) -> Runner:
    """Return a runner of the receiver on its own sockets, with at most `most` connections.

    Without `has_front` the application gets every request. `is_direct` is explained at `Runner`. `options` are those of
    `aiohttp.web.AppRunner`.
    """

    @asynccontextmanager
    async def counted(_app: web.Application) -> AsyncIterator[None]:
        runtime = app[RUNTIME]
        rules = ConnectionRules(most=most, send_seconds=runtime.streams.rules.send_seconds, head_seconds=head_seconds)
        app[CONNECTIONS] = Connections(rules, runtime.metrics.connection_closed, runtime.streams.budget, runtime.edge)
        runtime.edge.leave_lane(most, min(_ROOM, most // 4))
        yield

    app.cleanup_ctx.append(counted)
    return Runner(app, has_front=has_front, is_direct=is_direct, **options)


class _Server(web.Server):
    """A factory of one `Connection` for each socket, with the options and the requests of aiohttp's server."""

    def __init__(self, connections: Connections, server: web.Server, handler: Handler, options: dict[str, Any]) -> None:
        super().__init__(handler, request_factory=self._begin, **options)
        self._connections_of = connections
        self._request_of = server.request_factory

    def __call__(self) -> web.RequestHandler:
        return Connection(self._connections_of, self, loop=self._loop, **self._kwargs)

    def _begin(
        self,
        message: Any,
        payload: Any,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        begun = None
        if isinstance(protocol, Connection):
            begun = protocol.take_begun()
            if begun is None:
                protocol.request_began(payload, is_chunked=message.chunked)
            if self._connections_of.is_draining:
                # Every kind of answer closes its connection then, and says so in its head.
                message = message._replace(should_close=True)
        if message.path.partition("?")[0].count("/") > _MOST_SLASHES:
            message = message._replace(url=_NOWHERE)
        try:
            request = self._request_of(message, payload, protocol, writer, task)
        except ValueError:
            # Such as a target `http://xn--a/`, whose host is no IDNA. It leads nowhere. An error would end the task of
            # the connection, and leave the connection open for ever.
            request = self._request_of(message._replace(url=_NOWHERE), payload, protocol, writer, task)
        if begun is not None:
            request[BEGUN] = begun
        return request
