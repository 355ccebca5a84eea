"""HTTP/1.1 by hand, byte by byte, for requests that no client library would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["ANSWER", "Raw", "Wire", "chunked", "connected", "request", "wired"]

ANSWER = json.dumps({"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}).encode()


class Raw(NamedTuple):
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *parts: bytes) -> None:
        """Send the parts one by one, as packets of their own where the system lets them."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def response(self, *, has_body: bool = True) -> Raw:
        """Return the next response."""
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
            size = int(headers.get("content-length", "0")) if has_body else 0
            return Raw(int(head[0].split()[1]), headers, await self.reader.readexactly(size))

    async def rest(self) -> bytes:
        """Return the rest, up to the end by the other side."""
        async with asyncio.timeout(30):
            return await self.reader.read()

    async def hang_up(self) -> None:
        """Close the connection, as the end of a process does."""
        self.writer.close()
        await self.writer.wait_closed()

    def reset(self) -> None:
        """Cut the connection off."""
        self.writer.transport.abort()


async def connected(url: str) -> Wire:
    """Return a connection to the host of the URL."""
    parts = urlsplit(url)
    return Wire(*await asyncio.open_connection(parts.hostname, parts.port))


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[Wire]:
    """Yield a connection, and cut it off on leaving."""
    wire = await connected(url)
    try:
        yield wire
    finally:
        wire.reset()


def request(method: str, url: str, body: bytes = b"", **headers: Any) -> bytes:
    """Return a request with a Content-Length, unless another framing is among the headers."""
    parts = urlsplit(url)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if body and "Transfer-Encoding" not in named:
        named.setdefault("Content-Length", len(body))
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", *(f"{name}: {named[name]}" for name in named)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*chunks: bytes) -> bytes:
    """Return the chunks, without the last, empty one."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
