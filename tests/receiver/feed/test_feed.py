"""Readers of the log as it grows: each gets its entries from the tail or from the store, and none twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from client.protocol.filters import ResultFilter, TaskName, TaskSet
from client.protocol.frames import MAX_NAMED, GapFrame
from receiver.domain.deliveries import HintTask
from receiver.domain.records import Entry, Growth
from receiver.domain.registrations import Bind
from receiver.domain.transaction import Forget
from receiver.errors import ReceiverError
from receiver.feed.feed import Feed
from receiver.feed.hub import Hub
from receiver.feed.subscription import Subscription
from receiver.feed.tail import Tail
from receiver.storage.store import Store
from receiver.upkeep.relay import Relay
from tests.receiver.storage.stores import (
    ALL,
    NOW,
    a_delivery,
    a_ref,
    a_registration,
    a_standing_delivery,
    running_store,
    whole_log,
)
from tests.support import eventually

Names = list[tuple[str, str]]


class Reader:
    """A subscription, and the kinds and refs of its entries."""

    def __init__(self) -> None:
        self.calls = 0
        self.subscription: Subscription

    def listen(self) -> None:
        """Count the calls."""
        self.calls += 1

    async def read(self) -> Names:
        """Return all there is."""
        names: Names = []
        while page := await self.subscription.read():
            names += [_name(entry) for entry in page]
        return names

    async def next(self) -> Names:
        """Return all there is, once there is something."""
        calls = self.calls
        if names := await self.read():
            return names
        await eventually(lambda: self.calls > calls)
        return await self.read()


def _name(entry: Entry | GapFrame) -> tuple[str, str]:
    return ("gap", entry.reason) if isinstance(entry, GapFrame) else (entry.kind, entry.ref)


def results(*numbers: int) -> Names:
    """Return the entries for tasks with an outcome."""
    return [("result", a_ref(number)) for number in numbers]


def named(*names: TaskName, hints: bool = False) -> ResultFilter:
    """Return a filter that only names tasks."""
    return ResultFilter(tasks=TaskSet(names), hints=hints)


@asynccontextmanager
async def following(store: Store, tail: Tail | None = None) -> AsyncIterator[Feed]:
    """Yield a feed of the store, and give it the growth of the log."""
    feed = Feed(store, tail)
    await feed.open()

    async with asyncio.TaskGroup() as owner:
        store.listen(Relay(feed, Hub(), lambda: None, owner).take)
        yield feed


async def reader_of(feed: Feed, only: ResultFilter = ALL, cursor: str | None = None) -> Reader:
    """Return a reader, by default of everything from now. Earlier writes have reached the feed."""
    head = await feed.store.position(await feed.store.head())
    await eventually(lambda: feed.tail.end == head)
    reader = Reader()
    reader.subscription = await feed.subscribe(only, cursor, reader.listen, owner="a")
    return reader


async def end(store: Store, *numbers: int, **fields: object) -> None:
    """Register the tasks of these numbers and end them, one after the other."""
    for number in numbers:
        await store.write(a_registration(number, **fields))
        await store.write(a_delivery(number))


@pytest.fixture
async def store(database: Path | str) -> AsyncIterator[Store]:
    """Yield a running store."""
    async with running_store(database) as running:
        yield running


@pytest.fixture
async def feed(store: Store) -> AsyncIterator[Feed]:
    """Yield a feed of it."""
    async with following(store) as running:
        yield running


async def test_from_now_only_what_comes_is_told(store: Store, feed: Feed) -> None:
    """Without a cursor, a reader gets only later entries, once each."""
    await end(store, 1)
    await eventually(lambda: feed.tail.end == 1)
    reader = await reader_of(feed)

    await end(store, 2, 3)
    await eventually(lambda: feed.tail.end == 3)

    assert (reader.calls, await reader.read(), await reader.read()) == (1, results(2, 3), [])


async def test_behind_a_cursor_the_store_comes_first(store: Store, feed: Feed) -> None:
    """A reader gets the entries behind its cursor, then later ones, in the order of the log."""
    await end(store, 1, 2, 3)
    first, *_ = await whole_log(store)
    reader = await reader_of(feed, cursor=first.cursor)

    before = await reader.read()
    await end(store, 4)

    assert (before, await reader.next()) == (results(2, 3), results(4))


async def test_start_is_the_oldest_kept(store: Store, feed: Feed) -> None:
    """The cursor `start` gives the whole log."""
    await end(store, 1, 2)

    assert await (await reader_of(feed, cursor="start")).read() == results(1, 2)


async def test_who_is_too_slow_for_the_tail_reads_the_store(store: Store) -> None:
    """With a tail of two entries, a slow reader misses none of the entries before."""
    async with following(store, Tail(most_entries=2)) as feed:
        reader = await reader_of(feed)

        await end(store, *range(1, 30))
        await eventually(lambda: feed.tail.end == 29)

        assert await reader.read() == results(*range(1, 30))


async def test_a_tail_is_bounded_in_bytes() -> None:
    """Large solutions make the tail shorter. The store has them all."""
    tail = Tail(most_bytes=3000)

    tail.extend([Entry(f"c{number}", number, "deleted", "ref", None) for number in range(1, 11)], 10)

    assert (tail.end, len(tail.after(tail.start)) <= 3) == (10, True)


async def test_named_tasks_that_ended_come_at_once(store: Store, feed: Feed) -> None:
    """They come by ref and by the provider's id, whatever the cursor. Other named tasks come at their end."""
    await end(store, 1)
    await end(store, 2, task_id="abc")
    await store.write(a_registration(3))
    only = named(a_ref(1), a_ref(3), ("capsolver", "abc"))
    reader = await reader_of(feed, only, cursor=await store.head())

    at_once = await reader.read()
    await store.write(a_delivery(3))

    assert (sorted(at_once), await reader.next()) == (results(1, 2), results(3))


