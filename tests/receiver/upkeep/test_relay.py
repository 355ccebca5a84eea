"""The relay from the store to waiters and readers: in order, at once if it can be, and with bounded work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.trace import NoOpTracerProvider
from structlog.testing import capture_logs

from client.protocol.filters import ResultFilter
from receiver.domain.deliveries import HintTask
from receiver.domain.records import Entry, Growth, TaskKey
from receiver.feed.feed import Feed
from receiver.feed.hub import Hub
from receiver.feed.subscription import Subscription
from receiver.storage.store import Store
from receiver.tracing import Tracing
from receiver.upkeep.relay import Relay
from tests.receiver.storage.stores import ALL, NOW, a_delivery, a_ref, a_registration, running_store, whole_log
from tests.support import eventually


@pytest.fixture
async def store(database: Path | str) -> AsyncIterator[Store]:
    """Yield a running store."""
    async with running_store(database) as running:
        yield running


@pytest.fixture
async def feed(store: Store) -> Feed:
    """Return a feed from the start of the log."""
    feed = Feed(store)
    await feed.open()
    return feed


@pytest.fixture
async def owner() -> AsyncIterator[asyncio.TaskGroup]:
    """Yield the owner of a relay's tasks."""
    async with asyncio.TaskGroup() as group:
        yield group


class Reader:
    """A reader of the tail alone. It reads whenever it is called."""

    def __init__(self, feed: Feed, only: ResultFilter = ALL) -> None:
        self.refs: list[str] = []
        self.subscription: Subscription = feed.follow(only, 0, self.read, owner="a")

    def read(self) -> None:
        """Read all the tail has."""
        while page := self.subscription.read_at_once():
            self.refs += [entry.ref for entry in page]


class Broken(Hub):
    """A hub with a fault."""

    def wake(self, tasks: Iterable[TaskKey] | None) -> None:
        """Fail."""
        raise RuntimeError


def from_source(entry: Entry, source: str) -> Entry:
    """Return an entry whose outcome comes from there."""
    assert entry.task is not None
    assert entry.task.outcome is not None
    return replace(entry, task=entry.task.evolve(outcome=replace(entry.task.outcome, source=source)))


def nothing() -> None:
    """Do nothing on a hint."""


async def ended(store: Store, count: int) -> Sequence[Entry]:
    """Return the log, after so many tasks have ended."""
    for number in range(1, count + 1):
        await store.write(a_registration(number))
        await store.write(a_delivery(number))
    return await whole_log(store)


def growth_of(*entries: Entry) -> Growth:
    """Return the growth by these entries."""
    return Growth(entries[0].position - 1, entries[-1].position, (), entries)


async def test_later_growths_wait_for_one_that_is_read(store: Store, feed: Feed, owner: asyncio.TaskGroup) -> None:
    """While the entries of another process are read, later growths do not overtake them."""
    reader = Reader(feed)
    log = await ended(store, 3)
    relay = Relay(feed, Hub(), nothing, owner)

    relay.take(Growth(0, 1, (), None))
    for entry in log[1:]:
        relay.take(growth_of(entry))
    assert reader.refs == []

    await eventually(lambda: len(reader.refs) == 3)
    assert reader.refs == [a_ref(1), a_ref(2), a_ref(3)]


