"""Subscribers that stop reading. Their cost is bounded, others are served, and they are dropped after a while."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from receiver.web.streaming.streams import StreamRules
from tests.raw import events_request, websocket_request
from tests.receiver.web.sockets import subscribed
from tests.support import ADMIN, RunningReceiver, eventually, running_receiver

_PATIENT = StreamRules(send_seconds=30)
_IMPATIENT = StreamRules(send_seconds=2)
_BOUND = 128 * 1024


REQUESTS = {"websocket": websocket_request(ADMIN), "events": events_request(ADMIN)}


@asynccontextmanager
async def stalled(api: RunningReceiver, request: bytes, number: int) -> AsyncIterator[None]:
    """Run `number` peers that ask for everything and read nothing, with small receive buffers."""
    peers = []
    try:
        for _ in range(number):
            peer = socket.socket()
            peers.append(peer)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.setblocking(False)
            address = urlsplit(api.url)
            await asyncio.get_running_loop().sock_connect(peer, (address.hostname, address.port))
            await asyncio.get_running_loop().sock_sendall(peer, request)
        yield
    finally:
        for peer in peers:
            peer.close()


async def publish(api: RunningReceiver, number: int, size: int) -> list[str]:
    """Return the refs of `number` ended tasks, each with a solution of `size` bytes."""
    answer = {"errorId": 0, "status": "ready", "solution": {"text": "x" * size}}
    outcome = {"source": "poll", "answer": answer}
    return [
        str((await api.register(taskId=f"{size}-{position}", outcome=outcome))["ref"]) for position in range(number)
    ]


@pytest.mark.parametrize("transport", REQUESTS)
@pytest.mark.parametrize(("number", "size"), [(600, 10_000), (60, 100_000)])
async def test_what_they_cost_is_bounded(tmp_path: Path, transport: str, number: int, size: int) -> None:
    """Megabytes behind, each holds little memory in this process. A peer that reads gets everything meanwhile."""
    async with (
        running_receiver(tmp_path / "receiver.db", rules=_PATIENT) as api,
        stalled(api, REQUESTS[transport], 5),
        subscribed(api) as reader,
    ):
        await eventually(lambda: api.streams == 6)
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(publish(api, number, size))
            refs = [(await reader.next())["task"]["ref"] for _ in range(number)]

        assert refs == publishing.result()
        assert api.streams == 6
        assert 0 < max(api.unsent()) <= _BOUND


@pytest.mark.parametrize("transport", REQUESTS)
async def test_they_are_dropped_after_a_while(tmp_path: Path, transport: str) -> None:
    """They are cut off once they took nothing for the time of the settings. A peer that reads is not disturbed."""
    async with (
        running_receiver(tmp_path / "receiver.db", rules=_IMPATIENT) as api,
        stalled(api, REQUESTS[transport], 3),
        subscribed(api) as reader,
    ):
        await eventually(lambda: api.streams == 4)
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(publish(api, 100, 100_000))
            refs = [(await reader.next())["task"]["ref"] for _ in range(100)]

        await eventually(lambda: api.streams == 1)

    assert refs == publishing.result()
