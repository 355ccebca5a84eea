"""aiohttp's server with connections of this package: what runs the receiver on sockets of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from receiver.web.context import RUNTIME
from receiver.web.server.connections import CONNECTIONS, HEAD_SECONDS, Connection, Connections

__all__ = ["Runner", "Site", "make_runner", "most_connections"]

LINGER_SECONDS = 2.0
"""Time in which the rest of a refused body is read and dropped, so that its sender sees the answer, and no reset."""

_ROOM = 4096
# Files that are no connections: the database, the log, polls of its own.
_MOST_OTHER_FILES = 256
_RECEIVE_BYTES = 32 * 1024


def most_connections(waiting: int, file_limit: int | None) -> int:
    """Return how many connections there may be: room for `waiting` ones and those that come and go, and for files."""
    wanted = waiting + _ROOM
    if file_limit is None:
        return wanted
    return min(wanted, file_limit - min(_MOST_OTHER_FILES, file_limit // 4))


class Runner(web.AppRunner):
    """An `AppRunner` of an application that has its `CONNECTIONS` once it has started."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            lingering_time=LINGER_SECONDS,
            **options,
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(self._app[CONNECTIONS], made, self._kwargs)


class Site(web.TCPSite):
    """A `TCPSite` whose connections are read a little at a time.

    By default the system keeps megabytes of what is not read yet, and uvloop gives 256 kB of it at once.
    """

    async def start(self) -> None:
        """Listen."""
        await super().start()
        for listening in getattr(self._server, "sockets", ()):
            # Connections have it from the socket that listens.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)


def make_runner(
    app: web.Application, *, most: int, head_seconds: float = HEAD_SECONDS, **options: Any
) -> web.AppRunner:
    """Return what runs the receiver on sockets of its own, with at most `most` connections."""

    @asynccontextmanager
    async def counted(_app: web.Application) -> AsyncIterator[None]:
        runtime = app[RUNTIME]
        app[CONNECTIONS] = Connections(
            most,
            runtime.metrics.connection_closed,
            runtime.streams.budget,
            send_seconds=runtime.streams.rules.send_seconds,
            head_seconds=head_seconds,
        )
        yield

    app.cleanup_ctx.append(counted)
    return Runner(app, **options)


class _Server(web.Server):
    """A factory of `Connection`, one for each socket, with the options and the application of a server of aiohttp."""

    def __init__(self, connections: Connections, made: web.Server, options: dict[str, Any]) -> None:
        super().__init__(made.request_handler, request_factory=self._begin, **options)
        self._connections_of = connections
        self._request_of = made.request_factory

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
        if isinstance(protocol, Connection):
            protocol.request_began(payload, is_chunked=message.chunked)
        return self._request_of(message, payload, protocol, writer, task)
