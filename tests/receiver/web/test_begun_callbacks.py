"""Callbacks that are begun before aiohttp makes requests of them: who is, in which order, and at which end."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from receiver.errors import StoreBusyError
from receiver.service.callbacks import Callbacks
from receiver.storage.sqlite.writer import Writer
from receiver.web.server import runner
from receiver.web.streaming.pacing import Budget
from tests.support import RunningReceiver, eventually, running_receiver

pytestmark = pytest.mark.sqlite

_OK = b"HTTP/1.1 200 OK\r\n"


class Hold:
    """Commits that wait, one after the other, until they may go on."""

    def __init__(self) -> None:
        self.waiting = 0
        self._open = asyncio.Event()
        self._open.set()

    def close(self) -> None:
        """Let commits wait from now on."""
        self.waiting = 0
        self._open.clear()

    def open(self) -> None:
        """Let them go on."""
        self._open.set()

    async def passed(self) -> None:
        """Wait until it is open."""
        self.waiting += 1
        async with asyncio.timeout(20):
            await self._open.wait()


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Return a hold in front of all commits."""
    hold, commit = Hold(), Writer._commit

    async def commit_later(writer: Writer, batch: Any) -> None:
        await hold.passed()
        await commit(writer, batch)

    monkeypatch.setattr(Writer, "_commit", commit_later)
    return hold


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of all requests that aiohttp makes, so far."""
    made: list[str] = []
    begin = runner._Server._begin

    def begin_and_note(server: Any, message: Any, *others: Any) -> web.BaseRequest:
        made.append(message.path)
        return begin(server, message, *others)

    monkeypatch.setattr(runner._Server, "_begin", begin_and_note)
    return made


@asynccontextmanager
async def peer(api: RunningReceiver) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a connection to the receiver."""
    address = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        async with asyncio.timeout(30):
            yield reader, writer
    finally:
        writer.transport.abort()


def callback(task: dict[str, Any], *lines: str, task_id: str = "a1", method: str = "POST") -> bytes:
    """Return a callback for a task as bytes."""
    body = json.dumps({"errorId": 0, "taskId": task_id, "status": "ready", "solution": {"text": "x"}}).encode()
    path = urlsplit(task["callbackUrl"]).path
    head = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *lines, "", "")
    return "\r\n".join(head).encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return the status and the body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


async def test_only_plain_callbacks_are_begun(tmp_path: Path, made: list[str]) -> None:
    """A further header that matters, a body in two parts, and other requests are left to aiohttp."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        made.clear()
        async with peer(api) as (reader, writer):
            writer.write(callback(task))
            assert await answer(reader) == (200, b"ok")
            assert made == []
            for sent in (
                callback(task, "Expect: 100-continue"),
                callback(task, "Content-Encoding: identity"),
                callback(task, method="PUT"),
                callback({"callbackUrl": task["callbackUrl"] + "x"}),
                b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            ):
                made.clear()
                writer.write(sent)
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 ")
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(0.02)
                await reader.read(1000)
                assert len(made) == 1, sent
            made.clear()
            writer.write(callback(task)[:-5])
            await eventually(lambda: len(made) == 1)
            writer.write(callback(task)[-5:])
            assert await answer(reader) == (200, b"ok")


@pytest.mark.parametrize("reason", ["setting", "names"])
async def test_without_it_aiohttp_handles_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str], reason: str
) -> None:
    """The setting turns it off, and so does an aiohttp without a name that it needs."""
    if reason == "names":
        monkeypatch.setattr(runner, "CAN_BEGIN", False)
    async with running_receiver(tmp_path / "receiver.db", direct_callbacks=reason != "setting") as api:
        task = await api.register()
        made.clear()
        assert (await api.call_back(task["callbackUrl"], taskId="a1")).status == 200
        assert len(made) == 1
        assert await status_of(api, task) == "ready"


async def test_pipelined_callbacks_are_answered_in_order(tmp_path: Path) -> None:
    """All at once, or while the first one is being stored; a callback with another answer among them, too."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        tasks = [await api.register() for _ in range(4)]
        gone = b"POST /callback/capsolver/forged HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
        sent = [
            callback(tasks[0], task_id="a0"),
            gone,
            *(callback(task, task_id=f"a{n}") for n, task in enumerate(tasks)),
        ]
        async with peer(api) as (reader, writer):
            writer.write(b"".join(sent))
            assert [(await answer(reader))[0] for _ in sent] == [200, 404, 200, 200, 200, 200]
            for part in sent:
                writer.write(part)
                await asyncio.sleep(0)
            assert [(await answer(reader))[0] for _ in sent] == [200, 404, 200, 200, 200, 200]


