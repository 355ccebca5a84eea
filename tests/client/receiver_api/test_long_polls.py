"""Long polls in place of a websocket: nothing is missed in between, or over gaps, and the socket comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from client.protocol.frames import Add, GapFrame, NamedTask, Remove, ResultFrame, Subscribe
from client.provider_api.timing import Timing
from client.receiver_api.http import ReceiverApi, open_receiver_session
from client.receiver_api.long_polls import LongPolls
from client.receiver_api.reader import TaskReader
from tests.client.receiver_api.streams import CUT, Waiting, page, result, scripted_streams, subscribed, told_task
from tests.support import ADMIN, RunningReceiver, eventually, running_receiver

_HURRIED = Timing(random=lambda: 0.0)
_GONE = (410, {"type": "urn:callback-receiver:problem:cursor-gone", "reason": "pruned", "resumesAt": "c50"})


def blocked(status: int = 404) -> web.Response:
    """Return an HTTP answer that blocks the upgrade."""
    return web.Response(status=status, text="<html>")


@asynccontextmanager
async def reading(url: str, timing: Timing = _HURRIED) -> AsyncIterator[TaskReader]:
    """Yield a reader over HTTP."""
    async with open_receiver_session() as session, asyncio.TaskGroup() as owner:
        yield TaskReader(ReceiverApi(session, url, ADMIN), owner, timing)


@asynccontextmanager
async def polling(url: str) -> AsyncIterator[LongPolls]:
    """Yield a subscription by long polls."""
    async with open_receiver_session() as session:
        yield LongPolls(ReceiverApi(session, url, ADMIN), _HURRIED)


async def results_until(polls: LongPolls, ref: str) -> list[str]:
    """Return the refs of the results, up to this one."""
    refs: list[str] = []
    async with asyncio.timeout(30):
        while ref not in refs:
            frame = await polls.receive()
            refs += [frame.task.ref] if isinstance(frame, ResultFrame) else []
    return refs


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


@pytest.mark.parametrize("status", [200, 400, 404, 405, 426, 502])
async def test_stand_in_where_websockets_are_blocked(status: int) -> None:
    """Each subscriber gets its own entries from the log. Entries of others only move the cursor."""
    first, second = Waiting(), Waiting()
    entries = page(
        "c4",
        {"cursor": "c1", "task": told_task()},
        {"cursor": "c2", "ref": "ref-2", "hint": True},
        {"cursor": "c3", "task": told_task("ref-of-another-client")},
        {"cursor": "c4", "ref": "ref-2", "deleted": True},
    )
    async with scripted_streams(blocked(status), pages=[entries]) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", first)
        reader.add("ref-2", "c0", second)
        await eventually(lambda: len(server.queries) == 2)
        reader.remove("ref-1", first)
        reader.remove("ref-2", second)

    assert (first.calls, second.calls) == (["ready"], ["hint", "forget"])
    assert first.steps == ["reader.fell_back"]
    assert [query["after"] for query in server.queries] == ["c0", "c4"]


async def test_stand_in_for_websockets_that_break_at_once() -> None:
    """After two websockets in a row without a message, long polls are used."""
    waiting = Waiting()
    pages = [page("c1", {"cursor": "c1", "task": told_task()})]
    async with scripted_streams([CUT], [CUT], pages=pages) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: waiting.calls == ["ready"])
        reader.remove("ref-1", waiting)

    assert waiting.steps == ["receiver.lost", "reader.fell_back", "receiver.found"]


async def test_the_websocket_is_tried_again() -> None:
    """About a minute later it is tried, and a further block is not reported. Then it resumes at the same cursor."""
    waiting = Waiting()
    hours = iter(range(0, 10**9, 3600))
    timing = replace(_HURRIED, clock=lambda: float(next(hours)))
    pages = [page("c1"), page("c2"), page("c3")]
    scripts = [blocked(), blocked(), [subscribed("c2"), result("c5")]]
    async with scripted_streams(*scripts, pages=pages) as server, reading(server.url, timing) as reader:
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: waiting.calls == ["ready"])
        reader.remove("ref-1", waiting)

    assert waiting.steps[-1] == "reader.connected"
    assert set(waiting.steps[:-1]) <= {"reader.fell_back"}


async def test_what_a_websocket_had_not_told_is_looked_at() -> None:
    """A task may have ended before the cursor of a websocket, if it was named too late."""
    waiting = Waiting()
    scripts = [[subscribed("c7"), CUT], blocked()]
    tasks = {"ref-1": (200, told_task(cursor="c6"))}
    async with scripted_streams(*scripts, tasks=tasks) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: waiting.calls == ["ready"])
        await eventually(lambda: len(server.queries) == 1)
        reader.remove("ref-1", waiting)

    assert server.queries[0]["after"] == "c7"


async def test_gap_is_filled_by_looking() -> None:
    """After a gap in the log each waiting task is fetched, because its entry may be gone."""
    waiting, other = Waiting(), Waiting()
    tasks = {"ref-1": (200, told_task())}
    async with scripted_streams(blocked(), pages=[_GONE], tasks=tasks) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", waiting)
        reader.add("ref-2", "c0", other)
        await eventually(lambda: len(server.queries) == 2)
        reader.remove("ref-1", waiting)
        reader.remove("ref-2", other)

    assert (waiting.calls, other.calls) == (["ready"], ["forget"])
    assert [query["after"] for query in server.queries] == ["c0", "c50"]


async def test_look_that_fails_is_repeated() -> None:
    """If fetching a task after a gap fails, it is fetched again before the log is read on."""
    waiting = Waiting()
    scripts = [blocked() for _ in range(100)]
    tasks: dict[str, tuple[int, Any]] = {"ref-1": (503, {})}
    async with scripted_streams(*scripts, pages=[_GONE], tasks=tasks) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: "receiver.lost" in waiting.steps)
        read_before = len(server.queries)
        tasks["ref-1"] = (200, told_task())
        await eventually(lambda: waiting.calls == ["ready"])
        reader.remove("ref-1", waiting)

    assert read_before == 1


@pytest.mark.parametrize("failure", [(500, {}), (429, {}), (200, "no page"), (403, {})])
async def test_silence_is_noted_and_ends(failure: tuple[int, Any]) -> None:
    """If no transport works, the receiver counts as silent until it answers; the cursor is kept."""
    waiting = Waiting()
    pages = [failure, failure, page("c1", {"cursor": "c1", "task": told_task()})]
    async with (
        scripted_streams(*(blocked() for _ in range(9)), pages=pages) as server,
        reading(server.url) as reader,
    ):
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: reader.silent_since is not None)
        await eventually(lambda: len(server.queries) == 4)
        silent_since = reader.silent_since
        reader.remove("ref-1", waiting)

    assert (silent_since, waiting.calls) == (None, ["ready"])
    assert waiting.steps == ["receiver.lost", "reader.fell_back", "receiver.found"]
    assert [query["after"] for query in server.queries] == ["c0", "c0", "c0", "c1"]


async def test_early_answers_are_no_hot_loop() -> None:
    """Empty pages that come at once, as during a shutdown, are followed by a pause."""
    waiting = Waiting()
    async with scripted_streams(blocked(), pages=[page("c0")] * 1000) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", waiting)
        await asyncio.sleep(0.3)
        reader.remove("ref-1", waiting)

    assert len(server.queries) < 5


async def test_named_tasks_come_first_whatever_the_cursor(receiver: RunningReceiver) -> None:
    """Finished tasks come first, by ref or by the provider's id. New results of the named tasks follow."""
    done, later = await receiver.register(), await receiver.register()
    await receiver.call_back(done["callbackUrl"], taskId="abc")
    refs = [f"01990000-0000-7000-8000-{number:012}" for number in range(400)]
    async with polling(receiver.url) as polls:
        await polls.send(Subscribe(id=0, tasks=(*refs, later["ref"])))
        await polls.send(Add(id=1, tasks=(NamedTask(provider="capsolver", task_id="abc"), refs[0])))
        await polls.send(Remove(id=2, tasks=(refs[1],)))
        first = await results_until(polls, done["ref"])
        for task in (await receiver.register(), later):
            await receiver.call_back(task["callbackUrl"])
        then = await results_until(polls, later["ref"])

    assert (first, then) == ([done["ref"]], [later["ref"]])


