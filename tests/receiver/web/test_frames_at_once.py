"""Frames that a websocket gets right after the commit, without a task, beside those that a task sends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.faults.disks import locked
from tests.raw import websocket_request
from tests.receiver.web.sockets import Socket, subscribed
from tests.receiver.web.test_stalled_streams import lazy_socket, narrow_receiver, refs_of, stalled_peer, stuckness
from tests.support import ADMIN, RunningReceiver, eventually, running_receiver

_LARGE = 40_000


@contextmanager
def started_tasks() -> Iterator[list[str]]:
    """Yield the names of the coroutines that become tasks inside the block."""
    loop = asyncio.get_running_loop()
    names: list[str] = []

    def note(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        names.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(note)
    try:
        yield names
    finally:
        loop.set_task_factory(None)


async def publish(api: RunningReceiver, task_id: str, size: int = 100) -> str:
    """Return the ref of a task that has ended, with a solution of `size` bytes."""
    outcome = {"source": "poll", "answer": {"errorId": 0, "status": "ready", "solution": {"text": "x" * size}}}
    return str((await api.register(taskId=task_id, outcome=outcome))["ref"])


@pytest.fixture(params=["everything", "named"])
def names_tasks(request: pytest.FixtureRequest) -> bool:
    """Return True for subscribers that name the task, False for those of the whole log."""
    return bool(request.param == "named")


async def test_a_caught_up_peer_gets_its_frame_without_a_task(tmp_path: Path, names_tasks: bool) -> None:
    """The commit's continuation writes to the peer itself."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        only = {"tasks": [task["ref"]]} if names_tasks else {}
        async with subscribed(api, **only) as peer:
            await eventually(lambda: not any(one.get_name() == "sending" for one in asyncio.all_tasks()))
            with started_tasks() as names:
                await api.call_back(task["callbackUrl"], taskId="1")
                frame = await peer.next()

    assert frame["task"]["ref"] == task["ref"]
    assert not [name for name in names if "send_news" in name]


@pytest.mark.sqlite
async def test_no_frame_comes_before_the_commit(tmp_path: Path) -> None:
    """While the commit cannot be made, nothing is sent. Then the frame comes."""
    path = tmp_path / "receiver.db"
    async with running_receiver(path) as api, subscribed(api) as peer, asyncio.TaskGroup() as group:
        with locked(path):
            publishing = group.create_task(publish(api, "1"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await peer.ws.receive()
            assert not publishing.done()

        frame = await peer.next()

    assert frame["task"]["ref"] == publishing.result()


async def test_frames_of_both_ways_keep_the_order_of_the_log(tmp_path: Path) -> None:
    """Large frames wait for the peer in a task. Small ones behind them do not overtake them."""
    async with narrow_receiver(tmp_path) as api, lazy_socket(api) as peer:
        await peer.ask(type="subscribe", id=1)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_read_now_and_then(peer, 60))
            sizes = [_LARGE if number % 5 == 0 else 100 for number in range(60)]
            published = [await publish(api, str(number), size) for number, size in enumerate(sizes)]

    assert refs_of(reading.result()) == published


async def _read_now_and_then(peer: Socket, count: int) -> list[Any]:
    frames = []
    for number in range(count):
        if number % 7 == 0:
            await asyncio.sleep(0.02)
        frames.append(await peer.next())
    return frames


async def test_frames_of_one_commit_come_in_order(tmp_path: Path) -> None:
    """Each of them comes once, however many the commit has."""
    async with running_receiver(tmp_path / "receiver.db") as api, subscribed(api) as peer:
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(publish(api, str(number)))
        frames = [await peer.next() for _ in range(40)]
        log = await api.log(limit="1000")

    assert refs_of(frames) == refs_of(log["results"])


async def test_small_frames_do_not_gather_for_a_peer_that_takes_none(tmp_path: Path) -> None:
    """Beyond a few kilobytes a task waits for the peer, with its limit of time. Then the peer is dropped."""
    async with (
        narrow_receiver(tmp_path, send_seconds=1.0) as api,
        stalled_peer(api, websocket_request(ADMIN)),
        asyncio.TaskGroup() as group,
    ):
        publishing = group.create_task(_publish_until_dropped(api))
        await eventually(stuckness(api))
        assert max(api.unsent()) <= 20 * 1024

        await eventually(lambda: api.streams == 0)
        publishing.cancel()


async def _publish_until_dropped(api: RunningReceiver) -> None:
    number = 0
    while True:
        await publish(api, str(number))
        number += 1


async def test_the_end_comes_behind_a_frame_sent_at_once(tmp_path: Path) -> None:
    """The goodbye has the cursor of that frame."""
    async with (
        running_receiver(tmp_path / "receiver.db") as api,
        subscribed(api) as peer,
        asyncio.TaskGroup() as group,
    ):
        await publish(api, "1")
        group.create_task(api.stop())
        frames = [await peer.next() for _ in range(2)]

    assert [frame["type"] for frame in frames] == ["result", "goodbye"]
    assert frames[0]["cursor"] == frames[1]["cursor"]


async def test_a_peer_that_hangs_up_disturbs_no_other(tmp_path: Path) -> None:
    """Connections cut at the moment of a commit end alone. The other peers miss nothing."""
    async with running_receiver(tmp_path / "receiver.db") as api, subscribed(api) as other:
        published = []
        for number in range(10):
            async with subscribed(api) as peer:
                published.append(await publish(api, f"{number}"))
                _cut(peer.ws)
                published.append(await publish(api, f"{number} again"))
        frames = [await other.next() for _ in published]
        await eventually(lambda: api.streams == 1)

    assert refs_of(frames) == published


def _cut(ws: aiohttp.ClientWebSocketResponse) -> None:
    transport = ws.get_extra_info("socket")
    transport.shutdown(2)
