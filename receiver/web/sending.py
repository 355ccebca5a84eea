"""What websockets and server-sent events have in common: how they send, and when they say that all is well.

A stream that is idle has no task and no timer of its own: one ticker beats for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

__all__ = ["PeerGoneError", "Stream", "StreamRules", "Streams", "bound_buffer", "send_within"]

_SLICES = 50
# Between the transport's buffer and the frame that is being written, one that stops reading holds about twice this.
_BUFFER_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """Seconds: how long a peer may take nothing, between heartbeats, between pings, until the first frame must come."""

    send_seconds: float
    heartbeat_seconds: float = 15.0
    ping_seconds: float = 30.0
    subscribe_seconds: float = 10.0


class PeerGoneError(Exception):
    """The peer hung up, or took nothing for too long and was cut off."""


class Stream(Protocol):
    """An open stream, as the ticker knows it. None of these calls waits or fails."""

    def beat(self) -> None:
        """Sends a heartbeat, if nothing was sent since the last one."""

    def wake(self) -> None:
        """Looks whether there is something to send, or to end."""


class Streams:
    """All open streams of an application. Run `beat` beside them; `owner` runs what they send."""

    owner: asyncio.TaskGroup

    def __init__(self, rules: StreamRules) -> None:
        self._streams: dict[Stream, None] = {}
        self.rules = rules

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Stream) -> None:
        """From now on it beats."""
        self._streams[stream] = None

    def discard(self, stream: Stream) -> None:
        """It has ended."""
        self._streams.pop(stream, None)

    async def beat(self) -> None:
        """Lets each stream beat once in each interval, a few at a time, so that thousands are no burst. Never ends."""
        while True:
            streams = tuple(self._streams)
            for number in range(_SLICES):
                await asyncio.sleep(self.rules.heartbeat_seconds / _SLICES)
                for stream in streams[number::_SLICES]:
                    if stream in self._streams:
                        stream.beat()

    def wake(self) -> None:
        """Lets each look, at the end."""
        for stream in tuple(self._streams):
            stream.wake()


def bound_buffer(request: web.Request) -> None:
    """Makes writing wait once the peer has left so much untaken."""
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=_BUFFER_BYTES)


async def send_within(seconds: float, request: web.Request, send: Callable[[], Awaitable[object]]) -> None:
    """Sends, or cuts the peer off: a send that is blocked stays blocked, whatever else notices that the peer is dead.

    Raises:
        PeerGoneError: it is gone.
    """
    try:
        async with asyncio.timeout(seconds):
            await send()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise PeerGoneError(f"nothing was taken for {seconds:g} s") from None
    except (ConnectionError, RuntimeError) as error:
        # aiohttp says RuntimeError where the socket was closed while it was being written to.
        raise PeerGoneError("the peer hung up") from error
