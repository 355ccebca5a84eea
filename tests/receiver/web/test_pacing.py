"""The pace for reading subscribers' requests."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from receiver.domain.admission import ConcurrencyLimit
from receiver.web.streaming.pacing import BYTE_SECONDS, Budget, Pacer, room_for_messages
from tests.support import eventually

_CHUNK = b"x" * 1000


class Reading(asyncio.Protocol):
    """A protocol that keeps the bytes it receives."""

    def __init__(self) -> None:
        self.received = b""
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        """Keep the bytes."""
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self.is_lost = True


FREE = Budget(share=1e9, burst=1e9)


@asynccontextmanager
async def paced(
    of_all: Budget, room: ConcurrencyLimit | None = None, dropped: list[str] | None = None
) -> AsyncIterator[tuple[asyncio.Transport, Reading, Pacer, socket.socket]]:
    """Yield a transport, its first protocol, the pacer between them, and the socket of the peer."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport, protocol = await asyncio.get_running_loop().create_connection(Reading, sock=ours)
        try:
            reasons = [] if dropped is None else dropped
            pacer = Pacer(transport, of_all, room_for_messages() if room is None else room, "key", reasons.append)
            yield transport, protocol, pacer, theirs
        finally:
            transport.abort()
            await eventually(lambda: protocol.is_lost)


def test_a_budget_saves_up_its_burst_and_no_more() -> None:
    """A tenth of each second: the burst is free, then each millisecond takes ten, and a long pause saves one burst."""
    budget = Budget(share=0.1, burst=0.2)

    waits = [budget.spend(0.2, 100.0), budget.spend(0.001, 100.0), budget.spend(0.001, 100.02)]
    again = [budget.spend(0.2, 1000.0), budget.spend(0.1, 1000.0)]

    assert waits == [pytest.approx(0, abs=1e-9), pytest.approx(0.01), pytest.approx(0, abs=1e-9)]
    assert again == [pytest.approx(0, abs=1e-9), pytest.approx(1.0)]


async def test_a_peer_that_overspends_is_not_read() -> None:
    """The rest stays in the system's buffer; the connection stays open."""
    async with paced(Budget(share=1e-9, burst=0)) as (transport, protocol, _, peer):
        peer.sendall(_CHUNK)
        await eventually(lambda: not transport.is_reading())
        peer.sendall(_CHUNK)
        for _ in range(100):
            await asyncio.sleep(0)

        assert protocol.received == _CHUNK
        assert not transport.is_closing()


async def test_it_is_read_again_once_that_is_paid() -> None:
    """All of it arrives, in order."""
    sent = bytes(range(256)) * 400
    async with paced(Budget(share=len(sent) * BYTE_SECONDS, burst=0)) as (_, protocol, _, peer):
        peer.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(peer, sent)
        await eventually(lambda: len(protocol.received) == len(sent))

        assert protocol.received == sent


async def test_a_pause_of_the_protocol_is_left_to_it() -> None:
    """Aiohttp pauses while its queue is full. Only aiohttp knows the time to go on."""
    async with paced(Budget(share=1e6, burst=0)) as (transport, _, pacer, _peer):
        transport.pause_reading()
        pacer.data_received(_CHUNK)
        await pacer.turn(0)
        await pacer.turn(0)

        assert not transport.is_reading()


async def test_a_peer_that_is_not_read_leaves_no_timer() -> None:
    """A connection that ends during the pause is forgotten at once."""
    async with paced(Budget(share=1e-9, burst=0)) as (transport, protocol, pacer, peer):
        peer.sendall(_CHUNK)
        await eventually(lambda: not transport.is_reading())
        timer = pacer._resuming
        transport.abort()
        await eventually(lambda: protocol.is_lost)

        assert timer is not None
        assert timer.cancelled()


async def test_turns_are_taken_in_the_order_in_which_they_were_asked_for() -> None:
    """Two sockets that ask for many turns have them in alternation."""
    order = []

    async def ask(pacer: Pacer, name: str) -> None:
        for _ in range(5):
            await pacer.turn(0.002)
            order.append(name)

    of_all = Budget(share=0.5, burst=0)
    async with paced(of_all) as (_, _, first, _), paced(of_all) as (_, _, second, _), asyncio.TaskGroup() as group:
        group.create_task(ask(first, "a"))
        group.create_task(ask(second, "b"))

    assert order == ["a", "b"] * 5


