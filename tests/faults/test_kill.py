"""A receiver killed at any moment keeps every acknowledged callback, once, and goes on with its log."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.support import Answer, Api, eventually, receiver_process

CONNECTIONS = 8
KILLS = 20
STOPS = 3


@dataclass
class Acknowledgements:
    """The callbacks known to the senders: those under way, the acknowledged ones, and the log so far."""

    cursor: str = "start"
    unanswered: dict[str, str] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    in_the_log: list[tuple[str, str]] = field(default_factory=list)
    fetched: int = 0

    async def send(self, api: Api, ref: str, path: str) -> None:
        """Deliver the answer of a task. It counts as acknowledged once a 200 was read."""
        self.unanswered[ref] = path
        answer = await api.call_back(api.url + path, taskId=f"id-{ref}", solution={"text": f"answer of {ref}"})
        if answer.status == 200:
            self.acknowledged[ref] = self.unanswered.pop(ref)

    async def submit_and_send(self, api: Api) -> None:
        """Register tasks and deliver their answers over one connection, until that breaks."""
        with suppress(aiohttp.ClientError):
            while True:
                registered = await api.send("POST", "/v1/tasks", json={"provider": "capsolver"})
                if registered.status != 201:
                    return
                await self.send(api, registered.json["ref"], urlsplit(registered.json["callbackUrl"]).path)

    async def acknowledge(self, more: int) -> None:
        """Wait until this many more are acknowledged."""
        goal = len(self.acknowledged) + more
        await eventually(lambda: len(self.acknowledged) >= goal, seconds=60)

    async def send_again(self, api: Api) -> None:
        """Deliver unacknowledged callbacks until they are acknowledged, as a retrying provider does.

        A commit that takes longer than 1.5 s is answered 503, and is stored all the same.
        """
        async with asyncio.timeout(60):
            while self.unanswered:
                for ref, path in list(self.unanswered.items()):
                    await self.send(api, ref, path)

    async def missing(self, api: Api) -> list[str]:
        """Return the callbacks acknowledged since the last call without the right answer in the receiver."""
        asked = list(self.acknowledged)[self.fetched :]
        tasks = [await api.task(f"id-{ref}") for ref in asked]
        self.fetched += len(asked)
        return [
            ref for ref, task in zip(asked, tasks, strict=True) if task.get("solution") != {"text": f"answer of {ref}"}
        ]

    async def read_on(self, api: Api) -> None:
        """Read the log from where it was left."""
        is_more = True
        while is_more:
            answer = await api.send("GET", "/v1/results", params={"after": self.cursor, "limit": "1000"})
            assert answer.status == 200, answer.body
            page = answer.json
            self.in_the_log += [(entry["task"]["ref"], entry["task"]["solution"]["text"]) for entry in page["results"]]
            self.cursor, is_more = page["cursor"], page["more"]

    def is_complete(self) -> bool:
        """Return True if the log holds every acknowledged answer once, and no other."""
        return sorted(self.in_the_log) == sorted((ref, f"answer of {ref}") for ref in self.acknowledged)


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Api]]:
    """Yield this many clients with one connection each."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield [Api(url, session) for _ in range(count)]


async def test_every_acknowledged_callback_survives_kill_9(tmp_path: Path) -> None:
    """After 20 kills, every callback with a 200 is found by id and once in the log. Cursors stay valid."""
    chance = random.Random(20)
    callbacks = Acknowledgements()
    lost: list[str] = []
    for _ in range(KILLS):
        async with (
            receiver_process(tmp_path / "receiver.db", port=0) as receiver,
            connections(receiver.url, CONNECTIONS) as apis,
        ):
            lost += await callbacks.missing(apis[0])
            await callbacks.send_again(apis[0])
            await callbacks.read_on(apis[0])
            lost += [] if callbacks.is_complete() else [f"the log after {len(callbacks.acknowledged)} callbacks"]
            async with asyncio.TaskGroup() as senders:
                for api in apis:
                    senders.create_task(callbacks.submit_and_send(api))
                await callbacks.acknowledge(chance.randint(CONNECTIONS + 1, 10 * CONNECTIONS))
                await receiver.stop(signal.SIGKILL)

    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver, connections(receiver.url, 1) as apis:
        lost += await callbacks.missing(apis[0])
        await callbacks.send_again(apis[0])
        await callbacks.read_on(apis[0])

    assert lost == []
    assert callbacks.is_complete()
    assert len(callbacks.acknowledged) > KILLS * CONNECTIONS


async def test_sigterm_loses_nothing_and_answers_those_who_wait(tmp_path: Path) -> None:
    """On SIGTERM waits are answered 202, acknowledged callbacks are stored, and the process ends with 0."""
    chance = random.Random(3)
    callbacks = Acknowledgements()
    for _ in range(STOPS):
        async with (
            receiver_process(tmp_path / "receiver.db", port=0) as receiver,
            connections(receiver.url, CONNECTIONS) as apis,
        ):
            waiting = [(await apis[0].register())["ref"] for _ in range(5)]
            async with asyncio.TaskGroup() as group:
                waits = [group.create_task(wait(apis[0], ref)) for ref in waiting]
                log_wait = group.create_task(wait_for_results(apis[0]))
                for api in apis:
                    group.create_task(callbacks.submit_and_send(api))
                await callbacks.acknowledge(chance.randint(CONNECTIONS + 1, 10 * CONNECTIONS))
                code = await receiver.stop(signal.SIGTERM)

        assert code == 0
        assert [(answer.status, answer.json["status"]) for answer in map(asyncio.Task.result, waits)] == [
            (202, "processing")
        ] * 5
        assert (log_wait.result().status, log_wait.result().json["results"]) == (200, [])

    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver, connections(receiver.url, 1) as apis:
        lost = await callbacks.missing(apis[0])
        await callbacks.send_again(apis[0])
        await callbacks.read_on(apis[0])

    assert lost == []
    assert callbacks.is_complete()
    assert len(callbacks.acknowledged) > STOPS * CONNECTIONS


async def wait(api: Api, ref: str) -> Answer:
    """Return the answer to a long poll for a task."""
    return await api.send("GET", f"/v1/tasks/{ref}", params={"wait": "50"})


async def wait_for_results(api: Api) -> Any:
    """Return the answer to a long poll without results."""
    return await api.send("GET", "/v1/results", params={"wait": "50", "provider": "onecaptcha"})
