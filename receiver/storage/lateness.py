"""The lateness of a store: if its writes are about to be late, or were too late for callbacks a moment ago."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Lateness"]

# A callback waits for 1.5 s. With less than this left, it is in danger. A disk with 0.5 s for each write leaves more.
_HURRY_SECONDS = 0.3
_TOO_SLOW_SECONDS = 1.5
# Both states last, so that they do not change with each write. A probe comes every 5 s at least.
_LATE_FOR_SECONDS = 2.0
_DELAYED_FOR_SECONDS = 10.0
_SILENT_SECONDS = 8.0


class Lateness:
    """Takes times of writes, and says how the store stands. `clock` returns seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._late_until = self._delayed_until = 0.0
        self._wrote_at = clock()
        self._began_at: float | None = None

    @property
    def is_late(self) -> bool:
        """True while waiting writes may miss their limits, and for 2 s afterwards."""
        return self._clock() < self._late_until or self._left() < _HURRY_SECONDS

    @property
    def delay(self) -> str | None:
        """The reason for which callbacks are not stored in time, until 10 s after the last such write; else None."""
        now = self._clock()
        if now - self._wrote_at > _SILENT_SECONDS:
            return f"the disk has completed no write for {now - self._wrote_at:.0f} s"
        is_delayed = now < self._delayed_until or self._left() <= 0
        return "writing took too long for callbacks within the last 10 s" if is_delayed else None

    def waiting(self, seconds_left: float) -> None:
        """Note the time that the most urgent of the waiting writes has left."""
        if seconds_left < _HURRY_SECONDS:
            self._late_until = self._clock() + _LATE_FOR_SECONDS
        if seconds_left <= 0:
            self._delayed_until = self._clock() + _DELAYED_FOR_SECONDS

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Note the write in the block. One that fails does not count: the store tells of it."""
        self._began_at = began_at = self._clock()
        try:
            yield
            self._wrote_at = self._clock()
            self.waiting(_TOO_SLOW_SECONDS - (self._wrote_at - began_at))
        finally:
            self._began_at = None

    def _left(self) -> float:
        """Return the time that a callback in the write under way has left, if there is one."""
        return _TOO_SLOW_SECONDS if self._began_at is None else _TOO_SLOW_SECONDS - (self._clock() - self._began_at)
