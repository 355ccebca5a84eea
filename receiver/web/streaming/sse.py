"""`GET /v1/results/stream`: the log as server-sent events (WHATWG HTML, 9.2), with the frames of the websocket.

Each event has the name of its frame, and its cursor as id. After a break, a browser sends the last id as
`Last-Event-ID` and goes on behind it. Polyfills send it in the query: a header of theirs would need a CORS preflight.
"""

from __future__ import annotations

import random
from collections import deque
from functools import partial

from aiohttp import web

from receiver.feed.hub import Waiter
from receiver.web.auth import allowed_origin, origin_headers
from receiver.web.context import RUNTIME, Runtime
from receiver.web.filtering import read_filter
from receiver.web.middleware import KEY_NAME, STREAM_FACTS
from receiver.web.request import check_query, read_text
from receiver.web.streaming.frames import RenderedFrame
from receiver.web.streaming.streams import PeerGoneError, bound_buffer, cut_off_later
from receiver.web.streaming.writer import FrameWriter

__all__ = ["stream"]

_PARAMETERS = ("after", "provider", "tags", "tasks", "hints", "ticket")
_SMALL_BYTES = 4096
_END = b"\n\n"
# Browsers reconnect after so many milliseconds. The number is drawn, so that not all come at once after a restart.
_RECONNECT_MS = (1000, 3000)


async def stream(request: web.Request) -> web.StreamResponse:
    """Serve the stream until either side ends it."""
    check_query(request, (*_PARAMETERS, *filter(_is_last_event_id, request.query)))
    runtime = request.app[RUNTIME]
    only = read_filter(request)
    cursor = _last_event_id(request) or read_text(request, "after")
    with runtime.waits.stream_admitted(request[KEY_NAME]):
        waiter = Waiter()
        subscription = await runtime.results.subscribe(only, cursor, waiter.wake, owner=request[KEY_NAME])
        try:
            events = _Events(request, runtime, waiter)
            events.writer.subscription = subscription
            return await events.serve()
        finally:
            subscription.close()


def _last_event_id(request: web.Request) -> str | None:
    """Return the cursor of the last event. The header wins over the query, the last parameter over earlier ones.

    A header is never older than the address. Of several parameters the last one is the newest: a polyfill appends its
    own to the one from its page (Yaffle/EventSource#167).
    """
    in_query = [value for name, value in request.query.items() if _is_last_event_id(name) and value]
    return request.headers.get("Last-Event-ID") or (in_query[-1] if in_query else None)


def _is_last_event_id(parameter: str) -> bool:
    """Return True for each of the names in use.

    They are `lastEventId` (Yaffle/EventSource#162), `lastEventID` and `Last-Event-ID` (dunglas/mercure#613).
    """
    return parameter.replace("-", "").lower() == "lasteventid"


class _Events:
    """One stream of server-sent events. Its handler sends, and waits while there is nothing to send."""

    def __init__(self, request: web.Request, runtime: Runtime, waiter: Waiter) -> None:
        self._request = request
        self._runtime = runtime
        self._waiter = waiter
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                # nginx would otherwise gather events before it passes them on.
                "X-Accel-Buffering": "no",
                **origin_headers(allowed_origin(request)),
            }
        )
        self.writer = FrameWriter(request, runtime, encode=_parts_of, write=self._response.write, wake=waiter.wake)

    async def serve(self) -> web.StreamResponse:
        """Send what comes until the peer hangs up or the receiver shuts down."""
        writer = self.writer
        await self._response.prepare(self._request)
        bound_buffer(self._request)
        self._runtime.streams.add(writer)
        # It may have been revoked since the request came.
        writer.check_key()
        # The first event tells the place at which the stream begins, unless a result does.
        writer.is_heartbeat_due = True
        try:
            retry = f"retry: {random.randint(*_RECONNECT_MS)}\n\n"  # noqa: S311  (no secret)
            await writer.within_limit(partial(self._response.write, retry.encode()))
            while not writer.is_closing:
                self._waiter.clear()
                await writer.send_news(deque())
                await self._waiter.wait(self._runtime.streams.rules.heartbeat_seconds)
            if not writer.is_refused:
                await writer.send_goodbye()
        except PeerGoneError as gone:
            writer.drop(str(gone))
        finally:
            self._runtime.streams.discard(writer)
            # Most peers hang up themselves. Then the handler is cancelled and gives no response.
            self._request[STREAM_FACTS] = {"status": self._response.status, "frames": writer.sent}
            cut_off_later(self._request)
        return self._response


def _parts_of(frame: RenderedFrame) -> tuple[bytes, ...]:
    head = f"event: {frame.type}\nid: {frame.cursor}\ndata: ".encode()
    if len(frame.raw) < _SMALL_BYTES:
        return (head + frame.raw + _END,)
    # In parts, so that the buffer holds the same bytes as the buffers of other streams.
    return (head, frame.raw, _END)
