"""The owner of the writing connection: batches, cancelled callers, and faults of the file system."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from receiver.domain.records import Growth
from receiver.domain.registrations import Expire
from receiver.domain.transaction import Command, Transaction
from receiver.errors import ReceiverError, StoreBusyError, StoreFailedError
from receiver.feed.feed import Feed
from receiver.feed.hub import Hub
from receiver.storage.sqlite import writer
from receiver.storage.sqlite.database import on_thread
from receiver.storage.sqlite.store import SqliteStore, open_sqlite_store
from receiver.upkeep.relay import Relay
from tests.faults.disks import full_disk, locked
from tests.receiver.storage.stores import ALL, NOW, a_delivery, a_ref, a_registration, a_task, running_store
from tests.support import eventually

pytestmark = pytest.mark.sqlite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the database."""
    return tmp_path / "receiver.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """Yield a running store."""
    async with running_store(path) as running:
        yield running


@dataclass(frozen=True)
class Broken:
    """A command with a bug: it changes something, then fails with a foreign error."""

    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> None:
        """Raise an error."""
        transaction.add(a_task(a_ref(99)))
        raise ZeroDivisionError


@dataclass
class Located:
    """A command that records the threads on which it was decided, and takes some time there."""

    refs: Sequence[str] = ()
    weight: int = 0
    threads: list[int] = field(default_factory=list)
    passes: Callable[[], None] = lambda: None

    def decide(self, _transaction: Transaction) -> None:
        """Record the thread."""
        self.threads.append(threading.get_ident())
        self.passes()


@dataclass(frozen=True)
class Refused:
    """A command with a refusal for its caller."""

    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, _transaction: Transaction) -> None:
        """Raise an error."""
        raise ReceiverError("unknown-task", "no such task")


@dataclass(frozen=True)
class Heavy:
    """A command larger than the whole queue."""

    refs: Sequence[str] = ()
    weight: int = 64 * 1024 * 1024 + 1

    def decide(self, _transaction: Transaction) -> None:
        """Do nothing."""


async def attempt(store: SqliteStore, command: Command[Any]) -> type[Exception] | None:
    """Return the class of the command's error, None without one."""
    try:
        await store.write(command)
    except ReceiverError as error:
        return type(error)
    return None


async def write_together(store: SqliteStore, commands: Sequence[Command[Any]]) -> list[type[Exception] | None]:
    """Return the classes of the errors of one batch."""
    async with asyncio.TaskGroup() as group:
        attempts = [group.create_task(attempt(store, command)) for command in commands]
    return [one.result() for one in attempts]


@pytest.mark.parametrize(
    ("bad", "outcome"),
    [
        (Broken(), StoreFailedError),
        (a_registration(99, deadline_at=2**63), StoreFailedError),
        (a_registration(98), StoreFailedError),
        (a_registration(99, type="\ud800"), StoreFailedError),
        (a_registration(99, tags=("\ud800",)), StoreFailedError),
        (Refused(), ReceiverError),
    ],
    ids=["raises", "integer-too-large", "ref-there-already", "surrogate", "surrogate-in-json", "refused"],
)
async def test_one_bad_command_fails_no_other(store: SqliteStore, bad: Command[Any], outcome: type[Exception]) -> None:
    """One command of the batch cannot be stored. All others are stored, in their order."""
    await store.write(a_registration(98))
    commands = [a_registration(1), a_registration(2), bad, a_registration(3), a_delivery(1), a_delivery(3)]

    outcomes = await write_together(store, commands)

    assert outcomes == [None, None, outcome, None, None, None]
    assert store.failure is None
    log = await store.results(None, limit=10, only=ALL)
    assert [entry.ref for entry in log.entries] == [a_ref(1), a_ref(3)]
    assert await store.task(a_ref(99)) is None


async def test_a_cancelled_caller_leaves_its_command(store: SqliteStore) -> None:
    """Cancelling the wait leaves the command in the queue, and later ones untouched."""
    async with asyncio.TaskGroup() as group:
        gone = group.create_task(store.write(a_registration(1)))
        stays = group.create_task(store.write(a_registration(2)))
        await asyncio.sleep(0)
        gone.cancel()

    assert (gone.cancelled(), stays.result().is_new) == (True, True)
    assert await store.task(a_ref(1)) is not None


