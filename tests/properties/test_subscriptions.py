"""Whatever the order of commits, wake-ups, reads, names and cursors: a reader gets all that is for it, once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from client.protocol.filters import ResultFilter, TaskSet
from receiver.domain.deliveries import HintTask
from receiver.domain.records import Entry, Growth
from receiver.domain.transaction import Forget
from receiver.feed.feed import Feed
from receiver.feed.subscription import Subscription
from receiver.feed.tail import Tail
from receiver.storage.sqlite.store import SqliteStore
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, running_store, whole_log

TASKS = 8
numbers = st.integers(1, TASKS)
names = st.lists(numbers, max_size=3, unique=True)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("end"), numbers),
        st.tuples(st.just("end"), numbers),
        st.tuples(st.just("hint"), numbers),
        st.tuples(st.just("forget"), numbers),
        st.tuples(st.just("tell"), st.just(0)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("add"), numbers),
        st.tuples(st.just("remove"), numbers),
        st.tuples(st.just("resume"), st.just(0)),
    ),
    max_size=25,
)
filters = st.builds(
    ResultFilter,
    provider=st.sampled_from([None, None, "capsolver", "onecaptcha"]),
    tags=st.sampled_from([(), (), ("odd",)]),
    tasks=st.none() | names.map(lambda chosen: TaskSet(map(a_ref, chosen))),
    hints=st.booleans(),
)


@dataclass
class Course:
    """One store, one feed, one reader, which may be closed and resumed by its cursor."""

    store: SqliteStore
    feed: Feed
    growth: AsyncIterator[Growth]
    only: ResultFilter
    subscription: Subscription
    told: list[Entry] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    since: dict[str, int] = field(default_factory=dict)

    async def do(self, step: str, number: int) -> None:
        """One step."""
        ref = a_ref(number)
        match step:
            case "end":
                await self.store.write(a_delivery(number))
            case "hint":
                await self.store.write(HintTask(ref=ref, now=NOW))
            case "forget" if await self.store.task(ref) is not None:
                await self.store.write(Forget(ref=ref, now=NOW))
            case "tell":
                await self.tell()
            case "read":
                self.take(await self.subscription.read())
            case "add" if not self.subscription.only.is_everything:
                self.subscription.add(TaskSet((ref,)))
                self.named.add(ref)
                self.since[ref] = len(self.told)
            case "remove" if not self.subscription.only.is_everything:
                self.subscription.remove(TaskSet((ref,)))
                self.named.discard(ref)
            case "resume":
                await self.resume()

    async def tell(self) -> None:
        """The feed learns of all that was committed."""
        while self.feed.tail.end < await position(self.store, await self.store.head()):
            await self.feed.take(await anext(self.growth))

    async def resume(self) -> None:
        """Close the reader and begin another one at its cursor, which names the same tasks."""
        tasks = TaskSet(self.named) if self.only.tasks is not None or self.named else None
        only = ResultFilter(self.only.provider, self.only.tags, tasks, self.only.hints)
        cursor = self.subscription.cursor
        self.subscription.close()
        self.subscription = await self.feed.subscribe(only, cursor, nothing, owner="a")
        self.since = dict.fromkeys(self.named, len(self.told))

    def take(self, page: Sequence[object]) -> None:
        """Note what a read gave; there are no gaps here."""
        assert all(isinstance(each, Entry) for each in page)
        self.told += [each for each in page if isinstance(each, Entry)]

    async def finish(self) -> None:
        """Read until all was given out."""
        await self.tell()
        while page := await self.subscription.read():
            self.take(page)


@settings(max_examples=60, deadline=None)
@given(only=filters, from_start=st.booleans(), most=st.integers(1, 4), script=steps)
def test_a_reader_gets_everything_once(
    only: ResultFilter, from_start: bool, most: int, script: list[tuple[str, int]]
) -> None:
    """Streams tell each entry of the log once and in order; each named task that ended is told while it is named."""
    asyncio.run(run(only, from_start, most, script))


async def run(only: ResultFilter, from_start: bool, most: int, script: list[tuple[str, int]]) -> None:
    """One course, from beginning to end."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_store(Path(folder) / "receiver.db") as store, asyncio.timeout(30):
            for number in range(1, TASKS + 1):
                provider = "capsolver" if number % 3 else "onecaptcha"
                await store.write(a_registration(number, provider=provider, tags=("odd",) if number % 2 else ()))
            for number in (1, 2):
                await store.write(a_delivery(number))
            feed = Feed(store, Tail(most_entries=3))
            await feed.open()
            began_at = 0 if from_start else 2
            subscription = await feed.subscribe(only, "start" if from_start else None, nothing, owner="a")
            subscription.most = most
            named = {str(name) for name in only.tasks or ()}
            course = Course(store, feed, store.commits(), only, subscription, named=named)
            course.since = dict.fromkeys(course.named, 0)
            for step, number in script:
                await course.do(step, number)
            await course.finish()
            await check(course, began_at)


async def check(course: Course, began_at: int) -> None:
    """Nothing of the stream is missing or told twice, and no named task is missing."""
    streamed = ResultFilter(course.only.provider, course.only.tags, hints=course.only.hints)
    is_stream = course.subscription.only.is_stream
    kept = [entry.cursor for entry in await whole_log(course.store, streamed) if entry.position > began_at]
    places = [entry.position for entry in course.told if entry.kind == "result"]
    if is_stream:
        told = [entry.cursor for entry in course.told if entry.cursor in set(kept)]
        assert list(dict.fromkeys(told)) == kept
    for ref in course.named:
        task = await course.store.task(ref)
        assert task is None or task.position is None or task.position in places
    if is_stream and not course.since:
        assert len(places) == len(set(places))


async def position(store: SqliteStore, cursor: str) -> int:
    """Return the position of a cursor."""
    return await store.position(cursor)


def nothing() -> None:
    """A listener that needs no calls, because the course reads when it wants to."""