async def test_named_tasks_are_told_once_beside_a_stream(store: Store, feed: Feed) -> None:
    """An entry of the stream does not come a second time for its name."""
    await end(store, 1, 2)
    first, *_ = await whole_log(store)
    only = ResultFilter(provider="capsolver", tasks=TaskSet((a_ref(1), a_ref(2))))

    reader = await reader_of(feed, only, cursor=first.cursor)

    assert await reader.read() == results(1, 2)


async def test_tasks_can_be_added_and_removed(store: Store, feed: Feed) -> None:
    """Added tasks come at once or at their end. Removed tasks do not come any more."""
    await end(store, 1)
    await store.write(a_registration(2))
    await store.write(a_registration(3))
    reader = await reader_of(feed, named())

    reader.subscription.add(TaskSet((a_ref(1), a_ref(2), a_ref(3))))
    added = await reader.read()
    reader.subscription.remove(TaskSet((a_ref(2),)))
    await store.write(a_delivery(2))
    await store.write(a_delivery(3))

    assert (added, await reader.next()) == (results(1), results(3))


async def test_an_id_that_becomes_known_later_is_told(store: Store, feed: Feed) -> None:
    """A task that has ended comes as soon as the named id is bound to it."""
    await end(store, 1)
    reader = await reader_of(feed, named(("capsolver", "late")))

    before = await reader.read()
    await store.write(Bind(ref=a_ref(1), task_id="late", now=NOW))

    assert (before, await reader.next()) == ([], results(1))


async def test_a_task_that_a_standing_url_makes_is_told_by_its_id(store: Store, feed: Feed) -> None:
    """A reader can wait for an id without a registration."""
    reader = await reader_of(feed, named(("capsolver", "7")))

    await store.write(a_standing_delivery(1, task_id=7))

    assert await reader.next() == results(1)


async def test_a_ref_that_is_not_known_is_told_as_deleted(feed: Feed) -> None:
    """A reader must learn that a named task is gone."""
    assert await (await reader_of(feed, named(a_ref(9)))).read() == [("deleted", a_ref(9))]