async def test_queued_commands_are_stored_before_the_store_closes(path: Path) -> None:
    """Commands queued before `stop` are durable and answered. Later ones are refused."""
    async with asyncio.TaskGroup() as group:
        async with running_store(path) as store:
            taken = [group.create_task(store.write(a_registration(number))) for number in range(1, 601)]
            await asyncio.sleep(0)
        with pytest.raises(ReceiverError) as caught:
            await store.write(a_registration(601))

    assert caught.value.slug == "shutting-down"
    assert {task.result().is_new for task in taken} == {True}
    async with running_store(path) as store:
        found = [await store.task(a_ref(number)) for number in range(1, 601)]
        assert None not in found


async def test_a_full_queue_refuses(path: Path) -> None:
    """Commands beyond its bound are refused at once. The queued ones are stored as soon as the writer runs."""
    async with open_sqlite_store(path, now=NOW, clock=time.monotonic) as store, asyncio.TaskGroup() as group:
        taken = [group.create_task(store.write(a_registration(number))) for number in range(1, 8193)]
        await asyncio.sleep(0)
        refused = await attempt(store, a_registration(8193))
        group.create_task(store.run())
        for task in taken:
            await task
        accepted = await attempt(store, a_registration(8193))
        store.stop()

    assert (refused, accepted) == (StoreBusyError, None)


async def test_a_queue_is_bounded_in_bytes_too(store: SqliteStore) -> None:
    """A command larger than the whole queue is refused."""
    assert await attempt(store, Heavy()) is StoreBusyError
    assert await attempt(store, a_registration(1)) is None


async def test_a_locked_database_fails_writes_until_it_is_free(store: SqliteStore, path: Path) -> None:
    """Locked for longer than the busy timeout, writes fail and store nothing. Afterwards they work again."""
    with locked(path):
        outcomes = await write_together(store, [a_registration(1), a_registration(2)])
        failure = store.failure

    assert outcomes == [StoreFailedError, StoreFailedError]
    assert failure == "database is locked"
    assert await attempt(store, a_registration(1)) is None
    assert store.failure is None
    assert await store.task(a_ref(2)) is None


async def test_a_failure_ends_without_a_write(store: SqliteStore, path: Path) -> None:
    """A probe finds that the database can be written again, even without any write."""
    with locked(path):
        assert await attempt(store, a_registration(1)) is StoreFailedError

    await eventually(lambda: store.failure is None)


async def test_a_short_lock_is_waited_for(store: SqliteStore, path: Path) -> None:
    """A lock shorter than the busy timeout costs time, not the write."""
    async with asyncio.TaskGroup() as group:
        with locked(path):
            write = group.create_task(attempt(store, a_registration(1)))
            await asyncio.sleep(0.2)

    assert write.result() is None


async def test_a_caller_waits_no_longer_than_it_says(store: SqliteStore, path: Path) -> None:
    """After its time limit the caller gets a busy error. The command may still be stored."""
    with locked(path), pytest.raises(StoreBusyError):
        await store.write(a_registration(1), within_seconds=0.05)

    await store.write(a_registration(2))
    assert await store.task(a_ref(1)) is not None


async def test_long_work_leaves_the_event_loop_alone(store: SqliteStore) -> None:
    """Short commands are decided on the loop. Large ones, and a batch with a search, are decided on the thread."""
    loop, short, large, beside = threading.get_ident(), Located(), Located(weight=2**21), Located()
    await store.write(short)
    await store.write(large)
    async with asyncio.TaskGroup() as group:
        group.create_task(store.write(beside))
        group.create_task(store.write(Expire(now=NOW, limit=1)))

    assert short.threads == [loop]
    assert large.threads != [loop]
    # The search came to light on the loop, so the batch was rolled back there and decided again.
    assert beside.threads[0] == loop
    assert beside.threads[-1] != loop


async def test_a_slow_disk_moves_batches_to_the_thread(path: Path) -> None:
    """After a slow batch the next ones run on the connection's thread for 2 s, and then on the event loop again."""
    now = 0.0
    loop, slow, while_slow, later = threading.get_ident(), Located(), Located(), Located()

    def pass_time() -> None:
        nonlocal now
        now += 0.03

    slow.passes = pass_time
    async with (
        open_sqlite_store(path, now=NOW, clock=lambda: now) as store,
        asyncio.TaskGroup() as owner,
    ):
        owner.create_task(store.run())
        await store.write(slow)
        await store.write(while_slow)
        now += 2.5
        await store.write(later)
        store.stop()

    assert slow.threads == [loop]
    assert while_slow.threads != [loop]
    assert later.threads == [loop]


