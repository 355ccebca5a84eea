"""One reader for all waits, over one websocket: its names, its reports, and its recovery from breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from client.errors import ReceiverUnavailableError
from client.protocol.connection import ReceiverConnection
from client.protocol.frames import MAX_NAMED, StreamFrame, Subscribed
from client.provider_api.timing import Timing
from client.receiver_api.http import ReceiverApi, open_receiver_session
from client.receiver_api.reader import TaskReader
from tests.client.receiver_api.streams import CUT, Close, Waiting, heartbeat, result, scripted_streams, subscribed
from tests.support import ADMIN, SUBMIT_ONLY, RunningReceiver, eventually, running_receiver

_HURRIED = Timing(random=lambda: 0.0)


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


@asynccontextmanager
async def reading(url: str, key: str = ADMIN) -> AsyncIterator[TaskReader]:
    """Yield a reader over HTTP, with short pauses."""
    async with open_receiver_session() as session, asyncio.TaskGroup() as owner:
        yield TaskReader(ReceiverApi(session, url, key), owner, _HURRIED)


async def called_back(receiver: RunningReceiver, **fields: Any) -> Any:
    """Return a registered task after its callback."""
    task = await receiver.register(**fields)
    await receiver.call_back(task["callbackUrl"])
    return task


async def test_names_what_is_waited_for(receiver: RunningReceiver) -> None:
    """Each subscriber gets its own task, over one websocket. Other tasks are not sent."""
    first, second, other = await receiver.register(), await receiver.register(), await receiver.register()
    one, two = Waiting(), Waiting()
    async with reading(receiver.url) as reader:
        reader.add(first["ref"], first["cursor"], one)
        reader.add(second["ref"], second["cursor"], two)
        await eventually(lambda: one.steps == ["reader.connected"])
        for task in (other, second, first):
            await receiver.call_back(task["callbackUrl"])
        await eventually(lambda: (one.calls, two.calls) == (["ready"], ["ready"]))
        streams = receiver.streams
        reader.remove(first["ref"], one)
        reader.remove(second["ref"], two)

    assert streams == 1


async def test_stops_with_the_last_wait(receiver: RunningReceiver) -> None:
    """The websocket is closed when nobody waits any more; a later wait opens another."""
    waiting = Waiting()
    task = await receiver.register()
    async with reading(receiver.url) as reader:
        reader.add(task["ref"], task["cursor"], waiting)
        await eventually(lambda: receiver.streams == 1)
        reader.remove(task["ref"], waiting)
        await eventually(lambda: receiver.streams == 0)
        await receiver.call_back(task["callbackUrl"])
        reader.add(task["ref"], task["cursor"], waiting)
        await eventually(lambda: waiting.calls == ["ready"])
        reader.remove(task["ref"], waiting)


class BreaksOnce:
    """A connection with a first subscription that breaks when `breaks` is set; later ones stay silent."""

    def __init__(self) -> None:
        self.breaks = asyncio.Event()
        self.opened = 0
        self._frames: list[StreamFrame] = [Subscribed(id=0, cursor="c0")]

    @asynccontextmanager
    async def subscription(self) -> AsyncIterator[BreaksOnce]:
        """Yield this connection as the subscription."""
        self.opened += 1
        yield self

    async def send(self, frame: Any) -> None:
        """Accept any frame."""

    async def receive(self) -> StreamFrame:
        """Return the answer to the subscription, then wait until it breaks."""
        if self._frames:
            return self._frames.pop()
        await (self.breaks if self.opened == 1 else asyncio.Event()).wait()
        raise ReceiverUnavailableError("the websocket is gone")


async def test_stops_though_the_websocket_breaks_just_then() -> None:
    """If a break comes in the same turn of the loop as the last wait's end, the reader and its client still stop."""
    connection, waiting = BreaksOnce(), Waiting()
    async with asyncio.timeout(30), asyncio.TaskGroup() as owner:
        reader = TaskReader(cast(ReceiverConnection, connection), owner, _HURRIED)
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: waiting.steps == ["reader.connected"])
        connection.breaks.set()
        await asyncio.sleep(0)
        reader.remove("ref-1", waiting)

    assert connection.opened == 1


