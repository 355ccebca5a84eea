"""What websockets and server-sent events have in common: how they send, and when they say that all is well.

A stream that is idle has no task and no timer of its own: one ticker beats for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from aiohttp import web

from client.protocol.frames import MAX_NAME_BYTES, MAX_NAME_BYTES_EACH
from receiver.domain.records import Entry, Gap
from receiver.errors import StoreFailedError
from receiver.feed.hub import Waiter
from receiver.feed.subscription import Subscription
from receiver.web.streaming.pacing import budget_of_all, room_for_messages

__all__ = [
    "CLOSE_SECONDS",
    "PeerGoneError",
    "Stream",
    "StreamRules",
    "Streams",
    "bound_buffer",
    "cut_off",
    "cut_off_later",
    "read_patiently",
    "send_within",
]

CLOSE_SECONDS = 1.0
"""A peer has so long to take what was still to be sent when its stream ended."""

_SLICES = 50
_LARGE_FRAMES = 4
_RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)
# Between the transport's buffer and the frame that is being written, one that stops reading holds about twice this.
_BUFFER_BYTES = 16 * 1024

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """Seconds: how long a peer may take nothing, between heartbeats, between pings, until a subscription must come.

    And how long at most all of them are told goodbye at shutdown, and how many bytes the tasks may take that they name.
    """

    send_seconds: float
    heartbeat_seconds: float = 15.0
    ping_seconds: float = 30.0
    subscribe_seconds: float = 10.0
    goodbye_seconds: float = 5.0
    name_bytes: int = MAX_NAME_BYTES
    name_bytes_per_key: int = MAX_NAME_BYTES_EACH


class PeerGoneError(Exception):
    """The peer hung up, or took nothing for too long and was cut off."""


class Stream(Protocol):
    """An open stream, as the ticker knows it. None of these calls waits or fails."""

    def beat(self) -> None:
        """Send a heartbeat, if nothing was sent since the last one."""

    def wake(self) -> None:
        """Look whether there is something to send, or to end."""

    def abort(self) -> None:
        """Cuts the peer off."""


class Streams:
    """All open streams of an application. Run `beat` beside them; `owner` runs what they send.

    From `budget` is spent what their requests cost. `messages` is the room for large ones. `large_frames` lets a few be
    carried out at once, because one of a megabyte takes six while it is.
    """

    def __init__(self, rules: StreamRules, owner: asyncio.TaskGroup) -> None:
        self._streams: dict[Stream, int] = {}
        self._added = 0
        self._end = Waiter()
        self._owner = owner
        self.rules = rules
        self.budget = budget_of_all()
        self.messages = room_for_messages()
        self.large_frames = asyncio.Semaphore(_LARGE_FRAMES)

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Stream) -> None:
        """From now on it beats, whoever comes and goes always at the same moment of an interval."""
        self._streams[stream] = self._added % _SLICES
        self._added += 1

    def discard(self, stream: Stream) -> None:
        """It has ended."""
        self._streams.pop(stream, None)
        if not self._streams:
            self._end.wake()

    def start(self, sending: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run what sends; None where nothing is begun any more, because something else in the background failed."""
        try:
            return self._owner.create_task(sending, name="sending")
        except RuntimeError:
            sending.close()
            return None

    async def beat(self) -> None:
        """Lets each stream beat once in each interval, a few at a time, so that thousands are no burst. Never ends."""
        while True:
            slices: list[list[Stream]] = [[] for _ in range(_SLICES)]
            for stream, number in self._streams.items():
                slices[number].append(stream)
            for streams in slices:
                await asyncio.sleep(self.rules.heartbeat_seconds / _SLICES)
                for stream in streams:
                    if stream in self._streams:
                        stream.beat()

    async def end(self) -> None:
        """Lets each say goodbye; those that have not ended in time are cut off, so that they cannot hold up the end."""
        self._end.clear()
        for stream in tuple(self._streams):
            stream.wake()
        if self._streams and not await self._end.wait(self.rules.goodbye_seconds):
            _log.warning("streams.cut_off", count=len(self._streams))
            for stream in tuple(self._streams):
                stream.abort()


def bound_buffer(request: web.Request) -> None:
    """Make writing wait once the peer has left so much untaken."""
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=_BUFFER_BYTES)


def cut_off(request: web.Request) -> None:
    """End the connection at once; what the peer has not taken is dropped."""
    if request.transport is not None:
        request.transport.abort()


def cut_off_later(request: web.Request) -> None:
    """For a stream that has ended: what the peer does not take soon is dropped.

    A transport that is closed waits for that without a limit, and keeps its buffer as long.
    """
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, transport.abort)


async def read_patiently(subscription: Subscription, is_over: Callable[[], bool]) -> Sequence[Entry | Gap]:
    """What there is; while the store cannot be read it is asked again, less and less often, until `is_over`."""
    failures = 0
    while not is_over():
        try:
            return await subscription.read()
        except StoreFailedError as error:
            if not failures:
                _log.warning("stream.stalled", reason=error.detail)
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1
    return ()


async def send_within(seconds: float, request: web.Request, send: Callable[[], Awaitable[object]]) -> None:
    """Send, or cut the peer off: a send that is blocked stays blocked, whatever else notices that the peer is dead.

    Raises:
        PeerGoneError: it is gone.
    """
    try:
        async with asyncio.timeout(seconds):
            await send()
    except TimeoutError:
        cut_off(request)
        raise PeerGoneError(f"nothing was taken for {seconds:g} s") from None
    except (ConnectionError, RuntimeError) as error:
        # aiohttp says RuntimeError where the socket was closed while it was being written to.
        raise PeerGoneError("the peer hung up") from error