async def test_an_error_between_writing_and_commit_is_left_behind(store: SqliteStore) -> None:
    """The transaction is rolled back before the next one begins. Nothing of it was acknowledged."""
    await store.write(a_registration(1))
    with patch.object(writer, "_Committed", side_effect=MemoryError), pytest.raises(StoreFailedError):
        await store.write(a_delivery(1))

    await store.write(a_registration(2))
    task = await store.task(a_ref(1))
    assert task is not None
    assert task.outcome is None


@pytest.mark.parametrize("next_one", [None, Located(weight=2**21)], ids=["none", "large"])
async def test_an_error_just_before_commit_is_left_behind(
    store: SqliteStore, path: Path, next_one: Located | None
) -> None:
    """Also if only the check of the database comes after it, or a large command, which begins on the thread."""

    def write_elsewhere() -> None:
        with closing(sqlite3.connect(path, timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")

    failures = [MemoryError()]

    def fail_first(connection: Any, function: Any) -> Any:
        if failures and getattr(function, "__name__", "") == "_finish":
            raise failures.pop()
        return on_thread(connection, function)

    with patch.object(writer, "on_thread", fail_first), pytest.raises(StoreFailedError):
        await store.write(a_registration(1))

    if next_one is not None:
        await store.write(next_one)
    await asyncio.to_thread(write_elsewhere)
    assert store.failure is None
    assert await store.task(a_ref(1)) is None


async def test_a_full_disk_fails_writes_until_there_is_room(store: SqliteStore, path: Path) -> None:
    """Without room nothing is acknowledged, but reading works. With room again, writes work and nothing is missing."""
    await store.write(a_registration(1))
    with full_disk(path):
        outcomes = await write_together(store, [a_registration(2), a_delivery(1)])
        failure = store.failure
        task = await store.task(a_ref(1))

    assert outcomes == [StoreFailedError, StoreFailedError]
    assert failure is not None
    assert (task is not None and task.outcome, await store.task(a_ref(2))) == (None, None)
    assert await write_together(store, [a_registration(2), a_delivery(1)]) == [None, None]
    assert store.failure is None


@pytest.mark.usefixtures("patient")
async def test_commits_of_another_process_are_reported(path: Path) -> None:
    """A result written by another store on the same file is reported."""
    async with running_store(path) as one, running_store(path) as other:
        growths = growths_of(one)
        await other.write(a_registration(1))
        await other.write(a_delivery(1))
        await eventually(lambda: bool(growths))

        (growth,) = growths
        assert [task.ref for task in growth.tasks or ()] == [a_ref(1)]
        assert (one.cursor_at(growth.until), growth.entries) == (await one.head(), None)


@pytest.mark.usefixtures("patient")
async def test_commits_of_another_process_are_reported_with_own_ones(path: Path) -> None:
    """A commit of another process just before an own write is reported with it, so no wake-up is lost."""
    async with running_store(path) as one, running_store(path) as other:
        await other.write(a_registration(1))
        await one.write(a_registration(2))
        growths = growths_of(one)
        await other.write(a_delivery(1))
        await one.write(a_delivery(2))
        await eventually(lambda: bool(growths) and growths[-1].until == 2)

        assert [task.ref for growth in growths for task in growth.tasks or ()] == [a_ref(1), a_ref(2)]


async def test_a_foreign_commit_while_others_are_read_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and head are read one after the other. An entry from before the head has its key."""
    read_head = writer._read_head

    def commit_and_read(connection: sqlite3.Connection) -> int:
        with closing(sqlite3.connect(path, isolation_level=None)) as another:
            another.execute("INSERT INTO log (kind, task, finished_at) VALUES ('hint', 2, 1)")
        return read_head(connection)

    async with running_store(path) as one:
        await one.write(a_registration(1))
        await one.write(a_registration(2))
        growths = growths_of(one)
        monkeypatch.setattr(writer, "_read_head", commit_and_read)
        with closing(sqlite3.connect(path, isolation_level=None)) as another:
            another.execute("INSERT INTO log (kind, task, finished_at) VALUES ('hint', 1, 1)")
        await eventually(lambda: bool(growths))

    assert {task.ref for task in growths[0].tasks or ()} == {a_ref(1), a_ref(2)}


@pytest.mark.usefixtures("patient")
async def test_too_much_growth_wakes_all_waiters(path: Path) -> None:
    """If another process ends too many tasks to name, then all waiters are woken."""
    async with running_store(path) as one, running_store(path) as other:
        many = 10_001
        await write_together(other, [a_registration(number, deadline_at=NOW) for number in range(1, 6001)])
        await write_together(other, [a_registration(number, deadline_at=NOW) for number in range(6001, many + 1)])
        growths = growths_of(one)
        assert await other.write(Expire(now=NOW, limit=many)) == many
        await eventually(lambda: bool(growths))

        assert growths == [Growth(0, many, None, None)]


async def test_the_last_commit_is_reported(path: Path) -> None:
    """A commit while the store closes is still reported."""
    async with running_store(path) as store:
        growths = growths_of(store)
        await store.write(a_registration(1))
        async with asyncio.TaskGroup() as writes:
            writes.create_task(store.write(a_delivery(1)))
            await asyncio.sleep(0)
            store.stop()

    assert [(growth.after, growth.until) for growth in growths] == [(0, 1)]


async def test_a_commit_is_reported_when_its_callers_are_released(store: SqliteStore) -> None:
    """Nothing is reported before the commit, and a caller that has its answer never precedes the report."""
    growths = growths_of(store)
    await store.write(a_registration(1))
    assert growths == []

    await store.write(a_delivery(1))

    assert [growth.until for growth in growths] == [1]


@pytest.mark.parametrize(
    ("callbacks", "first"), [pytest.param(1, "wake-up", id="one callback"), pytest.param(5, "answer", id="several")]
)
async def test_waiters_of_few_callbacks_are_woken_before_the_acknowledgements(
    store: SqliteStore, callbacks: int, first: str
) -> None:
    """No service waits for its acknowledgement. Of many callbacks, the last would wait for the frames of all."""
    numbers = range(1, callbacks + 1)
    for number in numbers:
        await store.write(a_registration(number))
    async with asyncio.TaskGroup() as group:
        order = await order_of(store, group)
        for number in numbers:
            group.create_task(answered(store, a_delivery(number), order))
    await eventually(lambda: "wake-up" in order)

    assert order[0] == first
    assert order.count("answer") == callbacks


async def test_a_caller_has_its_answer_before_the_waiters_of_other_outcomes(store: SqliteStore) -> None:
    """A client that reports an outcome, for example, learns of it by the answer to its report."""
    await store.write(a_registration(1))
    async with asyncio.TaskGroup() as group:
        order = await order_of(store, group)
        await answered(store, Expire(now=2 * NOW, limit=1), order)
        await eventually(lambda: "wake-up" in order)

    assert order == ["answer", "wake-up"]


async def order_of(store: SqliteStore, owner: asyncio.TaskGroup) -> list[str]:
    """Return a list that takes the first wake-up of a reader."""
    order: list[str] = []
    feed = Feed(store)
    await feed.open()
    await feed.subscribe(ALL, None, lambda: order.append("wake-up"), owner="a")
    store.listen(Relay(feed, Hub(), lambda: None, owner).take)
    return order


async def answered(store: SqliteStore, command: Command[Any], order: list[str]) -> None:
    """Write a command, and note its answer."""
    await store.write(command)
    order.append("answer")


def growths_of(store: SqliteStore) -> list[Growth]:
    """Return a list that takes the growths of the store's log from now on."""
    growths: list[Growth] = []
    store.listen(growths.append)
    return growths


async def test_a_log_held_by_a_reader_is_cut_afterwards(store: SqliteStore, path: Path) -> None:
    """The log grows while another program reads. Afterwards the next commits cut it (openclaw#112950)."""
    wal = path.with_name(f"{path.name}-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM task").fetchone()
        for number in range(1, 25):
            await store.write(a_registration(number))
            await store.write(a_delivery(number, text="x" * 300_000))
        held = wal.stat().st_size
        reader.execute("COMMIT")

    for number in range(25, 29):
        await store.write(a_registration(number))

    assert held > 12 * 1024 * 1024
    assert wal.stat().st_size <= 8 * 1024 * 1024
