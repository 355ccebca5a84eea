"""Single tasks read together: each caller gets its own, and no caller disturbs the others."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path

import pytest

from receiver.domain.registrations import Bind
from receiver.errors import StoreFailedError
from receiver.storage.searches import Found, Search
from receiver.storage.sqlite.database import connect_here, connect_reader
from receiver.storage.sqlite.reader import TaskReader, find_tasks
from receiver.storage.sqlite.store import SqliteStore, open_sqlite_store
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, a_standing_delivery, running_store

pytestmark = pytest.mark.sqlite


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Yield a store with the tasks 1 to 3."""
    async with running_store(tmp_path / "receiver.db") as running:
        for number in (1, 2, 3):
            await running.write(a_registration(number))
        yield running


async def found(store: SqliteStore, ref: str) -> str | None:
    """Return the ref of the task under `ref`, or the name of the error."""
    try:
        task = await store.task(ref)
    except UnicodeError as error:
        return type(error).__name__
    return None if task is None else task.ref


async def read_together(store: SqliteStore, refs: Sequence[str]) -> list[str | None]:
    """Return the results of reads begun in one turn of the loop."""
    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(found(store, ref)) for ref in refs]
    return [read.result() for read in reads]


async def test_each_gets_its_own(store: SqliteStore) -> None:
    """Existing, missing and repeated refs get their own answers."""
    refs = [a_ref(2), a_ref(99), a_ref(1), a_ref(2)]

    assert await read_together(store, refs) == [a_ref(2), None, a_ref(1), a_ref(2)]


async def test_more_than_one_read_takes(store: SqliteStore) -> None:
    """All callers are answered, even if they need several reads."""
    assert await read_together(store, [a_ref(3), *map(a_ref, range(100, 900)), a_ref(1)]) == [
        a_ref(3),
        *[None] * 800,
        a_ref(1),
    ]


async def test_a_joined_task_is_found_among_others(store: SqliteStore) -> None:
    """The ref of a joined task leads to the other one."""
    await store.write(a_standing_delivery(50, "T"))
    await store.write(Bind(ref=a_ref(1), task_id="T", now=NOW))

    assert await read_together(store, [a_ref(50), a_ref(2)]) == [a_ref(1), a_ref(2)]


async def test_ids_of_providers_are_read_together_with_refs(store: SqliteStore) -> None:
    """Each caller gets the tasks of its own id: of one provider, of any provider, or none."""
    await store.write(a_registration(4, task_id="T"))
    await store.write(a_registration(5, task_id="T", provider="2captcha"))
    provider = a_registration(4).task.provider

    async with asyncio.TaskGroup() as group:
        reads = [
            group.create_task(store.tasks_by_id(*name))
            for name in (("T", provider), ("T", None), ("T", "2captcha"), ("other", None))
        ]
        one = group.create_task(found(store, a_ref(1)))

    assert [{task.ref for task in read.result()} for read in reads] == [
        {a_ref(4)},
        {a_ref(4), a_ref(5)},
        {a_ref(5)},
        set(),
    ]
    assert one.result() == a_ref(1)


async def test_a_ref_wins_over_an_id(store: SqliteStore) -> None:
    """Text that may be a ref or an id finds the task with this ref alone, or else those with this id."""
    await store.write(a_registration(4, task_id=a_ref(1)))
    await store.write(a_registration(5, task_id="T"))
    await store.write(a_registration(6, task_id="T", provider="2captcha"))

    async with asyncio.TaskGroup() as group:
        reads = [
            group.create_task(store.find(*name))
            for name in ((a_ref(1), None), ("T", None), ("T", "2captcha"), ("T", "nobody"), (a_ref(99), None))
        ]

    assert [[task.ref for task in read.result()] for read in reads] == [
        [a_ref(1)],
        [a_ref(6), a_ref(5)],
        [a_ref(6)],
        [],
        [],
    ]


async def test_one_unreadable_ref_disturbs_no_other(store: SqliteStore) -> None:
    """A ref that UTF-8 cannot hold is an error for its caller alone."""
    assert await read_together(store, [a_ref(1), "\ud800", a_ref(2)]) == [a_ref(1), "UnicodeEncodeError", a_ref(2)]


class _Disk:
    """A clock, moved on by each statement of a connection that it is told of."""

    def __init__(self, seconds: float) -> None:
        self.now = 100.0
        self.reads = 0
        self._seconds = seconds

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def read(self, _statement: str) -> None:
        """Let a statement take its time."""
        self.reads += 1
        self.now += self._seconds


@asynccontextmanager
async def task_reader(path: Path, disk: _Disk, *, is_open: bool = True) -> AsyncIterator[TaskReader]:
    """Yield a running reader of a database. Its connection on the event loop uses the disk, or is closed."""
    with closing(connect_here(path)) as here:
        here.set_trace_callback(disk.read)
        if not is_open:
            here.close()
        async with connect_reader(path) as aside, asyncio.TaskGroup() as group:
            reader = TaskReader(here, aside, disk.clock)
            running = group.create_task(reader.run())
            await asyncio.sleep(0)
            yield reader
            reader.stop()
            await running


