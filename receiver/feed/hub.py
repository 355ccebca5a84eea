"""Wake-ups inside this process. They carry nothing: who is woken looks again.

A waiter registers, then reads the store, then waits (level, not edge); so a wake-up that comes too early or twice is
harmless, and one that is lost would only be lost together with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from receiver.domain.records import TaskKey

__all__ = ["Hub", "Waiter"]

_MOST_COUNTED = 4096


class Waiter:
    """One that waits. `wait` returns at once if it was woken since the last `clear`.

    Not an asyncio.Event: that has room for many, 600 bytes of it, and thousands wait at once, each alone.
    """

    __slots__ = ("_is_woken", "_waiting")

    def __init__(self) -> None:
        self._is_woken = False
        self._waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Lets `wait` return."""
        self._is_woken = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def clear(self) -> None:
        """Forgets earlier wake-ups; to be called before the store is read."""
        self._is_woken = False

    async def wait(self, seconds: float) -> bool:
        """Whether it was woken within `seconds`; for one at a time. Cancelling it leaves nothing behind."""
        if self._is_woken:
            return True
        loop = asyncio.get_running_loop()
        self._waiting = waiting = loop.create_future()
        limit = loop.call_later(seconds, _end, waiting)
        try:
            await waiting
        finally:
            limit.cancel()
            self._waiting = None
        return self._is_woken


class Hub:
    """All that wait for single tasks, by what they wait for: a ref or a provider's id."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self._woken: dict[str, int] = {}
        self.is_closed = False

    @contextmanager
    def waiting(self, key: str) -> Iterator[Waiter]:
        """Yield a waiter that is registered inside the block."""
        waiter = Waiter()
        self._waiters.setdefault(key, set()).add(waiter)
        if self.is_closed:
            waiter.wake()
        try:
            yield waiter
        finally:
            same = self._waiters[key]
            same.discard(waiter)
            if not same:
                del self._waiters[key]

    def wake(self, tasks: Iterable[TaskKey] | None) -> None:
        """Wakes those that wait for one of these tasks; None: everyone."""
        if tasks is None:
            for waiters in self._waiters.values():
                _wake(waiters)
            return
        for task in tasks:
            waiting = [*self._waiters.get(task.ref, ()), *self._waiters.get(task.id_text or "", ())]
            if waiting:
                _wake(waiting)
                self._count(task.ref, len(waiting))

    def wakes(self, ref: str) -> int | None:
        """How many waiters of this task were woken; None where that is not known, or not any more."""
        return self._woken.get(ref)

    def close(self) -> None:
        """Wakes everyone for good: from now on no wait lasts."""
        self.is_closed = True
        self.wake(None)

    def _count(self, ref: str, woken: int) -> None:
        if len(self._woken) >= _MOST_COUNTED and ref not in self._woken:
            # The oldest: dictionaries keep the order in which keys came.
            del self._woken[next(iter(self._woken))]
        self._woken[ref] = self._woken.get(ref, 0) + woken


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _wake(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()
