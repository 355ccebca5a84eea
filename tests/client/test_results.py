"""Reading the log: each result once, from a cursor on, over breaks; and never over a gap in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from client import BadArgumentError, ReceiverRefusedError, Result, ResultsGapError, read_results
from client.protocol.frames import Subscribe
from client.provider_api.timing import Timing
from client.receiver_api.http import ReceiverApi, open_receiver_session
from client.results import LogReader, subscription_of
from tests.client.receiver_api.streams import (
    CUT,
    Close,
    ScriptedStreams,
    heartbeat,
    page,
    result,
    scripted_streams,
    subscribed,
    told_task,
)
from tests.support import ADMIN, SUBMIT_ONLY, RunningReceiver, eventually, running_receiver

_HURRIED = Timing(random=lambda: 0.0)
_GAP = {"type": "gap", "reason": "other-log", "resumesAt": "n0"}


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


@asynccontextmanager
async def log_reader(url: str, only: Subscribe | None = None, timing: Timing = _HURRIED) -> AsyncIterator[LogReader]:
    """Yield a reader over HTTP, with short pauses."""
    async with open_receiver_session() as session:
        yield LogReader(ReceiverApi(session, url, ADMIN), only or Subscribe(id=0), timing)


async def first(results: AsyncGenerator[Result], count: int) -> list[Result]:
    """Return the first `count` results, then leave the loop."""
    taken: list[Result] = []
    async with asyncio.timeout(30), aclosing(results):
        async for result in results:
            taken.append(result)
            if len(taken) == count:
                break
    return taken


async def read(server: ScriptedStreams, count: int, only: Subscribe | None = None) -> list[tuple[str, str | None]]:
    """Return ref and cursor of the first `count` results of a scripted receiver."""
    async with log_reader(server.url, only) as reader:
        return [(result.ref, result.cursor) for result in await first(reader.results(), count)]


async def ended(receiver: RunningReceiver, **fields: Any) -> str:
    """Return the ref of a task after its callback."""
    task = await receiver.register(**fields)
    await receiver.call_back(task["callbackUrl"])
    return str(task["ref"])


async def test_each_result_from_the_start_on(receiver: RunningReceiver) -> None:
    """Stored results come first, then new ones. Another reader goes on from the cursor of the last."""
    before = [await ended(receiver) for _ in range(3)]
    results = read_results(receiver_url=receiver.url, receiver_key=ADMIN, after="start")
    async with aclosing(results):
        taken = [await anext(results) for _ in range(3)]
        later = await ended(receiver)
        taken.append(await anext(results))
    again = read_results(receiver_url=receiver.url, receiver_key=ADMIN, after=taken[1].cursor)

    assert [result.ref for result in taken] == [*before, later]
    assert [result.ref for result in await first(again, 2)] == [before[2], later]


async def test_from_now_on(receiver: RunningReceiver) -> None:
    """Without a cursor earlier results are not read."""
    await ended(receiver)
    async with log_reader(receiver.url) as reader, asyncio.TaskGroup() as group:
        reading = group.create_task(first(reader.results(), 1))
        await eventually(lambda: reader.cursor is not None)
        ref = await ended(receiver)

    assert [result.ref for result in reading.result()] == [ref]


async def test_the_receiver_of_the_environment(receiver: RunningReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address and key come from the environment if they are not given."""
    monkeypatch.setenv("CALLBACK_RECEIVER_URL", receiver.url)
    monkeypatch.setenv("CALLBACK_RECEIVER_KEY", ADMIN)
    ref = await ended(receiver)

    assert [result.ref for result in await first(read_results(after="start"), 1)] == [ref]


async def test_filters(receiver: RunningReceiver) -> None:
    """The filter is (provider AND all tags) OR tasks. A named task with an end before the cursor comes first."""
    named = await ended(receiver)
    await ended(receiver, tags=["a"])
    tagged = await ended(receiver, tags=["a", "b"])
    cursor = (await receiver.task(named))["cursor"]
    results = read_results(
        receiver_url=receiver.url,
        receiver_key=ADMIN,
        after=cursor,
        provider="capsolver",
        tags=["a", "b"],
        tasks=[named, ("capsolver", "no-such-id")],
    )

    assert [result.ref for result in await first(results, 2)] == [named, tagged]


async def test_goes_on_behind_a_break() -> None:
    """Reading resumes at the last frame's cursor, even if that frame was no result. Nothing is yielded twice."""
    scripts = [
        [subscribed("c0"), result("c1", "ref-1"), heartbeat("c4"), CUT],
        [subscribed("c4"), result("c5", "ref-2"), Close(1001)],
        [subscribed("c5"), {"type": "goodbye", "cursor": "c6"}],
        [subscribed("c6"), {"type": "hint", "cursor": "c7", "ref": "ref-9"}, result("c8", "ref-3")],
    ]
    async with scripted_streams(*scripts) as server:
        taken = await read(server, 3)

    assert taken == [("ref-1", "c1"), ("ref-2", "c5"), ("ref-3", "c8")]
    assert [frames[0].get("cursor") for frames in server.received] == [None, "c4", "c5", "c6"]


async def test_from_now_is_said_once() -> None:
    """After an early break the next connection begins at the first cursor of the broken one."""
    async with scripted_streams([subscribed("c3"), CUT], [subscribed("c3"), result("c4")]) as server:
        await read(server, 1)

    assert [frames[0].get("cursor") for frames in server.received] == [None, "c3"]


