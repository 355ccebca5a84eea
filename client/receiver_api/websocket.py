"""A subscription over a websocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import aiohttp
from yarl import URL

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.protocol.connection import RETRY_STATUSES, StreamBlockedError
from client.protocol.frames import SUBPROTOCOL, Request, StreamFrame, read_frame

__all__ = ["WebsocketSubscription", "open_websocket"]

_CONNECT_SECONDS = 5.0
_SEND_SECONDS = 10.0
# The limit for the answer to the first request. Without an answer, frames do not get through.
_ANSWER_SECONDS = 10.0
# Longer than two heartbeats of the receiver.
_SILENT_SECONDS = 40.0
_CLOSE_SECONDS = 1.0
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_PROBLEM = "application/problem+json"
# Temporary answers of a receiver, or of a proxy in front of one that is down. 502 is not among them: proxies send it
# also if they cannot pass a websocket on. If it means that the receiver is down, the next request will show it.
_LATER = RETRY_STATUSES | {500, 503, 504}
# The body of a refused handshake is not read. Its status tells the reason.
_REFUSALS = {
    401: ("no-key", "CALLBACK_RECEIVER_KEY: expected a key that the receiver knows"),
    403: ("scope-missing", "CALLBACK_RECEIVER_KEY: expected a key with the scope to read"),
}


class WebsocketSubscription:
    """A `client.protocol.connection.OpenSubscription` over an open websocket."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, *, silent_seconds: float) -> None:
        self._ws = ws
        self._silent_seconds = silent_seconds
        self._limit_seconds = min(_ANSWER_SECONDS, silent_seconds)

    async def send(self, frame: Request) -> None:
        """Send a frame, within 10 s; see `OpenSubscription`."""
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._ws.send_str(frame.model_dump_json(by_alias=True, exclude_none=True))
        except TimeoutError:
            raise ReceiverUnavailableError(f"the receiver read nothing for {_SEND_SECONDS:g} s") from None
        except (ConnectionError, aiohttp.ClientError) as error:
            raise ReceiverUnavailableError("the websocket broke") from error

    async def receive(self) -> StreamFrame:
        """Return the next known frame; see `OpenSubscription`. The first one must come within 10 s."""
        while True:
            try:
                # Around all of it: answering a ping may have to wait as well.
                async with asyncio.timeout(self._limit_seconds):
                    message = await self._ws.receive()
            except TimeoutError:
                raise ReceiverUnavailableError(f"the receiver was silent for {self._limit_seconds:g} s") from None
            except (ConnectionError, aiohttp.ClientError) as error:
                raise ReceiverUnavailableError("the websocket broke") from error
            self._limit_seconds = self._silent_seconds
            if message.type is aiohttp.WSMsgType.TEXT:
                frame = read_frame(message.data)
                if frame is not None:
                    return frame
            elif message.type is not aiohttp.WSMsgType.BINARY:
                reason = f" ({message.extra})" if message.type is aiohttp.WSMsgType.CLOSE and message.extra else ""
                raise ReceiverUnavailableError(f"the websocket was closed with {self._ws.close_code}{reason}")


@asynccontextmanager
async def open_websocket(
    session: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str],
    *,
    connect_seconds: float = _CONNECT_SECONDS,
    silent_seconds: float = _SILENT_SECONDS,
) -> AsyncIterator[WebsocketSubscription]:
    """Yield an open websocket to `url`. It is closed on leaving, within two seconds.

    Raises:
        ReceiverUnavailableError: the receiver cannot be reached, or cannot take it now.
        ReceiverRefusedError: the receiver refuses the key.
        StreamBlockedError: the server there, or a proxy before it, knows no websockets.
    """
    ws = await _connect(session, url, headers, connect_seconds)
    try:
        yield WebsocketSubscription(ws, silent_seconds=silent_seconds)
    finally:
        with suppress(TimeoutError):
            # A peer may read nothing, not even the close frame. The cancellation then cuts the connection off.
            async with asyncio.timeout(2 * _CLOSE_SECONDS):
                await ws.close()


async def _connect(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], seconds: float
) -> aiohttp.ClientWebSocketResponse:
    try:
        async with asyncio.timeout(seconds):
            return await session.ws_connect(
                URL(url, encoded=True),
                headers=headers,
                protocols=(SUBPROTOCOL,),
                max_msg_size=_MAX_FRAME_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_SECONDS),
            )
    except aiohttp.WSServerHandshakeError as error:
        raise _refusal(error) from error
    except TimeoutError as error:
        raise ReceiverUnavailableError(f"no websocket was opened within {seconds:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ReceiverUnavailableError(f"the receiver cannot be reached ({type(error).__name__})") from error


def _refusal(error: aiohttp.WSServerHandshakeError) -> Exception:
    kind = "" if error.headers is None else error.headers.get("Content-Type", "")
    if error.status in _LATER:
        return ReceiverUnavailableError(f"the receiver answered the websocket with HTTP {error.status}")
    if kind.startswith(_PROBLEM) and error.status in _REFUSALS:
        slug, detail = _REFUSALS[error.status]
        return ReceiverRefusedError(status=error.status, slug=slug, detail=detail)
    return StreamBlockedError(f"the websocket was answered with HTTP {error.status}")
