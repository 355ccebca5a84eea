"""Broken connections, restarted receivers and restored databases: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client import Result, ResultsGapError
from client.protocol.frames import Subscribe
from client.protocol.models import OutcomeReport
from client.provider_api.timing import Timing
from client.receiver_api.http import ReceiverApi, open_receiver_session
from client.receiver_api.reader import TaskReader
from client.results import LogReader
from receiver.web.context import RUNTIME
from receiver.web.streaming.streams import StreamRules
from tests.benchmarks.tasks import prepare_tasks
from tests.client.support import reserved_port
from tests.proxy import Faults, running_proxy
from tests.support import ADMIN, RunningReceiver, eventually, running_receiver

COUNT = 5000
WILD = Faults(cuts=0.015, stalls=0.01, delays=0.02, refusals=0.1, stall_seconds=0.1)
QUICK = StreamRules(send_seconds=5, heartbeat_seconds=0.05)


async def pause(seconds: float) -> None:
    """Sleep for a hundredth of a pause: the backoff has its own tests."""
    await asyncio.sleep(seconds / 100)


HURRIED = Timing(sleep=pause)


@dataclass
class Waits:
    """The waits of one client. Most end with their results. Every tenth stays, and would get a repeated result."""

    reader: TaskReader
    changes: Counter[str] = field(default_factory=Counter)
    open: dict[str, Wait] = field(default_factory=dict)

    def begin(self, refs: Sequence[str]) -> None:
        """Wait for all of them."""
        for number, ref in enumerate(refs):
            self.open[ref] = Wait(self, ref, leaves=number % 10 > 0)
            self.reader.add(ref, "start", self.open[ref])

    def end(self) -> None:
        """Stop all waits."""
        for ref, wait in self.open.items():
            self.reader.remove(ref, wait)


@dataclass(eq=False)
class Wait:
    """The wait for one task."""

    waits: Waits
    ref: str
    leaves: bool

    def offer(self, task: Any) -> None:
        """Count an outcome."""
        self.waits.changes[self.ref] += task.is_final
        if self.leaves and task.is_final:
            self.waits.reader.remove(self.ref, self)

    def hint(self) -> None:
        """Count a hint: none is expected."""
        self.waits.changes["hint"] += 1

    def forget(self) -> None:
        """Count a forgotten task: none is expected."""
        self.waits.changes["forget"] += 1

    def wake(self) -> None:
        """Do nothing, because these waits decide nothing."""

    def note(self, happened: str, **facts: Any) -> None:
        """Ignore the timeline."""


@asynccontextmanager
async def waiting(url: str, refs: Sequence[str]) -> AsyncIterator[Waits]:
    """Yield the waits of one client."""
    async with open_receiver_session() as session, asyncio.TaskGroup() as owner:
        waits = Waits(TaskReader(ReceiverApi(session, url, ADMIN), owner, HURRIED))
        waits.begin(refs)
        yield waits
        waits.end()


async def read(url: str, count: int, only: Subscribe) -> list[Result]:
    """Return the next `count` results."""
    results: list[Result] = []
    async with open_receiver_session() as session:
        reading = LogReader(ReceiverApi(session, url, ADMIN), only, HURRIED).results()
        async with aclosing(reading):
            async for entry in reading:
                results.append(entry)
                if len(results) == count:
                    break
    return results


async def gap_met(url: str, cursor: str) -> ResultsGapError:
    """Return the next gap of a reader with this cursor."""
    with pytest.raises(ResultsGapError) as gap:
        await read(url, COUNT, Subscribe(id=0, cursor=cursor))
    return gap.value


def has_come_to(reader: LogReader, cursor: str) -> bool:
    """Return True if the log was read up to the cursor."""
    return reader.cursor == cursor


async def end_tasks(receiver: RunningReceiver, refs: Sequence[str], *, at_once: int = 50) -> None:
    """End the tasks, some at once, as their clients would by reports."""
    tasks = receiver._runner.app[RUNTIME].tasks
    report = OutcomeReport(source="poll", answer={"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}})
    for start in range(0, len(refs), at_once):
        async with asyncio.TaskGroup() as group:
            for ref in refs[start : start + at_once]:
                group.create_task(tasks.report(ref, report))


@pytest.mark.sqlite
async def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    """5,000 results arrive, while connections break at random and the receiver restarts in the middle.

    One client waits for each of them, and one program reads the log.
    """
    database = tmp_path / "receiver.db"
    refs = [task.ref for task in (await prepare_tasks(database, COUNT)).tasks]
    with reserved_port() as port:
        url = f"http://127.0.0.1:{port}"
        async with (
            running_proxy(url, WILD, seed=1) as wild,
            running_proxy(url, WILD, seed=2) as other,
            waiting(wild.url, refs) as waits,
            asyncio.TaskGroup() as group,
        ):
            reading = group.create_task(read(other.url, COUNT, Subscribe(id=0, cursor="start")))
            async with running_receiver(database, port=port) as receiver:
                await end_tasks(receiver, refs[:2500])
            async with running_receiver(database, port=port) as receiver:
                await end_tasks(receiver, refs[2500:])
                await eventually(lambda: len(waits.changes) == COUNT and reading.done(), seconds=60)
                wild.cut()
                await eventually(lambda: receiver.streams == 1)

    assert waits.changes == Counter(refs)
    assert Counter(entry.ref for entry in reading.result()) == Counter(refs)
    assert min(wild.breaks, other.breaks) > 5


@pytest.mark.sqlite
async def test_what_comes_during_a_stall_or_an_outage(tmp_path: Path) -> None:
    """Results arrive once the stall or the outage is over. Only an outage makes the receiver count as silent."""
    database = tmp_path / "receiver.db"
    refs = [task.ref for task in (await prepare_tasks(database, 20)).tasks]
    async with (
        running_receiver(database) as receiver,
        running_proxy(receiver.url) as proxy,
        waiting(proxy.url, refs) as waits,
    ):
        await eventually(lambda: receiver.streams == 1)
        proxy.stall()
        await end_tasks(receiver, refs[:10])
        proxy.flow()
        await eventually(lambda: waits.changes == Counter(refs[:10]))
        silent_before = waits.reader.silent_since
        proxy.refuses = True
        proxy.cut()
        await eventually(lambda: waits.reader.silent_since is not None)
        await end_tasks(receiver, refs[10:])
        proxy.refuses = False
        await eventually(lambda: waits.changes == Counter(refs))
        await eventually(lambda: waits.reader.silent_since is None)

    assert silent_before is None


@pytest.mark.sqlite
async def test_rare_filters_advance(tmp_path: Path) -> None:
    """A rare result behind thousands of others comes once, over breaks and without a gap."""
    database = tmp_path / "receiver.db"
    refs = [task.ref for task in (await prepare_tasks(database, 1000)).tasks]
    async with (
        running_receiver(database, rules=QUICK) as receiver,
        running_proxy(receiver.url) as proxy,
        open_receiver_session() as session,
    ):
        reader = LogReader(
            ReceiverApi(session, proxy.url, ADMIN), Subscribe(id=0, cursor="start", tags=("rare",)), HURRIED
        )
        results = reader.results()
        async with aclosing(results), asyncio.TaskGroup() as group:
            first = group.create_task(anext(results))
            for start in range(0, 1000, 250):
                await end_tasks(receiver, refs[start : start + 250])
                head = (await receiver.log(limit=1000))["cursor"]
                await eventually(partial(has_come_to, reader, head))
                proxy.cut()
            rare = await receiver.register(tags=["rare"])
            await receiver.call_back(rare["callbackUrl"])
            await first

    assert first.result().ref == rare["ref"]


@pytest.mark.sqlite
async def test_a_restored_database_is_a_gap(tmp_path: Path) -> None:
    """Readers get the gap over the restart and with an old cursor. After it they read on."""
    database, backup = tmp_path / "receiver.db", tmp_path / "backup.db"
    with reserved_port() as port:
        async with running_receiver(database, port=port) as receiver:
            await end_tasks(receiver, [(await receiver.register())["ref"]])
        shutil.copy(database, backup)
        async with asyncio.TaskGroup() as group:
            async with running_receiver(database, port=port) as receiver:
                live = group.create_task(gap_met(receiver.url, "start"))
                lost = [(await receiver.register())["ref"] for _ in range(3)]
                await end_tasks(receiver, lost)
                await eventually(lambda: receiver.streams == 1)
                cursor = (await receiver.log())["cursor"]
            shutil.copy(backup, database)
            async with running_receiver(database, port=port) as receiver:
                await end_tasks(receiver, [(await receiver.register())["ref"] for _ in range(5)])
                gaps = [await live, await gap_met(receiver.url, cursor)]
                behind = await read(receiver.url, 6, Subscribe(id=0, cursor=gaps[0].resumes_at))

    assert [gap.reason for gap in gaps] == ["other-log", "other-log"]
    assert not {entry.ref for entry in behind} & set(lost)
