"""Websockets that send as fast as they can. Callbacks are acknowledged all the same."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID

import aiohttp
import pytest

from client.protocol.frames import MAX_NAMED, NAMES_AT_ONCE
from tests.faults.wire import ANSWER, Wire, connected, wired
from tests.receiver.web.sockets import subscribed
from tests.support import ADMIN, Api, eventually, receiver_process, running_receiver

_SOCKETS = 5
_CALLBACKS = 20
_UPGRADE = (
    "GET /v1/subscribe HTTP/1.1\r\nHost: receiver\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Authorization: Bearer {ADMIN}\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


def frame(opcode: int, payload: bytes = b"", *, is_last: bool = True) -> bytes:
    """Return a frame as a client sends it, with a mask of zeros (RFC 6455, 5.2)."""
    size = len(payload)
    long = struct.pack("!BH", 0xFE, size) if size < 2**16 else struct.pack("!BQ", 0xFF, size)
    head = bytes([0x80 * is_last + opcode]) + (bytes([0x80 + size]) if size < 126 else long)
    return head + bytes(4) + payload


def naming(kind: str, refs: list[str]) -> bytes:
    """Return a frame that adds or removes named tasks."""
    return frame(1, json.dumps({"type": kind, "id": 1, "tasks": refs}).encode())


def refs_of(count: int) -> list[str]:
    """Return refs without a task."""
    return [str(UUID(int=(1 << 100) + number)) for number in range(count)]


_MANY = refs_of(NAMES_AT_ONCE)
FLOODS = {
    "names": naming("add", _MANY) + naming("remove", _MANY),
    "pings": frame(9) * 20_000,
    "empty fragments": frame(1, is_last=False) + frame(0, is_last=False) * 20_000,
    "wrong frames": frame(1, b"{}") * 20_000,
    "errors": frame(1, json.dumps({"type": "add", "id": 1, "tasks": [7] * 300_000}).encode()),
}


@asynccontextmanager
async def flooding(url: str, sent: bytes) -> AsyncIterator[None]:
    """Run sockets that send these bytes again and again, and read all answers."""
    async with asyncio.TaskGroup() as group:
        floods = []
        for _ in range(_SOCKETS):
            wire = await connected(url)
            await wire.send(_UPGRADE, frame(1, b'{"type":"subscribe","id":0,"tasks":[]}'))
            await wire.reader.readuntil(b'"subscribed"')
            floods += [group.create_task(_flood(wire, sent)), group.create_task(_drain(wire))]
        yield
        for task in floods:
            task.cancel()


async def _flood(wire: Wire, sent: bytes) -> None:
    try:
        # A message of fragments is begun once, and never ends.
        first, rest = (sent[:6], sent[6:]) if sent[:1] == b"\x01" else (b"", sent)
        await wire.send(first)
        while True:
            await wire.send(rest)
    except ConnectionError:
        # It was cut off: its message takes too much room.
        pass
    finally:
        wire.reset()


async def _drain(wire: Wire) -> None:
    while await wire.reader.read(2**18):
        pass


@pytest.mark.parametrize("flood", FLOODS)
async def test_callbacks_are_acknowledged_beside_a_flood(tmp_path: Path, flood: str) -> None:
    """Each callback is stored and answered 200. A 503 would mean that it was not stored within 1.5 s."""
    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver, aiohttp.ClientSession() as session:
        api = Api(receiver.url, session)
        paths = [(await api.register())["callbackUrl"].partition("/callback/")[2] for _ in range(_CALLBACKS)]
        async with flooding(receiver.url, FLOODS[flood]):
            answers = [
                await api.send("POST", f"{receiver.url}/callback/{path}", key=None, data=ANSWER) for path in paths
            ]

    assert [answer.status for answer in answers] == [200] * _CALLBACKS


async def test_as_many_names_as_may_be_are_taken_at_full_speed(tmp_path: Path) -> None:
    """All frames are sent at once and answered in order. Tasks that have ended come, also the one named last."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        ended = await api.register()
        await api.call_back(ended["callbackUrl"])
        names = [*refs_of(MAX_NAMED - 1), ended["ref"]]
        parts = [names[start : start + NAMES_AT_ONCE] for start in range(0, MAX_NAMED, NAMES_AT_ONCE)]
        async with subscribed(api, tasks=parts[0]) as socket, asyncio.TaskGroup() as group:
            for number, part in enumerate(parts[1:]):
                group.create_task(socket.send(type="add", id=number, tasks=part))
            answers, result = [], None
            while result is None:
                match await socket.next():
                    case {"type": "added", "id": number}:
                        answers.append(number)
                    case {"type": "result", "task": {"ref": result}}:
                        pass

    assert answers == list(range(len(parts) - 1))
    assert result == ended["ref"]


async def test_unfinished_messages_take_a_bounded_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile small messages of other sockets are answered. Large ones are answered once there is room again."""
    monkeypatch.setattr("receiver.web.streaming.pacing._UNFINISHED_BYTES_OF_KEY", 150_000)
    half = frame(1, b"x" * 1_000_000)[:200_000]
    async with (
        running_receiver(tmp_path / "receiver.db") as api,
        AsyncExitStack() as stack,
        asyncio.TaskGroup() as group,
    ):
        wires = [await stack.enter_async_context(wired(api.url)) for _ in range(4)]
        for wire in wires:
            await wire.send(_UPGRADE, frame(1, b'{"type":"subscribe","id":0,"tasks":[]}'))
            await wire.reader.readuntil(b'"subscribed"')
        half_sent = [group.create_task(wire.send(half)) for wire in wires[:3]]
        await asyncio.wait(half_sent)
        await wires[3].send(naming("remove", _MANY[:100]))
        small = await wires[3].reader.readuntil(b'"removed"')
        large = group.create_task(wires[3].send(naming("remove", _MANY[:4000])))
        for wire in wires[:3]:
            wire.reset()
        removed = await wires[3].reader.readuntil(b'"removed"')
        await large
        await eventually(lambda: api.unread_messages == 0)

    assert small
    assert removed
