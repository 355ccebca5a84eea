"""The receiver inside another application: tasks are awaited in the process, callbacks come by HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from client import TaskClient
from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.protocol.connection import Attached
from client.protocol.filters import ResultFilter
from client.protocol.frames import Add, Added, GapFrame, Remove, Removed, ResultFrame, Subscribe, Subscribed
from client.protocol.models import OutcomeReport, Registered, Registration
from client.sandbox import Sandbox
from client.sandbox.serving import serving
from receiver.mounting import MountedReceiver, mount
from receiver.settings import Settings
from tests.client.support import FAST, QUICK, image_task, solution_of
from tests.support import ADMIN, API_KEYS, eventually

READY = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}


@dataclass
class Mounted:
    """A running application with a receiver in it."""

    url: str
    receiver: MountedReceiver
    runner: web.AppRunner

    async def register(self, **fields: Any) -> Registered:
        """Return a new task."""
        registered = await self.receiver.register(Registration(provider="capsolver", **fields))
        assert isinstance(registered, Registered)
        return registered

    async def call_back(self, registered: Registered) -> None:
        """Deliver an answer over HTTP."""
        assert registered.callback_url is not None
        async with aiohttp.ClientSession() as session, session.post(registered.callback_url, json=READY) as response:
            assert response.status == 200


@asynccontextmanager
async def mounted_at(path: Path) -> AsyncIterator[Mounted]:
    """Yield an application with a page of its own and a receiver below /receiver."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="mine")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = web.Application()
        app.router.add_get("/", page)
        settings = Settings(database=path, api_keys=API_KEYS, public_url=f"{url}/receiver", _env_file=None)
        receiver = mount(app, settings)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        async with serving(runner, listener):
            yield Mounted(url, receiver, runner)


@pytest.fixture
async def mounted(tmp_path: Path) -> AsyncIterator[Mounted]:
    """Yield a running application with a receiver in it."""
    async with mounted_at(tmp_path / "receiver.db") as running:
        yield running


async def test_tasks_are_awaited_in_the_same_process(mounted: Mounted) -> None:
    """A `TaskClient` gets all outcomes by callbacks over HTTP, without a poll."""
    async with (
        Sandbox("capsolver", QUICK) as sandbox,
        TaskClient(
            "capsolver", client_key="any", provider_url=sandbox.url, receiver=mounted.receiver, dialects=FAST
        ) as tasks,
        asyncio.TaskGroup() as group,
    ):
        solving = [group.create_task(tasks.solve(image_task(number))) for number in range(20)]

    results = [task.result() for task in solving]
    assert [result.solution for result in results] == [solution_of(image_task(number)) for number in range(20)]
    assert {result.source for result in results} == {"callback"}


async def test_the_application_goes_on_serving_its_own(mounted: Mounted) -> None:
    """The receiver's routes are below the prefix and need keys. The application keeps its own."""
    async with aiohttp.ClientSession() as session:
        async with session.get(mounted.url) as response:
            own = await response.text()
        async with session.get(f"{mounted.url}/receiver/v1/results") as response:
            without_key = response.status
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with session.get(f"{mounted.url}/receiver/v1/results", headers=headers) as response:
            assert (own, without_key, response.status) == ("mine", 401, 200)


async def test_a_subscription_tells_what_one_over_http_would(mounted: Mounted) -> None:
    """A subscription gives answers, results and gaps, and its named tasks can change."""
    first, second = await mounted.register(), await mounted.register()
    async with mounted.receiver.subscription() as opened:
        await opened.send(Subscribe(id=1, cursor="0123456789ab-7", tasks=(first.ref,)))
        begun, gap = await opened.receive(), await opened.receive()
        await opened.send(Add(id=2, tasks=(second.ref,)))
        await opened.send(Remove(id=3, tasks=(first.ref,)))
        changed = [await opened.receive(), await opened.receive()]
        await mounted.call_back(first)
        await mounted.call_back(second)
        result = await opened.receive()

    assert isinstance(begun, Subscribed)
    assert isinstance(gap, GapFrame)
    assert [type(frame) for frame in changed] == [Added, Removed]
    assert isinstance(result, ResultFrame)
    assert result.task.ref == second.ref


