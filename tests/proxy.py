"""A TCP proxy between a client and a server: cuts, stalls, delays and refuses, at will or at random by a seed."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from client.sandbox.serving import stop_accepting

__all__ = ["Faults", "Proxy", "running_proxy"]

_CHUNK_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Probabilities of faults for a chunk of at most 4 kB, and the longest stalls and delays.

    A cut may come in the middle of the chunk. A stall holds one direction of the connection, and half of them end with
    a cut.
    """

    cuts: float = 0.0
    stalls: float = 0.0
    delays: float = 0.0
    refusals: float = 0.0
    stall_seconds: float = 0.2
    delay_seconds: float = 0.02


class Proxy:
    """A proxy to one port of this machine. `refuses` cuts new connections off; `is_stalled` holds all bytes."""

    def __init__(self, port: int, faults: Faults | None, seed: int) -> None:
        self.url = ""
        self.refuses = False
        self.faults = faults
        self.breaks = 0
        self._port = port
        self._random = random.Random(seed)
        self._flows = asyncio.Event()
        self._flows.set()
        self._pipes: set[asyncio.StreamWriter] = set()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._pipes)

    def cut(self) -> None:
        """Cut all connections off, without a close."""
        for client in tuple(self._pipes):
            client.transport.abort()

    def stall(self) -> None:
        """Hold the bytes of both directions until `flow`."""
        self._flows.clear()

    def flow(self) -> None:
        """End the stall."""
        self._flows.set()

    async def serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Pass on the bytes of a connection until either side ends it."""
        self._pipes.add(to_client)
        to_server = None
        try:
            if self.refuses or self._is_drawn("refusals"):
                self.breaks += 1
                return
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(from_client, to_server, (to_client, to_server)))
                pumps.create_task(self._pump(from_server, to_client, (to_client, to_server)))
        except (OSError, asyncio.CancelledError):
            # The server does not answer, or the proxy ends.
            pass
        finally:
            self._pipes.discard(to_client)
            for writer in (to_client, to_server):
                if writer is not None:
                    writer.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, both: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        with suppress(OSError):
            while chunk := await source.read(_CHUNK_BYTES):
                await self._flows.wait()
                if await self._is_cut(chunk, sink):
                    self.breaks += 1
                    break
                sink.write(chunk)
                await sink.drain()
        for writer in both:
            writer.transport.abort()

    async def _is_cut(self, chunk: bytes, sink: asyncio.StreamWriter) -> bool:
        """Apply the drawn fault to the chunk. Return True if the connection ends with it."""
        faults = self.faults or Faults()
        if self._is_drawn("delays"):
            await asyncio.sleep(self._random.random() * faults.delay_seconds)
        if self._is_drawn("stalls"):
            await asyncio.sleep(self._random.random() * faults.stall_seconds)
            return self._random.random() < 0.5
        if not self._is_drawn("cuts"):
            return False
        sink.write(chunk[: self._random.randrange(len(chunk) + 1)])
        await sink.drain()
        return True

    def _is_drawn(self, fault: str) -> bool:
        return self.faults is not None and self._random.random() < getattr(self.faults, fault)


@asynccontextmanager
async def running_proxy(url: str, faults: Faults | None = None, *, seed: int = 0) -> AsyncIterator[Proxy]:
    """Yield a proxy to the server at `url`, on its own port. Its connections are cut on leaving."""
    proxy = Proxy(int(url.rpartition(":")[2]), faults, seed)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = await asyncio.start_server(proxy.serve, sock=listener)
        proxy.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield proxy
        finally:
            await stop_accepting(listener)
            server.close()
            await _cut_all(proxy)
            await server.wait_closed()


async def _cut_all(proxy: Proxy) -> None:
    proxy.flow()
    async with asyncio.timeout(30):
        while proxy.connections:
            proxy.cut()
            await asyncio.sleep(0.01)
