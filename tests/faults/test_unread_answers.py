"""Unread plain answers: they use a bounded part of the memory for a bounded time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from receiver.web.server.unsent import UNSENT_BYTES_OF_KEY
from tests.faults.wire import ANSWER, Wire, request, wired
from tests.receiver.web.test_stalled_streams import narrow_socket, publish
from tests.support import ADMIN, READ_ONLY, RunningReceiver, eventually, running_receiver

KEY = f"Bearer {ADMIN}"
PAGE = "/v1/results?after=start&limit=1000"
_SYSTEM_BYTES = 4096


@asynccontextmanager
async def narrow_receiver(folder: Path, **settings: Any) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with small send buffers, so peers that do not read are noticed soon."""
    async with running_receiver(folder / "receiver.db", send_buffer_bytes=_SYSTEM_BYTES, **settings) as running:
        yield running


@asynccontextmanager
async def silent_peers(api: RunningReceiver, count: int, *requests: bytes) -> AsyncIterator[list[Wire]]:
    """Yield `count` peers. They send these requests and do not read yet."""
    address = urlsplit(api.url)
    async with AsyncExitStack() as stack:
        wires = []
        for _ in range(count):
            peer = stack.enter_context(narrow_socket())
            await asyncio.get_running_loop().sock_connect(peer, (address.hostname, address.port))
            wire = Wire(*await asyncio.open_connection(sock=peer, limit=2048))
            stack.callback(wire.reset)
            await wire.send(*requests)
            wires.append(wire)
        yield wires


def page_request(api: RunningReceiver) -> bytes:
    """Return the request for a page of a megabyte."""
    return request("GET", f"{api.url}{PAGE}", Authorization=KEY)


async def test_a_key_that_does_not_read_gets_no_more(tmp_path: Path) -> None:
    """Beyond 8 MB it is 429; other keys, small answers and callbacks are as ever, and once it reads it gets pages."""
    async with narrow_receiver(tmp_path, send_timeout_seconds=60) as api:
        await publish(api, 12, 100_000)
        task = await api.register()
        async with silent_peers(api, 16, page_request(api)) as peers:
            # Refused requests have their small answer. The others wait with unsent bytes.
            await eventually(lambda: api.unsent_answers > 7 * 2**20)
            refused = await api.send("GET", PAGE)
            other = await api.send("GET", PAGE, key=READ_ONLY)
            small = await api.send("GET", f"/v1/tasks/{task['ref']}")
            stored = await api.call_back(task["callbackUrl"])
            unsent = api.unsent_answers
            answers = [await peer.response() for peer in peers]
        await eventually(lambda: api.unsent_answers == 0)
        afterwards = await api.send("GET", PAGE)

    assert (refused.status, refused.json["type"]) == (429, "urn:callback-receiver:problem:too-much-unsent")
    assert refused.headers["Retry-After"] == "5"
    assert unsent < UNSENT_BYTES_OF_KEY
    assert (other.status, small.status, stored.status, afterwards.status) == (200, 202, 200, 200)
    assert sorted(answer.status for answer in answers) == [200] * 7 + [429] * 9
    assert {len(answer.body) for answer in answers if answer.status == 200} == {len(afterwards.body)}


async def send_for_ever(peer: Wire, one: bytes) -> None:
    """Send requests until their answers fill the buffers of the system."""
    while True:
        await peer.send(one)
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("GET", PAGE, b"", id="page"),
        pytest.param("GET", "/v1/tasks", b"", id="list"),
        pytest.param("GET", "/v1/tasks/100000-0", b"", id="task"),
        pytest.param("GET", "/v1/tasks/100000-0?wait=5", b"", id="long-poll"),
        pytest.param("GET", "/v1/tasks/100000-0/timeline", b"", id="timeline"),
        pytest.param("GET", "/metrics", b"", id="metrics"),
        pytest.param("GET", "/openapi.json", b"", id="openapi"),
        pytest.param("GET", "/healthz", b"", id="healthz"),
        pytest.param("GET", "/nothing", b"", id="not-found"),
        pytest.param("POST", "{callback}", ANSWER, id="acknowledgement"),
        pytest.param("POST", "{callback}", b"<html>", id="refused-callback"),
    ],
)
async def test_a_peer_that_takes_nothing_is_cut_off(tmp_path: Path, method: str, path: str, body: bytes) -> None:
    """Any unread answer is dropped after RECEIVER_SEND_TIMEOUT_SECONDS, and nothing of it is left."""
    async with narrow_receiver(tmp_path, send_timeout_seconds=1) as api:
        await publish(api, 3, 100_000)
        url = (await api.register())["callbackUrl"] if path == "{callback}" else api.url + path
        one = request(method, url, body, Authorization=KEY)
        async with silent_peers(api, 1) as (peer,), asyncio.timeout(30):
            with pytest.raises(ConnectionError):
                await send_for_ever(peer, one)
        await eventually(lambda: sum(api.unsent()) == api.unsent_answers == 0)
        assert (await api.send("GET", PAGE)).status == 200


async def test_an_idle_connection_keeps_nothing_of_its_last_answer(tmp_path: Path) -> None:
    """The last response of each connection lives in aiohttp until the next one; its body is let go once it was sent."""
    async with running_receiver(tmp_path / "receiver.db") as api, AsyncExitStack() as stack:
        await publish(api, 12, 100_000)
        wires = [await stack.enter_async_context(wired(api.url)) for _ in range(5)]
        for wire in wires:
            await wire.send(page_request(api))
        sizes = [len((await wire.response()).body) for wire in wires]
        await eventually(lambda: api.unsent_answers == 0)
        # Remove the remains of earlier tests.
        gc.collect()
        responses = [response for response in gc.get_objects() if isinstance(response, web.Response)]
        kept = [
            len(response.body)
            for response in responses
            if isinstance(response.body, bytes) and len(response.body) > 2**19
        ]

    assert min(sizes) > 2**20
    assert (len(responses) >= 5, kept) == (True, [])


async def test_a_slow_peer_gets_all(tmp_path: Path) -> None:
    """A page may take longer than the time limit as long as the peer reads something."""
    async with narrow_receiver(tmp_path, send_timeout_seconds=3) as api:
        await publish(api, 12, 100_000)
        async with silent_peers(api, 1, page_request(api)) as (peer,), asyncio.timeout(60):
            head = (await peer.reader.readuntil(b"\r\n\r\n")).decode()
            size = int(head.lower().partition("content-length: ")[2].split()[0])
            for _ in range(20):
                await asyncio.sleep(0.25)
                size -= len(await peer.reader.readexactly(size // 20))
            rest = await peer.reader.readexactly(size)

    assert rest.endswith(b"}")
