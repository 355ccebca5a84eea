"""`GET /v1/results/stream`: the log as server-sent events (WHATWG HTML, 9.2), with the frames of the websocket.

Each event is named after its frame and has its cursor as id, so that a browser that reconnects by itself says with
`Last-Event-ID` where to go on. Polyfills say it in the query, because a header of their own needs a CORS preflight.
"""

from __future__ import annotations

import random
from collections import deque
from functools import partial

import structlog
from aiohttp import web

from receiver.feed.hub import Waiter
from receiver.feed.subscription import Subscription
from receiver.web.auth import allowed_origin, origin_headers
from receiver.web.context import RUNTIME, Runtime
from receiver.web.filtering import read_filter
from receiver.web.middleware import KEY_NAME, STREAM_FACTS
from receiver.web.request import check_query, read_text
from receiver.web.streaming.frames import Frame
from receiver.web.streaming.streams import (
    PeerGoneError,
    bound_buffer,
    cut_off,
    cut_off_later,
    read_patiently,
    send_within,
)

__all__ = ["stream"]

_PARAMETERS = ("after", "provider", "tags", "tasks", "hints", "ticket")
_SMALL_BYTES = 4096
_END = b"\n\n"
# Browsers reconnect after so many milliseconds; drawn, so that after a restart they do not all come at once.
_RECONNECT_MS = (1000, 3000)

_log = structlog.get_logger()


async def stream(request: web.Request) -> web.StreamResponse:
    """Serve the stream until either side ends it."""
    check_query(request, (*_PARAMETERS, *filter(_is_last_event_id, request.query)))
    context = request.app[RUNTIME]
    only = read_filter(request)
    cursor = _last_event_id(request) or read_text(request, "after")
    with context.waits.stream_admitted(request[KEY_NAME]):
        reader = _Reader(request, context)
        subscription = await context.results.subscribe(only, cursor, reader.wake, owner=request[KEY_NAME])
        try:
            return await reader.serve(subscription)
        finally:
            subscription.close()


def _last_event_id(request: web.Request) -> str | None:
    """Return the cursor of the last event: the header wins over the query, the last parameter over earlier ones.

    A header is never older than the address. Of several parameters the last one is the newest: a polyfill appends its
    own behind the one that its page had put into the address (Yaffle/EventSource#167).
    """
    in_query = [value for name, value in request.query.items() if _is_last_event_id(name) and value]
    return request.headers.get("Last-Event-ID") or (in_query[-1] if in_query else None)


def _is_last_event_id(parameter: str) -> bool:
    """Return whether this is one of the names in use.

    They are `lastEventId` (Yaffle/EventSource#162), `lastEventID` and `Last-Event-ID` (dunglas/mercure#613).
    """
    return parameter.replace("-", "").lower() == "lasteventid"


class _Reader:
    """One reader of server-sent events."""

    def __init__(self, request: web.Request, context: Runtime) -> None:
        self._request = request
        self._context = context
        self._waiter = Waiter()
        self._is_beat_due = True
        self._sent = 0
        self._sent_before = 0
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                # nginx would otherwise gather what is to arrive at once.
                "X-Accel-Buffering": "no",
                **origin_headers(allowed_origin(request)),
            }
        )

    def wake(self) -> None:
        """See `Stream`; also the listener of the subscription."""
        self._waiter.wake()

    def beat(self) -> None:
        """See `Stream`."""
        if self._sent == self._sent_before:
            self._is_beat_due = True
            self._waiter.wake()
        self._sent_before = self._sent

    def abort(self) -> None:
        """See `Stream`."""
        cut_off(self._request)

    async def serve(self, subscription: Subscription) -> web.StreamResponse:
        """Send what comes until the peer hangs up or the receiver shuts down."""
        await self._response.prepare(self._request)
        bound_buffer(self._request)
        self._context.streams.add(self)
        try:
            await self._write(f"retry: {random.randint(*_RECONNECT_MS)}\n\n".encode())  # noqa: S311  (no secret)
            while not self._is_closing():
                self._waiter.clear()
                if not await self._send_what_there_is(subscription):
                    await self._waiter.wait(self._context.streams.rules.heartbeat_seconds)
            await self._send(self._context.frames.goodbye(subscription.cursor))
        except PeerGoneError as gone:
            _log.info("stream.dropped", key=self._request[KEY_NAME], reason=str(gone))
        finally:
            self._context.streams.discard(self)
            # Its peer hangs up, mostly: then the handler is cancelled and gives no response.
            self._request[STREAM_FACTS] = {"status": self._response.status, "frames": self._sent}
            cut_off_later(self._request)
        return self._response

    def _is_closing(self) -> bool:
        return self._context.waits.is_closing

    async def _send_what_there_is(self, subscription: Subscription) -> bool:
        frames = self._context.frames
        told = deque(await read_patiently(subscription, self._is_closing))
        is_more = bool(told)
        # Rendered, a result is let go: a peer that stops reading is to hold one frame, and not a page as well.
        while told:
            await self._send(frames.of(told.popleft()))
        if self._is_beat_due and not is_more:
            self._is_beat_due = False
            await self._send(frames.heartbeat(subscription.cursor))
            self._sent_before = self._sent
        return is_more

    async def _send(self, frame: Frame) -> None:
        head = f"event: {frame.type}\nid: {frame.cursor}\ndata: ".encode()
        if len(frame.raw) < _SMALL_BYTES:
            await self._write(head + frame.raw + _END)
        else:
            # In parts, so that the frame is the one that others have in their buffers, too.
            for part in (head, frame.raw, _END):
                await self._write(part)
        self._sent += 1

    async def _write(self, raw: bytes) -> None:
        await send_within(self._context.streams.rules.send_seconds, self._request, partial(self._response.write, raw))
