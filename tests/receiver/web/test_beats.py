"""Heartbeats: an idle stream sends one in each interval."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.web.streaming.streams import StreamRules, Streams
from tests.receiver.web.sockets import open_events, subscribed
from tests.support import RunningReceiver, eventually, running_receiver


class Metronome:
    """A stream that counts its beats."""

    beats = 0

    def beat(self) -> None:
        """Count one more."""
        self.beats += 1

    def wake(self) -> None:
        """Send nothing."""

    def check_key(self) -> None:
        """Need no key."""

    def abort(self) -> None:
        """Cut nothing off."""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with quick heartbeats."""
    rules = StreamRules(send_seconds=5, heartbeat_seconds=0.1)
    async with running_receiver(tmp_path / "receiver.db", rules=rules) as running:
        yield running


async def test_an_idle_websocket_beats_in_each_interval(api: RunningReceiver) -> None:
    """Its own heartbeats do not put off the next one."""
    metronome = Metronome()
    async with subscribed(api) as socket:
        await socket.next()
        api.ticker.add(metronome)
        types = [(await socket.next())["type"] for _ in range(6)]
        api.ticker.discard(metronome)

    assert types == ["heartbeat"] * 6
    assert metronome.beats <= 8


async def test_an_idle_stream_of_events_beats_in_each_interval(api: RunningReceiver) -> None:
    """It does so like a websocket."""
    metronome = Metronome()
    async with open_events(api) as events:
        await events.next()
        api.ticker.add(metronome)
        types = [(await events.next())[0] for _ in range(6)]
        api.ticker.discard(metronome)

    assert types == ["heartbeat"] * 6
    assert metronome.beats <= 8


async def test_a_stream_beats_at_the_same_moment_of_each_interval() -> None:
    """Other streams that come and go do not move it. Else two of its beats would be two intervals apart."""
    metronomes = [Metronome() for _ in range(51)]
    async with asyncio.TaskGroup() as group:
        streams = Streams(StreamRules(send_seconds=5, heartbeat_seconds=0.5), group)
        for metronome in metronomes:
            streams.add(metronome)
        beating = group.create_task(streams.beat())
        # The first and the last beat at the beginning, the others one after the other.
        await eventually(lambda: metronomes[0].beats == 1)
        streams.discard(metronomes[0])
        await eventually(lambda: metronomes[1].beats == 2)
        beating.cancel()

    assert (metronomes[49].beats, metronomes[50].beats) == (1, 2)
