"""The way between a receiver and its PostgreSQL server, cut at a chosen request of a transaction."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

__all__ = ["Wire", "open_wire"]

_WRITING = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_ENDS_REQUEST = (b"Q", b"S")
_READY = b"Z"

Side = Literal["before", "after"]


class Wire:
    """A proxy for the server's messages. `url` leads through it to a database.

    After `cut`, the next transaction that writes is cut at its request of this number. The server does not get it, or
    it answers in vain. A request is one trip to the server. `requests` counts those since then, and `is_cut` says if
    it came so far. While the way `is_silent`, nothing passes. `replaced` changes the server's words, not their length.
    """

    def __init__(self, socket_path: Path) -> None:
        self.requests = 0
        self.is_cut = False
        self.is_silent = False
        self.replaced: tuple[bytes, bytes] | None = None
        self._socket_path = socket_path
        self._cut_at: int | None = None
        self._side: Side = "before"
        self._port = 0

    def url(self, database_url: str) -> str:
        """Return the URL of the same database by this way."""
        name = database_url.partition("?")[0].rpartition("/")[2]
        return f"postgresql://tests:hush@127.0.0.1:{self._port}/{name}?sslmode=disable"

    def cut(self, number: int, side: Side) -> None:
        """Cut the next transaction that writes, once."""
        self._cut_at, self._side = number, side
        self.requests, self.is_cut = 0, False

    async def start(self) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        return server

    async def _pass_on(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_unix_connection(str(self._socket_path))
        except OSError:
            to_client.transport.abort()
            return
        lines = _Connection(self, (client, to_client), (server, to_server))
        # Either side may end it in the middle of a message.
        try:
            async with asyncio.TaskGroup() as both:
                backwards = both.create_task(lines.pass_answers())
                try:
                    await lines.pass_requests()
                finally:
                    to_server.close()
                    to_client.transport.abort()
                    backwards.cancel()
        except* (OSError, asyncio.IncompleteReadError, RuntimeError):
            pass

    def takes(self, message: bytes, *, is_writing: bool) -> Side | None:
        """Count a request of a connection. Return the side if it is to be cut here."""
        if self._cut_at is None or not is_writing or message[:1] not in _ENDS_REQUEST:
            return None
        self.requests += 1
        if self.requests < self._cut_at:
            return None
        self._cut_at, self.is_cut = None, True
        return self._side


class _Connection:
    """Both directions of one connection."""

    def __init__(
        self,
        wire: Wire,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._wire = wire
        self._client, self._to_client = client
        self._server, self._to_server = server
        self._is_writing = False
        self._answered = asyncio.Event()
        self._swallows = False

    async def pass_requests(self) -> None:
        """Pass on what the receiver sends, until the cut or its end."""
        length = await self._client.readexactly(4)
        self._to_server.write(length + await self._client.readexactly(struct.unpack("!I", length)[0] - 4))
        while True:
            message = await _message(self._client)
            if self._wire.is_silent:
                continue
            if message.startswith(b"Q") and _WRITING in message:
                self._is_writing = True
            side = self._wire.takes(message, is_writing=self._is_writing)
            if side == "before":
                return
            self._swallows = side == "after"
            self._answered.clear()
            self._to_server.write(message)
            await self._to_server.drain()
            if self._swallows:
                await self._answered.wait()
                return

    async def pass_answers(self) -> None:
        """Pass back what the server sends, but not the answer behind a cut."""
        while True:
            message = await _message(self._server)
            if message.startswith(_READY):
                self._answered.set()
                # In no transaction any more.
                self._is_writing = self._is_writing and message[-1:] != b"I"
            if self._wire.replaced is not None:
                message = message.replace(*self._wire.replaced)
            if not self._swallows and not self._wire.is_silent:
                self._to_client.write(message)
                await self._to_client.drain()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


@asynccontextmanager
async def open_wire(folder: Path) -> AsyncIterator[Wire]:
    """Yield a way to the server with its socket in this folder."""
    wire = Wire(folder / ".s.PGSQL.5432")
    server = await wire.start()
    try:
        yield wire
    finally:
        server.close()
