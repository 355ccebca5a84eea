"""`GET /v1/subscribe`: the log over a websocket, one subscription for each.

What receives is the handler itself. What sends is a task that is started when there is something to send, and ends when
all was sent: most sockets are idle most of the time, and an idle one is to cost no task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import assert_never

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from client.protocol.frames import MAX_FRAME_BYTES, SUBPROTOCOL, Add, Added, Remove, Removed, Subscribe, Subscribed
from receiver.domain.records import Entry, Gap, ResultFilter
from receiver.errors import ReceiverError
from receiver.feed.filters import Names, filter_of, names_of
from receiver.feed.subscription import Subscription
from receiver.web.context import RUNTIME, Runtime
from receiver.web.middleware import KEY_NAME, STREAM_FACTS
from receiver.web.request import check_query
from receiver.web.streaming.frames import Frame
from receiver.web.streaming.pacing import FRAME_SECONDS, NAME_SECONDS, NAMES_AT_A_TIME, Pacer
from receiver.web.streaming.socket_requests import Request, answer_bytes, problem_bytes, read_request
from receiver.web.streaming.streams import (
    CLOSE_SECONDS,
    PeerGoneError,
    bound_buffer,
    cut_off,
    cut_off_later,
    read_patiently,
    send_within,
)

__all__ = ["subscribe"]

_ABNORMAL = 1006
_LARGE_CHARS = 16 * 1024

_log = structlog.get_logger()


async def subscribe(request: web.Request) -> web.StreamResponse:
    """Serve the socket until either side ends it."""
    check_query(request, ())
    context = request.app[RUNTIME]
    ws = web.WebSocketResponse(
        timeout=CLOSE_SECONDS,
        heartbeat=context.streams.rules.ping_seconds,
        autoping=False,
        protocols=(SUBPROTOCOL,),
        compress=False,
        max_msg_size=MAX_FRAME_BYTES,
        writer_limit=1,
    )
    try:
        place = context.waits.stream_admitted(request[KEY_NAME])
    except ReceiverError as error:
        # A page sees nothing of an answer by HTTP, so it is told by the socket itself.
        request[STREAM_FACTS] = {"closeCode": int(WSCloseCode.TRY_AGAIN_LATER), "reason": error.slug}
        await _shake_hands(request, ws)
        await ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=error.slug.encode())
        return ws
    with place:
        await _shake_hands(request, ws)
        bound_buffer(request)
        await _Socket(request, ws, context).serve()
    return ws


async def _shake_hands(request: web.Request, ws: web.WebSocketResponse) -> None:
    try:
        await ws.prepare(request)
    except web.HTTPBadRequest:
        raise ReceiverError("bad-request", "expected the opening handshake of a websocket (RFC 6455, 4.1)") from None


class _Socket:
    """One socket that was accepted, and its subscription once there is one.

    Its sending has no TaskGroup of its own, which would cost each idle socket half a kilobyte: `serve` awaits it.
    """

    __slots__ = (
        "_context",
        "_is_beat_due",
        "_is_over",
        "_pacer",
        "_request",
        "_sending",
        "_sent",
        "_sent_before",
        "_sent_until",
        "_subscription",
        "_ws",
    )

    def __init__(self, request: web.Request, ws: web.WebSocketResponse, context: Runtime) -> None:
        self._request = request
        self._ws = ws
        self._context = context
        # Without a transport the peer has hung up already, and nothing will be read.
        streams = context.streams
        self._pacer = (
            None
            if request.transport is None
            else Pacer(request.transport, streams.budget, streams.messages, request[KEY_NAME], self._drop)
        )
        self._subscription: Subscription | None = None
        self._sending: asyncio.Task[None] | None = None
        self._is_beat_due = False
        self._is_over = False
        self._sent = 0
        self._sent_before = 0
        self._sent_until: str | None = None

    async def serve(self) -> None:
        """Answers the peer and tells it what comes, until one of the two ends it; then nothing is left of it."""
        self._context.streams.add(self)
        if self._is_closing():
            self.wake()
        try:
            await self._receive()
            if self._is_closing() and self._sending is not None:
                # It is closing the socket itself, which takes a second at most.
                await asyncio.wait([self._sending])
        except PeerGoneError as gone:
            self._drop(str(gone))
        finally:
            self._is_over = True
            self._context.streams.discard(self)
            ended = {
                "status": self._ws.status,
                "frames": self._sent,
                "closeCode": int(self._ws.close_code or _ABNORMAL),
            }
            self._request[STREAM_FACTS] = ended | self._request.get(STREAM_FACTS, {})
            cut_off_later(self._request)
            await self._leave()

    async def _leave(self) -> None:
        """Leave nothing behind; many names are dropped over several turns of the loop, unless that is cancelled."""
        try:
            if self._sending is not None:
                self._sending.cancel()
                await asyncio.wait([self._sending])
            if self._subscription is not None:
                wanted = self._subscription.wanted
                for refs, task_ids in _parts((tuple(wanted.refs), tuple(wanted.task_ids))):
                    self._subscription.remove(refs, task_ids)
                    await asyncio.sleep(0)
        finally:
            if self._subscription is not None:
                self._subscription.close()

    def wake(self) -> None:
        """See `Stream`; also the listener of the subscription."""
        if self._sending is None and not self._is_over:
            self._sending = self._context.streams.start(self._send_what_there_is())
            if self._sending is None:
                self.abort()

    def beat(self) -> None:
        """See `Stream`."""
        if self._sent == self._sent_before and self._subscription is not None:
            self._is_beat_due = True
            self.wake()
        self._sent_before = self._sent

    def abort(self) -> None:
        """See `Stream`."""
        cut_off(self._request)

    # Receiving

    async def _receive(self) -> None:
        until = asyncio.get_running_loop().time() + self._context.streams.rules.subscribe_seconds
        while not self._ws.closed:
            try:
                frame = await self._ws.receive(self._patience(until))
            except TimeoutError:
                await self._close(WSCloseCode.POLICY_VIOLATION, b"no subscription came")
                return
            await self._turn(FRAME_SECONDS)
            match frame.type:
                case WSMsgType.TEXT:
                    if self._pacer is not None:
                        self._pacer.read_message(frame.data)
                    await self._answer(frame.data)
                    if self._pacer is not None:
                        self._pacer.let_go()
                case WSMsgType.PING:
                    if self._pacer is not None:
                        self._pacer.read_control(frame.data)
                    # Not by autoping, which would wait without a limit for a peer that does not read.
                    await self._within_limit(partial(self._ws.pong, frame.data))
                case WSMsgType.PONG:
                    if self._pacer is not None:
                        self._pacer.read_control(frame.data)
                case WSMsgType.BINARY:
                    await self._close(WSCloseCode.UNSUPPORTED_DATA, b"expected text")
                    return
                case _:
                    return

    async def _turn(self, seconds: float) -> None:
        if self._pacer is not None:
            await self._pacer.turn(seconds)

    def _patience(self, until: float) -> float | None:
        if self._subscription is not None:
            return None
        # 0 would be no limit.
        return max(0.001, until - asyncio.get_running_loop().time())

    async def _answer(self, text: str) -> None:
        if len(text) <= _LARGE_CHARS or self._pacer is None:
            answer = await self._answer_to(text)
        else:
            async with self._pacer.held(), self._context.streams.large_frames:
                answer = await self._answer_to(text)
        await self._send(answer)
        if self._subscription is not None:
            self.wake()

    async def _answer_to(self, text: str) -> bytes:
        given_id, asked = read_request(text)
        try:
            return await self._carry_out(asked)
        except ReceiverError as error:
            return problem_bytes(given_id, error)

    async def _carry_out(self, frame: Request | ReceiverError) -> bytes:
        match frame:
            case Subscribe():
                if self._subscription is not None:
                    raise ReceiverError("wrong-field", "type: there is a subscription on this socket already")
                self._subscription = await self._begun(filter_of(frame), frame.cursor)
                return answer_bytes(Subscribed(id=frame.id, cursor=self._subscription.cursor))
            case Add():
                await self._add(self._subscribed, names_of(frame.tasks))
                return answer_bytes(Added(id=frame.id, cursor=self._cursor))
            case Remove():
                subscription = self._subscribed
                for refs, task_ids in _parts(names_of(frame.tasks)):
                    await self._turn((len(refs) + len(task_ids)) * NAME_SECONDS)
                    subscription.remove(refs, task_ids)
                return answer_bytes(Removed(id=frame.id, cursor=self._cursor))
            case ReceiverError():
                raise frame
            case _:
                assert_never(frame)

    async def _begun(self, only: ResultFilter, cursor: str | None) -> Subscription:
        """Return a subscription that names its tasks; until then nothing is told."""
        unnamed = replace(only, refs=None if only.refs is None else (), task_ids=())
        subscription = await self._context.results.subscribe(unnamed, cursor, self.wake, owner=self._request[KEY_NAME])
        try:
            await self._add(subscription, (only.refs or (), only.task_ids))
        except BaseException:
            subscription.close()
            raise
        return subscription

    async def _add(self, subscription: Subscription, names: Names) -> None:
        """Name tasks, all or none of them."""
        subscription.take_room(*names)
        for refs, task_ids in _parts(names):
            await self._turn((len(refs) + len(task_ids)) * NAME_SECONDS)
            subscription.name(refs, task_ids)

    @property
    def _subscribed(self) -> Subscription:
        if self._subscription is None:
            raise ReceiverError("wrong-field", "type: expected subscribe first")
        return self._subscription

    @property
    def _cursor(self) -> str:
        """Where to go on behind what was sent: the subscription is ahead of that while a page is being sent."""
        return self._subscribed.cursor if self._sent_until is None else self._sent_until

    # Sending

    async def _send_what_there_is(self) -> None:
        try:
            if self._subscription is not None:
                await self._send_told(self._subscription)
            if self._is_closing():
                await self._say_goodbye()
        except PeerGoneError as gone:
            self._drop(str(gone))
        except Exception as error:
            # What is wrong with one stream must not end the others.
            _log.exception("stream.failed", key=self._request[KEY_NAME])
            self._drop(type(error).__name__)
        finally:
            self._sending = None

    def _is_closing(self) -> bool:
        return self._context.waits.is_closing

    def _drop(self, reason: str) -> None:
        _log.info("stream.dropped", key=self._request[KEY_NAME], reason=reason)
        self.abort()

    async def _send_told(self, subscription: Subscription) -> None:
        frames = self._context.frames
        while not self._is_closing():
            before = subscription.cursor
            told = deque(await read_patiently(subscription, self._is_closing))
            if told:
                await self._send_page(told, before)
            elif self._is_beat_due:
                # Read again behind it: who is sending is not woken.
                self._is_beat_due = False
                await self._send_frame(frames.heartbeat(subscription.cursor))
                self._sent_before = self._sent
            else:
                return

    async def _send_page(self, told: deque[Entry | Gap], before: str) -> None:
        self._sent_until = before
        # Rendered, a result is let go: a peer that stops reading is to hold one frame, and not a page as well.
        while told:
            frame = self._context.frames.of(told.popleft())
            await self._send_frame(frame)
            self._sent_until = frame.cursor
        self._sent_until = None

    async def _say_goodbye(self) -> None:
        if self._ws.closed:
            return
        if self._subscription is not None:
            await self._send_frame(self._context.frames.goodbye(self._subscription.cursor))
        await self._close(WSCloseCode.GOING_AWAY, b"the receiver is shutting down")

    async def _close(self, code: WSCloseCode, reason: bytes) -> None:
        # Not what the peer answers it with, which is mostly 1000.
        self._request[STREAM_FACTS] = {"closeCode": int(code)}
        await send_within(CLOSE_SECONDS, self._request, partial(self._ws.close, code=code, message=reason))

    async def _send_frame(self, frame: Frame) -> None:
        await self._send(frame.raw)
        self._sent += 1

    async def _send(self, raw: bytes) -> None:
        await self._within_limit(partial(self._ws.send_frame, raw, WSMsgType.TEXT))

    async def _within_limit(self, send: Callable[[], Awaitable[object]]) -> None:
        await send_within(self._context.streams.rules.send_seconds, self._request, send)


def _parts(names: Names) -> Iterator[Names]:
    """Return the names in parts small enough for one turn of the loop."""
    refs, task_ids = names
    for start in range(0, len(refs), NAMES_AT_A_TIME):
        yield refs[start : start + NAMES_AT_A_TIME], ()
    for start in range(0, len(task_ids), NAMES_AT_A_TIME):
        yield (), task_ids[start : start + NAMES_AT_A_TIME]
