"""Wake-ups after each commit: waiters, readers of the log, and polls that a hint brought forward."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from receiver.domain.records import Growth
from receiver.feed.feed import Feed
from receiver.feed.hub import Hub
from receiver.tracing import Tracing

__all__ = ["Relay"]

_MOST_LATE = 64


class Relay:
    """Wakes waiters and readers for each growth of the log, in order. `take` is the listener of the store.

    A growth without its entries is read from the store first, in a task of `owner`. Later ones wait behind it.
    `hinted` is called if there is a hint among the new entries. `tracing` makes a span of each wake-up.
    """

    def __init__(
        self,
        feed: Feed,
        hub: Hub,
        hinted: Callable[[], None],
        owner: asyncio.TaskGroup,
        *,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._feed = feed
        self._hub = hub
        self._hinted = hinted
        self._owner = owner
        self._late: list[Growth] = []

    def take(self, growth: Growth) -> None:
        """Wake all that wait for something in this growth, in the next turn of the loop if its entries are known."""
        if self._late:
            self._late.append(growth)
            if len(self._late) > _MOST_LATE:
                # The first one is being read. For the others, all waiters look, and the log is read once.
                self._late[1:] = [Growth(self._late[1].after, growth.until, None, None)]
        elif self._is_anyone_there and not self._feed.has_entries(growth):
            self._late.append(growth)
            self._start()
        else:
            # The released callers have their turn first. So the sender of an outcome has its answer before its waiters
            # have a frame. The next growth comes in a later turn of the loop.
            asyncio.get_running_loop().call_soon(self._wake, growth)
        if any(entry.kind == "hint" for entry in growth.entries or ()):
            self._hinted()

    @property
    def _is_anyone_there(self) -> bool:
        return bool(len(self._feed) or len(self._hub))

    def _wake(self, growth: Growth) -> None:
        if self._is_anyone_there:
            started = 0 if self._tracing is None else time.time_ns()
            self._feed.take(growth)
            self._hub.wake(growth.tasks)
            if self._tracing is not None:
                # A fault of the operator's own exporter must not end the wake-ups.
                with suppress(Exception):
                    self._tracing.woken(growth, started)
        else:
            self._feed.skip(growth.until)

    def _start(self) -> None:
        reading = self._read_late()
        try:
            self._owner.create_task(reading, name="relay")
        except RuntimeError:
            # A background task failed, and the receiver ends.
            reading.close()

    async def _read_late(self) -> None:
        while self._late:
            growth = self._late[0]
            if not self._feed.has_entries(growth):
                growth = await self._feed.with_entries(growth)
            self._wake(growth)
            del self._late[0]
