"""The Store law: after a read has given cursor c, no result ever appears at or before c, while several write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from client.protocol.filters import ResultFilter, TaskSet
from receiver.domain.records import Page
from receiver.domain.transaction import Command, Forget, Operation, Prune
from receiver.errors import CursorGoneError, StoreFailedError
from receiver.storage.postgres import statements
from receiver.storage.postgres.batch import LockingBatch
from receiver.storage.postgres.dialect import translate
from receiver.storage.sqlite import statements as sql
from receiver.storage.store import Store
from tests.postgres import execute
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, running_store, whole_log
from tests.receiver.upkeep.pruning import horizon

TASKS = 240
WRITERS = 6
FILTERS = (
    ResultFilter(),
    ResultFilter(provider="capsolver"),
    ResultFilter(tags=("even",)),
    ResultFilter(provider="capsolver", tags=("even",), hints=True),
    ResultFilter(tasks=TaskSet(a_ref(number) for number in range(1, TASKS, 7))),
    ResultFilter(within=frozenset({"capsolver"})),
)


@dataclass
class Reader:
    """A reader of pages of random sizes, until the end of the log after the last write.

    It takes each page from any of the stores.
    """

    stores: Sequence[Store]
    only: ResultFilter
    chance: random.Random
    seen: list[int] = field(default_factory=list)
    missed: set[int] = field(default_factory=set)

    async def read_on(self, written: asyncio.Event) -> None:
        """Read on beside retention: note the positions in a gap, and go on behind it."""
        cursor = self.stores[0].cursor_at(0)
        is_last = False
        while not is_last:
            is_last = written.is_set()
            try:
                page = await self._page(cursor)
            except CursorGoneError as gap:
                self.missed |= {*range(position(cursor) + 1, position(gap.resumes_at) + 1)}
                cursor, is_last = gap.resumes_at, False
                continue
            self.seen += [position(entry.cursor) for entry in page.entries]
            is_last = is_last and not page.more
            cursor = page.cursor

    async def read(self, written: asyncio.Event) -> None:
        """Read on until the log ends and nothing more will be written."""
        cursor = None
        is_last = False
        while not is_last:
            is_last = written.is_set()
            page = await self._page(cursor)
            self.seen += [position(entry.cursor) for entry in page.entries]
            assert all(position(cursor) < position(entry.cursor) <= position(page.cursor) for entry in page.entries)
            is_last = is_last and not page.more
            cursor = page.cursor

    async def _page(self, cursor: str | None) -> Page:
        store = self.chance.choice(self.stores)
        return await store.results(cursor, limit=self.chance.randint(1, 9), only=self.only)


def position(cursor: str | None) -> int:
    """Return the position in the log in a cursor."""
    return 0 if cursor is None else int(cursor.rpartition("-")[2])


async def write(store: Store, numbers: Sequence[int], chance: random.Random) -> None:
    """Register and end the tasks of these numbers. Forget every tenth one before its end, so that entries go."""
    for number in numbers:
        await stored(store, a_registration(number, tags=("even",) if number % 2 == 0 else ("odd",)))
        await stored(store, Forget(ref=a_ref(number), now=NOW) if number % 10 == 0 else a_delivery(number))
        if chance.random() < 0.2:
            await asyncio.sleep(0)


async def stored(store: Store, command: Command[Any] | Operation[Any]) -> None:
    """Write the command, again if the other store held the file for too long. Then nothing of it was stored."""
    for _ in range(10):
        try:
            await store.write(command)
        except StoreFailedError:
            continue
        return
    raise TimeoutError


async def write_all(stores: Sequence[Store], chance: random.Random, written: asyncio.Event) -> None:
    """Run all writers side by side, on all stores in turn."""
    async with asyncio.TaskGroup() as group:
        for first in range(1, WRITERS + 1):
            store = stores[first % len(stores)]
            group.create_task(write(store, range(first, TASKS, WRITERS), random.Random(chance.random())))
    written.set()


async def read_beside_writers(stores: Sequence[Store], seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the positions that readers saw while all stores wrote, and those that they find in the end.

    A reader with each filter stays at the first store, and one goes from store to store with its cursor.
    """
    chance = random.Random(seed)
    written = asyncio.Event()
    readers = [Reader(read, only, random.Random(chance.random())) for only in FILTERS for read in (stores[:1], stores)]
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.read(written))
        group.create_task(write_all(stores, chance, written))
    in_the_log = [[position(entry.cursor) for entry in await whole_log(stores[0], reader.only)] for reader in readers]
    return [reader.seen for reader in readers], in_the_log


