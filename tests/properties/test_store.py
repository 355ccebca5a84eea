"""The store agrees with a plain model, whatever the order of steps, in one batch or many, over restarts too."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from client.protocol.filters import ResultFilter, TaskSet
from receiver.domain.records import SECOND, Page
from receiver.domain.transaction import Command, Operation
from receiver.errors import CursorGoneError, ReceiverError
from receiver.storage.store import Store
from tests.postgres import Cluster
from tests.properties.model import LogEntry, Model
from tests.properties.steps import (
    Bind,
    Deliver,
    DeliverStanding,
    Expire,
    Forget,
    Hint,
    Prune,
    Register,
    Report,
    Step,
    answer_view,
    command_of,
    outcome_view,
    task_view,
)
from tests.receiver.storage.stores import a_ref, restarted, running_store, whole_log

Answer = TypeVar("Answer")

PROVIDERS = ("capsolver", "ucaptcha")
IDS = (7, "7", "a")
"""Few, so that they collide; 7 and "7" are the same id."""

any_ref = st.integers(0, 5).map(str)
any_provider = st.sampled_from(PROVIDERS[:1] * 4 + PROVIDERS[1:])
any_id = st.sampled_from(IDS)
maybe_id = st.none() | any_id
texts = st.tuples(st.just("ready"), st.sampled_from(["x", "y"])) | st.just(("failed", "ERROR_CAPTCHA_UNSOLVABLE"))
called_back = texts | st.sampled_from([("pending", ""), ("unreadable", ""), ("notice", "")])
reported = texts | st.sampled_from([("pending", ""), ("refused", "ERROR_ZERO_BALANCE"), ("unknown", "ERROR_NO_ID")])
# Refs are numbers, counted from the newest one, until the machine puts refs in their place.
steps = st.one_of(
    st.builds(
        Register,
        ref=any_ref,
        provider=any_provider,
        id=maybe_id,
        says=st.none() | reported,
        tags=st.sampled_from([(), ("one",), ("one", "two")]),
        key=st.none() | st.tuples(st.sampled_from(["k", "l"]), st.sampled_from([b"1", b"2"])),
        deadline=st.integers(0, 10),
    ),
    st.builds(Bind, ref=any_ref, id=any_id),
    st.builds(Deliver, ref=any_ref, provider=st.just(""), id=maybe_id, says=called_back),
    st.builds(Deliver, ref=any_ref, provider=st.just(""), id=maybe_id, says=texts),
    st.builds(DeliverStanding, ref=any_ref, provider=any_provider, id=maybe_id, says=called_back),
    st.builds(Report, ref=any_ref, id=maybe_id, source=st.sampled_from(["submit", "poll"]), says=reported),
    st.builds(Expire),
    st.builds(Forget, ref=any_ref),
    st.builds(Hint, ref=any_ref),
    # The position is counted from the end of the log, until the machine puts one in its place.
    st.builds(
        Prune, until=st.integers(0, 12), seconds=st.sampled_from([0, 5, 30, 120, 10**6]), limit=st.integers(1, 5)
    ),
)
filters = st.sampled_from(
    [
        ResultFilter(hints=True),
        ResultFilter(),
        ResultFilter(provider="ucaptcha"),
        ResultFilter(tags=("one",), hints=True),
        ResultFilter(provider="capsolver", tags=("two", "one")),
        ResultFilter(tasks=TaskSet((a_ref(1), a_ref(2), a_ref(3)))),
        ResultFilter(tags=("two",), tasks=TaskSet((a_ref(1),)), hints=True),
    ]
)


class Life:
    """A store from its opening to its closing, on a thread of its own. So steps can come one by one."""

    def __init__(self, database: Path | str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._opened: Future[tuple[Store, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._whole = self._thread.submit(asyncio.run, self._live(database))
        self.store, self._loop, self._end = self._opened.result(10)

    def call(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Return the result of `work`, run in the store's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def end(self) -> None:
        """Close the store."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._whole.result(10)
        self._thread.shutdown()

    async def _live(self, database: Path | str) -> None:
        try:
            async with running_store(database) as store:
                end = asyncio.Event()
                self._opened.set_result((store, asyncio.get_running_loop(), end))
                await end.wait()
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            raise


