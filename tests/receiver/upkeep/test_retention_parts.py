"""Retention of solutions, bytes and tombstones, and its effect on late callbacks and readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.domain.deliveries import UNREADABLE_QUOTA
from receiver.domain.records import Removed
from receiver.domain.transaction import Forget, Prune
from receiver.errors import CursorGoneError
from receiver.storage.store import Store
from tests.receiver.storage.stores import (
    ALL,
    NOW,
    a_delivery,
    a_ref,
    a_standing_delivery,
    delivery_to_standing,
    running_store,
    whole_log,
)
from tests.receiver.upkeep.pruning import (
    a_late_delivery,
    finished,
    found,
    horizon,
    pruned,
    quota,
    refs,
    rows,
    solutions,
)


@pytest.fixture
async def store(database: Path | str) -> AsyncIterator[Store]:
    """Yield an empty store."""
    async with running_store(database) as store:
        yield store


async def test_a_late_callback_to_a_pruned_task_is_harmless(store: Store) -> None:
    """A late callback to a removed task is `forgotten`, on its own URL and on a standing one."""
    await store.write(a_standing_delivery(1, 7))
    await finished(store, 2)
    await pruned(store, results=NOW)

    verdicts = [(await store.write(command)).verdict for command in (a_standing_delivery(3, 7), a_delivery(2))]

    assert verdicts == ["forgotten", "forgotten"]
    assert await refs(store) == []


async def test_a_late_callback_in_the_batch_that_prunes_is_harmless(store: Store) -> None:
    """A callback in the batch that removes its task does not bring the task back."""
    await finished(store, 1)

    async with asyncio.TaskGroup() as group:
        group.create_task(store.write(Prune(horizon=horizon(results=NOW), until=0)))
        late = group.create_task(store.write(a_delivery(1)))

    assert late.result().verdict == "forgotten"
    assert await store.task(a_ref(1)) is None


async def test_quotas_are_given_back(store: Store) -> None:
    """Removed tasks of a standing URL and removed unreadable bodies no longer count in the quotas."""
    await store.write(a_standing_delivery(1, 7))
    await finished(store, 2)
    await store.write(a_late_delivery(2, NOW, "unreadable"))
    assert (await quota(store, a_ref(0))) == (1, 512)
    assert (await quota(store, UNREADABLE_QUOTA)) == (1, 512)

    await pruned(store, results=NOW)

    assert (await quota(store, a_ref(0))) == (0, 0)
    assert (await quota(store, UNREADABLE_QUOTA)) == (0, 0)


async def test_a_solution_may_go_before_its_record(store: Store) -> None:
    """The task stays ready, without its solution and the bodies with it. Another callback changes nothing."""
    await finished(store, 1, at=NOW - 10)
    await finished(store, 2)

    assert solutions(await whole_log(store)) == [True, True]

    assert await pruned(store, solutions=NOW - 10) == Removed(solutions=1, bodies=1)
    assert (await store.write(a_delivery(1, "another"))).verdict == "duplicate"

    assert solutions(await whole_log(store)) == [False, True]
    task = await found(store, 1)
    assert task.outcome is not None
    assert (task.outcome.status, task.outcome.solution) == ("ready", None)
    assert [delivery.body for delivery in await store.deliveries(task)] == [None, b"another"]
    assert await pruned(store, solutions=NOW - 10) == Removed()


async def test_bytes_of_deliveries_may_go_before_their_record(store: Store) -> None:
    """The record of a delivery stays, and its bytes no longer count in the quota of unreadable bytes."""
    await finished(store, 1)
    await store.write(a_late_delivery(1, NOW - 10, "unreadable"))

    assert await pruned(store, deliveries=NOW - 10) == Removed(bodies=1)

    task = await found(store, 1)
    kept = [(delivery.verdict, delivery.size, delivery.body) for delivery in await store.deliveries(task)]
    assert kept == [("accepted", 4, b"body"), ("unreadable", 4, None)]
    assert (await quota(store, UNREADABLE_QUOTA)) == (0, 0)


async def test_unreadable_deliveries_of_no_task_go(store: Store, database: Path | str) -> None:
    """Old unreadable deliveries of no task are removed, and the quota gets their bytes back."""
    await store.write(delivery_to_standing(a_ref(0), "unreadable", ref=a_ref(1), at=NOW - 10))

    assert await pruned(store, deliveries=NOW - 11) == Removed()
    assert await pruned(store, deliveries=NOW - 10) == Removed(strays=1)
    assert rows(database)["stray_delivery"] == 0
    assert (await quota(store, UNREADABLE_QUOTA)) == (0, 0)


@pytest.mark.parametrize(
    ("horizons", "steps"),
    [
        # An answer is kept twice, as the solution and as the body that brought it; the last one is larger than a step.
        ({"results": NOW}, [Removed(tasks=count, entries=count) for count in (2, 2, 2, 1)]),
        ({"solutions": NOW}, [Removed(solutions=count, bodies=count) for count in (2, 2, 2, 1)]),
        # The row of the body holds the solution, too, and is written again with it.
        ({"deliveries": NOW}, [Removed(bodies=count) for count in (2, 2, 2, 1)]),
    ],
    ids=["results", "solutions", "deliveries"],
)
async def test_a_step_is_bounded_in_bytes(store: Store, horizons: dict[str, int], steps: list[Removed]) -> None:
    """Large answers are removed in small steps, and the largest in a step of its own."""
    for number in range(1, 8):
        await store.write(a_delivery(number, "x" * ((1 if number < 7 else 5) << 20)))

    done = [await store.write(Prune(horizon=horizon(**horizons), until=0)) for _ in range(5)]

    assert [step for step in done if step is not None] == steps


async def test_a_step_of_unreadable_deliveries_is_bounded_in_bytes(store: Store) -> None:
    """Large deliveries of no task are removed in small steps, too."""
    for _ in range(5):
        await store.write(delivery_to_standing(a_ref(0), "unreadable", b"x" * 2**20, ref=a_ref(1)))

    done = [await store.write(Prune(horizon=horizon(deliveries=NOW), until=0)) for _ in range(3)]

    assert done == [Removed(strays=4), Removed(strays=1), None]


async def test_deletions_and_their_tombstones_go(store: Store) -> None:
    """Old deletions leave the log as old results do. Later their tombstones are removed as well."""
    await finished(store, 1)
    await store.write(Forget(ref=a_ref(1), now=NOW - 10))

    assert await pruned(store, results=NOW - 10) == Removed(entries=1)
    assert (await store.write(a_delivery(1))).verdict == "forgotten"
    assert await pruned(store, tombstones=NOW - 10) == Removed(tombstones=1)
    assert (await store.write(a_delivery(1))).verdict == "accepted"


async def test_there_are_only_so_many_tombstones(store: Store) -> None:
    """If there are too many tombstones, the newest stay."""
    await finished(store, 1, 2, 3)
    for number in (1, 2, 3):
        await store.write(Forget(ref=a_ref(number), now=NOW))

    assert await pruned(store, most_tombstones=2) == Removed(tombstones=1)


async def test_a_cursor_before_what_is_kept_gets_a_gap(store: Store) -> None:
    """A pruned cursor goes on from the oldest entry kept. That entry's cursor, and no cursor, get no gap."""
    await finished(store, 1, 2, 3)
    await pruned(store, most_finished=1)

    with pytest.raises(CursorGoneError) as caught:
        await store.results(store.cursor_at(1), limit=10, only=ALL)
    assert (caught.value.reason, caught.value.resumes_at) == ("pruned", store.cursor_at(2))
    for cursor in (store.cursor_at(2), None):
        page = await store.results(cursor, limit=10, only=ALL)
        assert [entry.ref for entry in page.entries] == [a_ref(3)]


async def test_an_emptied_log_goes_on(store: Store) -> None:
    """A reader of an emptied log gets a valid cursor, and later misses nothing."""
    await finished(store, 1, 2)
    await pruned(store, results=NOW)

    page = await store.results(None, limit=10, only=ALL)
    assert (page.entries, page.cursor, page.more) == ((), await store.head(), False)
    await finished(store, 3)
    assert [entry.ref for entry in (await store.results(page.cursor, limit=10, only=ALL)).entries] == [a_ref(3)]


async def test_a_log_of_the_wrong_times_is_pruned_in_its_order(store: Store) -> None:
    """An old outcome behind a young one stays as long as that one, so that cursors before both stay valid."""
    await finished(store, 1, at=NOW)
    await finished(store, 2, at=NOW - 10)

    assert await pruned(store, results=NOW - 10) == Removed()
    assert await refs(store) == [a_ref(1), a_ref(2)]