async def test_a_subscription_that_is_left_leaves_nothing(mounted: Mounted) -> None:
    """A cancelled subscription gives its place back, even in the middle of a wait."""
    waits = mounted.receiver._runtime.waits

    async def wait() -> None:
        async with mounted.receiver.subscription() as opened:
            await opened.send(Subscribe(id=1))
            await opened.receive()
            await opened.receive()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(wait())
        await eventually(lambda: waits.streams == 1)
        waiting.cancel()

    assert waits.streams == 0


async def test_pages_and_gaps(mounted: Mounted) -> None:
    """Pages have the same cursors and gaps as a subscription."""
    registered = await mounted.register()
    await mounted.call_back(registered)

    page = await mounted.receiver.results("start", ResultFilter(), wait_seconds=1)
    gap = await mounted.receiver.results("0123456789ab-7", ResultFilter(), wait_seconds=1)

    assert not isinstance(page, GapFrame)
    assert [entry.task.ref for entry in page.results if entry.task] == [registered.ref]
    assert isinstance(gap, GapFrame)


async def test_reports_and_bindings_are_those_of_http(mounted: Mounted) -> None:
    """Binding, reporting, reading and attaching give the same results and errors as over HTTP."""
    registered = await mounted.register()
    await mounted.receiver.bind(registered.ref, "abc")
    reported = await mounted.receiver.report(registered.ref, OutcomeReport(source="poll", answer=READY))
    attached = await mounted.receiver.register(Registration(provider="capsolver", task_id="abc"))

    with pytest.raises(ReceiverRefusedError) as refused:
        await mounted.receiver.task("no-such-task")
    other = await mounted.register()
    with pytest.raises(ReceiverRefusedError) as taken:
        await mounted.receiver.bind(other.ref, "abc")

    assert isinstance(attached, Attached)
    assert (taken.value.slug, taken.value.ref) == ("task-id-taken", registered.ref)
    assert [reported.verdict, attached.task.status, refused.value.slug] == ["accepted", "ready", "unknown-task"]


async def test_without_a_running_application_it_is_unavailable(tmp_path: Path) -> None:
    """Before the startup every call is unavailable, so that a client polls."""
    settings = Settings(database=tmp_path / "receiver.db", api_keys=API_KEYS, _env_file=None)
    receiver = mount(web.Application(), settings)

    with pytest.raises(ReceiverUnavailableError, match="not running"):
        await receiver.task("any")


async def test_after_the_application_has_ended_it_is_unavailable(mounted: Mounted) -> None:
    """After the cleanup every call is unavailable, so that a client polls instead of waiting."""
    registered = await mounted.register()
    await mounted.runner.cleanup()

    with pytest.raises(ReceiverUnavailableError, match="not running"):
        await mounted.receiver.task(registered.ref)
    with pytest.raises(ReceiverUnavailableError, match="not running"):
        await mounted.receiver.results(None, ResultFilter(), wait_seconds=0)
    with pytest.raises(ReceiverUnavailableError, match="not running"):
        async with mounted.receiver.subscription() as opened:
            await opened.send(Subscribe(id=1))


async def test_shutdown_ends_the_subscription(mounted: Mounted) -> None:
    """A reader learns that the receiver is unavailable, and may go on with another one."""
    async with mounted.receiver.subscription() as opened, asyncio.TaskGroup() as group:
        await opened.send(Subscribe(id=1))
        await opened.receive()
        group.create_task(mounted.runner.cleanup())

        with pytest.raises(ReceiverUnavailableError, match="shutting down"):
            await opened.receive()


async def test_no_subscription_begins_during_the_shutdown(mounted: Mounted) -> None:
    """A new subscription during the shutdown is unavailable, so that its client polls."""
    await mounted.runner.shutdown()

    with pytest.raises(ReceiverUnavailableError, match="shutting down"):
        async with mounted.receiver.subscription():
            pass
