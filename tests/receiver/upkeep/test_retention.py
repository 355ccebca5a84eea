"""Retention of finished tasks: old ones are removed with everything that belongs to them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.domain.deliveries import HintTask
from receiver.domain.records import SECOND, PollRecord, Removed
from receiver.domain.registrations import Bind, Expire, Register
from receiver.domain.transaction import Forget, Prune, Transaction
from receiver.errors import CursorGoneError
from receiver.storage.store import Store
from receiver.upkeep.retention import RetentionTimes, keep_pruning
from tests.receiver.storage.stores import (
    ALL,
    NOW,
    a_delivery,
    a_ref,
    a_registration,
    a_standing_delivery,
    a_task,
    running_store,
    whole_log,
)
from tests.receiver.upkeep.pruning import (
    GROWING,
    a_late_delivery,
    finished,
    found,
    horizon,
    pruned,
    refs,
    rows,
    solutions,
)


@pytest.fixture
async def store(database: Path | str) -> AsyncIterator[Store]:
    """Yield an empty store."""
    async with running_store(database) as store:
        yield store


async def test_old_tasks_go_and_young_ones_stay(store: Store) -> None:
    """A finished task is removed when its outcome is as old as the horizon."""
    await finished(store, 1, at=NOW - 10)
    await finished(store, 2, at=NOW)

    assert await pruned(store, results=NOW - 10) == Removed(tasks=1, entries=1)
    assert await store.task(a_ref(1)) is None
    assert await refs(store) == [a_ref(2)]


async def test_the_oldest_go_where_there_are_too_many(store: Store) -> None:
    """If there are too many finished tasks, the newest stay. Unfinished tasks are not counted."""
    await store.write(a_registration(9))
    await finished(store, 1, 2, 3)

    assert await pruned(store, most_finished=2) == Removed(tasks=1, entries=1)
    assert await refs(store) == [a_ref(2), a_ref(3)]
    assert await store.task(a_ref(9)) is not None


async def test_unfinished_tasks_never_go(store: Store) -> None:
    """A task without an outcome stays, however old it is, and its deliveries keep their bytes."""
    await store.write(a_registration(1))
    await store.write(a_late_delivery(1, NOW - 10, "unreadable"))

    removed = await pruned(store, results=NOW, solutions=NOW, deliveries=NOW, most_finished=1)

    task = await found(store, 1)
    assert [delivery.body for delivery in await store.deliveries(task)] == [b"body"]
    assert removed == Removed(entries=1)


async def test_nothing_is_left_of_a_task(store: Store, database: Path | str) -> None:
    """Its deliveries, polls, tags, hints and Idempotency-Keys go with it."""

    class KeepPoll:
        refs = (a_ref(1),)
        weight = 0

        def decide(self, transaction: Transaction) -> None:
            task = transaction.task(a_ref(1))
            assert task is not None
            transaction.store_poll(task, PollRecord(NOW, NOW, 1, "ready"))

    await store.write(Register(task=a_task(a_ref(1), tags=("a", "b")), answer=None, idempotency=("key", b"1")))
    await store.write(HintTask(ref=a_ref(1), now=NOW))
    await store.write(a_delivery(1))
    await store.write(a_delivery(1))
    await store.write(KeepPoll())
    assert rows(database) == {
        "task": 1,
        "log": 2,
        "delivery": 1,
        "stray_delivery": 0,
        "poll": 1,
        "tag": 2,
        "idempotency": 1,
    }

    await pruned(store, results=NOW)

    assert rows(database) == dict.fromkeys(GROWING, 0)


async def test_an_outcome_that_was_replaced_goes_alone(store: Store) -> None:
    """The provisional outcome is old, the provider's is not: the task stays, and can still be deleted."""
    await store.write(a_registration(1, deadline_at=NOW - 10))
    await store.write(Expire(now=NOW - 10, limit=10))
    await store.write(a_delivery(1))

    assert await pruned(store, results=NOW - 10) == Removed(entries=1)
    assert solutions(await whole_log(store)) == [True]
    await store.write(Forget(ref=a_ref(1), now=NOW))
    assert [entry.kind for entry in await whole_log(store)] == ["deleted"]


