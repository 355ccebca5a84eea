"""Cancelled waits and finished tasks leave nothing behind: no name, no stream, no wait, no poll."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

from aiohttp import web

from client import TaskClient
from tests.client.receiver_api.streams import scripted_streams
from tests.client.support import (
    CREATED,
    FAST,
    PENDING,
    REGISTERED,
    STORED,
    Reply,
    fast,
    image_task,
    open_client,
    ready,
    says,
    scripted_provider,
    scripted_receiver,
)
from tests.support import RunningReceiver, eventually, running_receiver

_CREATED = [Reply({**CREATED, "taskId": f"task-{number}"}) for number in range(10)]


def _idle(receiver: RunningReceiver) -> bool:
    return (receiver.streams, receiver.waiting) == (0, 0)


async def test_cancelled_waits(tmp_path: Path) -> None:
    """Cancelled waits of any kind leave one stream for the unfinished tasks, and none once these have ended."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=list(_CREATED)) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        handles = [await tasks.submit(image_task(number)) for number in range(2)]
        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(handles[0].result()),
                group.create_task(handles[0].result(fresh_for=45)),
                group.create_task(tasks.first(handles)),
                group.create_task(_all_of(tasks)),
                group.create_task(tasks.solve(image_task(2))),
            ]
            await eventually(lambda: len(provider.calls["createTask"]) == 3)
            await eventually(lambda: receiver.streams == 2)
            for wait in waits:
                wait.cancel()
        await eventually(lambda: receiver.streams == 1)
        for number, call in enumerate(provider.calls["createTask"]):
            await receiver.call_back(call["callbackUrl"], taskId=f"task-{number}")
        await eventually(lambda: _idle(receiver))

    assert all(wait.cancelled() for wait in waits)


async def test_closed_client(tmp_path: Path) -> None:
    """A client closed while tasks wait leaves no stream, although the tasks go on at the receiver."""
    async with running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver:
        async with (
            scripted_provider(createTask=list(_CREATED)) as provider,
            open_client(provider.url, receiver.url) as tasks,
        ):
            task = await tasks.submit(image_task())
            await eventually(lambda: receiver.streams == 1)
        await eventually(lambda: _idle(receiver))
        stored = await receiver.task(task.ref)

    assert stored["status"] == "processing"


async def test_cancelled_closing(tmp_path: Path) -> None:
    """Even if its closing is cancelled at once, a client closes, and does not wait for its own tasks."""

    async def closes() -> None:
        async with open_client(provider.url, receiver.url) as tasks:
            await tasks.submit(image_task())
            await eventually(lambda: receiver.streams == 1)
            asyncio.get_running_loop().call_soon(closing.cancel)

    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=list(_CREATED)) as provider,
        asyncio.timeout(90),
        asyncio.TaskGroup() as group,
    ):
        closing = group.create_task(closes())
        await asyncio.wait([closing], timeout=30)
        has_closed = closing.cancelled()
        await eventually(lambda: _idle(receiver))

    assert has_closed


async def test_name_goes_with_its_task() -> None:
    """A finished task is not named any more on the websocket, which stays open for the other."""
    refs = (f"ref-{number}" for number in count(1))

    async def registers(_: web.Request) -> web.Response:
        return web.json_response({**REGISTERED, "ref": next(refs)}, status=201)

    reported = {"verdict": "accepted", "task": {**STORED, "source": "poll"}}
    routes = {"register": registers, "report": says(reported), "bind": says({**STORED, "status": "processing"})}
    async with (
        scripted_streams() as streams,
        scripted_receiver(**routes, subscribe=streams.subscribe) as receiver_url,
        scripted_provider(createTask=list(_CREATED), getTaskResult=[ready(), PENDING]) as provider,
        open_client(provider.url, receiver_url, dialects=fast(first_after_callback_seconds=0.3)) as tasks,
    ):
        handles = [await tasks.submit(image_task(number)) for number in range(2)]
        ended = await tasks.first(handles, timeout=30)
        await eventually(lambda: streams.received[0][-1]["type"] == "remove")
        frames, open_sockets = list(streams.received[0]), streams.open_sockets

    named = {name for frame in frames if frame["type"] != "remove" for name in frame["tasks"]}
    assert (named, frames[-1]["tasks"], open_sockets) == ({"ref-1", "ref-2"}, [ended.ref], 1)
    await eventually(lambda: streams.open_sockets == 0)


async def _all_of(tasks: TaskClient) -> None:
    async for _ in tasks.results():
        pass
