"""The room for the names of tasks, for each key and in all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from client.protocol.frames import NAME_BYTES
from receiver.web.streaming.streams import StreamRules
from tests.receiver.web.sockets import Socket, open_events, open_socket, problem_of, subscribed
from tests.support import ADMIN, READ_ONLY, RunningReceiver, eventually, running_receiver

_REF_SIZE = NAME_BYTES + 36
# Ten refs of a key, fifteen in all.
_RULES = StreamRules(send_seconds=5, name_bytes=15 * _REF_SIZE, name_bytes_per_key=10 * _REF_SIZE)
_OTHER = "tests-only-other-key-0123456789"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with little room for names, and three keys that may read."""
    keys = f"reader:{READ_ONLY}:read,other:{_OTHER}:read,admin:{ADMIN}:submit+read+admin"
    async with running_receiver(tmp_path / "receiver.db", rules=_RULES, api_keys=keys) as running:
        yield running


def refs(first: int, end: int) -> list[str]:
    """Return refs without a task."""
    return [str(UUID(int=(1 << 100) + number)) for number in range(first, end)]


async def test_the_names_of_a_key_have_a_bound(api: RunningReceiver) -> None:
    """A frame over it names nothing, on every socket of the key. Removed names make room."""
    async with subscribed(api, tasks=[]) as first, subscribed(api, tasks=[]) as second:
        await first.send(type="add", id=1, tasks=refs(0, 6))
        await answer_to(first, 1)
        await second.send(type="add", id=2, tasks=refs(6, 11))
        refused = await answer_to(second, 2)
        await second.send(type="add", id=3, tasks=refs(6, 10))
        taken = await answer_to(second, 3)
        await first.send(type="remove", id=4, tasks=refs(0, 1))
        await answer_to(first, 4)
        await second.send(type="add", id=5, tasks=refs(10, 11))
        after_a_removal = await answer_to(second, 5)

    assert problem_of(refused) == (2, "too-many-names")
    assert (refused["problem"]["status"], "key admin" in refused["problem"]["detail"]) == (429, True)
    assert (taken["type"], after_a_removal["type"]) == ("added", "added")


async def test_names_count_once_and_by_what_they_take(api: RunningReceiver) -> None:
    """A repeated name takes no room. A name removed twice gives its room back once."""
    long = [{"provider": "capsolver", "taskId": "é" * 250}]
    async with subscribed(api, tasks=refs(0, 9)) as socket:
        await socket.send(type="add", id=1, tasks=refs(0, 9) * 3)
        again = await answer_to(socket, 1)
        await socket.send(type="add", id=2, tasks=long)
        too_long = await answer_to(socket, 2)
        for number in (3, 4):
            await socket.send(type="remove", id=number, tasks=refs(0, 1))
            await answer_to(socket, number)
        await socket.send(type="add", id=5, tasks=refs(20, 23))
        too_many = await answer_to(socket, 5)

    assert again["type"] == "added"
    assert problem_of(too_long) == (2, "too-many-names")
    assert problem_of(too_many) == (5, "too-many-names")


async def test_the_names_of_all_keys_have_a_bound(api: RunningReceiver) -> None:
    """A subscription over it is refused. A subscription without names is not."""
    async with subscribed(api, tasks=refs(0, 10)), open_socket(api, key=READ_ONLY) as socket:
        refused = await socket.ask(type="subscribe", id=1, tasks=refs(10, 16))
        taken = await socket.ask(type="subscribe", id=2, tasks=refs(10, 15))
        async with open_socket(api, key=_OTHER) as other:
            unnamed = await other.ask(type="subscribe", id=3)

    assert problem_of(refused) == (1, "receiver-full")
    assert (taken["type"], unnamed["type"]) == ("subscribed", "subscribed")


@pytest.mark.parametrize("is_cut_off", [False, True])
async def test_a_socket_gives_its_room_back_at_its_end(api: RunningReceiver, *, is_cut_off: bool) -> None:
    """Each way to end gives it back, even after a refusal of names."""
    for _ in range(3):
        async with subscribed(api, tasks=refs(0, 10)) as socket:
            await socket.send(type="add", id=1, tasks=refs(10, 11))
            assert problem_of(await answer_to(socket, 1)) == (1, "too-many-names")
            if is_cut_off:
                transport = socket.ws.get_extra_info("socket")
                assert transport is not None
                transport.shutdown(2)
        await eventually(lambda: api.streams == 0)


async def test_pages_and_events_take_room_as_well(api: RunningReceiver) -> None:
    """A wait and a stream with too many names are answered 429. With few names, or none, they are not."""
    async with subscribed(api, tasks=refs(0, 8)):
        for path in ("/v1/results?wait=20", "/v1/results/stream?after=start"):
            refused = await api.send("GET", f"{path}&tasks={','.join(refs(10, 13))}")
            assert (refused.status, refused.json["type"].rpartition(":")[2]) == (429, "too-many-names")
        for _ in range(3):
            async with open_events(api, tasks=",".join(refs(10, 12))) as events:
                assert events.response.status == 200
            await eventually(lambda: api.streams == 1)
            page = await api.send("GET", "/v1/results", params={"wait": "0.01", "tasks": ",".join(refs(10, 12))})
            assert page.status == 200
        async with open_events(api) as events:
            assert events.response.status == 200


async def answer_to(socket: Socket, frame_id: int) -> Any:
    """Return the answer to this frame. Other frames are passed over."""
    while (frame := await socket.next()).get("id") != frame_id:
        pass
    return frame