async def test_a_deletion_goes_to_those_whom_it_concerns(store: Store, feed: Feed) -> None:
    """Streams and readers that named the task get it, others do not. The deleted outcome does not come any more."""
    await store.write(a_registration(1))
    await store.write(a_registration(2))
    stream = await reader_of(feed, ResultFilter(provider="capsolver"))
    concerned = await reader_of(feed, named(a_ref(1)))
    other = await reader_of(feed, named(a_ref(2)))
    assert [await concerned.read(), await other.read()] == [[], []]

    await store.write(a_delivery(1))
    await store.write(Forget(ref=a_ref(1), now=NOW))
    await eventually(lambda: feed.tail.end == 2)

    assert [await stream.read(), await concerned.read()] == [[("deleted", a_ref(1))]] * 2
    assert other.calls == 0


async def test_hints_come_where_they_are_asked_for(store: Store, feed: Feed) -> None:
    """A filter with `hints` brings hints, also from before the task was named."""
    await store.write(a_registration(1))
    asked = await reader_of(feed)
    silent = await reader_of(feed, ResultFilter())

    await store.write(HintTask(ref=a_ref(1), now=NOW))
    hinted = await asked.next()
    named_later = await reader_of(feed, named(a_ref(1), hints=True))

    assert (hinted, await named_later.read(), silent.calls) == ([("hint", a_ref(1))], [("hint", a_ref(1))], 0)


async def test_the_cursor_of_a_rare_filter_moves_along(store: Store, feed: Feed) -> None:
    """Without matching entries the listener is not called, and the cursor is the end of the log."""
    reader = await reader_of(feed, ResultFilter(tags=("rare",)))
    await reader.read()

    await end(store, 1, 2)
    await eventually(lambda: feed.tail.end == 2)

    assert (reader.calls, reader.subscription.cursor) == (0, await store.head())


async def test_a_cursor_of_another_log_is_a_gap(store: Store, feed: Feed) -> None:
    """The gap comes first, then everything from the oldest entry kept."""
    await end(store, 1)

    reader = await reader_of(feed, cursor="0123456789ab-7")

    assert await reader.read() == [("gap", "other-log"), *results(1)]


async def test_what_is_no_cursor_is_refused(feed: Feed) -> None:
    """A text that is no cursor is the caller's error, not a gap."""
    with pytest.raises(ReceiverError, match="expected one that this receiver gave"):
        await reader_of(feed, cursor="yesterday")


async def test_commits_of_another_process_are_told(tmp_path: Path) -> None:
    """Readers get the entries of another process that writes into the same file."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as one, running_store(path) as other, following(one) as feed:
        reader = await reader_of(feed)

        await end(other, 1)

        assert await reader.next() == results(1)


async def test_more_than_can_be_told_at_once_is_read_from_the_store(tmp_path: Path) -> None:
    """After a long silence of the feed, each reader reads the store, and nothing is missing."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as one, running_store(path) as other, following(one) as feed:
        reader = await reader_of(feed)
        async with asyncio.TaskGroup() as writing:
            for number in range(1, 701):
                writing.create_task(other.write(a_registration(number)))
        async with asyncio.TaskGroup() as writing:
            for number in range(1, 701):
                writing.create_task(other.write(a_delivery(number)))
        await eventually(lambda: feed.tail.end == 700)

        assert sorted(await reader.read()) == results(*range(1, 701))


async def test_what_is_named_while_the_store_is_read_is_not_missed(store: Store, feed: Feed) -> None:
    """A task named during a read of the log may have ended behind the cursor. It comes with this read or the next."""
    await end(store, 1)
    reader = await reader_of(feed, ResultFilter(tags=("none",)), cursor="start")

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(reader.read())
        await asyncio.sleep(0)
        reader.subscription.add(TaskSet((a_ref(1),)))

    assert [*reading.result(), *await reader.read()] == results(1)


async def test_what_the_store_told_before_the_feed_is_not_told_again(store: Store) -> None:
    """A reader at the end of the store is ahead of a feed that takes the commits one by one."""
    feed = Feed(store)
    await feed.open()
    await end(store, 1, 2, 3)
    log = await whole_log(store)
    feed.take(Growth(0, 1, (), tuple(log[:1])))
    reader = Reader()
    reader.subscription = await feed.subscribe(ALL, "start", reader.listen, owner="a")

    read = await reader.read()
    for number, entry in enumerate(log[1:], start=1):
        feed.take(Growth(number, number + 1, (), (entry,)))
        read += await reader.read()

    assert read == results(1, 2, 3)