@dataclass
class Reader:
    """A reader of the growing log. `seen` are the positions of its entries, `gaps` those in reported gaps."""

    only: ResultFilter
    start: int
    cursor: str
    seen: list[int] = field(default_factory=list)
    gaps: set[int] = field(default_factory=set)


class StoreMachine(RuleBasedStateMachine):
    """The store and the model, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = self._new_database()
        self.model = Model()
        self.model.now = 10**15
        self.refs: list[str] = []
        self.provider_of: dict[str, str] = {}
        self.with_url: list[str] = []
        self.readers: list[Reader] = []
        self.is_in_step = True
        self.life = Life(self.database)
        self._fresh_ref("capsolver", has_url=True)

    @rule(
        batch=st.lists(steps, min_size=3, max_size=8),
        restarts=st.sets(st.integers(0, 7)),
        reads=st.lists(st.integers(1, 4), max_size=2),
        seconds=st.sampled_from([1, 1, 10, 60]),
    )
    def write_together(self, batch: list[Step], restarts: set[int], reads: list[int], seconds: int) -> None:
        """Write in one batch, restarted or not, beside reads: the answers are as if the steps came one by one."""
        self.model.now += seconds * SECOND
        resolved = [self._resolve(step) for step in batch]
        expected = [self.model.take(step) for step in resolved]
        given = [command_of(step, self.model.now) for step in resolved]
        commands = [restarted(command) if index in restarts else command for index, command in enumerate(given)]

        self.is_in_step = False
        answers = self.life.call(self._write_and_read(commands, reads))

        assert answers == expected
        self.is_in_step = True

    @rule(only=filters, is_from_now=st.booleans())
    def subscribe_after_a_restart(self, only: ResultFilter, *, is_from_now: bool) -> None:
        """Close the file and open it again: every answered write is there. One more reader begins."""
        self.life.end()
        self.life = Life(self.database)
        start = len(self.model.log) if is_from_now else self.model.floor
        self.readers.append(Reader(only, start, self.life.store.cursor_at(start)))

    @invariant()
    def tasks_agree(self) -> None:
        """Every task and every id is as in the model, deliveries included."""
        for ref in self.refs:
            expected = self.model.found(ref)
            task = self.life.call(self.life.store.task(ref))
            assert (None if task is None else task_view(task)) == (None if expected is None else expected.seen())
            if task is not None and expected is not None:
                kept = self.life.call(self.life.store.deliveries(task))
                assert [delivery.verdict for delivery in kept] == expected.kept
        for provider in PROVIDERS:
            for task_id in IDS:
                owner = self.model.owner(provider, str(task_id))
                found = self.life.call(self.life.store.tasks_by_id(str(task_id), provider))
                assert [task.ref for task in found] == ([] if owner is None else [owner.ref])

    @invariant()
    def logs_agree(self) -> None:
        """Check that the log holds the model's entries in order, and nothing of forgotten tasks."""
        entries = self.life.call(whole_log(self.life.store))
        expected = [
            (position, entry.kind, entry.ref, entry.outcome)
            for position, entry in enumerate(self.model.log, start=1)
            if entry.ref and position > self.model.floor
        ]
        assert [
            (
                _position(entry.cursor),
                entry.kind,
                entry.ref,
                outcome_view(None if entry.task is None else entry.task.outcome),
            )
            for entry in entries
        ] == expected
        assert _position(self.life.call(self.life.store.head())) == len(self.model.log)

    def teardown(self) -> None:
        """Each reader has seen every entry of its filter once, or reads it now, or got a gap for it."""
        try:
            # After a failed step the difference between model and store is the failure to report.
            for reader in self.readers if self.is_in_step else ():
                self.life.call(self._read_to_the_end(reader))
                wanted = {
                    position
                    for position, entry in enumerate(self.model.log, start=1)
                    if position > reader.start and entry.ref and self._passes(entry, reader.only)
                }
                forgotten = {position for position, entry in enumerate(self.model.log, start=1) if not entry.ref}
                assert len(reader.seen) == len(set(reader.seen))
                assert wanted <= {*reader.seen, *reader.gaps}
                assert set(reader.seen) <= wanted | forgotten
                assert not reader.gaps & {*reader.seen, *range(self.model.floor + 1, len(self.model.log) + 1)}
        finally:
            self.life.end()
            self._remove()

    def _new_database(self) -> Path | str:
        return Path(self.folder.name, "receiver.db")

    def _remove(self) -> None:
        self.folder.cleanup()

    async def _write_and_read(
        self, commands: Sequence[Command[Any] | Operation[Any]], reads: Sequence[int]
    ) -> list[tuple[Any, ...]]:
        async with asyncio.TaskGroup() as group:
            writes = [group.create_task(self._write(command)) for command in commands]
            for limit in reads:
                for reader in self.readers:
                    group.create_task(self._read(reader, limit))
        return [write.result() for write in writes]

    async def _write(self, command: Command[Any] | Operation[Any]) -> tuple[Any, ...]:
        try:
            return answer_view(await self.life.store.write(command))
        except ReceiverError as error:
            return ("problem", error.slug)

    async def _read(self, reader: Reader, limit: int) -> bool:
        after = reader.cursor
        page, gap = await self._page(reader, limit)
        if gap is not None:
            missed = {*range(_position(after) + 1, _position(gap) + 1)}
            assert missed
            if reader.cursor == after:
                reader.gaps |= missed
                reader.cursor = gap
            return True
        assert page is not None
        positions = [_position(entry.cursor) for entry in page.entries]
        assert positions == sorted(set(positions))
        assert all(_position(after) < position <= _position(page.cursor) for position in positions)
        if reader.cursor == after:
            # Another read of this reader may have been faster; one of them counts.
            reader.seen += positions
            reader.cursor = page.cursor
        return page.more

    async def _page(self, reader: Reader, limit: int) -> tuple[Page | None, str | None]:
        """Return the next page, or the cursor behind a gap."""
        try:
            return await self.life.store.results(reader.cursor, limit=limit, only=reader.only), None
        except CursorGoneError as error:
            return None, error.resumes_at

    async def _read_to_the_end(self, reader: Reader) -> None:
        while await self._read(reader, 3):
            pass

    def _passes(self, entry: LogEntry, only: ResultFilter) -> bool:
        if entry.kind == "deleted":
            return True
        if entry.kind == "hint" and not only.hints:
            return False
        if only in (ResultFilter(), ResultFilter(hints=True)):
            return True
        task = self.model.all[entry.ref]
        is_named = task.ref in (only.tasks or ())
        is_asked = only.provider is not None or bool(only.tags)
        return is_named or (is_asked and only.provider in (None, task.provider) and set(only.tags) <= set(task.tags))

    def _resolve(self, step: Step) -> Step:
        match step:
            case Register():
                ref = self._fresh_ref(step.provider, has_url=True)
                return replace(step, ref=ref, deadline=self.model.now + step.deadline * SECOND + len(self.refs))
            case DeliverStanding():
                return replace(step, ref=self._fresh_ref(step.provider, has_url=False))
            case Deliver():
                ref = _recent(self.with_url, step.ref)
                return replace(step, ref=ref, provider=self.provider_of[ref])
            case Hint():
                return replace(step, ref=_recent(self.with_url, step.ref))
            case Expire():
                return step
            case Prune():
                return replace(step, until=max(0, len(self.model.log) - step.until) if step.until else 0)
            case _:
                return replace(step, ref=_recent(self.refs, step.ref))

    def _fresh_ref(self, provider: str, *, has_url: bool) -> str:
        ref = a_ref(len(self.refs) + 1)
        self.refs.append(ref)
        self.provider_of[ref] = provider
        if has_url:
            self.with_url.append(ref)
        return ref


def _recent(refs: Sequence[str], number: str) -> str:
    return refs[-1 - int(number) % len(refs)]


def _position(cursor: str | None) -> int:
    return 0 if cursor is None else int(cursor.rpartition("-")[2])


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=15, deadline=None, database=None)


def test_the_postgresql_store_agrees_with_the_model(postgres: Cluster) -> None:
    """The same holds for the other store."""

    class PostgresMachine(StoreMachine):
        def _new_database(self) -> str:
            return postgres.new_database()

        def _remove(self) -> None:
            super()._remove()
            postgres.drop_database(str(self.database))

    run_state_machine_as_test(
        PostgresMachine, settings=settings(max_examples=20, stateful_step_count=10, deadline=None, database=None)
    )
