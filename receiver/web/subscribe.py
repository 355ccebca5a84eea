"""`GET /v1/subscribe`: the log over a websocket, one subscription for each.

What receives is the handler itself. What sends is a task that is started when there is something to send, and ends when
all was sent: most sockets are idle most of the time, and an idle one is to cost no task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any, assert_never

import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import TypeAdapter, ValidationError

from client.errors import UnreadableError
from client.frames import (
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
    Add,
    Added,
    ProblemFrame,
    Remove,
    Removed,
    RequestFrame,
    Subscribe,
    Subscribed,
)
from client.providers.values import parse_object
from receiver.errors import ReceiverError, StoreFailedError
from receiver.filters import filter_of, names_of
from receiver.subscriptions import Subscription
from receiver.web.context import CONTEXT, Context
from receiver.web.frames import Frame
from receiver.web.problems import KEY_NAME, STREAM_FACTS, problem_fields
from receiver.web.reading import check_query, first_wrong_field
from receiver.web.sending import PeerGoneError, bound_buffer, send_within

__all__ = ["subscribe"]

_CLOSE_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_REQUEST: TypeAdapter[Subscribe | Add | Remove] = TypeAdapter(RequestFrame)

_log = structlog.get_logger()


async def subscribe(request: web.Request) -> web.StreamResponse:
    """Serves the socket until either side ends it."""
    check_query(request)
    context = request.app[CONTEXT]
    ws = web.WebSocketResponse(
        timeout=_CLOSE_SECONDS,
        heartbeat=context.streams.rules.ping_seconds,
        protocols=(SUBPROTOCOL,),
        compress=False,
        max_msg_size=MAX_FRAME_BYTES,
        writer_limit=1,
    )
    try:
        place = context.inbox.stream_admitted(request[KEY_NAME])
    except ReceiverError as error:
        # A page sees nothing of an answer by HTTP, so it is told by the socket itself.
        request[STREAM_FACTS] = {"closeCode": int(WSCloseCode.TRY_AGAIN_LATER), "reason": error.slug}
        await ws.prepare(request)
        await ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=error.slug.encode())
        return ws
    with place:
        await ws.prepare(request)
        bound_buffer(request)
        await _Socket(request, ws, context).serve()
    return ws


class _Socket:
    """One socket that was accepted, and its subscription once there is one.

    Its sending has no TaskGroup of its own, which would cost each idle socket half a kilobyte: `serve` awaits it.
    """

    __slots__ = (
        "_context",
        "_is_beat_due",
        "_is_over",
        "_request",
        "_sending",
        "_sent",
        "_sent_before",
        "_subscription",
        "_ws",
    )

    def __init__(self, request: web.Request, ws: web.WebSocketResponse, context: Context) -> None:
        self._request = request
        self._ws = ws
        self._context = context
        self._subscription: Subscription | None = None
        self._sending: asyncio.Task[None] | None = None
        self._is_beat_due = False
        self._is_over = False
        self._sent = 0
        self._sent_before = 0

    async def serve(self) -> None:
        """Answers the peer and tells it what comes, until one of the two ends it; then nothing is left of it."""
        self._context.streams.add(self)
        try:
            await self._receive()
        except PeerGoneError as gone:
            self._drop(gone)
        finally:
            self._is_over = True
            self._context.streams.discard(self)
            if self._subscription is not None:
                self._subscription.close()
            await self._end_sending()
            code = self._ws.close_code
            self._request[STREAM_FACTS] = {"frames": self._sent, "closeCode": None if code is None else int(code)}

    def wake(self) -> None:
        """See `Stream`; also the listener of the subscription."""
        if self._sending is None and not self._is_over:
            self._sending = self._context.streams.owner.create_task(self._send_what_there_is(), name="sending")

    def beat(self) -> None:
        """See `Stream`."""
        if self._sent == self._sent_before and self._subscription is not None:
            self._is_beat_due = True
            self.wake()
        self._sent_before = self._sent

    # Receiving

    async def _receive(self) -> None:
        ws = self._ws
        while not ws.closed:
            try:
                frame = await ws.receive(self._context.streams.rules.subscribe_seconds if self._is_new else None)
            except TimeoutError:
                await ws.close(code=WSCloseCode.POLICY_VIOLATION, message=b"no subscription came")
                return
            if frame.type is WSMsgType.TEXT:
                await self._answer(frame.data)
            elif frame.type is WSMsgType.BINARY:
                await ws.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"expected text")
            else:
                return

    @property
    def _is_new(self) -> bool:
        return self._subscription is None

    async def _answer(self, text: str) -> None:
        given_id = None
        try:
            fields = parse_object(text.encode())
            given_id = _id_of(fields)
            answer = await self._carry_out(_REQUEST.validate_python(fields, by_alias=True, by_name=False))
        except UnreadableError as error:
            answer = _problem(None, ReceiverError("not-json", str(error)))
        except ValidationError as error:
            answer = _problem(given_id, ReceiverError("wrong-field", _wrong_field(error)))
        except ReceiverError as error:
            answer = _problem(given_id, error)
        await self._send(answer)
        if self._subscription is not None:
            self.wake()

    async def _carry_out(self, frame: Subscribe | Add | Remove) -> bytes:
        match frame:
            case Subscribe():
                if self._subscription is not None:
                    raise ReceiverError("wrong-field", "type: there is a subscription on this socket already")
                wanted = filter_of(frame)
                self._subscription = await self._context.inbox.subscribe(wanted, frame.cursor, self.wake)
                return _raw(Subscribed(id=frame.id, cursor=self._subscription.cursor))
            case Add():
                self._subscribed.add(*names_of(frame.tasks))
                return _raw(Added(id=frame.id, cursor=self._subscribed.cursor))
            case Remove():
                self._subscribed.remove(*names_of(frame.tasks))
                return _raw(Removed(id=frame.id, cursor=self._subscribed.cursor))
            case _:
                assert_never(frame)

    @property
    def _subscribed(self) -> Subscription:
        if self._subscription is None:
            raise ReceiverError("wrong-field", "type: expected subscribe first")
        return self._subscription

    # Sending

    async def _send_what_there_is(self) -> None:
        try:
            if self._subscription is not None:
                await self._send_told(self._subscription)
            if self._context.inbox.is_closing:
                await self._say_goodbye()
        except PeerGoneError as gone:
            self._drop(gone)
        except Exception as error:
            # What is wrong with one stream must not end the others.
            _log.exception("stream.failed", key=self._request[KEY_NAME])
            self._drop(error)
        finally:
            self._sending = None

    async def _end_sending(self) -> None:
        """At shutdown it is closing the socket itself, which takes a second at most; otherwise nobody is left."""
        if self._sending is None:
            return
        if not self._context.inbox.is_closing:
            self._sending.cancel()
        await asyncio.wait([self._sending])

    def _drop(self, why: Exception) -> None:
        _log.info("stream.dropped", key=self._request[KEY_NAME], reason=str(why) or type(why).__name__)
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _send_told(self, subscription: Subscription) -> None:
        frames = self._context.frames
        while told := deque(await _read(subscription)):
            # Rendered, a result is let go: a peer that stops reading is to hold one frame, and not a page as well.
            while told:
                await self._send_frame(frames.of(told.popleft()))
        if self._is_beat_due:
            self._is_beat_due = False
            await self._send_frame(frames.heartbeat(subscription.cursor))
            self._sent_before = self._sent

    async def _say_goodbye(self) -> None:
        if self._ws.closed:
            return
        if self._subscription is not None:
            await self._send_frame(self._context.frames.goodbye(self._subscription.cursor))
        await self._ws.close(code=WSCloseCode.GOING_AWAY, message=b"the receiver is shutting down")

    async def _send_frame(self, frame: Frame) -> None:
        await self._send(frame.raw)
        self._sent += 1

    async def _send(self, raw: bytes) -> None:
        send = partial(self._ws.send_frame, raw, WSMsgType.TEXT)
        await send_within(self._context.streams.rules.send_seconds, self._request, send)


async def _read(subscription: Subscription) -> Any:
    """What there is; where the store cannot be read now, it is asked again a little later."""
    while True:
        try:
            return await subscription.read()
        except StoreFailedError as error:
            _log.warning("stream.stalled", reason=error.detail)
            await asyncio.sleep(_RETRY_SECONDS)


def _id_of(fields: Any) -> str | int | None:
    given = fields.get("id")
    return given if isinstance(given, str | int) and not isinstance(given, bool) else None


def _wrong_field(error: ValidationError) -> str:
    if error.errors()[0]["type"].startswith("union_tag"):
        return "type: expected subscribe, add or remove"
    return first_wrong_field(error, hidden=("subscribe", "add", "remove", "int", "str", "constrained-str", "NamedTask"))


def _problem(given_id: str | int | None, error: ReceiverError) -> bytes:
    return _raw(ProblemFrame(id=given_id, problem=problem_fields(error)))


def _raw(frame: Subscribed | Added | Removed | ProblemFrame) -> bytes:
    return frame.model_dump_json(by_alias=True).encode()
