"""One callback of the receiver to itself: through DNS, TLS and the proxy, into the database, and back by websocket.

The websocket is subscribed first, so that the frame is a wake-up and no look at the past. Then the callback is sent
over a connection of its own. Its answer carries a random text, the nonce. The database and the frame must show the same
one. So no other server at that address, and no cache, can pass for this receiver.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiohttp

from client.protocol.filters import CANARY
from client.protocol.frames import SUBPROTOCOL
from receiver.domain.records import SECOND, TaskRecord
from receiver.domain.registrations import Register
from receiver.domain.tokens import Kind, make_token
from receiver.errors import ReceiverError
from receiver.storage.store import Store

__all__ = ["STAGES", "CanaryRun", "run_canary"]

STAGES = ("dns", "connect", "tls", "answer", "committed", "frame")
"""The stages in their order. A host that is an address has no `dns`, and plain HTTP has no `tls`."""

_STEP_SECONDS = 10.0
_FRAME_SECONDS = 5.0
_CLOSE_SECONDS = 1.0
_LIFE = 60 * SECOND
_MOST_FRAMES = 20


@dataclass(frozen=True, slots=True)
class CanaryRun:
    """The seconds of each stage that was passed, and the stage that failed with its reason. It holds no secret."""

    seconds: Mapping[str, float]
    failed: str | None = None
    reason: str = ""


class _StageFailedError(Exception):
    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


async def run_canary(
    public_url: str, key: bytes, store: Store, *, now: Callable[[], int], new_ref: Callable[[], UUID]
) -> CanaryRun:
    """Send one callback to this receiver and wait for its frame. It ends within 30 s.

    `key` signs its URL, `now` returns microseconds since 1970, and `new_ref` a UUIDv7. The way may be cancelled.
    """
    ref = new_ref()
    nonce = secrets.token_urlsafe(16)
    connection = _Connection()
    seconds = connection.seconds
    # It loads the authorities of the system, which takes some 30 ms.
    context = await asyncio.to_thread(ssl.create_default_context)
    try:
        await store.write(Register(task=_task(ref, now()), answer=None, idempotency=None))
        async with AsyncExitStack() as stack:
            no_reader: _StageFailedError | None = None
            try:
                reader = await stack.enter_async_context(_subscribed(public_url, ref, key, context))
            except _StageFailedError as failure:
                # The callback may fail at an earlier stage, which is the one to name.
                no_reader = failure
            started = time.perf_counter()
            await _send(connection, context, f"{public_url}/callback/{CANARY}/{_token(Kind.TASK, ref, key)}", nonce)
            await _check_committed(store, ref, nonce)
            seconds["committed"] = time.perf_counter() - started
            if no_reader is not None:
                raise no_reader
            await _wait_for_frame(reader, nonce)
            seconds["frame"] = time.perf_counter() - started
    except _StageFailedError as failure:
        return CanaryRun(seconds, failure.stage, failure.reason)
    except ReceiverError as error:
        return CanaryRun(seconds, "committed", error.detail)
    return CanaryRun(seconds)


@dataclass(slots=True)
class _Connection:
    """The stages of a new connection. `stage` is the one under way."""

    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = "connect"
    _since: float = field(default_factory=time.perf_counter)

    def begin(self, stage: str) -> None:
        self.stage = stage
        self._since = time.perf_counter()

    def end(self, next_stage: str) -> None:
        self.seconds[self.stage] = time.perf_counter() - self._since
        self.begin(next_stage)

    @property
    def tracing(self) -> aiohttp.TraceConfig:
        """The signals of aiohttp that end a stage. It has none for the end of TCP: see `timed`."""
        config = aiohttp.TraceConfig()

        async def on_connecting(*_signal: Any) -> None:
            self.begin("connect")

        async def on_resolving(*_signal: Any) -> None:
            self.begin("dns")

        async def on_resolved(*_signal: Any) -> None:
            self.end("connect")

        async def on_connected(*_signal: Any) -> None:
            self.end("answer")

        config.on_connection_create_start.append(on_connecting)
        config.on_dns_resolvehost_start.append(on_resolving)
        config.on_dns_resolvehost_end.append(on_resolved)
        config.on_connection_create_end.append(on_connected)
        return config

    def timed(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """Let the handshake of this context end the stage of TCP."""
        connection = self

        class TimedObject(ssl.SSLObject):
            def do_handshake(self) -> None:
                if connection.stage == "connect":
                    connection.end("tls")
                super().do_handshake()

        context.sslobject_class = TimedObject
        return context


async def _send(connection: _Connection, context: ssl.SSLContext, url: str, nonce: str) -> None:
    """Send the callback over a new connection."""
    body = {"errorId": 0, "status": "ready", "solution": {"nonce": nonce}}
    # The name is looked up anew, as a provider does.
    connector = aiohttp.TCPConnector(ssl=connection.timed(context), use_dns_cache=False, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector, trace_configs=[connection.tracing], timeout=aiohttp.ClientTimeout(_STEP_SECONDS)
    ) as session:
        with _stages_named(connection):
            async with session.post(url, json=body, allow_redirects=False) as response:
                await response.content.readany()
        if response.status != 200:
            raise _StageFailedError("answer", f"the callback was answered {response.status}, not 200")
        connection.end("committed")


async def _check_committed(store: Store, ref: UUID, nonce: str) -> None:
    task = await store.task(str(ref))
    outcome = None if task is None else task.outcome
    if outcome is None or outcome.solution is None or json.loads(outcome.solution) != {"nonce": nonce}:
        reason = "the callback was answered 200, but is not in the database: another server answered"
        raise _StageFailedError("committed", reason)


@asynccontextmanager
async def _subscribed(
    public_url: str, ref: UUID, key: bytes, context: ssl.SSLContext
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Yield a websocket that follows the task."""
    connection = _Connection()
    protocols = (SUBPROTOCOL, f"{CANARY}.{_token(Kind.READER, ref, key)}")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, use_dns_cache=False, force_close=True),
        trace_configs=[connection.tracing],
    ) as session:
        with _stages_named(connection, answer="frame"):
            async with asyncio.timeout(_STEP_SECONDS):
                websocket = await session.ws_connect(
                    f"{public_url}/v1/subscribe",
                    protocols=protocols,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
                )
        async with websocket:
            with _stages_named(connection, answer="frame"):
                await websocket.send_json({"type": "subscribe", "id": "canary", "tasks": [str(ref)]})
                await _frame_of_type(websocket, "subscribed")
            yield websocket


