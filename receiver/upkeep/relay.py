"""Wake-ups after each commit: waiters, readers of the log, and polls that a hint brought forward."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from receiver.domain.records import Growth
from receiver.feed.feed import Feed
from receiver.feed.hub import Hub
from receiver.tracing import Tracing

__all__ = ["Relay"]

_MOST_LATE = 64
_FEW_OUTCOMES = 4

_log = structlog.get_logger()


class Relay:
    """Wakes waiters and readers for each growth of the log, in order. `take` is the listener of the store.

    For readers of the log, a growth without its entries is read from the store first, in a task of `owner`. Later ones
    wait behind it. Waiters for single tasks are woken at once.
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
        self._soon = 0

    def take(self, growth: Growth) -> None:
        """Wake all that wait for something in this growth, at once or in the next turn if its entries are known."""
        if self._late:
            self._wait_behind(growth)
            if len(self._late) > _MOST_LATE:
                # The first one is being read. For the others, all waiters look, and the log is read once.
                self._late[1:] = [Growth(self._late[1].after, growth.until, None, None)]
        elif self._is_anyone_there and not self._feed.has_entries(growth):
            self._wait_behind(growth)
            self._start()
        elif not self._soon and _is_urgent(growth):
            # Before the callers, which were released, have their turn.
            try:
                self._wake(growth)
            except Exception:
                # It must not end the writer.
                _log.exception("wake.failed")
        else:
            # After them.
            self._soon += 1
            asyncio.get_running_loop().call_soon(self._wake_now, growth)
        if any(entry.kind == "hint" for entry in growth.entries or ()):
            self._hinted()

    def _wait_behind(self, growth: Growth) -> None:
        self._late.append(growth)
        # Waiters for single tasks read those, and not the log. In the next turn, as a fault must not end the writer.
        asyncio.get_running_loop().call_soon(self._hub.wake, growth.tasks)

    @property
    def _is_anyone_there(self) -> bool:
        return bool(len(self._feed) or len(self._hub))

    def _wake_now(self, growth: Growth) -> None:
        self._soon -= 1
        self._wake(growth)

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


def _is_urgent(growth: Growth) -> bool:
    """Return True for a few outcomes of callbacks: their waiters are woken before their senders have an answer.

    A service does not wait for its acknowledgement. Of many, the last sender would wait for all frames. A client that
    reports an outcome itself has its answer before the frame.
    """
    if not growth.entries or len(growth.entries) > _FEW_OUTCOMES:
        return False
    outcomes = [None if entry.task is None else entry.task.outcome for entry in growth.entries]
    return all(outcome is not None and outcome.source == "callback" for outcome in outcomes)