async def test_named_tasks_are_given_out_once() -> None:
    """The receiver sends them again after each break. Another outcome of the same task is another result."""
    scripts = [
        [subscribed("c9"), result("c9", "ref-1", at="c2"), CUT],
        [subscribed("c9"), result("c9", "ref-1", at="c2"), result("c11", "ref-1", supersedes="c2")],
    ]
    async with scripted_streams(*scripts) as server:
        taken = await read(server, 2, Subscribe(id=0, tasks=("ref-1",)))

    assert taken == [("ref-1", "c9"), ("ref-1", "c11")]


async def test_long_polls_stand_in() -> None:
    """If websockets are blocked, long polls use the same cursor. A later websocket resumes at the last poll's."""
    hours = iter(range(0, 10**9, 3600))
    timing = replace(_HURRIED, clock=lambda: float(next(hours)))
    pages = [page("c1"), page("c3", {"cursor": "c2", "task": told_task("ref-1", cursor="c2")}), page("c4")]
    scripts = [*(web.Response(status=502) for _ in range(3)), [subscribed("c4"), result("c5", "ref-2")]]
    async with scripted_streams(*scripts, pages=pages) as server, log_reader(server.url, timing=timing) as reader:
        taken = [(result.ref, result.cursor) for result in await first(reader.results(), 2)]

    assert taken == [("ref-1", "c2"), ("ref-2", "c5")]
    assert [query.get("after") for query in server.queries] == [None, "c1", "c2"]
    assert server.received[0][0]["cursor"] == "c4"


@pytest.mark.parametrize(
    ("scripts", "pages"),
    [
        pytest.param([[subscribed(), _GAP]], [], id="websocket"),
        pytest.param(
            [web.Response(status=404)],
            [(410, {"type": "urn:callback-receiver:problem:cursor-gone", "reason": "other-log", "resumesAt": "n0"})],
            id="long-poll",
        ),
    ],
)
async def test_a_gap_is_an_error(scripts: list[Any], pages: list[Any]) -> None:
    """The error names the next cursor, and a second reading resumes there."""
    behind = [[subscribed("n0"), result("n1")]]
    async with (
        scripted_streams(*scripts, *behind, pages=pages) as server,
        log_reader(server.url, Subscribe(id=0, cursor="c7")) as reader,
    ):
        with pytest.raises(ResultsGapError, match="missed") as gap:
            await first(reader.results(), 1)
        taken = await first(reader.results(), 1)

    assert (gap.value.reason, gap.value.resumes_at, taken[0].cursor) == ("other-log", "n0", "n1")
    assert server.received[-1][0]["cursor"] == "n0"


@pytest.mark.parametrize(
    ("key", "after", "slug"),
    [
        ("tests-only-wrong-key-0123456789", None, "no-key"),
        (SUBMIT_ONLY, None, "scope-missing"),
        (ADMIN, "no cursor", "wrong-field"),
    ],
)
async def test_refusals_are_raised(receiver: RunningReceiver, key: str, after: str | None, slug: str) -> None:
    """A wrong key or cursor would be wrong the next time too, so the error is raised."""
    with pytest.raises(ReceiverRefusedError) as error:
        await first(read_results(receiver_url=receiver.url, receiver_key=key, after=after), 1)

    assert error.value.slug == slug


async def test_something_else_at_the_address() -> None:
    """If no receiver ever answered, the address is wrong. Otherwise the receiver may come back."""
    elsewhere = [web.Response(status=404, text="<html>") for _ in range(2)]
    async with scripted_streams(elsewhere[0], pages=[(404, "html")]) as server:
        with pytest.raises(ReceiverRefusedError):
            await read(server, 1)
    scripts = [[subscribed(), CUT], elsewhere[1], [subscribed(), result("c1")]]
    async with scripted_streams(*scripts, pages=[(404, "html")]) as server:
        assert await read(server, 1) == [("ref-1", "c1")]


async def test_waits_for_a_receiver_that_is_down() -> None:
    """Reading goes on after any number of failed connections."""
    refusals = [web.Response(status=503) for _ in range(4)]
    async with scripted_streams(*refusals, [subscribed(), result("c1")], pages=[(503, {})] * 9) as server:
        assert await read(server, 1) == [("ref-1", "c1")]


async def test_leaving_closes_the_connection(receiver: RunningReceiver) -> None:
    """Leaving the loop, closing the generator and cancelling leave nothing behind at the receiver."""
    await ended(receiver)

    async def read_and_leave() -> None:
        async for _ in read_results(receiver_url=receiver.url, receiver_key=ADMIN, after="start"):
            break

    async def read_on() -> None:
        async for _ in read_results(receiver_url=receiver.url, receiver_key=ADMIN):
            pass

    await read_and_leave()
    await eventually(lambda: receiver.streams == 0)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read_on())
        await eventually(lambda: receiver.streams == 1)
        reading.cancel()
    await eventually(lambda: receiver.streams == 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"tags": "checkout"}, "expected several texts"),
        ({"tasks": "ref-1"}, "expected several texts"),
        ({"tags": ["a,b"]}, "^tags: "),
        ({"after": ""}, "^after: "),
        ({"tasks": [("capsolver", 0)]}, "^tasks: "),
        ({"tasks": ["x"] * 5001}, "^tasks: "),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], text: str) -> None:
    """The error for a wrong argument is raised at once, and names the argument."""
    with pytest.raises(BadArgumentError, match=text):
        read_results(receiver_url="http://127.0.0.1:1", **arguments)


def test_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a missing address names its variable."""
    monkeypatch.delenv("CALLBACK_RECEIVER_URL", raising=False)

    with pytest.raises(BadArgumentError, match="CALLBACK_RECEIVER_URL: expected"):
        read_results()


def test_the_subscription_of_arguments() -> None:
    """Without `tasks` the subscription has no field for them. An empty list names no task yet."""
    assert subscription_of("c1").tasks is None
    assert subscription_of(None, tasks=[]).tasks == ()
