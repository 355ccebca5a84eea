"""The end of streams: its line in the log, and failures meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from receiver.web.streaming.streams import StreamRules
from tests.raw import websocket_request
from tests.receiver.web.sockets import open_events, open_socket, subscribed
from tests.support import ADMIN, READ_ONLY, RunningReceiver, eventually, running_receiver

Lines = list[Any]


@asynccontextmanager
async def logged_receiver(folder: Path, **settings: Any) -> AsyncIterator[tuple[RunningReceiver, Callable[[], Lines]]]:
    """Yield a receiver, and its log lines about ended streams."""
    with capture_logs() as lines:
        async with running_receiver(folder / "receiver.db", **settings) as api:
            yield api, lambda: [line for line in lines if "/v1/" in line.get("route", "") and line["method"] == "GET"]


@contextmanager
def unreadable(database: Path) -> Iterator[None]:
    """Take the log away for a while, as another process might."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("ALTER TABLE log RENAME TO gone")
        try:
            yield
        finally:
            other.execute("ALTER TABLE gone RENAME TO log")


async def ended(api: RunningReceiver) -> str:
    """Return the ref of an ended task."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"])
    return str(registered["ref"])


async def test_the_log_tells_of_a_websocket_once_at_its_end(tmp_path: Path) -> None:
    """The line has its close code and the number of frames sent."""
    async with logged_receiver(tmp_path) as (api, lines):
        async with subscribed(api) as socket:
            await ended(api)
            await socket.next()
            during = lines()
        await eventually(lambda: len(lines()) == 1)

    (line,) = lines()
    assert not during
    assert (line["route"], line["status"], line["key"]) == ("/v1/subscribe", 101, "admin")
    assert (line["closeCode"], line["frames"]) == (1000, 1)


async def test_the_log_tells_of_a_peer_that_hung_up(tmp_path: Path) -> None:
    """A websocket without a close frame has 1006 (RFC 6455, 7.4.1). Most server-sent events end so."""
    async with logged_receiver(tmp_path) as (api, lines):
        async with open_events(api) as events:
            await events.next()
        await eventually(lambda: len(lines()) == 1)
        _, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        writer.write(websocket_request(ADMIN))
        await eventually(lambda: api.streams == 1)
        writer.transport.abort()
        await eventually(lambda: len(lines()) == 2)

    events_line, socket_line = lines()
    assert (events_line["route"], events_line["status"], events_line["frames"]) == ("/v1/results/stream", 200, 1)
    assert (socket_line["route"], socket_line["status"], socket_line["closeCode"]) == ("/v1/subscribe", 101, 1006)


async def test_the_log_tells_with_which_code_it_was_closed_here(tmp_path: Path) -> None:
    """The peer's own code does not count: over the limit, not subscribed in time, binary, shutdown."""
    rules = StreamRules(send_seconds=5, subscribe_seconds=0.3)
    async with logged_receiver(tmp_path, rules=rules, max_streams=1) as (api, lines):
        async with subscribed(api), open_socket(api) as refused:
            await refused.close_code()
        await eventually(lambda: api.streams == 0)
        async with open_socket(api) as silent:
            await silent.close_code()
        await eventually(lambda: api.streams == 0)
        async with open_socket(api) as binary:
            await binary.ws.send_bytes(b"{}")
            await binary.close_code()
        await eventually(lambda: api.streams == 0)
        async with subscribed(api) as last:
            await api.stop()
            await last.close_code()

    assert [line["closeCode"] for line in lines()] == [1013, 1000, 1008, 1003, 1001]


async def test_no_ticket_is_logged(tmp_path: Path) -> None:
    """Neither a valid nor an invalid one is logged, whatever its transport."""
    with capture_logs() as lines:
        async with running_receiver(tmp_path / "receiver.db") as api:
            ticket = (await api.send("POST", "/v1/tickets", key=READ_ONLY)).json["ticket"]
            async with open_events(api, key=None, ticket=ticket) as events:
                await events.next()
            async with open_socket(api, key=None, protocols=(f"ticket.{ticket}",)) as socket:
                await socket.ask(type="subscribe", id=1)
            async with open_events(api, key=None, ticket=ticket) as events:
                refused = events.response.status
            await eventually(lambda: api.streams == 0)

    assert refused == 401
    assert len(lines) >= 4
    assert ticket not in str(lines)


async def test_what_cannot_be_read_gives_no_more_time_to_subscribe(tmp_path: Path) -> None:
    """One limit holds for the subscription, not one for each frame."""
    rules = StreamRules(send_seconds=5, subscribe_seconds=0.5)
    async with running_receiver(tmp_path / "receiver.db", rules=rules) as api, open_socket(api) as socket:
        async with asyncio.timeout(30):
            while not (answer := await socket_answer(socket.ws)).startswith("close"):
                assert answer == "problem"

    assert answer == "close 1008"


async def socket_answer(ws: Any) -> str:
    """Send something unreadable a little later, and return its answer."""
    await asyncio.sleep(0.1)
    await ws.send_str("nonsense")
    frame = await ws.receive()
    return f"close {frame.data}" if frame.type.name == "CLOSE" else "problem"


@pytest.mark.sqlite
async def test_a_store_that_cannot_be_read_ends_no_stream(tmp_path: Path) -> None:
    """Both kinds of streams go on once it can be read again."""
    database = tmp_path / "receiver.db"
    async with running_receiver(database) as api:
        ref = await ended(api)
        async with open_socket(api) as socket, AsyncExitStack() as stack:
            with unreadable(database):
                events = await stack.enter_async_context(open_events(api, after="start"))
                begun = await socket.ask(type="subscribe", id=1, cursor="start")
                read = await api.send("GET", "/v1/results", params={"after": "start"})
            refs = [(await socket.next())["task"]["ref"], (await events.next())[2]["task"]["ref"]]

    assert (begun["type"], read.status, refs) == ("subscribed", 503, [ref, ref])


@pytest.mark.sqlite
async def test_a_store_that_cannot_be_read_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """A stream that waits for the store gets its goodbye, too."""
    database = tmp_path / "receiver.db"
    async with running_receiver(database) as api, open_socket(api) as socket, asyncio.TaskGroup() as group:
        await ended(api)
        with unreadable(database):
            begun = await socket.ask(type="subscribe", id=1, cursor="start")
            stopping = group.create_task(api.stop())
            goodbye = await socket.next()
            async with asyncio.timeout(30):
                await stopping

    assert goodbye == {"type": "goodbye", "cursor": begun["cursor"]}


async def test_a_failure_in_the_background_is_what_ends_the_receiver(tmp_path: Path) -> None:
    """Streams are cut off then, without a goodbye. This hides no error, and the store is closed."""
    with pytest.raises(ExceptionGroup) as failed:
        await _serve_until_it_fails(tmp_path / "receiver.db")

    assert [str(error) for error in failed.value.exceptions] == ["the background failed"]
    async with running_receiver(tmp_path / "receiver.db") as api, subscribed(api) as socket:
        ref = await ended(api)
        assert (await socket.next())["task"]["ref"] == ref


async def _serve_until_it_fails(database: Path) -> None:
    # The socket outlives the receiver: only so does it have to be ended.
    async with AsyncExitStack() as stack, running_receiver(database) as api:
        socket = await stack.enter_async_context(subscribed(api))
        api.ticker.start(_fail())
        await socket.close_code()


async def _fail() -> None:
    raise ZeroDivisionError("the background failed")