async def test_a_task_named_no_more_is_not_told(receiver: RunningReceiver) -> None:
    """A removed task does not come, even if it had ended before."""
    done, last = await receiver.register(), await receiver.register()
    await receiver.call_back(done["callbackUrl"])
    async with polling(receiver.url) as polls:
        await polls.send(Subscribe(id=0, tasks=(done["ref"], last["ref"])))
        await polls.send(Remove(id=1, tasks=(done["ref"],)))
        await polls.receive()
        await receiver.call_back(last["callbackUrl"])

        assert await results_until(polls, last["ref"]) == [last["ref"]]


async def test_a_filter_beside_names_is_kept(receiver: RunningReceiver) -> None:
    """The filter is (provider AND all tags) OR tasks, as over a websocket."""
    named, tagged, other = [await receiver.register(tags=tags) for tags in ([], ["a", "b"], ["a"])]
    async with polling(receiver.url) as polls:
        await polls.send(Subscribe(id=0, provider="capsolver", tags=("a", "b"), tasks=(named["ref"],)))
        await polls.receive()
        await receiver.call_back(other["callbackUrl"])
        await receiver.call_back(tagged["callbackUrl"])
        first = await results_until(polls, tagged["ref"])
        await receiver.call_back(named["callbackUrl"])
        then = await results_until(polls, named["ref"])

    assert (first, then) == ([tagged["ref"]], [named["ref"]])


async def test_a_gap_is_a_frame(receiver: RunningReceiver) -> None:
    """The gap is a frame of its own, followed by the results behind it."""
    await receiver.call_back((await receiver.register())["callbackUrl"])
    async with polling(receiver.url) as polls:
        await polls.send(Subscribe(id=0, cursor="0123456789ab-7"))
        frames = [await polls.receive(), await polls.receive()]

    assert [type(frame) for frame in frames] == [GapFrame, ResultFrame]