@asynccontextmanager
async def connected(room: ConcurrencyLimit) -> AsyncIterator[tuple[asyncio.Transport, Reading, socket.socket]]:
    """Yield the same as `paced`, over TCP: a socket pair knows no reset."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with theirs:
        ours.setblocking(False)
        transport, protocol = await loop.create_connection(Reading, sock=ours)
        Pacer(transport, FREE, room, "key", list[str]().append)
        try:
            yield transport, protocol, theirs
        finally:
            transport.abort()
            await eventually(lambda: protocol.is_lost)


def room_of(size: int) -> ConcurrencyLimit:
    """Return room for `size` bytes of unfinished messages."""
    return ConcurrencyLimit("too-many-unfinished", most=size, most_each=size, unit="bytes of messages")


async def test_a_message_takes_room_until_it_is_carried_out() -> None:
    """Its first 32 kB are free. Pings between its fragments change nothing."""
    room = room_of(1_000_000)
    async with paced(FREE, room) as (_, protocol, pacer, peer):
        for size in (100_000, 200_000):
            await asyncio.to_thread(peer.sendall, b"x" * 100_000)
            await eventually(lambda size=size: len(protocol.received) == size)  # type: ignore[misc]
        for _ in range(100):
            pacer.read_control(b"")
        unfinished = len(room)
        pacer.read_message("x" * 199_000)
        read = len(room)
        pacer.let_go()
        done = len(room)

    assert 160_000 < unfinished <= 200_000 - 32 * 1024
    assert (read, done) == (unfinished, 0)


async def test_a_message_that_finds_no_room_waits_for_it() -> None:
    """It is not read on, and not lost. Its room is free again once its connection is lost."""
    room = room_of(200_000)
    room.take("another", 150_000)
    async with paced(FREE, room) as (transport, protocol, _, peer):
        await asyncio.to_thread(peer.sendall, b"x" * 150_000)
        await eventually(lambda: not transport.is_reading())
        await asyncio.to_thread(peer.sendall, b"x" * 10_000)
        for _ in range(100):
            await asyncio.sleep(0)
        before = len(protocol.received)
        room.give_back("another", 150_000)
        await eventually(lambda: len(protocol.received) == 160_000)
        taken = len(room)

    assert before <= 150_000
    assert 0 < taken <= 160_000 - 32 * 1024
    assert len(room) == 0


@pytest.mark.parametrize("end", ["closed", "reset"])
async def test_a_peer_that_hangs_up_keeps_no_room(end: str) -> None:
    """Its end is noticed although nothing is read for want of room."""
    room = room_of(200_000)
    room.take("another", 150_000)
    async with connected(room) as (transport, protocol, peer):
        await asyncio.to_thread(peer.sendall, b"x" * 70_000)
        await eventually(lambda: len(room) > 150_000)
        room.take("another", 200_000 - len(room))
        await asyncio.to_thread(peer.sendall, b"x" * 10_000)
        await eventually(lambda: not transport.is_reading())
        if end == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        await eventually(lambda: protocol.is_lost)
        kept = len(room)

    assert kept < 200_000


async def test_a_message_without_an_end_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small message has no limit of time, and a message that was read has none any more."""
    dropped, kept = list[str](), list[str]()
    async with (
        paced(FREE, dropped=dropped) as (_, _, _, peer),
        paced(FREE, dropped=kept) as (_, protocol, pacer, other),
        paced(FREE, dropped=kept) as (_, _, _, small),
    ):
        await asyncio.to_thread(other.sendall, b"x" * 70_000)
        await eventually(lambda: len(protocol.received) == 70_000)
        pacer.read_message("x" * 69_000)
        monkeypatch.setattr("receiver.web.streaming.pacing._MESSAGE_SECONDS", 0.05)
        await asyncio.to_thread(small.sendall, b"x" * 1000)
        await asyncio.to_thread(peer.sendall, b"x" * 70_000)
        await eventually(lambda: bool(dropped))

    assert dropped == ["a message did not come to its end"]
    assert kept == []
