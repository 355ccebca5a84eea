"""What all tasks of one client key share: the rate of polls, and the pauses that a provider asks for."""

from __future__ import annotations

import math
from collections.abc import Callable

from aiolimiter import AsyncLimiter

__all__ = ["KeyGate"]


class KeyGate:
    """The limits of one key at one provider."""

    def __init__(self, requests_per_second: float, clock: Callable[[], float]) -> None:
        # One turn for each slice of time, not a second's worth at once: a burst of hundreds is what gets a key blocked.
        self._limiter = AsyncLimiter(1, 1 / requests_per_second)
        self._clock = clock
        self.paused_until = -math.inf

    async def turn(self) -> None:
        """Waits for this key's next turn to poll. Cancelling it gives the turn to the next in line."""
        await self._limiter.acquire()

    def pause(self, seconds: float) -> None:
        """Nobody asks anything with this key for so long; pauses do not shorten each other."""
        self.paused_until = max(self.paused_until, self._clock() + seconds)
