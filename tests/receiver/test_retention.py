"""What retention takes and what it leaves, and that it leaves no trace where it has been."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from client.providers.readings import Callback, Ready
from receiver.decisions import Origin
from receiver.deliveries import UNREADABLE_QUOTA, Arrival, DeliverToStanding, DeliverToTask, HintTask, NewTask
from receiver.errors import CursorGoneError
from receiver.ledger import Ledger
from receiver.records import SECOND, Entry, Horizon, PollRecord, Removed, TaskRecord
from receiver.registrations import Bind, Expire, Forget, Register
from receiver.retention import Lives, Prune, prune, prune_old
from receiver.storage.sqlite import SqliteStore
from tests.receiver.storage.stores import (
    ALL,
    NOW,
    QUOTAS,
    a_delivery,
    a_ref,
    a_registration,
    a_standing_delivery,
    a_task,
    running_store,
    whole_log,
)

GROWING = ("task", "log", "delivery", "stray_delivery", "poll", "tag", "idempotency")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An empty store."""
    async with running_store(tmp_path / "receiver.db") as store:
        yield store


def horizon(**fields: Any) -> Horizon:
    """One that takes nothing but what is said."""
    nothing = {
        "results": 0,
        "solutions": 0,
        "deliveries": 0,
        "tombstones": 0,
        "most_finished": 1000,
        "most_tombstones": 1000,
    }
    return Horizon(now=NOW, **nothing | fields)


async def pruned(store: SqliteStore, **fields: Any) -> Removed:
    """What went by this horizon."""
    told = [Removed()]
    await prune(store, horizon(**fields), told.append)
    return told[-1]


async def finished(store: SqliteStore, *numbers: int, at: int = NOW) -> None:
    """Registers the tasks of these numbers and ends them at this time."""
    for number in numbers:
        await store.write(a_registration(number))
        await store.write(a_late_delivery(number, at))


def a_late_delivery(number: int, at: int, reading: Any = None) -> DeliverToTask:
    """A delivery that comes at this time: a ready answer, if nothing else is said."""
    ref = a_ref(number)
    arrival = Arrival(
        provider="capsolver",
        method="POST",
        content_type=None,
        body=b"body",
        reading=Callback(None, Ready({"text": "answer"})) if reading is None else reading,
        origin=Origin("callback", "token", at),
        received_at=at,
    )
    return DeliverToTask(
        ref=ref, arrival=arrival, new_task=NewTask(ref=ref, poll_after=at, deadline_at=at), quotas=QUOTAS
    )


def rows(path: Path) -> dict[str, int]:
    """How many rows each table that grows has."""
    connection = sqlite3.connect(path / "receiver.db")
    counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in GROWING}  # noqa: S608  (names of ours)
    connection.close()
    return counts


async def quota(store: SqliteStore, name: str) -> tuple[int, int]:
    """What is used of a quota."""

    class Look:
        refs = ()
        weight = 0

        def decide(self, ledger: Ledger) -> tuple[int, int]:
            return ledger.quota(name)

    return await store.write(Look())


async def found(store: SqliteStore, number: int) -> TaskRecord:
    """The task of this number, which is there."""
    task = await store.task(a_ref(number))
    assert task is not None
    return task


def solutions(log: Sequence[Entry]) -> list[bool]:
    """Of each ready result in the log, whether its solution is there."""
    outcomes = [entry.task.outcome for entry in log if entry.task is not None and entry.kind == "result"]
    return [outcome.solution is not None for outcome in outcomes if outcome is not None and outcome.status == "ready"]


async def refs(store: SqliteStore) -> list[str]:
    """The refs in the log, in order."""
    return [entry.ref for entry in await whole_log(store)]


async def test_old_tasks_go_and_young_ones_stay(store: SqliteStore) -> None:
    """A finished task goes when its outcome is as old as the horizon says."""
    await finished(store, 1, at=NOW - 10)
    await finished(store, 2, at=NOW)

    assert await pruned(store, results=NOW - 10) == Removed(tasks=1, entries=1)
    assert await store.task(a_ref(1)) is None
    assert await refs(store) == [a_ref(2)]


