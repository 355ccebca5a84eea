"""Every hostile request against `callback-receiver serve`, with callbacks of an honest provider beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tests.benchmarks.servers import kilobytes
from tests.faults.attacks import open_files
from tests.faults.hostile import check_received, hostile_requests
from tests.faults.peers import connect
from tests.faults.schemas import run_schemathesis
from tests.support import ADMIN, Api, eventually, free_port, receiver_process

_AT_ONCE = 20
_ANSWER_SECONDS = 30.0
_CALLBACKS = 100
_MOST_MEGABYTES = 96
# The promise is 2 s. Other tests run on the same two cores.
_ACKNOWLEDGED_SECONDS = 10.0


async def exchanged(url: str, name: str, sent: bytes) -> str | None:
    """Send a request. Return what is wrong with the answer, or None. The receiver may close the connection instead."""
    reader, writer = await connect(url)
    received = b""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            try:
                writer.write(sent)
                await writer.drain()
                received = await reader.read(65_536)
            except ConnectionError:
                pass
        check_received(received)
    except TimeoutError:
        return f"{name}: neither an answer nor an end"
    except AssertionError as error:
        return f"{name}: {error}"
    finally:
        writer.transport.abort()
    return None


async def exchange_all(url: str, requests: Iterable[tuple[str, bytes]]) -> list[str]:
    """Send all requests, some at once. Return what is wrong."""
    remaining = iter(requests)

    async def send_some() -> list[str]:
        return [wrong for name, sent in remaining if (wrong := await exchanged(url, name, sent)) is not None]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send_some()) for _ in range(_AT_ONCE)]
    return [wrong for task in tasks for wrong in task.result()]


async def test_every_hostile_request_is_answered_or_cut_off(tmp_path: Path) -> None:
    """No answer is 500 or shows a trace, and the log has no error. Callbacks are acknowledged, and nothing is left."""
    async with (
        receiver_process(tmp_path / "receiver.db", port=free_port()) as receiver,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
    ):
        api = Api(receiver.url, session)
        task = await api.register()
        path, ref = urlsplit(task["callbackUrl"]).path, task["ref"]
        keyed = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
        targets = {
            "callback": ("POST", path, {}),
            "register": ("POST", "/v1/tasks", keyed),
            "bind": ("PATCH", f"/v1/tasks/{ref}", keyed),
            "report": ("PUT", f"/v1/tasks/{ref}/outcome", keyed),
            "ticket": ("POST", "/v1/tickets", keyed),
        }
        urls = [(await api.register())["callbackUrl"] for _ in range(_CALLBACKS)]
        before, files = kilobytes(receiver.process), open_files(receiver.process)

        acknowledged = []
        async with asyncio.TaskGroup() as group:
            exchanging = group.create_task(exchange_all(receiver.url, hostile_requests(path, targets)))
            for url in urls:
                async with asyncio.timeout(_ACKNOWLEDGED_SECONDS):
                    acknowledged.append((await api.call_back(url)).status)
                if exchanging.done():
                    break
                await asyncio.sleep(0.1)
        growth = (kilobytes(receiver.process) - before) / 1024
        await eventually(lambda: open_files(receiver.process) <= files)
        code = await receiver.stop()

    assert exchanging.result() == []
    assert set(acknowledged) == {200}
    assert growth < _MOST_MEGABYTES
    lines = receiver.lines
    assert len(lines) > _CALLBACKS
    assert [line for line in lines if b'"error"' in line or b"Traceback" in line] == []
    assert code == 0


async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """Requests made from the API document, with a key of all scopes, get answers that the document describes."""
    port = free_port()
    async with receiver_process(tmp_path / "receiver.db", port=port, verification_text="proof") as receiver:
        report = await run_schemathesis(receiver.url, ADMIN, "--phases", "coverage", "--seed", "1")
        code = await receiver.stop()

    assert report.findings == 0, report.text
    assert report.cases > 300
    assert code == 0
