"""Readers of each kind at one receiver, while others take the callbacks, and readers that change the receiver."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from client import read_results
from client.protocol.models import Task
from tests.client.support import image_task, open_client, scripted_provider
from tests.faults.balancer import open_balancer
from tests.faults.test_several_receivers import at, two_receivers
from tests.receiver.web.sockets import open_events, subscribed
from tests.support import ADMIN, RunningReceiver, eventually

SECONDS = 60.0
CALLBACKS = 150

Waiter = Callable[[RunningReceiver, dict[str, Any]], AsyncIterator[str | None]]
"""A reader: it yields None once it waits, and then the ref of the result that it got."""


async def a_long_poll(receiver: RunningReceiver, task: dict[str, Any], name: str | None = None) -> AsyncIterator[Any]:
    """Wait for one task."""
    async with asyncio.TaskGroup() as group:
        path = f"/v1/tasks/{name or task['ref']}"
        answer = group.create_task(receiver.send("GET", path, params={"wait": SECONDS, "provider": "capsolver"}))
        await eventually(lambda: receiver.waiting > 0)
        yield None
        waited = (await answer).json
        assert waited["status"] == "ready", waited
        yield waited["ref"]


async def a_long_poll_by_id(receiver: RunningReceiver, task: dict[str, Any]) -> AsyncIterator[Any]:
    """Wait for the task with an id of the provider's, which only the callback brings."""
    async for ref in a_long_poll(receiver, task, "a1"):
        yield ref


async def a_page(receiver: RunningReceiver, _task: dict[str, Any]) -> AsyncIterator[Any]:
    """Wait for the next page of the log."""
    async with asyncio.TaskGroup() as group:
        page = group.create_task(receiver.log(after=(await receiver.log())["cursor"], wait=50))
        await eventually(lambda: receiver.waiting > 0)
        yield None
        yield (await page)["results"][0]["task"]["ref"]


async def a_websocket(receiver: RunningReceiver, _task: dict[str, Any], **only: Any) -> AsyncIterator[Any]:
    """Follow the log."""
    async with subscribed(receiver, **only) as socket:
        yield None
        frame = await socket.next()
        assert frame["type"] == "result", frame
        yield frame["task"]["ref"]


async def a_websocket_by_tag(receiver: RunningReceiver, _task: dict[str, Any]) -> AsyncIterator[Any]:
    """Follow tasks with a tag."""
    async for ref in a_websocket(receiver, _task, tags=["seen"]):
        yield ref


async def a_websocket_by_ref(receiver: RunningReceiver, task: dict[str, Any]) -> AsyncIterator[Any]:
    """Name the task by our id."""
    async for ref in a_websocket(receiver, task, tasks=[task["ref"]]):
        yield ref


async def a_websocket_by_id(receiver: RunningReceiver, task: dict[str, Any]) -> AsyncIterator[Any]:
    """Name the task by the provider's id, which only the callback brings."""
    async for ref in a_websocket(receiver, task, tasks=[{"provider": "capsolver", "taskId": "a1"}]):
        yield ref


async def events(receiver: RunningReceiver, _task: dict[str, Any], **query: Any) -> AsyncIterator[Any]:
    """Follow the log as server-sent events."""
    async with open_events(receiver, **query) as stream:
        assert (await stream.next())[0] == "heartbeat"
        yield None
        while (event := await stream.next())[0] == "heartbeat":
            pass
        yield event[2]["task"]["ref"]


async def events_by_ref(receiver: RunningReceiver, task: dict[str, Any]) -> AsyncIterator[Any]:
    """Name the task in a stream of server-sent events."""
    async for ref in events(receiver, task, tasks=task["ref"]):
        yield ref


async def a_client(receiver: RunningReceiver, _task: dict[str, Any]) -> AsyncIterator[Any]:
    """Read results with the client's library, from the start on."""
    results = read_results(receiver_url=receiver.url, receiver_key=ADMIN, after="start")
    async with aclosing(results), asyncio.TaskGroup() as group:
        result = group.create_task(first(results))
        await eventually(lambda: receiver.streams > 0)
        yield None
        yield (await result)