async def _wait_for_frame(websocket: aiohttp.ClientWebSocketResponse, nonce: str) -> None:
    frame = await _frame_of_type(websocket, "result")
    task = frame.get("task")
    if not isinstance(task, dict) or task.get("solution") != {"nonce": nonce}:
        raise _StageFailedError("frame", "the websocket brought another answer: another server answered")


async def _frame_of_type(websocket: aiohttp.ClientWebSocketResponse, frame_type: str) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_FRAME_SECONDS):
            for _ in range(_MOST_FRAMES):
                message = await websocket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise _StageFailedError("frame", f"the websocket was closed ({websocket.close_code})")
                frame = json.loads(message.data)
                if isinstance(frame, dict) and frame.get("type") == frame_type:
                    return frame
    except TimeoutError:
        raise _StageFailedError("frame", f"no frame came within {_FRAME_SECONDS:g} s") from None
    except ValueError:
        raise _StageFailedError("frame", "the websocket brought no JSON") from None
    raise _StageFailedError("frame", f"the websocket did not bring the frame {frame_type}")


@contextmanager
def _stages_named(connection: _Connection, *, answer: str = "answer") -> Iterator[None]:
    """Turn errors of the connection into a failed stage. Their texts are not used: they may hold the URL.

    `answer` is the stage behind the connection.
    """

    def failed(stage: str, reason: str) -> _StageFailedError:
        return _StageFailedError(answer if stage == "answer" else stage, reason)

    try:
        yield
    except TimeoutError:
        raise failed(connection.stage, f"nothing came within {_STEP_SECONDS:g} s") from None
    except aiohttp.ClientConnectorDNSError:
        raise failed("dns", "the host name cannot be resolved") from None
    except aiohttp.ClientConnectorCertificateError as error:
        certificate = error.certificate_error
        reason = getattr(certificate, "verify_message", "") or type(certificate).__name__
        raise failed("tls", f"the certificate is not valid: {reason}") from None
    except aiohttp.ClientSSLError as error:
        raise failed("tls", f"the TLS handshake failed: {type(error).__name__}") from None
    except aiohttp.ClientConnectorError as error:
        reason = os.strerror(error.errno) if error.errno else "no reason given"
        raise failed(connection.stage, f"cannot connect: {reason}") from None
    except aiohttp.WSServerHandshakeError as error:
        raise failed("answer", f"the websocket was answered {error.status}, not 101") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise failed(connection.stage, type(error).__name__) from None


def _task(ref: UUID, now: int) -> TaskRecord:
    return TaskRecord(
        row=0,
        ref=str(ref),
        provider=CANARY,
        type=None,
        tags=(),
        metadata="{}",
        created_by=CANARY,
        client_key_id=None,
        has_url=True,
        open_to_standing=False,
        standing_id=None,
        task_id=None,
        bound_by=None,
        registered_at=0,
        created_at=now,
        poll_after=now + _LIFE,
        next_poll_at=None,
        deadline_at=now + _LIFE,
    )


def _token(kind: Kind, ref: UUID, key: bytes) -> str:
    return make_token(kind, ref, CANARY, key)
