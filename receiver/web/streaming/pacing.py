"""The pace at which subscribers' requests are read: a budget for each websocket, and one for all of them.

A websocket sends as fast as it likes: pings, fragments, names that come and go. Each of these is spent from both
budgets, at about its cost to the event loop. A socket with an overspent budget isn't read until it is paid, and TCP
holds the peer back. Nothing is closed or lost. The budget for all keeps half of the loop for callbacks, however many
sockets there are.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from receiver.domain.admission import ConcurrencyLimit
from receiver.errors import ReceiverError

__all__ = ["FRAME_SECONDS", "NAMES_AT_A_TIME", "NAME_SECONDS", "Budget", "Pacer", "budget_of_all", "room_for_messages"]

# Measured on a Xeon at 2.1 GHz, with the answers and the reads of the store, and rounded up.
BYTE_SECONDS = 0.1e-6
FRAME_SECONDS = 50e-6
NAME_SECONDS = 20e-6

NAMES_AT_A_TIME = 200
"""The most names to add or remove in one turn of the loop."""

_UNFINISHED_BYTES = 48 * 1024 * 1024
_UNFINISHED_BYTES_OF_KEY = 16 * 1024 * 1024
# So much of a message takes no room, and has no limit of time.
_SMALL_BYTES = 32 * 1024
_MESSAGE_SECONDS = 30.0
_ROOM_SECONDS = 0.1
# The head and the mask of a control frame.
_CONTROL_BYTES = 6

_SHARE_OF_ALL = 0.5
_BURST_OF_ALL = 0.01
# A subscription of 50,000 refs is resumed without a pause of its own: it costs 1.2 s.
_SHARE_OF_EACH = 0.2
_BURST_OF_EACH = 1.5


class Budget:
    """Seconds of the event loop: `share` of each second, and `burst` saved up (GCRA, as in ATM networks)."""

    __slots__ = ("_ahead", "_paid_at", "_share")

    def __init__(self, share: float, burst: float) -> None:
        self._share = share
        self._ahead = burst / share
        self._paid_at = 0.0

    def spend(self, seconds: float, now: float) -> float:
        """Spend, whatever is left, and return how many seconds to wait then."""
        self._paid_at = max(self._paid_at, now) + seconds / self._share
        return max(0.0, self._paid_at - self._ahead - now)


def budget_of_all() -> Budget:
    """Return a budget for all websockets of an application together."""
    return Budget(_SHARE_OF_ALL, _BURST_OF_ALL)


def room_for_messages() -> ConcurrencyLimit:
    """Return the room of an application for websocket messages until they are complete and carried out."""
    return ConcurrencyLimit(
        "too-many-unfinished", most=_UNFINISHED_BYTES, most_each=_UNFINISHED_BYTES_OF_KEY, unit="bytes of messages"
    )


def _has_hung_up(transport: asyncio.Transport) -> bool:
    peer = transport.get_extra_info("socket")
    if peer is None or transport.is_closing() or not hasattr(select, "poll"):
        return False
    # Errors and hang-ups are reported without a flag. Only Linux has a flag for a peer that closed its side.
    poll = select.poll()
    poll.register(peer.fileno(), getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


class Pacer(asyncio.Protocol):
    """The protocol of a websocket's transport: it spends for the bytes it receives, and passes them on to aiohttp.

    A message of more than 32 kB takes room until it is carried out. If there is none, no more of it is read. It has
    30 s to be complete. Then `drop` is called with the reason and has to cut the peer off.

    aiohttp joins fragments and queues control frames before its caller sees any, so bytes are counted here. While its
    queue is full, aiohttp pauses the transport itself. Only aiohttp ends such a pause: a resumed transport would fill
    its buffer behind the queue without a limit.
    """

    __slots__ = (
        "_budgets",
        "_drop",
        "_is_held",
        "_is_paused",
        "_last_read",
        "_late",
        "_loop",
        "_owner",
        "_protocol",
        "_resuming",
        "_room",
        "_taken",
        "_transport",
        "_unread",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        of_all: Budget,
        room: ConcurrencyLimit,
        owner: str,
        drop: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._budgets = (Budget(_SHARE_OF_EACH, _BURST_OF_EACH), of_all)
        self._room = room
        self._owner = owner
        self._drop = drop
        self._transport = transport
        self._protocol = cast(asyncio.Protocol, transport.get_protocol())
        self._resuming: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._is_paused = self._is_held = False
        self._unread = self._last_read = self._taken = 0
        transport.set_protocol(self)

    def read_control(self, payload: bytes) -> None:
        """Count a ping or a pong as read. It may come between the fragments of a message."""
        self._unread = max(0, self._unread - len(payload) - _CONTROL_BYTES)

    def read_message(self, text: str) -> None:
        """Count a message as read. It keeps its room until `let_go`."""
        self._stop_waiting()
        size = len(text) if text.isascii() else len(text.encode())
        # The heads of its fragments are not known. Behind it, there are at most the bytes that came last.
        self._unread = max(0, min(self._unread - size, self._last_read))

    def let_go(self) -> None:
        """Give back the room of the message that was read."""
        if self._taken:
            self._room.give_back(self._owner, self._taken)
            self._taken = 0

    async def turn(self, seconds: float) -> None:
        """Spend, and wait until it is paid, at least one turn of the loop, so that other sockets have theirs."""
        await asyncio.sleep(self._spend(seconds))

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Read nothing inside the block, so that no large frame gathers behind the one in work."""
        self._is_held = True
        self._pause()
        try:
            yield
        finally:
            self._is_held = False
            self._go_on()

    def _spend(self, seconds: float) -> float:
        now = self._loop.time()
        return max(budget.spend(seconds, now) for budget in self._budgets)

    # The transport calls these.

    def data_received(self, data: bytes) -> None:
        """Pass on the bytes, and stop reading if they were too many."""
        self._unread += len(data)
        self._last_read = len(data)
        self._protocol.data_received(data)
        seconds = self._spend(len(data) * BYTE_SECONDS)
        if not self._has_room():
            seconds = max(seconds, _ROOM_SECONDS)
        if seconds and self._resuming is None and self._transport.is_reading():
            self._pause()
            self._resuming = self._loop.call_later(seconds, self._resume)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on. No timer and no room is left here."""
        if self._resuming is not None:
            self._resuming.cancel()
        self._stop_waiting()
        self.let_go()
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """Pass it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()

    def _has_room(self) -> bool:
        """Take room for the bytes that are not carried out yet. Without it, nothing more is read."""
        more = self._unread - _SMALL_BYTES - self._taken
        if more <= 0:
            return True
        if self._late is None:
            self._late = self._loop.call_later(_MESSAGE_SECONDS, self._drop, "a message did not come to its end")
        try:
            self._room.take(self._owner, more)
        except ReceiverError:
            return False
        self._taken += more
        return True

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _pause(self) -> None:
        if self._transport.is_reading():
            self._transport.pause_reading()
            self._is_paused = True

    def _resume(self) -> None:
        self._resuming = None
        # A transport that does not read notices no end of its connection. Behind the end, little can come.
        if self._has_room() or _has_hung_up(self._transport):
            self._go_on()
        else:
            self._resuming = self._loop.call_later(_ROOM_SECONDS, self._resume)

    def _go_on(self) -> None:
        if self._is_paused and not self._is_held and self._resuming is None and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()