async def test_what_comes_meanwhile_waits(tmp_path: Path, hold: Hold, made: list[str]) -> None:
    """Requests behind a callback that is being stored are handled after its answer, however many bytes have come."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        first, second = await api.register(), await api.register()
        made.clear()
        hold.close()
        async with peer(api) as (reader, writer):
            writer.write(callback(first))
            await eventually(lambda: hold.waiting > 0)
            health = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            rest = callback(second, task_id="a2")
            writer.write(health + rest[:40])
            await asyncio.sleep(0.05)
            assert made == []
            hold.open()
            assert await answer(reader) == (200, b"ok")
            assert (await answer(reader))[0] == 200
            assert made == ["/healthz"]
            writer.write(rest[40:])
            assert await answer(reader) == (200, b"ok")


async def test_a_callback_of_a_peer_that_hangs_up_is_stored(tmp_path: Path, hold: Hold) -> None:
    """The receiver has it, and the log says nothing of an error."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        hold.close()
        with capture_logs() as logs:
            async with peer(api) as (_, writer):
                writer.write(callback(task))
                await eventually(lambda: hold.waiting > 0)
            await asyncio.sleep(0.05)
            hold.open()
            while await status_of(api, task) != "ready":
                await asyncio.sleep(0.01)
        assert not [line for line in logs if line["log_level"] in ("warning", "error")]


async def status_of(api: RunningReceiver, task: dict[str, Any]) -> str:
    """Return the status of a task."""
    return str((await api.send("GET", f"/v1/tasks/{task['ref']}")).json["status"])


@pytest.mark.parametrize("end", ["drain", "stop"])
async def test_it_is_answered_at_the_end_of_the_receiver(tmp_path: Path, hold: Hold, end: str) -> None:
    """A callback that has come before is answered 200, and then its connection is closed."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        hold.close()
        async with peer(api) as (reader, writer):
            writer.write(callback(task))
            await eventually(lambda: hold.waiting > 0)
            async with asyncio.TaskGroup() as group:
                group.create_task(getattr(api, end)())
                await asyncio.sleep(0.2)
                hold.open()
                assert await answer(reader) == (200, b"ok")
                assert await reader.read() == b""


async def test_an_idle_connection_is_closed_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time begins again with each callback."""
    monkeypatch.setattr("tests.support.make_runner", with_options(keepalive_timeout=2.0))
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        loop = asyncio.get_running_loop()
        async with peer(api) as (reader, writer):
            for _ in range(4):
                writer.write(callback(task))
                assert await answer(reader) == (200, b"ok")
                answered_at = loop.time()
                await asyncio.sleep(0.7)
            assert await reader.read() == b""
            assert loop.time() - answered_at > 1.9


def with_options(**more: Any) -> Callable[..., runner.Runner]:
    """Return a `make_runner` with further options of aiohttp."""
    return lambda app, **options: runner.make_runner(app, **{**options, **more})


async def test_an_answered_callback_is_no_part_of_a_head(tmp_path: Path) -> None:
    """The connection may be idle for longer than a head may take."""
    async with running_receiver(tmp_path / "receiver.db", head_seconds=1.5) as api:
        task = await api.register()
        async with peer(api) as (reader, writer):
            for _ in range(2):
                writer.write(callback(task))
                assert await answer(reader) == (200, b"ok")
                await asyncio.sleep(1.8)


async def test_a_slow_head_behind_a_callback_is_cut_off(tmp_path: Path, hold: Hold) -> None:
    """Its time began when its first bytes came."""
    async with running_receiver(tmp_path / "receiver.db", head_seconds=2.0) as api:
        task = await api.register()
        hold.close()
        async with peer(api) as (reader, writer):
            writer.write(callback(task))
            await eventually(lambda: hold.waiting > 0)
            writer.write(b"GET /he")
            await asyncio.sleep(0.05)
            hold.open()
            assert await answer(reader) == (200, b"ok")
            assert (await answer(reader))[0] == 408
            assert await reader.read() == b""