async def test_a_joined_task_stays_as_long_as_the_one_that_has_its_id(store: Store, database: Path | str) -> None:
    """A joined task is found under the other ref until both are removed."""
    await store.write(a_standing_delivery(1, 7))
    await store.write(a_registration(2))
    await store.write(Bind(ref=a_ref(2), task_id=7, now=NOW))

    # One place at a time: first only the joined task's own is reached.
    assert await store.write(Prune(horizon=horizon(), until=2, limit=1)) == Removed(entries=1)
    assert (await found(store, 1)).ref == a_ref(2)
    assert await store.write(Prune(horizon=horizon(), until=2, limit=1)) == Removed(tasks=2, entries=1)
    assert rows(database)["task"] == 0
    assert await store.task(a_ref(1)) is None


async def test_a_joined_task_that_ended_later_goes_later(store: Store, database: Path | str) -> None:
    """The entry of a joined task is not removed from the middle of the log."""
    await finished(store, 2, at=NOW - 10)
    await store.write(a_standing_delivery(1, 7))
    await store.write(Bind(ref=a_ref(2), task_id=7, now=NOW))

    assert await pruned(store, results=NOW - 10) == Removed(tasks=1, entries=1)
    assert [entry.position for entry in await whole_log(store)] == [2]
    await pruned(store, results=NOW)
    assert rows(database)["task"] == 0


async def test_a_step_is_bounded(store: Store) -> None:
    """One step removes at most `limit` rows, however many there are."""
    await finished(store, *range(1, 8))

    removed = await store.write(Prune(horizon=horizon(results=NOW), until=0, limit=3))

    assert removed == Removed(tasks=3, entries=3)


async def test_nothing_is_written_where_nothing_is_old(store: Store, tmp_path: Path) -> None:
    """A round without anything to do leaves the file unchanged."""
    await finished(store, 1)
    watcher = sqlite3.connect(tmp_path / "receiver.db")
    before = watcher.execute("PRAGMA data_version").fetchone()

    assert await store.prunable(horizon(results=NOW - 1, most_finished=1)) is None
    await pruned(store, results=NOW - 1)

    assert watcher.execute("PRAGMA data_version").fetchone() == before
    watcher.close()


async def test_two_processes_prune_one_log(store: Store, database: Path | str) -> None:
    """Two processes remove each row once, and each sees the gap that the other made."""
    await finished(store, 1, 2, 3, 4)
    async with running_store(database) as other:
        first = await store.write(Prune(horizon=horizon(results=NOW), until=0, limit=1))
        second = await other.write(Prune(horizon=horizon(results=NOW), until=0, limit=2))
        with pytest.raises(CursorGoneError):
            await store.results(store.cursor_at(1), limit=10, only=ALL)

        assert (first, second) == (Removed(tasks=1, entries=1), Removed(tasks=2, entries=2))
        assert await refs(store) == await refs(other) == [a_ref(4)]


def test_retention_times_are_seconds_before_now() -> None:
    """A lifetime of a minute removes things that are a minute old."""
    times = RetentionTimes(results_seconds=60, solutions_seconds=30, deliveries_seconds=10, most_finished=5)

    taken = times.horizon(NOW)

    assert NOW - taken.results == 60 * SECOND
    assert NOW - taken.solutions == 30 * SECOND
    assert NOW - taken.deliveries == 10 * SECOND
    assert taken.most_finished == 5


async def test_a_round_takes_what_is_old(store: Store) -> None:
    """A round removes old tasks, and passes on the time up to which solutions must be gone from memory."""
    await finished(store, 1, at=NOW - 61 * SECOND)
    times = RetentionTimes(results_seconds=60, solutions_seconds=30, deliveries_seconds=10, most_finished=5)
    forgotten_until: list[int] = []

    async with asyncio.TaskGroup() as group:
        rounds = group.create_task(keep_pruning(store, times, lambda: NOW, forgotten_until.append, holder="one"))
        async with asyncio.timeout(30):
            while await store.task(a_ref(1)) is not None:
                await asyncio.sleep(0.01)
        rounds.cancel()

    assert forgotten_until == [NOW - 30 * SECOND]