async def first(results: AsyncGenerator[Task]) -> str:
    """Return the ref of the next result."""
    return str((await anext(results)).ref)


@pytest.mark.parametrize(
    "waiter",
    [
        a_long_poll,
        a_long_poll_by_id,
        a_page,
        a_websocket,
        a_websocket_by_tag,
        a_websocket_by_ref,
        a_websocket_by_id,
        events,
        events_by_ref,
        a_client,
    ],
)
async def test_a_reader_of_each_kind_gets_what_another_receiver_took(postgres_url: str, waiter: Waiter) -> None:
    """It waits at one receiver, and the callback comes to the other one."""
    async with two_receivers(postgres_url) as (one, other):
        task = await one.register(tags=["seen"])
        async with asyncio.timeout(SECONDS / 2):
            found: list[str | None] = []
            async for ref in waiter(one, task):
                found.append(ref)
                if ref is None:
                    answer = await other.call_back(at(other, task["callbackUrl"]), taskId="a1")

    assert (answer.status, found) == (200, [None, task["ref"]])


async def test_a_deletion_elsewhere_reaches_a_websocket(postgres_url: str) -> None:
    """The frame comes in the order of the log."""
    async with two_receivers(postgres_url) as (one, other), subscribed(one, cursor="start") as socket:
        task = await one.register()
        await other.call_back(at(other, task["callbackUrl"]))
        await other.send("DELETE", f"/v1/tasks/{task['ref']}")
        frames = [await socket.next() for _ in range(2)]

    assert frames[-1]["type"] == "deleted"
    assert frames[-1]["ref"] == task["ref"]


Reader = Callable[[Sequence[RunningReceiver], int], Awaitable[list[tuple[str, str]]]]
"""Returns ref and cursor of so many results, read at receivers in turn."""