async def test_the_oldest_go_where_there_are_too_many(store: SqliteStore) -> None:
    """Of finished tasks the newest stay, however young the others are; unfinished ones are not counted."""
    await store.write(a_registration(9))
    await finished(store, 1, 2, 3)

    assert await pruned(store, most_finished=2) == Removed(tasks=1, entries=1)
    assert await refs(store) == [a_ref(2), a_ref(3)]
    assert await store.task(a_ref(9)) is not None


async def test_unfinished_tasks_never_go(store: SqliteStore) -> None:
    """However old it is, a task without an outcome stays, and what came for it keeps its bytes."""
    await store.write(a_registration(1))
    await store.write(a_late_delivery(1, NOW - 10, "unreadable"))

    removed = await pruned(store, results=NOW, solutions=NOW, deliveries=NOW, most_finished=1)

    task = await found(store, 1)
    assert [delivery.body for delivery in await store.deliveries(task)] == [b"body"]
    assert removed == Removed(entries=1)


async def test_nothing_is_left_of_a_task(store: SqliteStore, tmp_path: Path) -> None:
    """Its deliveries, polls, tags, hints and Idempotency-Keys go with it."""

    class KeepPoll:
        refs = (a_ref(1),)
        weight = 0

        def decide(self, ledger: Ledger) -> None:
            task = ledger.task(a_ref(1))
            assert task is not None
            ledger.keep_poll(task, PollRecord(NOW, NOW, 1, "ready"))

    await store.write(Register(task=a_task(a_ref(1), tags=("a", "b")), answered=None, idempotency=("key", b"1")))
    await store.write(HintTask(ref=a_ref(1), now=NOW))
    await store.write(a_delivery(1))
    await store.write(a_delivery(1))
    await store.write(KeepPoll())
    assert rows(tmp_path) == {
        "task": 1,
        "log": 2,
        "delivery": 2,
        "stray_delivery": 0,
        "poll": 1,
        "tag": 2,
        "idempotency": 1,
    }

    await pruned(store, results=NOW)

    assert rows(tmp_path) == dict.fromkeys(GROWING, 0)


async def test_a_late_callback_to_a_pruned_task_is_harmless(store: SqliteStore) -> None:
    """On its own URL or a standing one it is `forgotten`."""
    await store.write(a_standing_delivery(1, 7))
    await finished(store, 2)
    await pruned(store, results=NOW)

    verdicts = [(await store.write(command)).verdict for command in (a_standing_delivery(3, 7), a_delivery(2))]

    assert verdicts == ["forgotten", "forgotten"]
    assert await refs(store) == []


async def test_a_late_callback_in_the_batch_that_prunes_is_harmless(store: SqliteStore) -> None:
    """What the batch had read of the task before does not bring it back."""
    await finished(store, 1)

    async with asyncio.TaskGroup() as group:
        group.create_task(store.write(Prune(horizon=horizon(results=NOW), until=0)))
        late = group.create_task(store.write(a_delivery(1)))

    assert late.result().verdict == "forgotten"
    assert await store.task(a_ref(1)) is None


async def test_quotas_are_given_back(store: SqliteStore) -> None:
    """What a standing URL made, and unreadable bodies, are no longer counted when they are gone."""
    await store.write(a_standing_delivery(1, 7))
    await finished(store, 2)
    await store.write(a_late_delivery(2, NOW, "unreadable"))
    assert (await quota(store, a_ref(0))) == (1, 512)
    assert (await quota(store, UNREADABLE_QUOTA)) == (1, 512)

    await pruned(store, results=NOW)

    assert (await quota(store, a_ref(0))) == (0, 0)
    assert (await quota(store, UNREADABLE_QUOTA)) == (0, 0)


async def test_a_solution_may_go_before_its_record(store: SqliteStore) -> None:
    """The task stays ready, without its solution and the bodies that brought it; another callback changes nothing."""
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


async def test_bytes_of_deliveries_may_go_before_their_record(store: SqliteStore) -> None:
    """The fact of a delivery stays; what it took of the quota of unreadable bytes is free again."""
    await finished(store, 1)
    await store.write(a_late_delivery(1, NOW - 10, "unreadable"))

    assert await pruned(store, deliveries=NOW - 10) == Removed(bodies=1)

    task = await found(store, 1)
    kept = [(delivery.verdict, delivery.size, delivery.body) for delivery in await store.deliveries(task)]
    assert kept == [("accepted", 4, b"body"), ("unreadable", 4, None)]
    assert (await quota(store, UNREADABLE_QUOTA)) == (0, 0)


