"""Wake-ups inside this process. They carry nothing: who is woken reads the store again.

A waiter registers, then reads the store, then waits (level, not edge); so a wake-up that comes too early or twice is
harmless, and one that is lost would only be lost together with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from receiver.errors import ReceiverError
from receiver.records import TaskKey

__all__ = ["Hub", "Waiter"]

EVERYTHING = None
"""The key of those that read the log as it grows."""

Key = str | None


class Waiter:
    """One that waits for some keys. `wait` returns at once if it was woken since the last `clear`."""

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
    """All waiters of this process, by what they wait for: a ref, a provider's id, or EVERYTHING."""

    def __init__(self, max_waiters: int) -> None:
        self._max_waiters = max_waiters
        self._waiters: dict[Key, set[Waiter]] = {}
        self._count = 0
        self.is_closed = False

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def waiting(self, key: Key) -> Iterator[Waiter]:
        """A waiter that is registered inside the block.

        Raises:
            ReceiverError: `too-many-waiters`.
        """
        if self._count >= self._max_waiters:
            raise ReceiverError("too-many-waiters", "the receiver holds all the waits it can", retry_after_seconds=5)
        waiter = Waiter()
        self._waiters.setdefault(key, set()).add(waiter)
        self._count += 1
        if self.is_closed:
            waiter.wake()
        try:
            yield waiter
        finally:
            self._count -= 1
            same = self._waiters[key]
            same.discard(waiter)
            if not same:
                del self._waiters[key]

    def wake(self, tasks: Iterable[TaskKey] | None) -> None:
        """Wakes those that wait for one of these tasks, and all that read the log; None: everyone."""
        if tasks is None:
            for waiters in self._waiters.values():
                _wake(waiters)
            return
        for task in tasks:
            _wake(self._waiters.get(task.ref, ()))
            if task.id_text is not None:
                _wake(self._waiters.get(task.id_text, ()))
        _wake(self._waiters.get(EVERYTHING, ()))

    def close(self) -> None:
        """Wakes everyone for good: from now on no wait lasts."""
        self.is_closed = True
        self.wake(None)


def _wake(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        waiter.wake()
