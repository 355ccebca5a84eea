"""One reader for all waits: it starts and stops with them, and after errors and gaps nobody has missed anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from client.protocol import Task
from client.receiver_api import ReceiverApi, open_receiver_session
from client.subscription import Reader
from client.timing import Timing
from tests.client.support import STORED
from tests.support import ADMIN, SUBMIT_ONLY, RunningReceiver, eventually, running_receiver

_HURRIED = Timing(random=lambda: 0.0)


class _Subscriber:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def offer(self, task: Task) -> None:
        self.told.append(task.status)

    def hint(self) -> None:
        self.told.append("hint")

    def forget(self) -> None:
        self.told.append("forget")

    def wake(self) -> None:
        self.told.append("wake")


@asynccontextmanager
async def _reading(url: str, key: str = ADMIN) -> AsyncIterator[Reader]:
    async with open_receiver_session() as session, asyncio.TaskGroup() as owner:
        yield Reader(ReceiverApi(session, url, key), owner, _HURRIED)


@asynccontextmanager
async def _scripted(
    *answers: tuple[int, Any], task: tuple[int, Any] = (404, {})
) -> AsyncIterator[tuple[str, list[str]]]:
    """A receiver whose log answers by script and then holds its requests; the cursors it was asked with."""
    script = list(answers)
    cursors: list[str] = []

    async def results(request: web.Request) -> web.Response:
        cursors.append(request.query["after"])
        if not script:
            await asyncio.sleep(60)
        status, body = script.pop(0)
        return web.json_response(body, status=status)

    async def one(_: web.Request) -> web.Response:
        return web.json_response(task[1], status=task[0])

    app = web.Application()
    app.router.add_get("/v1/results", results)
    app.router.add_get("/v1/tasks/{ref}", one)
    async with TestServer(app, handler_cancellation=True) as server:
        yield str(server.make_url("")).rstrip("/"), cursors


def _page(cursor: str, *entries: dict[str, Any], more: bool = False) -> tuple[int, Any]:
    return 200, {"results": list(entries), "cursor": cursor, "more": more}


async def test_tells_each_what_concerns_it() -> None:
    """Outcomes, hints and deletions go to those that wait for the task, others' are passed over."""
    first, second = _Subscriber(), _Subscriber()
    page = _page(
        "c4",
        {"cursor": "c1", "task": STORED},
        {"cursor": "c2", "ref": "ref-2", "hint": True},
        {"cursor": "c3", "task": {**STORED, "ref": "ref-of-another-client"}},
        {"cursor": "c4", "ref": "ref-2", "deleted": True},
    )
    async with _scripted(page) as (url, cursors), _reading(url) as reader:
        reader.add("ref-1", "c0", first)
        reader.add("ref-2", "c0", second)
        await eventually(lambda: len(cursors) == 2)
        reader.remove("ref-1", first)
        reader.remove("ref-2", second)

    assert (first.told, second.told) == (["ready"], ["hint", "forget"])
    assert cursors == ["c0", "c4"]


async def test_stops_with_the_last_wait(tmp_path: Path) -> None:
    """The reader's request ends when nobody waits any more, and a later wait starts a new one from its own cursor."""
    subscriber = _Subscriber()
    async with running_receiver(tmp_path / "receiver.db") as receiver, _reading(receiver.url) as reader:
        reader.add("ref-1", "start", subscriber)
        await eventually(lambda: receiver.waiting == 1)
        reader.remove("ref-1", subscriber)
        await eventually(lambda: receiver.waiting == 0)
        task = await _called_back(receiver)
        reader.add(task["ref"], task["cursor"], subscriber)
        await eventually(lambda: subscriber.told == ["ready"])
        reader.remove(task["ref"], subscriber)


async def test_gap_is_filled_by_looking() -> None:
    """After a gap in the log each waiting task is looked at: what the log no longer tells, the task does."""
    subscriber = _Subscriber()
    gone = (410, {"type": "urn:callback-receiver:problem:cursor-gone", "reason": "pruned", "resumesAt": "c50"})
    async with _scripted(gone, task=(200, STORED)) as (url, cursors), _reading(url) as reader:
        reader.add("ref-1", "c0", subscriber)
        await eventually(lambda: "ready" in subscriber.told)
        reader.remove("ref-1", subscriber)

    assert subscriber.told == ["ready"]
    assert cursors[:2] in (["c0"], ["c0", "c50"])


async def test_look_that_fails_is_repeated() -> None:
    """A task that could not be looked at after a gap is looked at again before the log is read on."""
    subscriber = _Subscriber()
    gone = (410, {"type": "urn:callback-receiver:problem:cursor-gone", "reason": "pruned", "resumesAt": "c50"})
    async with _scripted(gone, task=(503, {})) as (url, cursors), _reading(url) as reader:
        reader.add("ref-1", "c0", subscriber)
        await eventually(lambda: reader.silent_since is not None)
        reader.remove("ref-1", subscriber)

    assert cursors == ["c0"]
    assert subscriber.told == ["wake"]


async def test_task_that_is_gone_with_the_log() -> None:
    """A task that the receiver does not know after a gap is told to be forgotten."""
    subscriber = _Subscriber()
    gone = (410, {"type": "urn:callback-receiver:problem:cursor-gone", "reason": "other-log", "resumesAt": "n0"})
    missing = (404, {"type": "urn:callback-receiver:problem:unknown-task"})
    async with _scripted(gone, task=missing) as (url, _), _reading(url) as reader:
        reader.add("ref-1", "c0", subscriber)
        await eventually(lambda: subscriber.told == ["forget"])
        reader.remove("ref-1", subscriber)


@pytest.mark.parametrize("failure", [(500, {}), (429, {}), (200, "no page"), (403, {})])
async def test_silence_is_noted_and_ends(failure: tuple[int, Any]) -> None:
    """From the first failure on the receiver counts as silent, until it answers; the cursor is kept."""
    subscriber = _Subscriber()
    answers = [failure, failure, _page("c1", {"cursor": "c1", "task": STORED})]
    async with _scripted(*answers) as (url, cursors), _reading(url) as reader:
        reader.add("ref-1", "c0", subscriber)
        await eventually(lambda: reader.silent_since is not None)
        await eventually(lambda: len(cursors) == 4)
        silent_since = reader.silent_since
        reader.remove("ref-1", subscriber)

    assert (silent_since, subscriber.told) == (None, ["wake", "wake", "ready"])
    assert cursors == ["c0", "c0", "c0", "c1"]


async def test_key_without_the_scope_to_read(tmp_path: Path) -> None:
    """A key that may submit but not read is a silent receiver: its tasks are polled."""
    subscriber = _Subscriber()
    async with running_receiver(tmp_path / "receiver.db") as receiver, _reading(receiver.url, SUBMIT_ONLY) as reader:
        reader.add("ref-1", "start", subscriber)
        await eventually(lambda: reader.silent_since is not None)
        reader.remove("ref-1", subscriber)


async def test_early_answers_are_no_hot_loop() -> None:
    """A receiver that answers empty pages at once, as one that shuts down does, is not asked without a pause."""
    subscriber = _Subscriber()
    async with _scripted(*[_page("c0")] * 1000) as (url, cursors), _reading(url) as reader:
        reader.add("ref-1", "c0", subscriber)
        await asyncio.sleep(0.3)
        reader.remove("ref-1", subscriber)

    assert len(cursors) < 5


async def _called_back(receiver: RunningReceiver) -> Any:
    """A registered task that was called back."""
    task = await receiver.register()
    await receiver.call_back(task["callbackUrl"], taskId="task-1")
    return task