async def test_any_number_of_requests_may_wait_behind_a_callback(tmp_path: Path, hold: Hold) -> None:
    """More than aiohttp keeps: it stops parsing then, and goes on later."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        hold.close()
        async with peer(api) as (reader, writer):
            writer.write(callback(task))
            await eventually(lambda: hold.waiting > 0)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            await asyncio.sleep(0.05)
            hold.open()
            assert [(await answer(reader))[0] for _ in range(101)] == [200] * 101


async def test_a_failure_at_the_end_of_the_receiver_is_answered(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets aiohttp's answer, and the log says nothing of an error."""

    def fail(*_: object) -> None:
        raise StoreBusyError("the store is busy")

    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        hold.close()
        monkeypatch.setattr(Callbacks, "end", fail)
        with capture_logs() as logs:
            async with peer(api) as (reader, writer):
                writer.write(callback(task))
                await eventually(lambda: hold.waiting > 0)
                async with asyncio.TaskGroup() as group:
                    group.create_task(api.stop())
                    await asyncio.sleep(0.2)
                    hold.open()
                    assert (await answer(reader))[0] == 503
                    assert await reader.read() == b""
        assert not [line for line in logs if line["log_level"] == "error"]


async def test_a_body_behind_one_in_many_chunks_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After such a body aiohttp's parser stops in the next one, although nothing else has stopped."""
    monkeypatch.setattr("tests.support.make_runner", with_options(read_bufsize=64))
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        chunked = b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        async with peer(api) as (reader, writer):
            writer.write(chunked + b"1\r\nx\r\n" * 5 + b"0\r\n\r\n")
            assert (await answer(reader))[0] == 404
            writer.write(callback(task))
            assert await answer(reader) == (200, b"ok")


async def test_what_is_parsed_while_a_callback_is_begun_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading its body may let aiohttp go on parsing. The next request is handled after the answer."""
    begin = Callbacks.begin
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        server = api._runner.server
        assert server is not None

        def parse_and_begin(*given: Any) -> Any:
            monkeypatch.setattr(Callbacks, "begin", begin)
            (connection,) = server.connections
            web.RequestHandler.data_received(connection, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return begin(*given)

        async with peer(api) as (reader, writer):
            await eventually(lambda: len(server.connections) == 1)
            monkeypatch.setattr(Callbacks, "begin", parse_and_begin)
            writer.write(callback(task))
            assert await answer(reader) == (200, b"ok")
            assert b"alive" in (await answer(reader))[1]


async def test_only_parsing_is_paced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback that takes long to read is no body in tiny chunks, whose sender has to wait."""
    begin, spend, spent = Callbacks.begin, Budget.spend, [0.0]

    def begin_slowly(*given: Any) -> Any:
        time.sleep(0.1)
        return begin(*given)

    def spend_and_note(budget: Budget, seconds: float, now: float) -> float:
        spent.append(seconds)
        return spend(budget, seconds, now)

    monkeypatch.setattr(Callbacks, "begin", begin_slowly)
    monkeypatch.setattr(Budget, "spend", spend_and_note)
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        async with peer(api) as (reader, writer):
            writer.write(callback(task))
            assert await answer(reader) == (200, b"ok")
    assert max(spent) < 0.1


async def test_a_peer_that_reads_nothing_gets_no_further_answers(tmp_path: Path) -> None:
    """Its next callbacks wait until it has read, as with aiohttp, so their answers fill no memory."""
    async with running_receiver(tmp_path / "receiver.db", send_buffer_bytes=4096) as api:
        task = await api.register()
        address = urlsplit(api.url)
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            plain.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(plain, (address.hostname, address.port))
            got = b""
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                with capture_logs() as logs:
                    group.create_task(send_all(plain, callback(task), 2000))
                    await eventually(lambda: is_any_paused(api))
                    stored = -1
                    while stored != (stored := len(logs)):
                        await asyncio.sleep(0.3)
                assert stored < 2000
                while got.count(_OK) < 2000:
                    got += await loop.sock_recv(plain, 65536)
            assert got.count(b"HTTP/1.1 ") == 2000


def is_any_paused(api: RunningReceiver) -> bool:
    """Return True if a connection of the receiver has bytes that its peer has not taken."""
    server = api._runner.server
    return server is not None and any(connection.writing_paused for connection in server.connections)


async def send_all(plain: socket.socket, request: bytes, count: int) -> None:
    """Send a request so many times, one by one."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.sock_sendall(plain, request)
