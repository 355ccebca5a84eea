"""The writer of one stream. A websocket and server-sent events differ only in how a frame goes onto the wire."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from client.protocol.frames import GapFrame, Goodbye, Heartbeat, StreamFrame
from receiver.domain.records import Entry
from receiver.errors import StoreFailedError
from receiver.feed.subscription import Subscription
from receiver.web.context import Runtime
from receiver.web.middleware import API_KEY, KEY_NAME
from receiver.web.streaming.frames import RenderedFrame
from receiver.web.streaming.streams import PeerGoneError, cut_off, has_room, send_within

__all__ = ["FrameWriter"]

_RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)

_log = structlog.get_logger()


class FrameWriter:
    """Sends the frames of one stream, each within the limit of time, and heartbeats while it is idle.

    `encode` makes a frame into the bytes of the wire, in one part or several, and `write` takes each part. `wake` is
    called when there may be something to send: it lets `send_news` run, unless that runs already. `sent` counts the
    frames of the log. `is_refused` is True once the API key is no longer valid. It is a `Stream`.

    While `send_news` does not run, `send_at_once` may send without a task. What it leaves is given to `send_news`.
    """

    __slots__ = (
        "_encode",
        "_request",
        "_runtime",
        "_sent_at_beat",
        "_sent_until",
        "_write",
        "is_heartbeat_due",
        "is_refused",
        "sent",
        "subscription",
        "wake",
    )

    def __init__(
        self,
        request: web.Request,
        runtime: Runtime,
        *,
        encode: Callable[[RenderedFrame], Sequence[bytes]],
        write: Callable[[bytes], Coroutine[Any, Any, object]],
        wake: Callable[[], None],
    ) -> None:
        self._request = request
        self._runtime = runtime
        self._encode = encode
        self._write = write
        self.wake = wake
        self.subscription: Subscription | None = None
        self.is_heartbeat_due = False
        self.is_refused = False
        self.sent = 0
        self._sent_at_beat = 0
        self._sent_until: str | None = None

    @property
    def cursor(self) -> str:
        """The cursor to go on from behind all that was sent. While a page is sent, the subscription is ahead of it."""
        if self._sent_until is not None:
            return self._sent_until
        return "" if self.subscription is None else self.subscription.cursor

    @property
    def is_closing(self) -> bool:
        """True once the receiver shuts down, or the API key is no longer valid."""
        return self.is_refused or self._runtime.waits.is_closing

    async def send(self, frame: Entry | StreamFrame) -> None:
        """Send a frame, or the frame for an entry of the log.

        Raises:
            PeerGoneError: the peer hung up, or took nothing for too long.
        """
        parts = self._encode(self._runtime.frames.render(frame))
        # See `_send_page`.
        del frame
        seconds = self._runtime.streams.rules.send_seconds
        for part in parts:
            await send_within(seconds, self._request, partial(self._write, part))

    @property
    def has_work(self) -> bool:
        """True if `send_news` has something to do, as far as is known, or the stream is to end."""
        has_news = self.subscription is not None and self.subscription.has_more
        return has_news or self.is_heartbeat_due or self.is_closing

    def send_at_once(self) -> deque[Entry | GapFrame]:
        """Send the next entries of the tail as far as the peer has room for them. Return the others of the page.

        Raises:
            PeerGoneError: the peer hung up.
        """
        page = deque[Entry | GapFrame]()
        if self.subscription is None or self.is_closing or not self.subscription.has_more:
            return page
        self._sent_until = self.subscription.cursor
        page.extend(self.subscription.read_at_once())
        while page and self._write_at_once(page[0]):
            self._sent_until = page.popleft().cursor
            self.sent += 1
        if not page:
            self._sent_until = None
        return page

    async def send_news(self, page: deque[Entry | GapFrame]) -> None:
        """Send a page, then all that the subscription has, and a heartbeat if one is due.

        At shutdown, it sends no more than a page.

        Raises:
            PeerGoneError: as `send`.
        """
        await self._send_page(page)
        while self.subscription is not None and not self.is_closing:
            before = self.subscription.cursor
            page = deque(await self._read(self.subscription))
            if page:
                self._sent_until = before
                await self._send_page(page)
            elif self.is_heartbeat_due:
                # The subscription is read again behind it: a writer at work is not woken.
                self.is_heartbeat_due = False
                await self.send(Heartbeat(cursor=self.subscription.cursor))
                self.sent += 1
                self._sent_at_beat = self.sent
            else:
                return

    async def send_goodbye(self) -> None:
        """Send the cursor to go on from once the receiver is back; raises `PeerGoneError`, too."""
        await self.send(Goodbye(cursor=self.cursor))
        self.sent += 1

    async def within_limit(self, send: Callable[[], Awaitable[object]]) -> None:
        """Let `send` write to the peer within the limit of time; raises `PeerGoneError`, too."""
        await send_within(self._runtime.streams.rules.send_seconds, self._request, send)

    def beat(self) -> None:
        """Send a heartbeat, if nothing was sent since the last beat."""
        if self.sent == self._sent_at_beat and self.subscription is not None:
            self.is_heartbeat_due = True
            self.wake()
        self._sent_at_beat = self.sent

    def check_key(self) -> None:
        """End the stream, `is_refused`, if its API key is no longer valid."""
        if not self._runtime.keys.is_valid(self._request[API_KEY]):
            self.is_refused = True
            self.wake()

    def drop(self, reason: str) -> None:
        """Cut the peer off, and log the reason."""
        _log.info("stream.dropped", key=self._request[KEY_NAME], reason=reason)
        self.abort()

    def abort(self) -> None:
        """Cut the peer off."""
        cut_off(self._request)

    async def _read(self, subscription: Subscription) -> Sequence[Entry | GapFrame]:
        """Read the next page; while the store cannot be read, try again, less and less often, until the shutdown."""
        failures = 0
        while not self.is_closing:
            try:
                return await subscription.read()
            except StoreFailedError as error:
                if not failures:
                    _log.warning("stream.stalled", reason=error.detail)
                await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1
        return ()

    def _write_at_once(self, entry: Entry | GapFrame) -> bool:
        parts = self._encode(self._runtime.frames.render(entry))
        if not has_room(self._request, sum(map(len, parts))):
            return False
        for part in parts:
            writing = self._write(part)
            # A task would run it only in the next turn of the loop. With room for its bytes, it does not wait.
            try:
                writing.send(None)
            except StopIteration:
                continue
            except (ConnectionError, RuntimeError) as error:
                raise PeerGoneError("the peer hung up") from error
            # It has written its bytes, and waits for room for more. The next write will see to that.
            writing.close()
        return True

    async def _send_page(self, page: deque[Entry | GapFrame]) -> None:
        # Each entry leaves the page before it is sent, and `send` lets go of it before it waits. So a peer that stops
        # reading a large result holds its bytes, which it shares with others, and not the task as well.
        while page:
            cursor = page[0].cursor
            await self.send(page.popleft())
            self.sent += 1
            self._sent_until = cursor
        self._sent_until = None
