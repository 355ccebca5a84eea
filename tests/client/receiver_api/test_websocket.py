"""A subscription over a websocket: its frames, its ends, and the reading of a refusal."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.protocol.connection import StreamBlockedError
from client.protocol.frames import Add, Heartbeat, ResultFrame, Subscribe, Subscribed
from client.receiver_api.http import open_receiver_session
from client.receiver_api.websocket import WebsocketSubscription, open_websocket
from tests.client.receiver_api.streams import CUT, Close, heartbeat, result, scripted_streams, subscribed
from tests.support import ADMIN, SUBMIT_ONLY, eventually, running_receiver


@asynccontextmanager
async def opened(url: str, key: str = ADMIN, **options: Any) -> AsyncIterator[WebsocketSubscription]:
    """Yield an open websocket, without sending anything."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        open_receiver_session() as session,
        open_websocket(session, f"{url}/v1/subscribe", headers, **options) as subscription,
    ):
        yield subscription


async def refused(*script: Any) -> Exception:
    """Return the error of opening a websocket if the upgrade gets this answer."""
    async with scripted_streams(*script) as server:
        with pytest.raises((ReceiverUnavailableError, ReceiverRefusedError, StreamBlockedError)) as error:
            async with opened(server.url):
                pass
    return error.value


async def ended(*script: Any, **options: Any) -> str:
    """Return the text of the error that ends a subscription with this script."""
    async with scripted_streams(list(script)) as server, opened(server.url, **options) as subscription:
        await subscription.send(Subscribe(id=0))
        with pytest.raises(ReceiverUnavailableError) as error:
            await subscription.receive()
    return str(error.value)


async def test_frames_go_both_ways() -> None:
    """Sent frames have the names of the wire and only the given fields; unknown frames are ignored."""
    script = [b"binary", "{garbage", "[]", {"type": "news"}, {**subscribed(), "more": 1}, result("c1")]
    async with scripted_streams(script) as server, opened(server.url) as subscription:
        await subscription.send(Subscribe(id=0, tasks=("ref-1",), hints=True))
        await subscription.send(Add(id=1, tasks=("ref-2",)))
        frames = [await subscription.receive(), await subscription.receive()]
        await eventually(lambda: len(server.received[0]) == 2)

    assert [type(frame) for frame in frames] == [Subscribed, ResultFrame]
    assert server.received[0] == [
        {"type": "subscribe", "id": 0, "tags": [], "tasks": ["ref-1"], "hints": True},
        {"type": "add", "id": 1, "tasks": ["ref-2"]},
    ]


async def test_cancelled_receiving_loses_nothing() -> None:
    """The next call receives the next frame."""
    async with scripted_streams([subscribed(), heartbeat("c2")]) as server, opened(server.url) as subscription:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await subscription.receive()
        await subscription.send(Subscribe(id=0))
        frames = [await subscription.receive(), await subscription.receive()]

    assert [type(frame) for frame in frames] == [Subscribed, Heartbeat]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        pytest.param(CUT, "1006", id="cut"),
        pytest.param(Close(1013, "receiver-full"), "1013 (receiver-full)", id="full"),
        pytest.param(Close(1008, "no subscription came"), "1008 (no subscription came)", id="late"),
        pytest.param(Close(1000), "1000", id="closed"),
    ],
)
async def test_the_end_is_told(end: object, reason: str) -> None:
    """The error names the close code and the reason."""
    assert await ended(end) == f"the websocket was closed with {reason}"


async def test_silence_is_an_end() -> None:
    """A silent connection counts as broken."""
    assert await ended(silent_seconds=0.1) == "the receiver was silent for 0.1 s"


async def test_sending_on_a_connection_that_is_gone() -> None:
    """Sending raises the same error as receiving."""
    async with scripted_streams([CUT]) as server, opened(server.url) as subscription:
        await subscription.send(Subscribe(id=0))
        with pytest.raises(ReceiverUnavailableError):
            await subscription.receive()
        with pytest.raises(ReceiverUnavailableError):
            await subscription.send(Subscribe(id=0))


async def test_leaving_closes_it(tmp_path: Path) -> None:
    """A cancelled subscription leaves nothing behind at the receiver."""
    async with running_receiver(tmp_path / "receiver.db") as receiver:

        async def follow() -> None:
            async with opened(receiver.url) as subscription:
                await subscription.send(Subscribe(id=0))
                while True:
                    await subscription.receive()

        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow())
            await eventually(lambda: receiver.streams == 1)
            following.cancel()
        await eventually(lambda: receiver.streams == 0)


@pytest.mark.parametrize("status", [200, 301, 400, 404, 405, 426, 502])
async def test_an_answer_that_knows_no_websockets(status: int) -> None:
    """After such an answer, probably from a proxy, long polls may get through."""
    error = await refused(web.Response(status=status, text="<html>"))

    assert (type(error), str(status) in str(error)) == (StreamBlockedError, True)


@pytest.mark.parametrize("status", [408, 429, 500, 503, 504])
async def test_an_answer_for_now(status: int) -> None:
    """After such a status the same request may work later."""
    assert isinstance(await refused(web.Response(status=status)), ReceiverUnavailableError)


@pytest.mark.parametrize(("status", "slug"), [(401, "no-key"), (403, "scope-missing")])
async def test_a_refusal_of_ours(status: int, slug: str) -> None:
    """A receiver refuses a key for good; the same status from anything else may be about websockets."""
    ours = await refused(web.Response(status=status, content_type="application/problem+json"))
    other = await refused(web.Response(status=status, text="<html>"))

    assert isinstance(ours, ReceiverRefusedError)
    assert (ours.status, ours.slug, type(other)) == (status, slug, StreamBlockedError)


@pytest.mark.parametrize(("key", "status"), [("tests-only-wrong-key-0123456789", 401), (SUBMIT_ONLY, 403)])
async def test_a_wrong_key(tmp_path: Path, key: str, status: int) -> None:
    """The receiver refuses the key before it opens the websocket."""
    async with running_receiver(tmp_path / "receiver.db") as receiver:
        with pytest.raises(ReceiverRefusedError) as error:
            async with opened(receiver.url, key):
                pass

    assert error.value.status == status
    assert key not in str(error.value)


async def test_nobody_answers() -> None:
    """Without a listener the receiver counts as unavailable."""
    with pytest.raises(ReceiverUnavailableError, match="cannot be reached"):
        async with opened("http://127.0.0.1:1"):
            pass


async def test_an_upgrade_that_is_held() -> None:
    """A peer may never answer the upgrade. The attempt ends after a time limit."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ReceiverUnavailableError, match=r"within 0\.1 s"):
            async with opened(url, connect_seconds=0.1):
                pass
