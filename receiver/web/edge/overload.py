"""Overload: reads are refused before callbacks suffer, then other writes, and callbacks last.

A receiver is overloaded while its store is late, or while the event loop is late again and again. One long turn of the
loop, as after a pause of the machine, is none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from receiver.errors import ReceiverError
from receiver.storage.store import Store

__all__ = ["RETRY_SECONDS", "Overload", "overloaded"]

_TICK_SECONDS = 0.1
# A callback takes about five turns of the loop, and should be answered within 2 s.
_LATE_SECONDS = 0.25
_LATE_TIMES = 4
_LASTS_SECONDS = 2.0
RETRY_SECONDS = 5
"""The seconds after which a refused request should come again."""

# Half of the commands that the store lets wait. The other half is for callbacks.
_MOST_WAITING_WRITES = 4096

_log = structlog.get_logger()


class Overload:
    """The state of overload, which lasts for 2 s after its reason. Run `watch` beside the requests."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._late_turns = 0
        self._late_until = 0.0

    @property
    def refuses_reads(self) -> bool:
        """True while reads and new streams are to be refused."""
        return self._store.is_late or self._clock() < self._late_until

    def check(self, *, is_read: bool) -> None:
        """Refuse a request of a client while there is no time for it.

        Raises:
            ReceiverError: `overloaded`.
        """
        if self.refuses_reads if is_read else self._store.queued >= _MOST_WAITING_WRITES:
            raise overloaded()

    async def watch(self) -> None:
        """Measure the turns of the event loop, and log when an overload begins and ends. Never return."""
        was_refusing = False
        while True:
            due = self._clock() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            self.note_turn(self._clock() - due)
            if self.refuses_reads != was_refusing:
                was_refusing = not was_refusing
                _log.warning("overload.began" if was_refusing else "overload.ended", isStoreLate=self._store.is_late)

    def note_turn(self, seconds_late: float) -> None:
        """Note a turn of the event loop that came so late."""
        self._late_turns = self._late_turns + 1 if seconds_late > _LATE_SECONDS else 0
        if self._late_turns >= _LATE_TIMES:
            self._late_until = self._clock() + _LASTS_SECONDS


def overloaded() -> ReceiverError:
    """Return the refusal."""
    return ReceiverError("overloaded", "the receiver stores callbacks first", retry_after_seconds=RETRY_SECONDS)
