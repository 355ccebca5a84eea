"""Retention under load: callbacks are stored between its steps, while thousands of old tasks are removed."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

from receiver.domain.records import Removed
from receiver.storage.sqlite.store import SqliteStore
from receiver.upkeep.retention import prune
from tests.receiver.storage.stores import a_delivery, a_ref, a_registration, running_store
from tests.receiver.upkeep.pruning import horizon

OLD = 3000
NEW = 300


async def end_together(store: SqliteStore, first: int, number: int) -> None:
    """End new tasks, in large batches."""
    async with asyncio.TaskGroup() as group:
        for task in range(first, first + number):
            group.create_task(store.write(a_registration(task, tags=("old",)), within_seconds=60))
            group.create_task(store.write(a_delivery(task, "x" * 1000), within_seconds=60))


async def test_callbacks_do_not_wait_for_retention(tmp_path: Path) -> None:
    """A callback waits for at most two steps: one under way, and one in its own transaction. No young task is lost.

    Steps are counted, because the time of one depends on the disk.
    """
    taken = horizon(most_finished=1)
    steps: list[Removed] = []
    begun = asyncio.Event()

    def tell(step: Removed) -> None:
        steps.append(step)
        begun.set()

    waited_for: list[int] = []
    async with running_store(tmp_path / "receiver.db") as store:
        await end_together(store, 1, OLD)
        async with asyncio.TaskGroup() as group:
            pruning = group.create_task(prune(store, taken, tell))
            # How far it goes was found out before: what is young comes behind that.
            await begun.wait()
            for task in range(OLD + 1, OLD + NEW + 1):
                await store.write(a_registration(task))
                steps_before = len(steps)
                await store.write(a_delivery(task))
                waited_for.append(len(steps) - steps_before)
            await pruning
        young = [await store.task(a_ref(number)) for number in range(OLD + 1, OLD + NEW + 1)]
        old = await store.task(a_ref(OLD - 1))

    assert max(waited_for) <= 2
    assert max(later.entries - earlier.entries for earlier, later in pairwise([Removed(), *steps])) <= 200
    assert None not in young
    assert old is None
