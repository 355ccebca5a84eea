"""Time and chance as arguments: what a client measures, waits and draws with."""

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


# A clock that goes on while the machine sleeps, as the providers' do: answers get old meanwhile.
_clock: Callable[[], float] = time.monotonic
if sys.platform == "linux":
    _clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
elif sys.platform == "darwin":
    _clock = partial(time.clock_gettime, time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Timing:
    """The clocks, the sleep and the chance of one client; tests and simulations bring their own.

    `clock` gives seconds that only grow, also while the machine sleeps; `now` the aware wall clock, `random` a number
    from 0 up to 1.
    """

    clock: Callable[[], float] = _clock
    now: Callable[[], datetime] = _utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random

    async def wait(self, woken: asyncio.Event, until: float) -> bool:
        """Whether `woken` was set before the clock reached `until`. Cancelling it leaves nothing behind."""
        try:
            async with asyncio.timeout(until - self.clock()):
                await woken.wait()
        except TimeoutError:
            return False
        return True


def backoff_seconds(failures: int, random: Callable[[], float], *, first: float = 0.5, most: float = 30.0) -> float:
    """How long to wait after so many failures in a row (from 0): doubling up to `most`, half of it left to chance."""
    # An exponent beyond this overflows nothing and is far above any `most`.
    ceiling = min(most, first * 2.0 ** min(failures, 32))
    return ceiling * (0.5 + 0.5 * random())