async def test_what_comes_while_the_store_is_read_is_not_missed(store: Store, feed: Feed) -> None:
    """An entry may be committed between the read of the last page and its hand-over. It comes right behind the page."""
    await end(store, 1)
    reader = await reader_of(feed, cursor="start")
    later = Entry(store.cursor_at(2), 2, "deleted", a_ref(2), None)

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(reader.read())
        await asyncio.sleep(0)
        feed.take(Growth(1, 2, (), (later,)))

    assert reading.result() == [*results(1), ("deleted", a_ref(2))]


async def test_an_id_that_is_bound_while_it_is_looked_at_is_told(
    store: Store, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of the store from before the binding does not count."""
    await end(store, 1)
    reader = await reader_of(feed, named(("capsolver", "late")))
    read_named = store.named

    async def read_and_bind(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        found = await read_named(*args, **kwargs)
        await store.write(Bind(ref=a_ref(1), task_id="late", now=NOW))
        await eventually(lambda: reader.calls > 0)
        return found

    monkeypatch.setattr(store, "named", read_and_bind)

    assert await reader.read() == results(1)


async def test_a_name_that_comes_back_while_it_is_looked_at_is_told(
    store: Store, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task may be removed, end and be added again during a read of the store. It is then read once more."""
    await store.write(a_registration(1))
    reader = await reader_of(feed, named(a_ref(1)))
    read_named = store.named

    async def read_and_end(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        found = await read_named(*args, **kwargs)
        reader.subscription.remove(TaskSet((a_ref(1),)))
        before = feed.tail.end
        await store.write(a_delivery(1))
        await eventually(lambda: feed.tail.end > before)
        reader.subscription.add(TaskSet((a_ref(1),)))
        return found

    monkeypatch.setattr(store, "named", read_and_end)

    assert await reader.read() == results(1)


async def test_too_many_names_are_refused(feed: Feed) -> None:
    """Too many names are refused at the beginning and later. Earlier names stay."""
    names = [a_ref(number) for number in range(MAX_NAMED + 1)]
    reader = await reader_of(feed, named(a_ref(1)))

    with pytest.raises(ReceiverError, match="at most"):
        await reader_of(feed, named(*names))
    with pytest.raises(ReceiverError, match="at most"):
        reader.subscription.add(TaskSet(names))
    assert len(feed) == 1


async def test_a_closed_reader_is_told_nothing(store: Store, feed: Feed) -> None:
    """A closed reader gets no entries and leaves nothing behind."""
    reader = await reader_of(feed, ResultFilter(provider="capsolver", tasks=TaskSet((a_ref(1),))))
    await reader.read()

    reader.subscription.close()
    await end(store, 1)
    await eventually(lambda: feed.tail.end == 1)

    assert (len(feed), reader.calls) == (0, 0)


async def test_a_cancelled_read_gives_nothing_out(store: Store, feed: Feed) -> None:
    """After a cancelled read, the next one gives the same entries."""
    await end(store, 1)
    reader = await reader_of(feed, cursor="start")

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(reader.subscription.read())
        await asyncio.sleep(0)
        reading.cancel()

    assert await reader.read() == results(1)


async def test_growth_tells_what_the_log_holds(store: Store) -> None:
    """The entries of a commit are those of the log: outcomes, hints, deletions."""
    growths: list[Growth] = []
    store.listen(growths.append)
    await store.write(a_registration(1, tags=("one",)))
    await store.write(HintTask(ref=a_ref(1), now=NOW))
    await store.write(a_delivery(1, task_id="abc"))
    await eventually(lambda: growths[-1].until == 2)

    grown = [entry for growth in growths for entry in growth.entries or ()]

    read = list(await whole_log(store))
    assert [(entry.cursor, entry.position, entry.kind, entry.ref) for entry in grown] == [
        (entry.cursor, entry.position, entry.kind, entry.ref) for entry in read
    ]
    assert grown[-1].task == read[-1].task
