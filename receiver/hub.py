"""Wake-ups inside this process. They carry nothing: who is woken looks again.

A waiter registers, then reads the store, then waits (level, not edge); so a wake-up that comes too early or twice is
harmless, and one that is lost would only be lost together with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from receiver.records import TaskKey

__all__ = ["Hub", "Waiter"]


class Waiter:
    """One that waits. `wait` returns at once if it was woken since the last `clear`."""

    __slots__ = ("_woken",)

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Lets `wait` return."""
        self._woken.set()

    def clear(self) -> None:
        """Forgets earlier wake-ups; to be called before the store is read."""
        self._woken.clear()

    async def wait(self, seconds: float) -> bool:
        """Whether it was woken within `seconds`. Cancelling it leaves nothing behind."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


class Hub:
    """All that wait for single tasks, by what they wait for: a ref or a provider's id."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self.is_closed = False

    @contextmanager
    def waiting(self, key: str) -> Iterator[Waiter]:
        """A waiter that is registered inside the block."""
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
            _wake(self._waiters.get(task.ref, ()))
            if task.id_text is not None:
                _wake(self._waiters.get(task.id_text, ()))

    def close(self) -> None:
        """Wakes everyone for good: from now on no wait lasts."""
        self.is_closed = True
        self.wake(None)


def _wake(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()
