"""Third-party clients read the streams: `websockets` and `httpx-sse`. Each frame keeps to the contract."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent, aconnect_sse
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedOK
from websockets.typing import Subprotocol

from client.protocol.frames import SUBPROTOCOL
from receiver.web.streaming.streams import StreamRules
from tests.contracts.check_streams import check_event, check_received, check_sent
from tests.support import ADMIN, READ_ONLY, RunningReceiver, eventually, running_receiver

_QUICK = StreamRules(send_seconds=5, heartbeat_seconds=0.1, ping_seconds=1.0)
_KEY = {"Authorization": f"Bearer {READ_ONLY}"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with frequent heartbeats and pings."""
    async with running_receiver(tmp_path / "receiver.db", rules=_QUICK) as running:
        yield running


async def ended(api: RunningReceiver) -> str:
    """Return the ref of a finished task."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"])
    return str(registered["ref"])


async def new_ticket(api: RunningReceiver) -> str:
    """Return a ticket, as the backend of a page asks for one."""
    async with httpx.AsyncClient(headers=_KEY, trust_env=False) as backend:
        return str((await backend.post(f"{api.url}/v1/tickets")).json()["ticket"])


@asynccontextmanager
async def socket(api: RunningReceiver, *protocols: str, **headers: str) -> AsyncIterator[ClientConnection]:
    """Yield a websocket of the `websockets` package, with its own settings."""
    async with connect(
        f"{api.url.replace('http', 'ws', 1)}/v1/subscribe",
        subprotocols=[Subprotocol(name) for name in (SUBPROTOCOL, *protocols)],
        additional_headers=headers,
        proxy=None,
    ) as ws:
        yield ws


async def ask(ws: ClientConnection, **frame: Any) -> Any:
    """Return the answer to a frame."""
    text = json.dumps(frame)
    check_sent(text)
    await ws.send(text)
    return await next_frame(ws)


async def next_frame(ws: ClientConnection) -> Any:
    """Return the next frame, heartbeats aside."""
    async with asyncio.timeout(30):
        while (frame := check_received(await ws.recv(decode=True)))["type"] == "heartbeat":
            pass
    return frame


@asynccontextmanager
async def events(
    api: RunningReceiver, headers: dict[str, str], **query: str
) -> AsyncIterator[tuple[EventSource, AsyncIterator[ServerSentEvent]]]:
    """Yield a stream of server-sent events, read by `httpx-sse`."""
    url = f"{api.url}/v1/results/stream"
    async with (
        httpx.AsyncClient(timeout=30, trust_env=False) as session,
        aconnect_sse(session, "GET", url, headers=headers, params=query) as source,
    ):
        yield source, source.aiter_sse()


async def event(stream: AsyncIterator[ServerSentEvent], *, but: str = "heartbeat") -> tuple[str, Any]:
    """Return id and frame of the next event, except events called `but`."""
    async with asyncio.timeout(30):
        async for got in stream:
            # A block with only a reconnection time is no event in a browser.
            frame = check_event(got.event, got.id, got.data) if got.data else None
            if frame is not None and got.event != but:
                return got.id, frame
    raise EOFError


@pytest.mark.parametrize("way", ["header", "subprotocol", "ticket"])
async def test_a_websocket_is_opened(api: RunningReceiver, way: str) -> None:
    """A key in a header or in a subprotocol opens it, and so does a ticket. Only the frames' subprotocol is echoed."""
    protocols = {"header": (), "subprotocol": (f"bearer.{READ_ONLY}",), "ticket": (f"ticket.{await new_ticket(api)}",)}
    headers = _KEY if way == "header" else {}
    async with socket(api, *protocols[way], **headers) as ws:
        answer = await ask(ws, type="subscribe", id=1)
        ref = await ended(api)
        result = await next_frame(ws)

    assert (ws.subprotocol, answer["type"], answer["id"]) == (SUBPROTOCOL, "subscribed", 1)
    assert (result["type"], result["task"]["ref"]) == ("result", ref)


async def test_a_websocket_adds_and_removes(api: RunningReceiver) -> None:
    """Named tasks come when they end, and finished ones at once."""
    done, one, two = await ended(api), await api.register(), await api.register()
    async with socket(api, **_KEY) as ws:
        await ask(ws, type="subscribe", id="s", tasks=[])
        added = await ask(ws, type="add", id="a", tasks=[done, one["ref"], two["ref"]])
        at_once = await next_frame(ws)
        removed = await ask(ws, type="remove", id="r", tasks=[one["ref"]])
        await api.call_back(one["callbackUrl"])
        await api.call_back(two["callbackUrl"])
        then = await next_frame(ws)

    assert [(frame["type"], frame["id"]) for frame in (added, removed)] == [("added", "a"), ("removed", "r")]
    assert (at_once["task"]["ref"], then["task"]["ref"]) == (done, two["ref"])


