"""All streams of an application, websockets and server-sent events: their limits, heartbeats and end.

An idle stream has no task and no timer of its own: one ticker beats for all streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from aiohttp import web

from client.protocol.frames import MAX_NAME_BYTES, MAX_NAME_BYTES_EACH
from receiver.feed.hub import Waiter
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
    "has_room",
    "send_within",
]

CLOSE_SECONDS = 1.0
"""The seconds that a peer has to take the rest of a stream that has ended."""

_SLICES = 50
_LARGE_FRAMES = 4
# With this buffer and the frame that is being written, a peer that stops reading holds about twice as much.
_BUFFER_BYTES = 16 * 1024

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """Limits of streams. Times are in seconds.

    A peer may take nothing for `send_seconds`. Heartbeats come every `heartbeat_seconds` and pings every
    `ping_seconds`. A websocket has `subscribe_seconds` to subscribe. At shutdown, all streams together have
    `goodbye_seconds` to end. Named tasks have `name_bytes` of room in all, and `name_bytes_per_key` for each API key.
    """

    send_seconds: float
    heartbeat_seconds: float = 15.0
    ping_seconds: float = 30.0
    subscribe_seconds: float = 10.0
    goodbye_seconds: float = 2.5
    name_bytes: int = MAX_NAME_BYTES
    name_bytes_per_key: int = MAX_NAME_BYTES_EACH


class PeerGoneError(Exception):
    """The peer hung up, or it took nothing for too long and was cut off."""


class Stream(Protocol):
    """An open stream, as the ticker sees it. None of these functions waits or fails."""

    def beat(self) -> None:
        """Send a heartbeat, if nothing was sent since the last one."""

    def wake(self) -> None:
        """Send what there is, or end at shutdown."""

    def check_key(self) -> None:
        """End the stream if its API key is no longer valid."""

    def abort(self) -> None:
        """Cut the peer off."""


class Streams:
    """All open streams of an application. Run `beat` beside them. The tasks that send for them belong to `owner`.

    The cost of their requests is spent from `budget`, and `messages` is the room for large requests. `large_frames`
    admits only a few of these at once: carrying out a frame of one megabyte takes six.
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
        """Let the stream beat from now on, always at the same moment of an interval."""
        self._streams[stream] = self._added % _SLICES
        self._added += 1

    def discard(self, stream: Stream) -> None:
        """Let the stream beat no more: it has ended."""
        self._streams.pop(stream, None)
        if not self._streams:
            self._end.wake()

    def start(self, sending: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run a task that sends. Return None if `owner` takes no more tasks, because another background task failed."""
        try:
            return self._owner.create_task(sending, name="sending")
        except RuntimeError:
            sending.close()
            return None

    async def beat(self) -> None:
        """Let each stream beat once an interval, a few at a time, so that thousands make no burst. Never return."""
        while True:
            slices: list[list[Stream]] = [[] for _ in range(_SLICES)]
            for stream, number in self._streams.items():
                slices[number].append(stream)
            for streams in slices:
                await asyncio.sleep(self.rules.heartbeat_seconds / _SLICES)
                for stream in streams:
                    if stream in self._streams:
                        stream.beat()

    def check_keys(self) -> None:
        """End the streams of API keys that are no longer valid."""
        for stream in tuple(self._streams):
            stream.check_key()

    async def end(self) -> None:
        """Let each stream say goodbye. Cut off the rest in time, so that they do not delay the shutdown."""
        self._end.clear()
        for stream in tuple(self._streams):
            stream.wake()
        if self._streams and not await self._end.wait(self.rules.goodbye_seconds):
            _log.warning("streams.cut_off", count=len(self._streams))
            for stream in tuple(self._streams):
                stream.abort()


def bound_buffer(request: web.Request) -> None:
    """Make writing wait while the peer has not taken so many bytes."""
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=_BUFFER_BYTES)


def has_room(request: web.Request, size: int) -> bool:
    """Return True if so many bytes can be written now, and no write has to wait for the peer."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return False
    unsent = transport.get_write_buffer_size()
    # A transport that paused writing resumes it at a quarter of its limit.
    return unsent <= _BUFFER_BYTES // 4 and unsent + size <= _BUFFER_BYTES


def cut_off(request: web.BaseRequest) -> None:
    """End the connection at once. Bytes that the peer has not taken are dropped."""
    if request.transport is not None:
        request.transport.abort()


def cut_off_later(request: web.Request) -> None:
    """Drop the rest of a stream that has ended, if the peer does not take it within a second.

    A closed transport would wait for the peer without a limit, and keep its buffer as long.
    """
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, transport.abort)


async def send_within(seconds: float, request: web.BaseRequest, send: Callable[[], Awaitable[object]]) -> None:
    """Send, or cut the peer off after `seconds`. A blocked send stays blocked, even after a missing pong.

    Raises:
        PeerGoneError: the peer hung up, or was cut off.
    """
    try:
        async with asyncio.timeout(seconds):
            await send()
    except TimeoutError:
        cut_off(request)
        raise PeerGoneError(f"nothing was taken for {seconds:g} s") from None
    except (ConnectionError, RuntimeError) as error:
        # aiohttp raises RuntimeError if the socket was closed while it was being written to.
        raise PeerGoneError("the peer hung up") from error
