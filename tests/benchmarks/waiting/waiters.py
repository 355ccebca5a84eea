"""Waiters that cost little: raw sockets that record the arrival time of the result of each task."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

from tests.raw import PONG, events_request, poll_request, websocket_request

__all__ = ["ReceivedAt", "Sent", "Waiter", "open_waiters", "paced", "waiter_of"]

_REF = re.compile(rb'"ref":"([0-9a-f-]{36})"')
_PING = b"\x89\x00"
_OVERLAP = 64
_AT_ONCE = 100

ReceivedAt = dict[str, int]
"""The arrival time of the result for each ref, in nanoseconds of the monotonic clock, which all processes share."""


class Waiter(asyncio.Protocol):
    """One connection: it sends `request` first, and one of `then` after each result.

    It calls `record` with the ref and the arrival time of each result.
    """

    def __init__(self, request: bytes, record: Callable[[str, int], object], then: Iterable[bytes] = ()) -> None:
        self._request = request
        self._record = record
        self._then = iter(then)
        self._rest = b""
        self.transport: asyncio.WriteTransport
        self.is_lost = False

    def record_with(self, record: Callable[[str, int], object]) -> None:
        """Call this for the refs received from now on."""
        self._record = record

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        # A cast without a check, because uvloop's transports are not instances of asyncio.Transport.
        self.transport = cast("asyncio.WriteTransport", transport)
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Mark the waiter as lost."""
        del exc
        self.is_lost = True

    def data_received(self, data: bytes) -> None:
        """Record the refs in it and answer a ping."""
        received_at = time.monotonic_ns()
        if _PING in data:
            self.transport.write(PONG)
        for found in _REF.findall(self._rest + data):
            self._record(found.decode(), received_at)
            following = next(self._then, None)
            if following is not None:
                self.transport.write(following)
        # A ref may arrive in two parts. One that arrived whole must not be found again.
        self._rest = b"" if _REF.search(data) else data[-_OVERLAP:]


def waiter_of(transport: str, key: str, refs: Sequence[str], record: Callable[[str, int], object]) -> Waiter:
    """Return a waiter for these tasks; `transport` is "long poll", "websocket" or "server-sent events"."""
    if transport == "long poll":
        first, *others = (poll_request(key, ref) for ref in refs)
        return Waiter(first, record, others)
    if transport == "websocket":
        return Waiter(websocket_request(key, tasks=list(refs)), record)
    return Waiter(events_request(key, refs), record)


async def open_waiters(port: int, waiters: Sequence[Waiter]) -> None:
    """Connect all, a few at a time, from several addresses of loopback, because each address has its own ports."""
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


class Sent(NamedTuple):
    """The times at which a request was due and was sent, in nanoseconds of the monotonic clock."""

    due_at: int
    sent_at: int


async def paced(port: int, requests: Sequence[bytes], *, per_second: float, connections: int = 32) -> Sequence[Sent]:
    """Send the requests at this rate without waiting for answers."""
    senders = [Waiter(b"", lambda _ref, _at: None) for _ in range(connections)]
    await open_waiters(port, senders)
    sent = []
    started = time.monotonic_ns()
    for number, request in enumerate(requests):
        due_at = started + round(number / per_second * 1e9)
        if (left := due_at - time.monotonic_ns()) > 0:
            await asyncio.sleep(left / 1e9)
        sent.append(Sent(due_at, time.monotonic_ns()))
        senders[number % connections].transport.write(request)
    await asyncio.sleep(0.5)
    for sender in senders:
        sender.transport.close()
    return sent
