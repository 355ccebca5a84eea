"""Streams to peers that do not read: the frames once they read again, and the rest if they never do."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from structlog.testing import capture_logs

from receiver.domain.records import TaskRecord
from receiver.web.streaming.streams import StreamRules
from tests.raw import events_request, websocket_request
from tests.receiver.web.sockets import Socket, subscribed
from tests.support import ADMIN, RunningReceiver, eventually, running_receiver

_REQUESTS = {"websocket": websocket_request(ADMIN), "events": events_request(ADMIN)}
_BUFFER = 4096
# Who sends begins to wait at 16 kB, and goes on once less than this is left.
_MUCH = 4 * 1024


@asynccontextmanager
async def narrow_receiver(folder: Path, **rules: Any) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with small system buffers, so that a peer that does not read soon stalls it."""
    given = StreamRules(**{"send_seconds": 30.0, **rules})
    async with running_receiver(folder / "receiver.db", rules=given, send_buffer_bytes=_BUFFER) as running:
        yield running


@contextmanager
def narrow_socket() -> Iterator[socket.socket]:
    """Yield a socket for a peer, with a small receive buffer."""
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        peer.setblocking(False)
        yield peer


@asynccontextmanager
async def stalled_peer(api: RunningReceiver, request: bytes) -> AsyncIterator[socket.socket]:
    """Yield a peer that sends a request and then does nothing."""
    address = urlsplit(api.url)
    loop = asyncio.get_running_loop()
    with narrow_socket() as peer:
        await loop.sock_connect(peer, (address.hostname, address.port))
        await loop.sock_sendall(peer, request)
        await eventually(lambda: api.streams == 1)
        yield peer


@asynccontextmanager
async def lazy_socket(api: RunningReceiver) -> AsyncIterator[Socket]:
    """Yield a websocket with a small receive buffer."""

    def narrow(_address: object) -> socket.socket:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        return peer

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=narrow)) as session,
        session.ws_connect(f"{api.url}/v1/subscribe", headers=api.authorization) as ws,
    ):
        yield Socket(ws)


async def publish(api: RunningReceiver, number: int, size: int) -> list[str]:
    """Return the refs of `number` ended tasks, each with a solution of `size` bytes."""
    outcome = {"source": "poll", "answer": {"errorId": 0, "status": "ready", "solution": {"text": "x" * size}}}
    tasks = [await api.register(taskId=f"{size}-{position}", outcome=outcome) for position in range(number)]
    return [str(task["ref"]) for task in tasks]


def stuckness(api: RunningReceiver) -> Callable[[], bool]:
    """Return a check that a writer waits for its peer, and that the system takes no more bytes."""
    seen: deque[list[int]] = deque(maxlen=10)

    def is_stuck() -> bool:
        seen.append(api.unsent())
        return seen.count(seen[0]) == seen.maxlen and max(seen[0]) > _MUCH

    return is_stuck


async def read_until(peer: socket.socket, expected: bytes) -> bytes:
    """Return the bytes up to and with the expected ones."""
    read = b""
    async with asyncio.timeout(30):
        while expected not in read:
            read += await asyncio.get_running_loop().sock_recv(peer, 65536)
    return read


def refs_of(frames: list[Any]) -> list[str]:
    """Return the refs of the tasks, in order."""
    return [frame["task"]["ref"] for frame in frames]


async def test_an_answer_is_not_ahead_of_what_was_sent(tmp_path: Path) -> None:
    """The cursor of `added` is before everything that stands behind it on the same socket.

    A page is read at once and sent bit by bit; the answer comes in between.
    """
    async with narrow_receiver(tmp_path) as api:
        await publish(api, 250, 3000)
        async with lazy_socket(api) as socket_:
            await socket_.ask(type="subscribe", id=1, cursor="start")
            await eventually(stuckness(api))
            await socket_.send(type="add", id=2, tasks=[])
            # A later request is answered later.
            await api.log(limit="1")
            frames = [await socket_.next() for _ in range(251)]
        place = [frame["type"] for frame in frames].index("added")
        page = await api.log(after=frames[place]["cursor"], limit="1000")

    behind = refs_of(frames[place + 1 :])
    assert behind
    assert refs_of(page["results"])[-len(behind) :] == behind


@pytest.mark.parametrize("transport", _REQUESTS)
async def test_what_comes_while_a_heartbeat_waits_is_told_behind_it(tmp_path: Path, transport: str) -> None:
    """It does not wait for the next heartbeat. A writer at work is not woken, so it reads again."""
    async with (
        narrow_receiver(tmp_path, heartbeat_seconds=0.05) as api,
        stalled_peer(api, _REQUESTS[transport]) as peer,
    ):
        await _let_beat_until_stuck(api)
        # No further heartbeat comes while anyone waits here.
        api.ticker.rules = replace(api.ticker.rules, heartbeat_seconds=50 * 600.0)
        await publish(api, 1, 100)

        assert b'"type":"result"' in await read_until(peer, b'"type":"result"')