async def test_a_websocket_goes_on_after_a_cut(api: RunningReceiver) -> None:
    """With the cursor of its last frame, a new websocket misses nothing and gets nothing twice."""
    async with socket(api, **_KEY) as ws:
        await ask(ws, type="subscribe", id=1)
        seen = [await ended(api)]
        cursor = (await next_frame(ws))["cursor"]
        ws.transport.abort()
    missed = [await ended(api), await ended(api)]

    async with socket(api, **_KEY) as ws:
        await ask(ws, type="subscribe", id=1, cursor=cursor)
        caught_up = [(await next_frame(ws))["task"]["ref"] for _ in missed]
        last = await ended(api)

        assert [*seen, *caught_up, (await next_frame(ws))["task"]["ref"]] == [*seen, *missed, last]


async def test_a_websocket_is_told_of_what_it_did_wrong(api: RunningReceiver) -> None:
    """The problem names the field, and the websocket stays open."""
    async with socket(api, **_KEY) as ws:
        await ws.send('{"type": "subscribe", "id": 1, "filter": "x"}')
        problem = await next_frame(ws)
        answer = await ask(ws, type="subscribe", id=2)

    assert (problem["id"], problem["problem"]["detail"].partition(":")[0]) == (1, "filter")
    assert answer["type"] == "subscribed"


async def test_a_websocket_gets_goodbye(api: RunningReceiver) -> None:
    """At shutdown a goodbye with a cursor comes, and then the close code 1001."""
    async with socket(api, **_KEY) as ws, asyncio.TaskGroup() as group:
        cursor = (await ask(ws, type="subscribe", id=1))["cursor"]
        group.create_task(api.stop())
        goodbye = await next_frame(ws)
        with pytest.raises(ConnectionClosedOK):
            await next_frame(ws)

    assert goodbye == {"type": "goodbye", "cursor": cursor}
    assert ws.close_code == 1001


async def test_pings_are_answered_both_ways(api: RunningReceiver) -> None:
    """The websocket outlives many pings of the receiver, and the receiver answers the pings of the client."""
    async with socket(api, **_KEY) as ws:
        await ask(ws, type="subscribe", id=1)
        async with asyncio.timeout(30):
            # Without its answers it would be cut off after 1.5 s.
            beats = [check_received(await ws.recv(decode=True))["type"] for _ in range(20)]
            await (await ws.ping())

    assert beats == ["heartbeat"] * 20


@pytest.mark.parametrize("way", ["header", "ticket"])
async def test_events_are_read(api: RunningReceiver, way: str) -> None:
    """A key or a ticket opens the stream. It begins with a heartbeat, and the id of each result is its cursor."""
    query = {"ticket": await new_ticket(api)} if way == "ticket" else {}
    async with events(api, _KEY if way == "header" else {}, **query) as (source, stream):
        start, beat = await event(stream, but="none")
        ref = await ended(api)
        place, result = await event(stream)

    assert source.response.headers["Content-Type"] == "text/event-stream"
    assert (start, beat["type"]) == (beat["cursor"], "heartbeat")
    assert (place, result["task"]["ref"]) == (result["cursor"], ref)


async def test_events_go_on_after_a_cut(api: RunningReceiver) -> None:
    """With `Last-Event-ID` and the same address, nothing is missed and nothing comes twice."""
    first = await ended(api)
    async with events(api, _KEY, after="start") as (_, stream):
        place, frame = await event(stream)
    await eventually(lambda: api.streams == 0)
    missed = [await ended(api), await ended(api)]

    async with events(api, _KEY | {"Last-Event-ID": place}, after="start") as (_, stream):
        caught_up = [(await event(stream))[1]["task"]["ref"] for _ in missed]

    assert [frame["task"]["ref"], *caught_up] == [first, *missed]


async def test_events_tell_gaps_hints_and_deletions(api: RunningReceiver) -> None:
    """Each of them is an event of its own. Its id is the cursor to resume at."""
    registered = await api.register()
    async with events(api, {"Authorization": f"Bearer {ADMIN}"}, after="0123456789ab-4", hints="true") as (_, stream):
        gap = (await event(stream))[1]
        await api.send("POST", registered["callbackUrl"], key=None, data=b"<html>")
        await api.send("DELETE", f"/v1/tasks/{registered['ref']}")
        then = [(await event(stream))[1] for _ in range(2)]

    assert (gap["type"], gap["reason"]) == ("gap", "other-log")
    assert [(frame["type"], frame["ref"]) for frame in then] == [
        ("hint", registered["ref"]),
        ("deleted", registered["ref"]),
    ]


async def test_events_end_with_goodbye(api: RunningReceiver) -> None:
    """At shutdown a goodbye comes, and the response ends as a complete one."""
    async with events(api, _KEY) as (_, stream), asyncio.TaskGroup() as group:
        start, _ = await event(stream, but="none")
        group.create_task(api.stop())

        assert await event(stream) == (start, {"type": "goodbye", "cursor": start})
        with pytest.raises(EOFError):
            await event(stream)
