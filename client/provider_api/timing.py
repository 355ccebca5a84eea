"""Clocks, sleep and randomness of a client, passed in as arguments."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

__all__ = ["Timing", "backoff_seconds"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


# A clock that runs while the machine sleeps, as the providers' clocks do: answers age in that time too.
_clock: Callable[[], float] = time.monotonic
if sys.platform == "linux":
    _clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
elif sys.platform == "darwin":
    _clock = partial(time.clock_gettime, time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Timing:
    """The clocks, the sleep and the randomness of one client. Tests and simulations pass their own.

    `clock` returns monotonic seconds, counted while the machine sleeps too. `now` returns the aware wall-clock time,
    and `random` a number from 0 up to 1.
    """

    clock: Callable[[], float] = _clock
    now: Callable[[], datetime] = _utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random

    async def wait(self, woken: asyncio.Event, until: float) -> bool:
        """Wait for the event until the clock reaches `until`. Return False if it was not set. Cancelling is safe."""
        try:
            async with asyncio.timeout(until - self.clock()):
                await woken.wait()
        except TimeoutError:
            return False
        return True


def backoff_seconds(failures: int, random: Callable[[], float], *, first: float = 0.5, most: float = 30.0) -> float:
    """Return the wait after a number of failures in a row (from 0): doubled up to `most`, with half of it random."""
    # The bound keeps the power a float, and its result is far above any `most`.
    ceiling = min(most, first * 2.0 ** min(failures, 32))
    return ceiling * (0.5 + 0.5 * random())
