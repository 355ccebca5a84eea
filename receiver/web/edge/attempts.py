"""Requests with a wrong API key or none. Each waits before its 401, and longer with each further one of its address.

A request with a valid key never waits, whatever its address has sent before: many programs may share one address. Nor
does a callback, which has no key.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable

from receiver.errors import ReceiverError

__all__ = ["FailedAttempts"]

_SHORTEST_SECONDS = 0.1
# Clients give a request 2 s. They have to learn that their key is wrong.
_LONGEST_SECONDS = 1.0
# The delay doubles after so many attempts.
_ATTEMPTS_OF_A_DELAY = 4
_FORGOTTEN_SECONDS = 600.0
_MOST_OWNERS = 10_000
# A request that waits holds a connection.
_MOST_WAITING = 64
_MOST_WAITING_EACH = 8


class FailedAttempts:
    """Slows attempts down, by owners of addresses (`receiver.web.edge.addresses.owner_of`), in bounded memory.

    After ten minutes without an attempt, the delay of an address begins at 0.1 s again. Of more than 10,000 addresses,
    the one with the oldest attempt is forgotten. `count` takes "delayed" or "refused" for each attempt.
    """

    def __init__(
        self,
        count: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._count = count
        self._clock = clock
        self._sleep = sleep
        # The number of attempts, and the time of the last one.
        self._attempts: OrderedDict[object, tuple[int, float]] = OrderedDict()
        self._waiting: Counter[object] = Counter()

    def __len__(self) -> int:
        return len(self._attempts)

    @property
    def waiting(self) -> int:
        """The number of requests that wait now."""
        return self._waiting.total()

    async def delay(self, owner: object) -> None:
        """Note an attempt, and wait from 0.1 s to 1 s. Cancelling the wait is safe.

        Raises:
            ReceiverError: `too-many-requests` at once, because 8 attempts of the owner or 64 in all wait already.
        """
        seconds = self._note(owner)
        if self._waiting[owner] >= _MOST_WAITING_EACH or self.waiting >= _MOST_WAITING:
            self._count("refused")
            text = "too many requests with a wrong API key, or with none, wait for their answers"
            raise ReceiverError("too-many-requests", text, retry_after_seconds=round(_LONGEST_SECONDS))
        self._count("delayed")
        self._waiting[owner] += 1
        try:
            await self._sleep(seconds)
        finally:
            self._waiting[owner] -= 1
            if not self._waiting[owner]:
                del self._waiting[owner]

    def _note(self, owner: object) -> float:
        now = self._clock()
        attempts, last = self._attempts.pop(owner, (0, now))
        if now - last >= _FORGOTTEN_SECONDS:
            attempts = 0
        self._attempts[owner] = (attempts + 1, now)
        if len(self._attempts) > _MOST_OWNERS:
            self._attempts.popitem(last=False)
        # Of very many attempts, the power would be too large for a float.
        doubled = min(attempts // _ATTEMPTS_OF_A_DELAY, 10)
        return min(_SHORTEST_SECONDS * (1 << doubled), _LONGEST_SECONDS)