async def by_websocket(receivers: Sequence[RunningReceiver], count: int, **only: Any) -> list[tuple[str, str]]:
    """Follow the log over one websocket after the other."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        receiver = random.choice(receivers)
        async with subscribed(receiver, cursor=found[-1][1] if found else "start", **only) as socket:
            for _ in range(min(random.randint(1, 12), count - len(found))):
                frame = await socket.next()
                found.append((frame["task"]["ref"], frame["cursor"]))
    return found


async def by_events(receivers: Sequence[RunningReceiver], count: int) -> list[tuple[str, str]]:
    """Follow the log as server-sent events, as a browser that reconnects."""
    found: list[tuple[str, str]] = []
    while len(found) < count:
        headers = {"Last-Event-ID": found[-1][1]} if found else {}
        async with open_events(random.choice(receivers), after="start", headers=headers) as stream:
            until = min(len(found) + random.randint(1, 12), count)
            while len(found) < until:
                name, event_id, frame = await stream.next()
                found += [(frame["task"]["ref"], event_id)] if name == "result" else []
    return found


async def by_pages(receivers: Sequence[RunningReceiver], count: int) -> list[tuple[str, str]]:
    """Read page after page, each at any receiver, and wait at the end of the log."""
    found: list[tuple[str, str]] = []
    cursor = "start"
    while len(found) < count:
        page = await random.choice(receivers).log(after=cursor, limit=random.randint(1, 20), wait=5)
        found += [(entry["task"]["ref"], entry["cursor"]) for entry in page["results"]]
        cursor = page["cursor"]
    return found


async def by_tag(receivers: Sequence[RunningReceiver], count: int) -> list[tuple[str, str]]:
    """Follow the third of the tasks with a tag."""
    return await by_websocket(receivers, count // 3, tags=["third"])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.postgres) for seed in range(1, 5))])
async def test_readers_change_the_receiver_and_miss_nothing(postgres_url: str, seed: int) -> None:
    """While both receivers store, each entry comes once and in the order of the log, whatever a reader changes to."""
    random.seed(seed)
    async with two_receivers(postgres_url) as receivers:
        tasks = [await receivers[0].register(tags=["third"] if number % 3 == 0 else []) for number in range(CALLBACKS)]
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            readers = [group.create_task(read(receivers, CALLBACKS)) for read in (by_websocket, by_events, by_pages)]
            tagged = group.create_task(by_tag(receivers, CALLBACKS))
            for number, task in enumerate(random.sample(tasks, CALLBACKS)):
                group.create_task(called_back(receivers[number % 2], task, random.random() * 3))
        log = [(entry["task"]["ref"], entry["cursor"]) for entry in await whole(receivers[1])]

    assert {ref for ref, _ in log} == {task["ref"] for task in tasks}
    assert [reader.result() for reader in readers] == [log] * 3
    thirds = {task["ref"] for task in tasks[::3]}
    assert tagged.result() == [entry for entry in log if entry[0] in thirds]


async def whole(receiver: RunningReceiver) -> list[Any]:
    """Return all entries of the log."""
    entries: list[Any] = []
    page: dict[str, Any] = {"cursor": "start", "more": True}
    while page["more"]:
        page = await receiver.log(after=page["cursor"])
        entries += page["results"]
    return entries


async def called_back(receiver: RunningReceiver, task: dict[str, Any], seconds: float) -> None:
    """Call back after some time."""
    await asyncio.sleep(seconds)
    assert (await receiver.call_back(at(receiver, task["callbackUrl"]))).status == 200


async def test_a_client_behind_a_balancer_gets_each_result_once(postgres_url: str) -> None:
    """Its connection breaks again and again, and each time it comes to the other receiver."""
    async with two_receivers(postgres_url) as receivers, open_balancer(*(each.url for each in receivers)) as balancer:
        tasks = [await receivers[0].register() for _ in range(60)]
        found: list[tuple[str, str | None]] = []
        results = read_results(receiver_url=balancer.url, receiver_key=ADMIN, after="start")
        async with asyncio.timeout(120), asyncio.TaskGroup() as group, aclosing(results):
            for number, task in enumerate(tasks):
                group.create_task(called_back(receivers[number % 2], task, number * 0.05))
            async for result in results:
                found.append((result.ref, result.cursor))
                if len(found) % 15 == 0:
                    balancer.cut()
                if len(found) == len(tasks):
                    break
        log = [(entry["task"]["ref"], entry["cursor"]) for entry in await whole(receivers[1])]

    assert found == log
    assert balancer.taken >= 4


async def test_a_client_behind_a_balancer_is_told_of_its_tasks(postgres_url: str) -> None:
    """It submits over one receiver, its callbacks come to the other one, and its connection breaks meanwhile."""
    created = [{"errorId": 0, "taskId": f"a{number}"} for number in range(12)]
    async with (
        two_receivers(postgres_url) as receivers,
        open_balancer(*(each.url for each in receivers)) as balancer,
        scripted_provider(createTask=[*created, {"errorId": 1}]) as provider,
        open_client(provider.url, balancer.url) as client,
        asyncio.timeout(120),
        asyncio.TaskGroup() as group,
    ):
        handles = [await client.submit(image_task(number)) for number in range(12)]
        waits = [group.create_task(handle.result(timeout=60)) for handle in handles]
        for number, call in enumerate(provider.calls["createTask"]):
            if number % 4 == 0:
                balancer.cut()
            receiver = receivers[number % 2]
            await receiver.call_back(at(receiver, call["callbackUrl"]), taskId=f"a{number}")
        solved = [await wait for wait in waits]

    assert [task.source for task in solved] == ["callback"] * 12
    assert [task.ref for task in solved] == [handle.ref for handle in handles]
    assert provider.calls["getTaskResult"] == []