async def test_a_waiter_does_not_wait_for_the_log(
    store: Store, feed: Feed, owner: asyncio.TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads its task alone, so it is woken while the entries of another process are still being read."""
    reader, hub, may_read = Reader(feed), Hub(), asyncio.Event()
    read, log = feed.with_entries, await ended(store, 3)

    async def read_later(growth: Growth) -> Growth:
        await may_read.wait()
        return await read(growth)

    monkeypatch.setattr(feed, "with_entries", read_later)
    relay = Relay(feed, hub, nothing, owner)
    with hub.waiting(a_ref(1)) as one, hub.waiting(a_ref(3)) as other:
        relay.take(Growth(0, 1, (TaskKey(a_ref(1), "capsolver", None),), None))
        relay.take(growth_of(log[1]))
        relay.take(replace(growth_of(log[2]), tasks=(TaskKey(a_ref(3), "capsolver", None),)))
        woken = (await one.wait(30), await other.wait(30), list(reader.refs))
        may_read.set()
        await eventually(lambda: len(reader.refs) == 3)

    assert woken == (True, True, [])


async def test_too_many_late_growths_become_one(store: Store, feed: Feed, owner: asyncio.TaskGroup) -> None:
    """The relay keeps a bounded number of them. No entry is missing then, and all waiters look."""
    reader = Reader(feed)
    log = await ended(store, 70)
    hub = Hub()
    relay = Relay(feed, hub, nothing, owner)

    with hub.waiting(a_ref(99)) as waiter:
        relay.take(Growth(0, 1, (), None))
        for entry in log[1:]:
            relay.take(growth_of(entry))
        assert await waiter.wait(30)

    assert reader.refs == [entry.ref for entry in log]


async def test_without_a_reader_nothing_is_kept(store: Store, feed: Feed, owner: asyncio.TaskGroup) -> None:
    """The tail moves on empty. A later reader from an older place has the entries from the store."""
    log = await ended(store, 2)
    relay = Relay(feed, Hub(), nothing, owner)

    for entry in log:
        relay.take(growth_of(entry))
        await asyncio.sleep(0)

    assert (feed.tail.start, feed.tail.end) == (2, 2)
    reader = Reader(feed)
    assert [entry.cursor for entry in await reader.subscription.read()] == [entry.cursor for entry in log]


async def test_a_waiter_alone_fills_the_tail(store: Store, feed: Feed, owner: asyncio.TaskGroup) -> None:
    """A wait for one task takes its outcome from the tail."""
    (entry,) = await ended(store, 1)
    hub = Hub()

    with hub.waiting(a_ref(1)) as waiter:
        growth = Growth(0, 1, (TaskKey(a_ref(1), "capsolver", None),), (entry,))
        Relay(feed, hub, nothing, owner).take(growth)
        assert await waiter.wait(30)

    assert feed.tail.result(a_ref(1)) is entry.task


async def test_a_fault_of_tracing_ends_no_wake_up(
    store: Store, feed: Feed, owner: asyncio.TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Span processors are the operator's own, and may raise. The entries that were read late are delivered too."""

    def fail(*_: object) -> None:
        raise RuntimeError("an exporter failed")

    monkeypatch.setattr(Tracing, "woken", fail)
    relay = Relay(feed, Hub(), nothing, owner, tracing=Tracing(NoOpTracerProvider()))
    reader = Reader(feed)
    await store.write(a_registration(1))
    await store.write(a_delivery(1))

    relay.take(Growth(0, 1, (), None))
    await eventually(lambda: reader.refs == [a_ref(1)])


@pytest.mark.parametrize(
    ("source", "tasks", "is_urgent"), [("callback", 1, True), ("callback", 5, False), ("poll", 1, False)]
)
async def test_readers_have_a_few_callbacks_before_their_callers(
    store: Store, feed: Feed, owner: asyncio.TaskGroup, source: str, tasks: int, *, is_urgent: bool
) -> None:
    """Released callers have their turn after the wake-up for a few callbacks, and before every other one."""
    log = [from_source(entry, source) for entry in await ended(store, tasks)]
    reader = Reader(feed)
    seen: list[int] = []
    asyncio.get_running_loop().call_soon(lambda: seen.append(len(reader.refs)))

    Relay(feed, Hub(), nothing, owner).take(growth_of(*log))
    await asyncio.sleep(0)

    assert seen == [tasks if is_urgent else 0]
    assert len(reader.refs) == tasks


async def test_a_growth_does_not_overtake_the_one_before(store: Store, feed: Feed, owner: asyncio.TaskGroup) -> None:
    """Not even if nobody listens: a later reader then begins at the end of the log."""
    first, second = await ended(store, 2)
    relay = Relay(feed, Hub(), nothing, owner)

    relay.take(growth_of(from_source(first, "poll")))
    relay.take(growth_of(second))
    await asyncio.sleep(0)

    assert feed.tail.end == second.position


async def test_an_error_in_a_wake_up_does_not_reach_the_writer(
    store: Store, feed: Feed, owner: asyncio.TaskGroup
) -> None:
    """It is logged, and the next growth is passed on."""
    first, second = await ended(store, 2)
    relay = Relay(feed, Broken(), nothing, owner)
    reader = Reader(feed)

    with capture_logs() as logs:
        relay.take(growth_of(first))
        relay.take(growth_of(second))

    assert [line["event"] for line in logs] == ["wake.failed"] * 2
    assert reader.refs == [a_ref(1), a_ref(2)]


async def test_a_hint_is_passed_on(store: Store, feed: Feed, owner: asyncio.TaskGroup) -> None:
    """A hint among the entries calls `hinted`, even if nobody listens."""
    hints: list[str] = []
    store.listen(Relay(feed, Hub(), lambda: hints.append("hint"), owner).take)
    await store.write(a_registration(1))

    await store.write(HintTask(ref=a_ref(1), now=NOW))

    assert hints == ["hint"]