async def _let_beat_until_stuck(api: RunningReceiver) -> None:
    # Each ticker lets the stream beat once, at the beginning of its first interval.
    is_stuck = stuckness(api)
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        tickers = []
        while not is_stuck():
            tickers.append(group.create_task(api.ticker.beat()))
            await asyncio.sleep(0.001)
        for ticker in tickers:
            ticker.cancel()


@pytest.mark.parametrize("transport", _REQUESTS)
async def test_a_frame_that_waits_holds_no_task(tmp_path: Path, transport: str) -> None:
    """A peer that stops reading a large result costs the bytes of its frame, and not the task as well."""
    async with narrow_receiver(tmp_path) as api:
        ref = (await publish(api, 1, 400_000))[0]
    requests = {"websocket": websocket_request(ADMIN, tasks=[ref]), "events": events_request(ADMIN, [ref])}
    # The restart empties the tail, which holds results for all streams.
    async with narrow_receiver(tmp_path) as api:
        before = tasks_in_memory()
        async with stalled_peer(api, requests[transport]):
            await eventually(stuckness(api))
            # The thread that reads the database holds its last answer until the next one.
            await api.send("GET", "/v1/tasks/none")
            held = tasks_in_memory().keys() - before.keys()

    assert held == set()


def tasks_in_memory() -> dict[int, TaskRecord]:
    """Return the records of tasks in memory, by identity."""
    gc.collect()
    return {id(held): held for held in gc.get_objects() if isinstance(held, TaskRecord)}


async def test_what_a_dead_peer_left_is_dropped(tmp_path: Path) -> None:
    """A peer that answers no ping keeps no slot. It keeps no buffer either, even if its host stays silent."""
    async with (
        narrow_receiver(tmp_path, ping_seconds=0.6) as api,
        stalled_peer(api, _REQUESTS["websocket"]),
    ):
        await publish(api, 5, 4000)
        assert max(api.unsent()) > 0

        await eventually(lambda: api.streams == 0)
        await eventually(lambda: max(api.unsent()) == 0)


async def test_who_pings_and_does_not_read_is_dropped(tmp_path: Path) -> None:
    """A pong has the limit of every other frame."""
    async with (
        narrow_receiver(tmp_path, send_seconds=0.3) as api,
        stalled_peer(api, _REQUESTS["websocket"]) as peer,
        asyncio.timeout(30),
    ):
        with pytest.raises(ConnectionError):
            await _ping_for_ever(peer)

        await eventually(lambda: api.streams == 0)


async def _ping_for_ever(peer: socket.socket) -> None:
    ping = b"\x89\xfd" + bytes(4) + b"x" * 125
    while True:
        await asyncio.get_running_loop().sock_sendall(peer, ping * 50)


@pytest.mark.parametrize("transport", _REQUESTS)
async def test_they_do_not_hold_up_the_end(tmp_path: Path, transport: str) -> None:
    """They are cut off. Peers that read get their goodbye before."""
    with capture_logs() as lines:
        async with (
            narrow_receiver(tmp_path, goodbye_seconds=2.0) as api,
            stalled_peer(api, _REQUESTS[transport]),
            subscribed(api) as reader,
            asyncio.TaskGroup() as group,
        ):
            await publish(api, 1, 100_000)
            result = await reader.next()
            group.create_task(api.stop())

            goodbye = await reader.next()

    assert goodbye == {"type": "goodbye", "cursor": result["cursor"]}
    assert [line["count"] for line in lines if line["event"] == "streams.cut_off"] == [1]


async def test_the_end_comes_before_all_is_told(tmp_path: Path) -> None:
    """A reader far behind gets the cursor to go on from. Nothing is missing between the two receivers."""
    async with narrow_receiver(tmp_path, goodbye_seconds=60.0) as api:
        await publish(api, 250, 3000)
        expected = refs_of((await api.log(limit="1000"))["results"])
        async with lazy_socket(api) as socket_, asyncio.TaskGroup() as group:
            await socket_.ask(type="subscribe", id=1, cursor="start")
            await eventually(stuckness(api))
            group.create_task(api.stop())
            results = []
            while (frame := await socket_.next())["type"] == "result":
                results.append(frame)
    async with running_receiver(tmp_path / "receiver.db") as api:
        rest = await api.log(after=frame["cursor"], limit="1000")

    assert frame["type"] == "goodbye"
    assert len(results) < len(expected)
    assert refs_of([*results, *rest["results"]]) == expected