@asynccontextmanager
async def several_stores(
    database: Path | str, batch_type: type[LockingBatch] = LockingBatch
) -> AsyncIterator[list[Store]]:
    """Yield stores as of several processes: two on a file, four on a server."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running_store(database, batch_type=batch_type))
            for _ in range(2 if isinstance(database, Path) else 4)
        ]


@pytest.mark.parametrize("seed", range(2))
async def test_readers_beside_writers_see_each_result_once(database: Path | str, seed: int) -> None:
    """Readers of several stores page with random limits while all write: nothing is missed, nothing twice."""
    async with several_stores(database) as stores:
        seen, in_the_log = await read_beside_writers(stores, seed)

    assert seen == in_the_log
    assert len(in_the_log[0]) > TASKS * 0.8


class SlowBatch(LockingBatch):
    """A batch that is held up between its numbers and its commit, for up to 5 ms."""

    def _take_numbers(self, entries: int, tasks: int) -> tuple[int, int]:
        numbers = super()._take_numbers(entries, tasks)
        self._execute("SELECT pg_sleep(random() / 200)")
        return numbers


class SequencedBatch(LockingBatch):
    """A batch with numbers from sequences, as of `bigserial`, and the same delay."""

    def _take_numbers(self, entries: int, tasks: int) -> tuple[int, int]:
        position, row = self._execute("SELECT nextval('positions'), nextval('task_rows')").fetchone()
        self._execute("SELECT pg_sleep(random() / 200)")
        return position, row


async def test_numbers_from_the_head_keep_the_law_over_slow_commits(postgres_url: str) -> None:
    """A reader sees each result once, even if the commits of all stores take turns between number and commit."""
    async with several_stores(postgres_url, SlowBatch) as stores:
        seen, in_the_log = await read_beside_writers(stores, 1)

    assert seen == in_the_log


@pytest.fixture
def head_of_the_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the newest entry be the end of the log, because a sequence has no committed end."""
    bounds = "SELECT coalesce(max(position), 0), 0 FROM log"
    translate.cache_clear()
    monkeypatch.setitem(cast("dict[str, str]", statements.REPLACED), sql.SELECT_BOUNDS, bounds)
    yield
    translate.cache_clear()


@pytest.mark.usefixtures("head_of_the_log")
async def test_numbers_from_a_sequence_break_the_law(postgres_url: str) -> None:
    """The check above notices a log with positions of a sequence: readers miss results that commit later."""
    for name in ("positions", "task_rows"):
        execute(postgres_url, f"CREATE SEQUENCE {name} INCREMENT BY 300")
    async with several_stores(postgres_url, SequencedBatch) as stores:
        seen, in_the_log = await read_beside_writers(stores, 1)

    assert seen != in_the_log
    assert all(set(positions) <= set(kept) for positions, kept in zip(seen, in_the_log, strict=True))


async def prune_now_and_then(stores: Sequence[Store], chance: random.Random, written: asyncio.Event) -> None:
    """Prune all but a short end of the log, now in one process, now in another, until the last write."""
    taken = horizon()
    while not written.is_set():
        store = chance.choice(stores)
        end = position(await store.head())
        await stored(store, Prune(horizon=taken, until=end - chance.randint(5, 40), limit=chance.randint(1, 30)))
        await asyncio.sleep(chance.random() / 100)


@pytest.mark.parametrize("seed", range(2))
async def test_readers_beside_retention_see_each_result_once_or_get_a_gap(database: Path | str, seed: int) -> None:
    """While several processes write and prune, a reader sees each entry or gets a gap for it, and never both."""
    chance = random.Random(seed)
    written = asyncio.Event()
    async with several_stores(database) as stores:
        readers = [Reader(stores, FILTERS[0], random.Random(chance.random())) for _ in range(6)]
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.read_on(written))
            group.create_task(write_all(stores, chance, written))
            group.create_task(prune_now_and_then(stores, chance, written))
        left = {position(entry.cursor) for entry in await whole_log(stores[0], FILTERS[0])}
        # Its cursor is older than every entry, and it reads only now: it missed the pruned entries, and no more.
        late = Reader(stores[1:], FILTERS[0], random.Random(seed))
        await late.read_on(written)

    assert set(late.seen) == left
    assert late.missed
    assert max(late.missed) < min(left)
    for reader in readers:
        assert reader.seen == sorted(set(reader.seen))
        assert not reader.missed & {*reader.seen, *left}
        assert left <= set(reader.seen)