async def test_unreadable_deliveries_of_no_task_go(store: SqliteStore, tmp_path: Path) -> None:
    """They go whole when they are old, and the quota gets its bytes back."""
    arrival = a_late_delivery(1, NOW - 10, "unreadable").arrival
    new_task = NewTask(ref=a_ref(1), poll_after=NOW, deadline_at=NOW)
    await store.write(DeliverToStanding(url_id=a_ref(0), arrival=arrival, new_task=new_task, quotas=QUOTAS))

    assert await pruned(store, deliveries=NOW - 11) == Removed()
    assert await pruned(store, deliveries=NOW - 10) == Removed(strays=1)
    assert rows(tmp_path)["stray_delivery"] == 0
    assert (await quota(store, UNREADABLE_QUOTA)) == (0, 0)


async def test_deletions_and_their_tombstones_go(store: SqliteStore) -> None:
    """The log forgets old deletions as it does old results; later the tombstone goes, too."""
    await finished(store, 1)
    await store.write(Forget(ref=a_ref(1), now=NOW - 10))

    assert await pruned(store, results=NOW - 10) == Removed(entries=1)
    assert (await store.write(a_delivery(1))).verdict == "forgotten"
    assert await pruned(store, tombstones=NOW - 10) == Removed(tombstones=1)
    assert (await store.write(a_delivery(1))).verdict == "accepted"


async def test_there_are_only_so_many_tombstones(store: SqliteStore) -> None:
    """Of tombstones, too, the newest stay."""
    await finished(store, 1, 2, 3)
    for number in (1, 2, 3):
        await store.write(Forget(ref=a_ref(number), now=NOW))

    assert await pruned(store, most_tombstones=2) == Removed(tombstones=1)


async def test_an_outcome_that_was_replaced_goes_alone(store: SqliteStore) -> None:
    """The provisional outcome is old, the provider's is not: the task stays, and can still be deleted."""
    await store.write(a_registration(1, deadline_at=NOW - 10))
    await store.write(Expire(now=NOW - 10, limit=10))
    await store.write(a_delivery(1))

    assert await pruned(store, results=NOW - 10) == Removed(entries=1)
    assert solutions(await whole_log(store)) == [True]
    await store.write(Forget(ref=a_ref(1), now=NOW))
    assert [entry.kind for entry in await whole_log(store)] == ["deleted"]


async def test_a_joined_task_stays_as_long_as_the_one_that_has_its_id(store: SqliteStore, tmp_path: Path) -> None:
    """It is found under that one until both go."""
    await store.write(a_standing_delivery(1, 7))
    await store.write(a_registration(2))
    await store.write(Bind(ref=a_ref(2), task_id=7, now=NOW))

    # One place at a time: first only the joined task's own is reached.
    assert await store.write(Prune(horizon=horizon(), until=2, limit=1)) == Removed(entries=1)
    assert (await found(store, 1)).ref == a_ref(2)
    assert await store.write(Prune(horizon=horizon(), until=2, limit=1)) == Removed(tasks=2, entries=1)
    assert rows(tmp_path)["task"] == 0
    assert await store.task(a_ref(1)) is None


async def test_a_joined_task_that_ended_later_goes_later(store: SqliteStore, tmp_path: Path) -> None:
    """Its place in the log is not taken out of the middle."""
    await finished(store, 2, at=NOW - 10)
    await store.write(a_standing_delivery(1, 7))
    await store.write(Bind(ref=a_ref(2), task_id=7, now=NOW))

    assert await pruned(store, results=NOW - 10) == Removed(tasks=1, entries=1)
    assert [entry.position for entry in await whole_log(store)] == [2]
    await pruned(store, results=NOW)
    assert rows(tmp_path)["task"] == 0