async def test_a_slow_disk_does_not_hold_up_the_loop(store: SqliteStore, tmp_path: Path) -> None:
    """After a slow read, the next reads run on a thread."""
    disk = _Disk(0.006)
    async with task_reader(tmp_path / "receiver.db", disk) as reader:
        for _ in range(5):
            assert await reader.task(a_ref(1)) is not None
        slow = disk.reads
        disk.now += 1.1
        assert await reader.task(a_ref(2)) is not None

    assert (slow, disk.reads) == (1, 2)
    assert await found(store, a_ref(3)) == a_ref(3)


async def test_many_reads_let_others_run(store: SqliteStore, tmp_path: Path) -> None:
    """The loop runs other tasks between the statements of a thousand reads."""
    disk, turns = _Disk(0.001), list[int]()
    async with task_reader(tmp_path / "receiver.db", disk) as reader, asyncio.TaskGroup() as group:
        reads = [group.create_task(reader.task(a_ref(number))) for number in range(1, 1001)]
        while not all(read.done() for read in reads):
            turns.append(disk.reads)
            await asyncio.sleep(0)

    assert max(after - before for before, after in pairwise(turns)) <= 3
    assert [read.result() is not None for read in reads] == [True] * 3 + [False] * 997
    assert store.failure is None


async def test_a_thread_reads_what_cannot_be_read_at_once(store: SqliteStore, tmp_path: Path) -> None:
    """A failure on the event loop is no failure of the read."""
    async with task_reader(tmp_path / "receiver.db", _Disk(0.0), is_open=False) as reader:
        assert await reader.task(a_ref(1)) == await store.task(a_ref(1))


async def test_a_cancelled_read_disturbs_no_other(store: SqliteStore) -> None:
    """Cancelling a read leaves the others of its batch alone."""
    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(found(store, a_ref(number))) for number in (1, 1, 2)]
        await asyncio.sleep(0)
        reads[0].cancel()

    assert [read.result() for read in reads[1:]] == [a_ref(1), a_ref(2)]


async def test_a_commit_is_seen_by_the_next_read(store: SqliteStore) -> None:
    """A read begun after the answer to a write sees it, even if other reads run."""
    async with asyncio.TaskGroup() as group:
        for number in range(100, 150):
            group.create_task(store.task(a_ref(number)))
            await store.write(a_registration(number))

            assert await found(store, a_ref(number)) == a_ref(number)


async def test_tasks_can_be_read_without_an_owner(store: SqliteStore, tmp_path: Path) -> None:
    """Reading works without `run`."""
    async with open_sqlite_store(tmp_path / "receiver.db", now=NOW, clock=time.monotonic) as other:
        assert await found(other, a_ref(3)) == a_ref(3)


async def test_a_reader_that_is_cancelled_leaves_nobody_waiting(tmp_path: Path) -> None:
    """Waiting callers get an error, because the store was closed. Later calls read directly."""
    async with open_sqlite_store(tmp_path / "receiver.db", now=NOW, clock=time.monotonic) as store:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(store.run())
            await store.write(a_registration(1))
            asked = group.create_task(asyncio.wait([group.create_task(_refusal(store)) for _ in range(3)]))
            running.cancel()
        async with asyncio.timeout(30):
            task = await store.task(a_ref(1))

    assert task is not None
    assert all(one.result() in ("the store was closed", "") for one in asked.result()[0])


async def _refusal(store: SqliteStore) -> str:
    """Return the reason of a refused read, "" if it was answered."""
    try:
        async with asyncio.timeout(30):
            await store.task(a_ref(1))
    except StoreFailedError as error:
        return error.detail
    return ""


async def test_named_tasks_are_read_as_they_fit(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small ones are read at a time, and large ones one by one, so that no large answer is read in vain."""
    read: list[int] = []

    def counted(connection: sqlite3.Connection, searches: Sequence[Search]) -> Found:
        read.append(len(searches))
        return find_tasks(connection, searches)

    monkeypatch.setattr("receiver.storage.sqlite.reader.find_tasks", counted)
    for number in (1, 2, 3):
        await store.write(a_delivery(number, "x" * 100_000))
    names = [a_ref(number) for number in (1, 2, 3, *range(100, 140))]

    large = await store.named(names, max_bytes=150_000)
    large_reads, read[:] = list(read), []
    small = await store.named(names[3:], max_bytes=150_000)

    assert [name for name, _ in large] == names[:2]
    assert large_reads == [1, 1]
    assert small == [(name, None) for name in names[3:]]
    assert read == [1, 16, 16, 7]
