"""Requests that wait in this process: their limits, their wake-ups, and their end at shutdown."""

from __future__ import annotations

import asyncio

from receiver.domain.admission import ConcurrencyLimit, Limits, Slot
from receiver.feed.feed import Feed
from receiver.feed.hub import Hub, Waiter

__all__ = ["IN_PROCESS", "Waits"]

IN_PROCESS = "in process"
"""Owner of waits and streams that are opened in this process, without a key."""


class Waits:
    """Waits for one task (`hub`) and readers of the log (`feed`), within limits for each API key and in all.

    `is_leaving` is set once the receiver is to end. All goes on until `close`.
    """

    def __init__(self, hub: Hub, feed: Feed, limits: Limits) -> None:
        self.hub = hub
        self.feed = feed
        self.is_leaving = False
        self._requests = ConcurrencyLimit("too-many-waiters", most=limits.waiters, most_each=limits.waiters_per_key)
        self._streams = ConcurrencyLimit("too-many-streams", most=limits.streams, most_each=limits.streams_per_key)

    @property
    def waiting(self) -> int:
        """Number of requests that wait now."""
        return len(self._requests)

    @property
    def streams(self) -> int:
        """Number of streams that are open now."""
        return len(self._streams)

    @property
    def is_closing(self) -> bool:
        """True once the receiver shuts down."""
        return self.hub.is_closed

    def request_admitted(self, owner: str) -> Slot:
        """Return room for one more request of `owner` that waits, to be used in a `with` block.

        Raises:
            ReceiverError: `too-many-waiters` or `receiver-full`.
        """
        return self._requests.admitted(owner)

    def stream_admitted(self, owner: str) -> Slot:
        """Return room for one more stream of `owner`, to be used in a `with` block.

        Raises:
            ReceiverError: `too-many-streams` or `receiver-full`.
        """
        return self._streams.admitted(owner)

    async def until_woken(self, waiter: Waiter, deadline: float) -> bool:
        """Wait for a wake-up until `deadline` on the loop's clock. Return True if it is worth reading again.

        Cancelling the wait is safe.
        """
        seconds = deadline - asyncio.get_running_loop().time()
        return seconds > 0 and not self.is_closing and await waiter.wait(seconds) and not self.is_closing

    def close(self) -> None:
        """End all waits for good, and tell every stream to end."""
        self.hub.close()
        self.feed.close()