async def test_a_cursor_before_what_is_kept_gets_a_gap(store: SqliteStore) -> None:
    """It goes on from the oldest kept; a cursor right there, and no cursor at all, get none."""
    await finished(store, 1, 2, 3)
    await pruned(store, most_finished=1)

    with pytest.raises(CursorGoneError) as caught:
        await store.results(store.cursor_at(1), limit=10, only=ALL)
    assert (caught.value.reason, caught.value.resumes_at) == ("pruned", store.cursor_at(2))
    for cursor in (store.cursor_at(2), None):
        page = await store.results(cursor, limit=10, only=ALL)
        assert [entry.ref for entry in page.entries] == [a_ref(3)]


async def test_an_emptied_log_goes_on(store: SqliteStore) -> None:
    """Who reads it from the start is given a cursor that stays good, and misses nothing that comes."""
    await finished(store, 1, 2)
    await pruned(store, results=NOW)

    page = await store.results(None, limit=10, only=ALL)
    assert (page.entries, page.cursor, page.more) == ((), await store.head(), False)
    await finished(store, 3)
    assert [entry.ref for entry in (await store.results(page.cursor, limit=10, only=ALL)).entries] == [a_ref(3)]


async def test_a_log_of_the_wrong_times_is_pruned_in_its_order(store: SqliteStore) -> None:
    """An old outcome behind a young one waits for it, so that cursors before the young one stay good."""
    await finished(store, 1, at=NOW)
    await finished(store, 2, at=NOW - 10)

    assert await pruned(store, results=NOW - 10) == Removed()
    assert await refs(store) == [a_ref(1), a_ref(2)]


async def test_a_step_is_bounded(store: SqliteStore) -> None:
    """However much there is to do, one step takes no more rows than it was told."""
    await finished(store, *range(1, 8))

    removed = await store.write(Prune(horizon=horizon(results=NOW), until=0, limit=3))

    assert removed == Removed(tasks=3, entries=3)


async def test_nothing_is_written_where_nothing_is_old(store: SqliteStore, tmp_path: Path) -> None:
    """A round that finds nothing leaves the file as it is."""
    await finished(store, 1)
    watcher = sqlite3.connect(tmp_path / "receiver.db")
    before = watcher.execute("PRAGMA data_version").fetchone()

    assert await store.prunable(horizon(results=NOW - 1, most_finished=1)) is None
    await pruned(store, results=NOW - 1)

    assert watcher.execute("PRAGMA data_version").fetchone() == before
    watcher.close()


async def test_two_processes_prune_one_log(store: SqliteStore, tmp_path: Path) -> None:
    """What one took the other does not take again, and each sees the other's gap."""
    await finished(store, 1, 2, 3, 4)
    async with running_store(tmp_path / "receiver.db") as other:
        first = await store.write(Prune(horizon=horizon(results=NOW), until=0, limit=1))
        second = await other.write(Prune(horizon=horizon(results=NOW), until=0, limit=2))
        with pytest.raises(CursorGoneError):
            await store.results(store.cursor_at(1), limit=10, only=ALL)

        assert (first, second) == (Removed(tasks=1, entries=1), Removed(tasks=2, entries=2))
        assert await refs(store) == await refs(other) == [a_ref(4)]


def test_lives_are_seconds_before_now() -> None:
    """What lives for a minute is taken when it is a minute old."""
    lives = Lives(results_seconds=60, solutions_seconds=30, deliveries_seconds=10, most_finished=5)

    taken = lives.horizon(NOW)

    assert NOW - taken.results == 60 * SECOND
    assert NOW - taken.solutions == 30 * SECOND
    assert NOW - taken.deliveries == 10 * SECOND
    assert taken.most_finished == 5


async def test_a_round_takes_what_is_old(store: SqliteStore) -> None:
    """It runs beside everything else; what is kept in memory is told up to when solutions must be gone."""
    await finished(store, 1, at=NOW - 61 * SECOND)
    lives = Lives(results_seconds=60, solutions_seconds=30, deliveries_seconds=10, most_finished=5)
    told: list[int] = []

    async with asyncio.TaskGroup() as group:
        rounds = group.create_task(prune_old(store, lives, lambda: NOW, told.append))
        async with asyncio.timeout(10):
            while await store.task(a_ref(1)) is not None:
                await asyncio.sleep(0.01)
        rounds.cancel()

    assert told == [NOW - 30 * SECOND]
