"""Rows that several receivers share: leases with takeover, and one learned schedule. Two stores on one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from client.providers import DIALECTS
from receiver.domain.sharing.leases import Lease, TakeLease
from receiver.domain.sharing.observations import Learn, Observation
from receiver.domain.transaction import CLOCK, Transaction
from receiver.storage.store import Store
from receiver.upkeep.leases import UpkeepLease
from receiver.upstream.schedules import Schedules
from tests.receiver.storage.stores import NOW, running_store

PLAN = DIALECTS["capsolver"].polls


@asynccontextmanager
async def two_stores(database: Path | str) -> AsyncIterator[tuple[Store, Store]]:
    """Yield two stores on one database."""
    async with running_store(database) as one, running_store(database) as other:
        yield one, other


async def take(store: Store, holder: str, seconds: float = 60.0) -> bool:
    """Ask for the lease `work`."""
    return await store.write(TakeLease(name="work", holder=holder, seconds=seconds))


async def test_a_lease_has_one_holder(database: Path | str) -> None:
    """Of two that ask at once one gets it, and only that one may renew it."""
    async with two_stores(database) as (one, other):
        async with asyncio.TaskGroup() as group:
            takes = [group.create_task(take(store, f"{number}")) for number, store in enumerate((one, other) * 10)]
        holders = [number for number, taking in enumerate(takes) if taking.result()]
        assert len(holders) == 1
        holder = f"{holders[0]}"

        assert await take(other, holder)
        assert not await take(one, "another")


async def test_a_lease_is_taken_over_after_its_end(database: Path | str) -> None:
    """A holder that died needs no farewell. Its lease can be given up as well."""
    async with two_stores(database) as (one, other):
        assert await take(one, "one", 0.3)
        refused = await take(other, "other")
        async with asyncio.timeout(20):
            while not await take(other, "other"):
                await asyncio.sleep(0.05)
        assert await take(other, "other", 0.0)

        assert not refused
        assert await take(one, "one")


@pytest.mark.parametrize(("ends_at", "is_free"), [(0, True), (1, False), (120_000_000, False), (120_000_001, True)])
def test_a_lease_that_a_clock_set_back_left_far_off_is_free(ends_at: int, is_free: bool) -> None:
    """No lease lasts longer than two minutes."""
    transaction = Transaction(0)
    transaction.supply([], [(CLOCK, NOW), (("lease", "work"), Lease("other", NOW + ends_at))])

    assert TakeLease(name="work", holder="one", seconds=30.0).decide(transaction) == is_free


async def test_a_loop_renews_its_lease_after_half_of_its_time(database: Path | str) -> None:
    """Until then it asks nobody. If another one holds the lease, each look asks again."""
    seconds = 0.0
    async with two_stores(database) as (one, other):
        holding = UpkeepLease(one, "work", holder="one", seconds=60.0, clock=lambda: seconds)
        waiting = UpkeepLease(other, "work", holder="other", seconds=60.0, clock=lambda: seconds)
        assert await holding.is_held()
        assert not await waiting.is_held()
        assert await take(other, "one", 0.0)
        assert await holding.is_held()
        assert await waiting.is_held()
        seconds = 30.0

        assert not await holding.is_held()


def came(latency: float) -> Observation:
    """Return a callback in time."""
    return Observation("inTime", "ImageToTextTask", latency, NOW / 1e6)


async def test_two_receivers_learn_one_schedule(database: Path | str) -> None:
    """Each adds what it observed, and none overwrites that of the other."""
    async with two_stores(database) as (one, other):
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                for store, latency in ((one, 7.0), (other, 9.0)):
                    learn = Learn(name="schedule capsolver", plan=PLAN, observations=[came(latency + number / 10)])
                    group.create_task(store.write(learn))
        receivers = [Schedules(store, DIALECTS, lambda: NOW) for store in (one, other)]
        for receiver in receivers:
            await receiver.open()
        waits = {receiver.first_poll_seconds("capsolver", "x", expects_callback=True) for receiver in receivers}

    # Twenty callbacks are enough for the learned wait: a third more than the 90th percentile.
    assert len(waits) == 1
    assert waits.pop() == pytest.approx(9.9 * 4 / 3, abs=0.3)