async def test_names_come_and_go_in_one_frame_each() -> None:
    """Changes in one turn of the event loop make one frame. A name added and removed in the same turn makes none."""
    waiting = Waiting()
    async with scripted_streams() as server, reading(server.url) as reader:
        reader.add("ref-0", "c0", waiting)
        await eventually(lambda: waiting.steps == ["reader.connected"])
        for ref in ("ref-1", "ref-2", "ref-3"):
            reader.add(ref, "c0", waiting)
        reader.remove("ref-2", waiting)
        await eventually(lambda: len(server.received[0]) == 2)
        reader.remove("ref-1", waiting)
        reader.remove("ref-3", waiting)
        await eventually(lambda: len(server.received[0]) == 3)
        frames = list(server.received[0])
        reader.remove("ref-0", waiting)
        await eventually(lambda: server.open_sockets == 0)

    assert [(frame["type"], frame["tasks"]) for frame in frames] == [
        ("subscribe", ["ref-0"]),
        ("add", ["ref-1", "ref-3"]),
        ("remove", ["ref-1", "ref-3"]),
    ]


async def test_each_outcome_is_told_once() -> None:
    """A repeated result after a break is not passed on again. A superseding one is."""
    waiting = Waiting()
    first = [subscribed(), result("c5"), CUT]
    second = [subscribed("c5"), result("c5"), result("c9", supersedes="c5"), heartbeat("c9")]
    async with scripted_streams(first, second) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: len(waiting.calls) == 2)
        reader.remove("ref-1", waiting)

    assert waiting.calls == ["ready", "ready"]
    assert [frames[0]["cursor"] for frames in server.received] == ["c0", "c5"]


async def test_who_joins_a_wait_is_told_too() -> None:
    """A task is named again for its second subscriber, so the receiver sends its outcome again."""
    one, two = Waiting(), Waiting()
    async with scripted_streams([subscribed(), result("c5")]) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", one)
        await eventually(lambda: one.calls == ["ready"])
        reader.add("ref-1", "c0", two)
        await eventually(lambda: len(server.received[0]) == 2)
        reader.remove("ref-1", one)
        reader.remove("ref-1", two)

    assert (server.received[0][1]["type"], server.received[0][1]["tasks"]) == ("add", ["ref-1"])
    assert two.steps == ["reader.connected"]


@pytest.mark.parametrize(
    ("frame", "calls"),
    [
        pytest.param({"type": "hint", "cursor": "c3", "ref": "ref-1"}, ["hint"], id="hint"),
        pytest.param({"type": "deleted", "cursor": "c3", "ref": "ref-1"}, ["forget"], id="deleted"),
        pytest.param({"type": "hint", "cursor": "c3", "ref": "ref-2"}, [], id="of-another"),
        pytest.param({"type": "news", "cursor": "c3"}, [], id="unknown"),
        pytest.param("{garbage", [], id="garbage"),
        pytest.param(b"\x00", [], id="binary"),
    ],
)
async def test_other_frames(frame: Any, calls: list[str]) -> None:
    """Hints and deletions are passed on. Unknown frames are ignored."""
    waiting = Waiting()
    script = [subscribed(), frame, result("c5")]
    async with scripted_streams(script) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: "ready" in waiting.calls)
        reader.remove("ref-1", waiting)

    assert waiting.calls == [*calls, "ready"]


async def test_a_gap_is_noted_and_costs_nothing(receiver: RunningReceiver) -> None:
    """With a cursor of another log, the named tasks come all the same."""
    waiting = Waiting()
    task = await called_back(receiver)
    async with reading(receiver.url) as reader:
        reader.add(task["ref"], "0123456789ab-7", waiting)
        await eventually(lambda: waiting.calls == ["ready"])
        reader.remove(task["ref"], waiting)

    assert waiting.steps == ["reader.connected", "log.gap_found"]


async def test_task_that_the_receiver_does_not_know(receiver: RunningReceiver) -> None:
    """A restored database may lack the task. No callback can come, so its subscriber is told to forget it."""
    waiting = Waiting()
    ref = "01990000-0000-7000-8000-000000000000"
    async with reading(receiver.url) as reader:
        reader.add(ref, "start", waiting)
        await eventually(lambda: waiting.calls == ["forget"])
        reader.remove(ref, waiting)


@pytest.mark.parametrize(
    "end", [pytest.param(CUT, id="cut"), Close(1001), Close(1008), Close(1013, "receiver-full"), Close(1009)]
)
async def test_a_break_is_noted_and_mended(end: object) -> None:
    """After any end of a websocket another is opened, with the names of the waiting tasks."""
    waiting = Waiting()
    async with (
        scripted_streams([subscribed(), end], [subscribed(), result("c5")]) as server,
        reading(server.url) as reader,
    ):
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: waiting.calls == ["ready"])
        silent_since = reader.silent_since
        reader.remove("ref-1", waiting)

    assert waiting.steps == ["reader.connected", "reader.broken", "reader.connected"]
    assert (silent_since, waiting.wakes) == (None, 3)


