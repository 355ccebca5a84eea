"""`GET /v1/subscribe`: the log over a websocket, with one subscription for each socket.

The handler receives. New results are sent at once, without a task, to a peer that has caught up and has room. For all
else an asyncio task sends: it starts when there is something to send, and ends when all of it was sent. Most sockets
are idle most of the time, and an idle one costs no task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import assert_never

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from client.protocol.filters import ResultFilter, TaskSet
from client.protocol.frames import (
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
    Add,
    Added,
    Answer,
    GapFrame,
    Remove,
    Removed,
    Request,
    Subscribe,
    Subscribed,
)
from receiver.domain.records import Entry
from receiver.errors import ReceiverError
from receiver.feed.subscription import Subscription
from receiver.web.context import RUNTIME, Runtime
from receiver.web.filtering import check_tasks, filter_of, limited, tasks_of
from receiver.web.middleware import API_KEY, KEY_NAME, STREAM_FACTS
from receiver.web.request import check_query
from receiver.web.streaming.frames import RenderedFrame
from receiver.web.streaming.pacing import FRAME_SECONDS, NAME_SECONDS, NAMES_AT_A_TIME, Pacer
from receiver.web.streaming.socket_requests import problem_frame, read_text_frame
from receiver.web.streaming.streams import CLOSE_SECONDS, PeerGoneError, bound_buffer, cut_off_later, send_within
from receiver.web.streaming.writer import FrameWriter

__all__ = ["subscribe"]

_ABNORMAL = 1006
_LARGE_CHARS = 16 * 1024

_log = structlog.get_logger()


async def subscribe(request: web.Request) -> web.StreamResponse:
    """Serve the socket until either side ends it."""
    check_query(request, ())
    runtime = request.app[RUNTIME]
    ws = web.WebSocketResponse(
        timeout=CLOSE_SECONDS,
        # aiohttp pings so often, and gives the peer half of that time to answer.
        heartbeat=runtime.streams.rules.ping_seconds,
        autoping=False,
        protocols=(SUBPROTOCOL,),
        compress=False,
        max_msg_size=MAX_FRAME_BYTES,
        # Each frame waits until the peer has room for it. Otherwise frames would gather here without a limit of time.
        writer_limit=1,
    )
    try:
        slot = runtime.waits.stream_admitted(request[KEY_NAME])
    except ReceiverError as error:
        # A page in a browser sees nothing of a refusal by HTTP. The socket itself gives it the reason.
        request[STREAM_FACTS] = {"closeCode": int(WSCloseCode.TRY_AGAIN_LATER), "reason": error.slug}
        await _shake_hands(request, ws)
        await ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=error.slug.encode())
        return ws
    with slot:
        await _shake_hands(request, ws)
        if request.transport is None:
            # The peer has hung up already, and nothing will be read.
            request[STREAM_FACTS] = {"frames": 0, "closeCode": _ABNORMAL}
            return ws
        bound_buffer(request)
        await _Socket(request, ws, runtime, request.transport).serve()
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

    __slots__ = ("_is_over", "_pacer", "_request", "_runtime", "_sending", "_writer", "_ws")

    def __init__(
        self, request: web.Request, ws: web.WebSocketResponse, runtime: Runtime, transport: asyncio.Transport
    ) -> None:
        self._request = request
        self._ws = ws
        self._runtime = runtime
        self._writer = FrameWriter(
            request, runtime, encode=_parts_of, write=partial(ws.send_frame, opcode=WSMsgType.TEXT), wake=self._wake
        )
        streams = runtime.streams
        self._pacer = Pacer(transport, streams.budget, streams.messages, request[KEY_NAME], self._writer.drop)
        self._sending: asyncio.Task[None] | None = None
        self._is_over = False

    async def serve(self) -> None:
        """Answer the peer and send it the log, until one of the two ends it. Nothing is left of the socket then."""
        self._runtime.streams.add(self._writer)
        if self._writer.is_closing:
            self._wake()
        # It may have been revoked during the handshake.
        self._writer.check_key()
        try:
            await self._receive()
            if self._writer.is_closing and self._sending is not None:
                # It closes the socket itself, which takes a second at most.
                await asyncio.wait([self._sending])
        except PeerGoneError as gone:
            self._writer.drop(str(gone))
        finally:
            self._is_over = True
            self._runtime.streams.discard(self._writer)
            ended = {
                "status": self._ws.status,
                "frames": self._writer.sent,
                "closeCode": int(self._ws.close_code or _ABNORMAL),
            }
            self._request[STREAM_FACTS] = ended | self._request.get(STREAM_FACTS, {})
            cut_off_later(self._request)
            await self._leave()

    async def _leave(self) -> None:
        """Leave nothing behind. Many names are dropped over several turns of the loop, unless that is cancelled."""
        subscription = self._writer.subscription
        try:
            if self._sending is not None:
                self._sending.cancel()
                await asyncio.wait([self._sending])
            if subscription is not None:
                for part in subscription.named.copy().parts(NAMES_AT_A_TIME):
                    subscription.remove(part)
                    await asyncio.sleep(0)
        finally:
            if subscription is not None:
                subscription.close()

    # Receiving

    async def _receive(self) -> None:
        until = asyncio.get_running_loop().time() + self._runtime.streams.rules.subscribe_seconds
        while not self._ws.closed:
            try:
                message = await self._ws.receive(self._seconds_left(until))
            except TimeoutError:
                await self._close(WSCloseCode.POLICY_VIOLATION, b"no subscription came")
                return
            await self._pacer.turn(FRAME_SECONDS)
            match message.type:
                case WSMsgType.TEXT:
                    self._pacer.read_message(message.data)
                    await self._send_answer(message.data)
                    self._pacer.let_go()
                case WSMsgType.PING:
                    self._pacer.read_control(message.data)
                    # Not by autoping, which would wait without a limit for a peer that does not read.
                    await self._writer.within_limit(partial(self._ws.pong, message.data))
                case WSMsgType.PONG:
                    self._pacer.read_control(message.data)
                case WSMsgType.BINARY:
                    await self._close(WSCloseCode.UNSUPPORTED_DATA, b"expected text")
                    return
                case _:
                    return

    def _seconds_left(self, until: float) -> float | None:
        """Return the rest of the time to subscribe. A subscriber has no limit."""
        if self._writer.subscription is not None:
            return None
        # 0 would be no limit.
        return max(0.001, until - asyncio.get_running_loop().time())

    async def _send_answer(self, text: str) -> None:
        if len(text) <= _LARGE_CHARS:
            answer = await self._answer_to(text)
        else:
            async with self._pacer.held(), self._runtime.streams.large_frames:
                answer = await self._answer_to(text)
        await self._writer.send(answer)
        if self._writer.subscription is not None:
            self._wake()

    async def _answer_to(self, text: str) -> Answer:
        given_id, request = read_text_frame(text)
        try:
            return await self._carry_out(request)
        except ReceiverError as error:
            return problem_frame(given_id, error)

    async def _carry_out(self, frame: Request | ReceiverError) -> Answer:
        match frame:
            case Subscribe():
                if self._writer.subscription is not None:
                    raise ReceiverError("wrong-field", "type: there is a subscription on this socket already")
                only = limited(filter_of(frame), self._request[API_KEY])
                self._writer.subscription = await self._begin(only, frame.cursor)
                return Subscribed(id=frame.id, cursor=self._writer.cursor)
            case Add():
                tasks = tasks_of(frame.tasks)
                check_tasks(tasks, self._request[API_KEY])
                await self._add(self._subscribed, tasks)
                return Added(id=frame.id, cursor=self._writer.cursor)
            case Remove():
                subscription = self._subscribed
                for part in tasks_of(frame.tasks).parts(NAMES_AT_A_TIME):
                    await self._pacer.turn(len(part) * NAME_SECONDS)
                    subscription.remove(part)
                return Removed(id=frame.id, cursor=self._writer.cursor)
            case ReceiverError():
                # The frame could not be read. Its error is answered as any other.
                raise frame
            case _:
                assert_never(frame)

    async def _begin(self, only: ResultFilter, cursor: str | None) -> Subscription:
        """Return a subscription that names its tasks. Nothing is sent before it is returned."""
        # Its tasks are named below, in parts, so that many of them do not hold up the loop.
        unnamed = only if only.tasks is None else only.or_tasks(TaskSet())
        subscription = await self._runtime.results.subscribe(unnamed, cursor, self._wake, owner=self._request[KEY_NAME])
        try:
            await self._add(subscription, only.tasks or TaskSet())
        except BaseException:
            subscription.close()
            raise
        return subscription

    async def _add(self, subscription: Subscription, tasks: TaskSet) -> None:
        """Name tasks, all or none of them."""
        subscription.take_room(tasks)
        for part in tasks.parts(NAMES_AT_A_TIME):
            await self._pacer.turn(len(part) * NAME_SECONDS)
            subscription.name(part)

    @property
    def _subscribed(self) -> Subscription:
        if self._writer.subscription is None:
            raise ReceiverError("wrong-field", "type: expected subscribe first")
        return self._writer.subscription

    # Sending

    def _wake(self) -> None:
        """Send what the peer has room for. Start the task that sends the rest, unless it runs already."""
        if self._sending is not None or self._is_over:
            return
        try:
            page = self._writer.send_at_once()
        except Exception as error:
            self._drop(error)
            return
        if page or self._writer.has_work:
            self._sending = self._runtime.streams.start(self._send_news(page))
            if self._sending is None:
                self._writer.abort()

    async def _send_news(self, page: deque[Entry | GapFrame]) -> None:
        try:
            await self._writer.send_news(page)
            if self._writer.is_closing:
                await self._say_goodbye()
        except Exception as error:
            self._drop(error)
        finally:
            self._sending = None

    def _drop(self, error: Exception) -> None:
        # A failure of one stream must not end the others.
        if isinstance(error, PeerGoneError):
            self._writer.drop(str(error))
        else:
            _log.error("stream.failed", key=self._request[KEY_NAME], exc_info=error)
            self._writer.drop(type(error).__name__)

    async def _say_goodbye(self) -> None:
        if self._ws.closed:
            return
        if self._writer.is_refused:
            await self._close(WSCloseCode.POLICY_VIOLATION, b"no-key")
            return
        if self._writer.subscription is not None:
            await self._writer.send_goodbye()
        await self._close(WSCloseCode.GOING_AWAY, b"the receiver is shutting down")

    async def _close(self, code: WSCloseCode, reason: bytes) -> None:
        # Not the code that the peer answers with, which is mostly 1000.
        self._request[STREAM_FACTS] = {"closeCode": int(code)}
        await send_within(CLOSE_SECONDS, self._request, partial(self._ws.close, code=code, message=reason))


def _parts_of(frame: RenderedFrame) -> tuple[bytes, ...]:
    return (frame.raw,)
