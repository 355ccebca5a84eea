"""Overload: which requests are refused, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from receiver.errors import ReceiverError
from receiver.storage.store import Store
from receiver.web.edge.overload import Overload


@pytest.fixture(autouse=True)
def unhurried() -> None:
    """Keep the limits of lateness as they are."""


@dataclass
class Load:
    """A store and a clock, set by hand."""

    is_late: bool = False
    queued: int = 0
    now: float = 0.0

    def refused(self, overload: Overload) -> tuple[bool, bool]:
        """Return True for reads and for writes that are refused."""
        found = []
        for is_read in (True, False):
            refusal = None
            try:
                overload.check(is_read=is_read)
            except ReceiverError as error:
                refusal = (error.slug, error.retry_after_seconds)
            found.append(refusal == ("overloaded", 5))
        return found[0], found[1]


@pytest.fixture
def load() -> Load:
    """Return an idle store."""
    return Load()


@pytest.fixture
def overload(load: Load) -> Overload:
    """Return the overload of that store."""
    return Overload(cast(Store, load), lambda: load.now)


def test_nothing_is_refused_in_quiet(load: Load, overload: Overload) -> None:
    """At first there is no overload."""
    assert load.refused(overload) == (False, False)


def test_a_late_store_refuses_reads(load: Load, overload: Overload) -> None:
    """Writes are still queued."""
    load.is_late = True

    assert load.refused(overload) == (True, False)


def test_a_long_queue_refuses_writes(load: Load, overload: Overload) -> None:
    """Half of the queue is left to callbacks, which are not asked about."""
    load.queued = 4096

    assert load.refused(overload) == (False, True)


def test_a_pause_of_the_machine_refuses_nothing(load: Load, overload: Overload) -> None:
    """One turn of the loop is late, however much, and then a few more with some between that are not."""
    for seconds in (60.0, 0.4, 0.4, 0.0, 0.4, 0.4, 0.4, 0.1):
        overload.note_turn(seconds)

    assert load.refused(overload) == (False, False)


def test_a_late_loop_refuses_reads_until_two_seconds_after(load: Load, overload: Overload) -> None:
    """A quick turn in between does not end it."""
    for seconds in (0.3, 0.3, 0.3, 0.3):
        overload.note_turn(seconds)
    at_first = load.refused(overload)
    overload.note_turn(0.0)
    load.now += 1.9
    later = load.refused(overload)
    load.now += 0.2

    assert (at_first, later, load.refused(overload)) == ((True, False), (True, False), (False, False))
