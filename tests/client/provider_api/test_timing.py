"""Waits with a limit, and backoff."""

from __future__ import annotations

import asyncio

import pytest

from client.provider_api.timing import Timing, backoff_seconds


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0.5), (1, 1.0), (2, 2.0), (10, 30.0), (100_000, 30.0)])
def test_backoff_doubles_up_to_its_most(failures: int, seconds: float) -> None:
    """Each failure doubles the wait, up to its limit."""
    assert backoff_seconds(failures, lambda: 1.0, first=0.5, most=30.0) == seconds


def test_chance_takes_up_to_half() -> None:
    """The random part spreads the waits of many clients over the upper half."""
    assert backoff_seconds(2, lambda: 0.0, first=0.5, most=30.0) == 1.0


async def test_wait_ends_when_woken() -> None:
    """A wait for an event that is already set ends at once."""
    woken = asyncio.Event()
    woken.set()

    assert await Timing().wait(woken, Timing().clock() + 60.0)


async def test_wait_ends_in_time() -> None:
    """A wait without an event ends at its limit."""
    timing = Timing()
    until = timing.clock() + 0.02

    assert not await timing.wait(asyncio.Event(), until)
    assert timing.clock() >= until - 0.005
