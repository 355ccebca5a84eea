"""Websockets and server-sent events for tests. Each frame comes within a limit of time and keeps to the contract."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from client.protocol.frames import SUBPROTOCOL
from tests.contracts.check_streams import check_event, check_received, check_sent
from tests.support import ADMIN, Api

__all__ = ["Events", "Socket", "open_events", "open_socket", "opened_events", "problem_of", "subscribed"]

_SECONDS = 30.0


@dataclass
class Socket:
    """A websocket of a subscriber's."""

    ws: aiohttp.ClientWebSocketResponse

    async def send(self, **frame: Any) -> None:
        """Send a frame."""
        text = json.dumps(frame)
        check_sent(text)
        await self.ws.send_str(text)

    async def next(self) -> Any:
        """Return the next frame."""
        async with asyncio.timeout(_SECONDS):
            return check_received(await self.ws.receive_str())

    async def ask(self, **frame: Any) -> Any:
        """Return the next frame after one was sent."""
        await self.send(**frame)
        return await self.next()

    async def close_code(self) -> int | None:
        """Return the close code of the other side. Earlier frames are passed over."""
        async with asyncio.timeout(_SECONDS):
            while (await self.ws.receive()).type not in (
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSED,
                aiohttp.WSMsgType.ERROR,
            ):
                pass
        return self.ws.close_code


@asynccontextmanager
async def open_socket(
    api: Api, *, key: str | None = ADMIN, protocols: tuple[str, ...] = (), headers: Mapping[str, str] | None = None
) -> AsyncIterator[Socket]:
    """Yield a websocket; the key goes into a header."""
    sent = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"{api.url}/v1/subscribe",
            headers=sent | dict(headers or {}),
            protocols=(SUBPROTOCOL, *protocols),
            timeout=aiohttp.ClientWSTimeout(ws_close=2),
        ) as ws,
    ):
        yield Socket(ws)


@asynccontextmanager
async def subscribed(api: Api, **frame: Any) -> AsyncIterator[Socket]:
    """Yield a websocket with a subscription."""
    async with open_socket(api) as socket:
        answer = await socket.ask(type="subscribe", id="s", **frame)
        assert (answer["type"], answer["id"]) == ("subscribed", "s"), answer
        yield socket


@dataclass
class Events:
    """A stream of server-sent events. `retry_ms` is its first line."""

    response: aiohttp.ClientResponse
    retry_ms: int = 0

    async def next(self) -> tuple[str, str, Any]:
        """Return the name, id and JSON of the next event."""
        fields = await self._fields()
        return fields["event"], fields["id"], check_event(fields["event"], fields["id"], fields["data"])

    async def start(self) -> None:
        """Read the first line."""
        self.retry_ms = int((await self._fields())["retry"])

    async def end(self) -> bytes:
        """Return the rest, up to the end by the other side."""
        async with asyncio.timeout(_SECONDS):
            return await self.response.content.read()

    async def _fields(self) -> dict[str, str]:
        async with asyncio.timeout(_SECONDS):
            raw = (await self.response.content.readuntil(b"\n\n")).decode()
        pairs = (line.partition(": ") for line in raw.strip().splitlines())
        return {name: value for name, _, value in pairs}


@asynccontextmanager
async def open_events(
    api: Api, *, key: str | None = ADMIN, headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncIterator[Events]:
    """Yield a stream of server-sent events."""
    url = f"{api.url}/v1/results/stream"
    async with opened_events(url, key=key, headers=headers, params=query) as events:
        yield events


@asynccontextmanager
async def opened_events(
    url: str, *, key: str | None = ADMIN, headers: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[Events]:
    """Yield the stream of server-sent events at this address."""
    sent = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(read_bufsize=2**20) as session,
        session.get(url, headers=sent | dict(headers or {}), **options) as response,
    ):
        events = Events(response)
        if response.status == 200:
            await events.start()
        yield events


def problem_of(frame: Any) -> tuple[Any, str]:
    """Return the id and the slug of a problem."""
    assert frame["type"] == "problem", frame
    return frame["id"], frame["problem"]["type"].rpartition(":")[2]
