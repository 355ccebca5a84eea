"""Wake-ups inside this process. They carry nothing, so a woken waiter reads the store again.

A waiter registers, then reads the store, then waits (level, not edge). So a wake-up may come too early or twice without
harm. A wake-up can only be lost together with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from receiver.domain.records import TaskKey

__all__ = ["Hub", "Waiter"]

_MOST_COUNTED = 4096


class Waiter:
    """A wake-up for one task that waits. `wait` returns at once after a wake-up since the last `clear`.

    Not an asyncio.Event: this has room for many tasks, 600 bytes of it. Thousands wait at once, each alone.
    """

    __slots__ = ("_is_woken", "_waiting")

    def __init__(self) -> None:
        self._is_woken = False
        self._waiting: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let `wait` return."""
        self._is_woken = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def clear(self) -> None:
        """Forget earlier wake-ups. Call this before reading the store."""
        self._is_woken = False

    async def wait(self, seconds: float) -> bool:
        """Wait for a wake-up. Return False after `seconds`. Only one task may wait at a time. Cancelling is safe."""
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
    """The waiters for single tasks, by the ref or the provider's id that they wait for."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self._woken: dict[str, int] = {}
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._waiters)

    @contextmanager
    def waiting(self, key: str) -> Iterator[Waiter]:
        """Yield a waiter, registered until the block is left."""
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
        """Wake the waiters for these tasks; None wakes all."""
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
        """Return the number of woken waiters of this task, or None if it is not known any more."""
        return self._woken.get(ref)

    def close(self) -> None:
        """Wake all waiters for good: from now on no wait lasts."""
        self.is_closed = True
        self.wake(None)

    def _count(self, ref: str, woken: int) -> None:
        if len(self._woken) >= _MOST_COUNTED and ref not in self._woken:
            # The oldest one: dictionaries keep the order in which keys came.
            del self._woken[next(iter(self._woken))]
        self._woken[ref] = self._woken.get(ref, 0) + woken


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _wake(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()
