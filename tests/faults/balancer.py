"""A load balancer before several receivers: each connection goes to the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle

from tests.faults.wire import Wire, connected

__all__ = ["Balancer", "open_balancer"]


class Balancer:
    """A proxy for connections to these addresses, in turn. `url` is its own address."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.url = ""
        self.taken = 0
        self._urls = cycle(urls)
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections. Their clients then come to another receiver."""
        for writer in self._open:
            writer.transport.abort()

    async def start(self) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        self._open.add(writer)
        target: Wire | None = None
        try:
            target = await connected(next(self._urls))
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, target.writer))
                both.create_task(_copy(target.reader, writer))
        except* (OSError, RuntimeError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()
            if target is not None:
                target.reset()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65_536):
        writer.write(part)
        await writer.drain()
    raise ConnectionResetError


@asynccontextmanager
async def open_balancer(*urls: str) -> AsyncIterator[Balancer]:
    """Yield a balancer before these receivers."""
    balancer = Balancer(urls)
    server = await balancer.start()
    try:
        yield balancer
    finally:
        server.close()
        balancer.cut()