async def test_goodbye_is_a_break() -> None:
    """After a goodbye the reader reconnects, without waiting for the websocket to fall silent."""
    waiting = Waiting()
    first = [subscribed(), {"type": "goodbye", "cursor": "c4"}]
    async with scripted_streams(first, [subscribed(), result("c5")]) as server, reading(server.url) as reader:
        reader.add("ref-1", "c0", waiting)
        await eventually(lambda: waiting.calls == ["ready"])
        reader.remove("ref-1", waiting)

    assert waiting.steps == ["reader.connected", "reader.broken", "reader.connected"]


async def test_a_refused_cursor_is_dropped() -> None:
    """If the receiver cannot read the cursor, the next subscription has none."""
    waiting = Waiting()
    refused = {"type": "problem", "id": 0, "problem": {"status": 422, "detail": "cursor: expected one of mine"}}
    async with scripted_streams([refused], [subscribed(), result("c5")]) as server, reading(server.url) as reader:
        reader.add("ref-1", "odd", waiting)
        await eventually(lambda: waiting.calls == ["ready"])
        reader.remove("ref-1", waiting)

    assert [frames[0].get("cursor") for frames in server.received] == ["odd", None]


async def test_key_without_the_scope_to_read(receiver: RunningReceiver) -> None:
    """With a key for submitting only, the receiver counts as silent: its tasks are polled."""
    waiting = Waiting()
    async with reading(receiver.url, SUBMIT_ONLY) as reader:
        reader.add("ref-1", "start", waiting)
        await eventually(lambda: waiting.steps == ["receiver.lost"])
        silent_since = reader.silent_since
        reader.remove("ref-1", waiting)

    assert silent_since is not None


async def test_a_receiver_without_room_for_more_names_is_read_on() -> None:
    """The accepted names are served on the same socket. The rest is named once a name is removed."""
    full = {"type": "urn:callback-receiver:problem:too-many-names", "status": 429}
    async with (
        scripted_streams([subscribed()], [subscribed()]) as server,
        reading(server.url) as reader,
    ):
        first, second = Waiting(), Waiting()
        reader.add("ref-1", "c0", first)
        await eventually(lambda: first.steps == ["reader.connected"])
        reader.add("ref-2", "c0", second)
        await eventually(lambda: len(server.received[0]) == 2)
        await server.tell({"type": "problem", "id": "add", "problem": full})
        await server.tell(result("c1", "ref-1"))
        await eventually(lambda: first.calls == ["ready"])
        reader.remove("ref-1", first)
        await eventually(lambda: len(server.received[0]) == 4)
        reader.remove("ref-2", second)

    sent = [(frame["type"], frame["tasks"]) for frame in server.received[0]]
    assert sent[:4] == [("subscribe", ["ref-1"]), ("add", ["ref-2"]), ("remove", ["ref-1"]), ("add", ["ref-2"])]
    assert len(server.received) == 1


async def test_as_many_as_may_be_named_are_named(receiver: RunningReceiver) -> None:
    """All 50,000 names fit on one socket, in frames of 5,000, even if the receiver reads them slowly."""
    waiting, last = Waiting(), Waiting()
    task = await called_back(receiver)
    async with reading(receiver.url) as reader:
        refs = [f"01990000-0000-7000-8000-{number:012}" for number in range(MAX_NAMED - 1)]
        for ref in refs:
            reader.add(ref, task["cursor"], waiting)
        reader.add(task["ref"], task["cursor"], last)
        await eventually(lambda: last.calls == ["ready"], seconds=60)
        await eventually(lambda: len(waiting.calls) == len(refs), seconds=60)
        for ref in refs:
            reader.remove(ref, waiting)
        reader.remove(task["ref"], last)

    assert (last.steps, set(waiting.calls)) == (["reader.connected"], {"forget"})


async def test_thousands_are_named_in_parts(receiver: RunningReceiver) -> None:
    """More names than a frame may hold are sent in several frames."""
    waiting = Waiting()
    task = await called_back(receiver)
    async with reading(receiver.url) as reader:
        for number in range(6000):
            reader.add(f"01990000-0000-7000-8000-{number:012}", task["cursor"], waiting)
        reader.add(task["ref"], task["cursor"], waiting)
        await eventually(lambda: len(waiting.calls) == 6001)
        for number in range(6000):
            reader.remove(f"01990000-0000-7000-8000-{number:012}", waiting)
        reader.remove(task["ref"], waiting)
        await eventually(lambda: receiver.streams == 0)

    assert sorted(set(waiting.calls)) == ["forget", "ready"]
