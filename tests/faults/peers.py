"""Connections of attackers. Those from many addresses of loopback count the answers and check them."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

from tests.faults.hostile import check_received

__all__ = [
    "ANSWERS",
    "Attack",
    "address",
    "connect",
    "connect_from_elsewhere",
    "pipeline",
    "send_slowly",
    "sent_alone",
    "together",
]

ANSWERS: Counter[str] = Counter()
"""The answers to this process by HTTP status."""

Attack = Callable[[str], Awaitable[None]]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BATCHES_OF_CONNECTION = 4
_SILENT_SECONDS = 3.0
_STATUS_LINE = b"HTTP/1.1 "
_numbers = itertools.count()


def address(url: str) -> tuple[str, int]:
    """Return host and port of the receiver, which must be on this machine."""
    parts = urlsplit(url)
    if parts.hostname not in _LOOPBACK or parts.port is None:
        raise SystemExit(f"URL: expected a port of loopback, got {url}")
    return parts.hostname, parts.port


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection to the receiver."""
    return await asyncio.open_connection(*address(url))


async def connect_from_elsewhere(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection from another address of this machine than the last 60,000 ones.

    Limits for one address don't stop such an attack.
    """
    number = next(_numbers)
    source = f"127.{100 + number // 62_500 % 100}.{1 + number // 250 % 250}.{1 + number % 250}"
    return await asyncio.open_connection(*address(url), local_addr=(source, 0))


async def send_slowly(
    opened: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]], opening: bytes, rest: bytes, *, seconds: float
) -> None:
    """Send the rest byte by byte, one each `seconds`, and wait until the receiver hangs up. No error is raised."""
    # uvloop raises a RuntimeError for a connection that is closed.
    with suppress(OSError, RuntimeError):
        reader, writer = await opened
        try:
            writer.write(opening)
            for place in range(len(rest)):
                writer.write(rest[place : place + 1])
                await writer.drain()
                await asyncio.sleep(seconds)
            await reader.read()
        finally:
            writer.transport.abort()


async def together(attackers: Iterable[Awaitable[None]]) -> None:
    """Run all attackers at once until the last one ends."""
    async with asyncio.TaskGroup() as group:
        for attacker in attackers:
            group.create_task(_awaited(attacker))


async def pipeline(url: str, batches: Iterator[bytes], size: int) -> None:
    """Send batches of `size` requests as fast as they are taken, four over each connection and from each address."""
    while True:
        # uvloop raises a RuntimeError for a connection that is closed.
        with suppress(OSError, RuntimeError):
            reader, writer = await connect_from_elsewhere(url)
            try:
                async with asyncio.TaskGroup() as group:
                    some = itertools.islice(batches, _BATCHES_OF_CONNECTION)
                    writing = group.create_task(_write(writer, some))
                    with suppress(OSError):
                        await _count(reader, _BATCHES_OF_CONNECTION * size)
                    writing.cancel()
            finally:
                writer.transport.abort()


async def sent_alone(url: str, requests: Iterator[bytes]) -> None:
    """Send each request over a connection of its own, and wait for an answer. The receiver may close it instead."""
    for sent in requests:
        with suppress(OSError, RuntimeError, TimeoutError):
            reader, writer = await connect_from_elsewhere(url)
            try:
                async with asyncio.timeout(_SILENT_SECONDS), asyncio.TaskGroup() as group:
                    writing = group.create_task(_write(writer, iter([sent])))
                    with suppress(OSError):
                        _note(await reader.read(65_536))
                    writing.cancel()
            finally:
                writer.transport.abort()


async def _write(writer: asyncio.StreamWriter, parts: Iterator[bytes]) -> None:
    with suppress(OSError):
        for part in parts:
            writer.write(part)
            await writer.drain()


async def _count(reader: asyncio.StreamReader, most: int) -> None:
    rest = b""
    noted = 0
    while part := await reader.read(65_536):
        received = rest + part
        # The last answer may be cut off here, and only the very last one is not followed by another.
        cut = max(0, received.rfind(_STATUS_LINE))
        noted += _note(received[:cut])
        rest = received[cut:]
        if noted >= most - 1 and b"\r\n\r\n" in rest:
            break
    _note(rest)


def _note(received: bytes) -> int:
    statuses = check_received(received)
    ANSWERS.update(map(str, statuses))
    return len(statuses)


async def _awaited(attacker: Awaitable[None]) -> None:
    await attacker
