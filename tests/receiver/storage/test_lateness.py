"""The lateness of a store: it lasts a while, so that it does not change with each write."""

from __future__ import annotations

from contextlib import suppress

import pytest

from receiver.storage.lateness import Lateness


@pytest.fixture(autouse=True)
def unhurried() -> None:
    """Keep the limits of lateness as they are."""


class Clock:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


@pytest.fixture
def lateness(clock: Clock) -> Lateness:
    """Return a store's lateness at its start."""
    return Lateness(clock)


def write(clock: Clock, lateness: Lateness, seconds: float) -> None:
    """Write for so long."""
    with lateness.writing():
        clock.now += seconds


def states(clock: Clock, lateness: Lateness, seconds: int) -> list[tuple[bool, bool]]:
    """Return each second if it is late and delayed, while quick writes go on."""
    found = []
    for _ in range(seconds):
        found.append((lateness.is_late, lateness.delay is not None))
        clock.now += 1
        write(clock, lateness, 0)
    return found


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.5, 1.1])
def test_writes_in_time_are_not_late(clock: Clock, lateness: Lateness, seconds: float) -> None:
    """A disk that takes half a second for each write is slow, but callbacks are stored in time."""
    write(clock, lateness, seconds)

    assert states(clock, lateness, 3) == [(False, False)] * 3


def test_a_write_in_danger_is_late_for_two_seconds(clock: Clock, lateness: Lateness) -> None:
    """Reads are refused before a callback is."""
    lateness.waiting(0.2)

    assert states(clock, lateness, 4) == [(True, False), (True, False), (False, False), (False, False)]


def test_a_missed_limit_is_a_delay_for_ten_seconds(clock: Clock, lateness: Lateness) -> None:
    """Readiness comes back only after ten seconds without another one."""
    lateness.waiting(0)
    clock.now += 5
    write(clock, lateness, 1.6)

    found = states(clock, lateness, 11)

    assert found == [(True, True)] * 2 + [(False, True)] * 8 + [(False, False)]


def test_a_disk_without_an_answer_is_a_delay(clock: Clock, lateness: Lateness) -> None:
    """Without any traffic, the probe that hangs tells it."""
    clock.now += 7.9
    before = lateness.delay
    clock.now += 1
    after = lateness.delay

    assert (before, after) == (None, "the disk has completed no write for 9 s")


def test_a_write_under_way_is_late_and_then_a_delay(clock: Clock, lateness: Lateness) -> None:
    """Nobody has to wait for it. If it fails, then the store has a failure to tell instead."""
    found = []
    with suppress(OSError), lateness.writing():
        for _ in range(3):
            clock.now += 0.6
            found.append((lateness.is_late, lateness.delay is not None))
        raise OSError
    found.append((lateness.is_late, lateness.delay is not None))

    assert found == [(False, False), (False, False), (True, True), (False, False)]
