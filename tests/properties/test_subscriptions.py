"""Any order of commits, wake-ups, reads, names and cursors: a reader gets each of its entries once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
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
from receiver.storage.store import Store
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
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("read at once"), st.just(0)),
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
    """One store, one feed and one reader. The reader may be closed and resumed by its cursor."""

    store: Store
    feed: Feed
    growths: list[Growth]
    only: ResultFilter
    subscription: Subscription
    entries: list[Entry] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    since: dict[str, int] = field(default_factory=dict)

    async def do(self, step: str, number: int) -> None:
        """Take one step."""
        ref = a_ref(number)
        match step:
            case "end":
                await self.store.write(a_delivery(number))
            case "hint":
                await self.store.write(HintTask(ref=ref, now=NOW))
            case "forget" if await self.store.task(ref) is not None:
                await self.store.write(Forget(ref=ref, now=NOW))
            case "commit":
                await self.pass_commits()
            case "read":
                self.take(await self.subscription.read())
            case "read at once":
                self.take(self.subscription.read_at_once())
            case "add" if not self.subscription.only.is_everything:
                self.subscription.add(TaskSet((ref,)))
                self.named.add(ref)
                self.since[ref] = len(self.entries)
            case "remove" if not self.subscription.only.is_everything:
                self.subscription.remove(TaskSet((ref,)))
                self.named.discard(ref)
            case "resume":
                await self.resume()

    async def pass_commits(self) -> None:
        """Pass all commits to the feed."""
        for growth in self.growths:
            self.feed.take(growth)
        self.growths.clear()

    async def resume(self) -> None:
        """Close the reader and begin another one at its cursor, with the same named tasks."""
        tasks = TaskSet(self.named) if self.only.tasks is not None or self.named else None
        only = ResultFilter(self.only.provider, self.only.tags, tasks, self.only.hints)
        cursor = self.subscription.cursor
        self.subscription.close()
        self.subscription = await self.feed.subscribe(only, cursor, nothing, owner="a")
        self.since = dict.fromkeys(self.named, len(self.entries))

    def take(self, page: Sequence[object]) -> None:
        """Note the entries of a read. There are no gaps here."""
        assert all(isinstance(entry, Entry) for entry in page)
        self.entries += [entry for entry in page if isinstance(entry, Entry)]

    async def finish(self) -> None:
        """Read until nothing is left."""
        await self.pass_commits()
        while page := await self.subscription.read():
            self.take(page)


@settings(max_examples=60, deadline=None)
@given(only=filters, from_start=st.booleans(), most=st.integers(1, 4), script=steps)
def test_a_reader_gets_everything_once(
    only: ResultFilter, from_start: bool, most: int, script: list[tuple[str, int]]
) -> None:
    """A stream has each entry of the log once and in order, and each ended task while it is named."""
    asyncio.run(run(only, from_start, most, script))


async def run(only: ResultFilter, from_start: bool, most: int, script: list[tuple[str, int]]) -> None:
    """Run one course from beginning to end."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_store(Path(folder) / "receiver.db") as store, asyncio.timeout(30):
            for number in range(1, TASKS + 1):
                provider = "capsolver" if number % 3 else "onecaptcha"
                await store.write(a_registration(number, provider=provider, tags=("odd",) if number % 2 else ()))
            for number in (1, 2):
                await store.write(a_delivery(number))
            growths: list[Growth] = []
            store.listen(growths.append)
            feed = Feed(store, Tail(most_entries=3))
            await feed.open()
            began_at = 0 if from_start else 2
            subscription = await feed.subscribe(only, "start" if from_start else None, nothing, owner="a")
            subscription.most = most
            named = {str(name) for name in only.tasks or ()}
            course = Course(store, feed, growths, only, subscription, named=named)
            course.since = dict.fromkeys(course.named, 0)
            for step, number in script:
                await course.do(step, number)
            await course.finish()
            await check(course, began_at)


async def check(course: Course, began_at: int) -> None:
    """Check that no entry of the stream is missing or read twice, and that no named task is missing."""
    streamed = ResultFilter(course.only.provider, course.only.tags, hints=course.only.hints)
    is_stream = course.subscription.only.is_stream
    kept = [entry.cursor for entry in await whole_log(course.store, streamed) if entry.position > began_at]
    places = [entry.position for entry in course.entries if entry.kind == "result"]
    if is_stream:
        given = [entry.cursor for entry in course.entries if entry.cursor in set(kept)]
        assert list(dict.fromkeys(given)) == kept
    for ref in course.named:
        task = await course.store.task(ref)
        assert task is None or task.position is None or task.position in places
    if is_stream and not course.since:
        assert len(places) == len(set(places))


def nothing() -> None:
    """Do nothing on a call: the course reads at times of its own."""
