"""Waiters as cheap as they can be: raw sockets that note when something came for which task."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from tests.raw import PONG, events_request, poll_request, websocket_request

__all__ = ["Noted", "Waiter", "open_waiters", "paced", "waiter_of"]

_REF = re.compile(rb'"ref":"([0-9a-f-]{36})"')
_PING = b"\x89\x00"
_OVERLAP = 64
_AT_ONCE = 100

Noted = dict[str, int]
"""For each ref, when its result came: nanoseconds of the clock that all processes share."""


class Waiter(asyncio.Protocol):
    """One connection: sends what it was made with, and notes which refs come; after each it sends one of `then`."""

    def __init__(self, request: bytes, noted: Callable[[str, int], object], then: Iterable[bytes] = ()) -> None:
        self._request = request
        self._noted = noted
        self._then = iter(then)
        self._rest = b""
        self.transport: asyncio.WriteTransport
        self.is_lost = False

    def note_by(self, noted: Callable[[str, int], object]) -> None:
        """From now on refs are noted by this."""
        self._noted = noted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        # Not checked: uvloop's transports are no asyncio.Transport.
        self.transport = cast("asyncio.WriteTransport", transport)
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        del exc
        self.is_lost = True

    def data_received(self, data: bytes) -> None:
        """Note the refs in it."""
        came_at = time.monotonic_ns()
        if _PING in data:
            self.transport.write(PONG)
        for found in _REF.findall(self._rest + data):
            self._noted(found.decode(), came_at)
            following = next(self._then, None)
            if following is not None:
                self.transport.write(following)
        # A ref may come in two parts; one that came whole is not found again.
        self._rest = b"" if _REF.search(data) else data[-_OVERLAP:]


def waiter_of(road: str, key: str, refs: Sequence[str], noted: Callable[[str, int], object]) -> Waiter:
    """One that waits for these tasks by this road: "long poll", "websocket" or "server-sent events"."""
    if road == "long poll":
        first, *others = (poll_request(key, ref) for ref in refs)
        return Waiter(first, noted, others)
    if road == "websocket":
        return Waiter(websocket_request(key, tasks=list(refs)), noted)
    return Waiter(events_request(key, refs), noted)


async def open_waiters(port: int, waiters: Sequence[Waiter]) -> None:
    """Connect all, a few at a time, from several addresses of loopback, each of which has ports of its own."""
    loop = asyncio.get_running_loop()

    async def connect(number: int, waiter: Waiter) -> None:
        # By hand: create_connection would look up the addresses on threads, and take milliseconds for each.
        peer = socket.socket()
        peer.setblocking(False)
        peer.bind((f"127.0.0.{2 + number % 8}", 0))
        await loop.sock_connect(peer, ("127.0.0.1", port))
        await loop.create_connection(lambda: waiter, sock=peer)

    for start in range(0, len(waiters), _AT_ONCE):
        async with asyncio.TaskGroup() as group:
            for number, waiter in enumerate(waiters[start : start + _AT_ONCE]):
                group.create_task(connect(number, waiter))


async def paced(port: int, requests: Sequence[bytes], *, per_second: float, connections: int = 32) -> list[float]:
    """Send the requests at this rate, whatever the answers; how late each was sent, in seconds."""
    senders = [Waiter(b"", lambda _ref, _at: None) for _ in range(connections)]
    await open_waiters(port, senders)
    late = []
    started = time.perf_counter()
    for number, request in enumerate(requests):
        due = started + number / per_second
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        senders[number % connections].transport.write(request)
        late.append(time.perf_counter() - due)
    await asyncio.sleep(0.5)
    for sender in senders:
        sender.transport.close()
    return late
