"""The Store law: after a read has given cursor c, no result ever appears at or before c, while several write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from client.protocol.filters import ResultFilter, TaskSet
from receiver.domain.transaction import Command, Forget, Operation, Prune
from receiver.errors import CursorGoneError, StoreFailedError
from receiver.storage.sqlite.store import SqliteStore
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
    """A reader of pages of random sizes, until the end of the log after the last write."""

    store: SqliteStore
    only: ResultFilter
    chance: random.Random
    seen: list[int] = field(default_factory=list)
    missed: set[int] = field(default_factory=set)

    async def read_on(self, written: asyncio.Event) -> None:
        """Read on beside retention: note the positions in a gap, and go on behind it."""
        cursor = self.store.cursor_at(0)
        is_last = False
        while not is_last:
            is_last = written.is_set()
            try:
                page = await self.store.results(cursor, limit=self.chance.randint(1, 9), only=self.only)
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
            page = await self.store.results(cursor, limit=self.chance.randint(1, 9), only=self.only)
            self.seen += [position(entry.cursor) for entry in page.entries]
            assert all(position(cursor) < position(entry.cursor) <= position(page.cursor) for entry in page.entries)
            is_last = is_last and not page.more
            cursor = page.cursor


def position(cursor: str | None) -> int:
    """Return the position in the log in a cursor of the SQLite store."""
    return 0 if cursor is None else int(cursor.rpartition("-")[2])


async def write(store: SqliteStore, numbers: Sequence[int], chance: random.Random) -> None:
    """Register and end the tasks of these numbers. Forget every tenth one before its end, so that entries go."""
    for number in numbers:
        await stored(store, a_registration(number, tags=("even",) if number % 2 == 0 else ("odd",)))
        await stored(store, Forget(ref=a_ref(number), now=NOW) if number % 10 == 0 else a_delivery(number))
        if chance.random() < 0.2:
            await asyncio.sleep(0)


async def stored(store: SqliteStore, command: Command[Any] | Operation[Any]) -> None:
    """Write the command, again if the other store held the file for too long. Then nothing of it was stored."""
    for _ in range(10):
        try:
            await store.write(command)
        except StoreFailedError:
            continue
        return
    raise TimeoutError


async def write_all(stores: Sequence[SqliteStore], chance: random.Random, written: asyncio.Event) -> None:
    """Run all writers side by side, half of them on each store."""
    async with asyncio.TaskGroup() as group:
        for first in range(1, WRITERS + 1):
            store = stores[first % len(stores)]
            group.create_task(write(store, range(first, TASKS, WRITERS), random.Random(chance.random())))
    written.set()


@pytest.mark.parametrize("seed", range(2))
async def test_readers_beside_writers_see_each_result_once(tmp_path: Path, seed: int) -> None:
    """Readers of two processes' stores page with random limits while both write: nothing is missed, nothing twice."""
    chance = random.Random(seed)
    written = asyncio.Event()
    async with running_store(tmp_path / "receiver.db") as one, running_store(tmp_path / "receiver.db") as other:
        readers = [Reader(store, only, random.Random(chance.random())) for only in FILTERS for store in (one, other)]
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.read(written))
            group.create_task(write_all([one, other], chance, written))
        in_the_log = [[position(entry.cursor) for entry in await whole_log(one, reader.only)] for reader in readers]

    assert [reader.seen for reader in readers] == in_the_log
    assert len(in_the_log[0]) > TASKS * 0.8


async def prune_now_and_then(stores: Sequence[SqliteStore], chance: random.Random, written: asyncio.Event) -> None:
    """Prune all but a short end of the log, now in one process, now in the other, until the last write."""
    taken = horizon()
    while not written.is_set():
        store = chance.choice(stores)
        end = position(await store.head())
        await stored(store, Prune(horizon=taken, until=end - chance.randint(5, 40), limit=chance.randint(1, 30)))
        await asyncio.sleep(chance.random() / 100)


@pytest.mark.parametrize("seed", range(2))
async def test_readers_beside_retention_see_each_result_once_or_get_a_gap(tmp_path: Path, seed: int) -> None:
    """While two processes write and prune, a reader sees each entry or gets a gap for it, and never both."""
    chance = random.Random(seed)
    written = asyncio.Event()
    async with running_store(tmp_path / "receiver.db") as one, running_store(tmp_path / "receiver.db") as other:
        readers = [Reader(store, FILTERS[0], random.Random(chance.random())) for store in (one, other) * 3]
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.read_on(written))
            group.create_task(write_all([one, other], chance, written))
            group.create_task(prune_now_and_then([one, other], chance, written))
        left = {position(entry.cursor) for entry in await whole_log(one, FILTERS[0])}
        # Its cursor is older than every entry, and it reads only now: it missed the pruned entries, and no more.
        late = Reader(other, FILTERS[0], random.Random(seed))
        await late.read_on(written)

    assert set(late.seen) == left
    assert late.missed
    assert max(late.missed) < min(left)
    for reader in readers:
        assert reader.seen == sorted(set(reader.seen))
        assert not reader.missed & {*reader.seen, *left}
        assert left <= set(reader.seen)
