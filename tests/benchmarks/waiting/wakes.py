"""Commit to wake inside one process: the time from a COMMIT until its waiter resumes.

It begins when `COMMIT` returns on the writer's thread. It ends when the waiter resumes. The waiter is `Tasks.wait_for`
or a bare waiter of the hub; the former reads the task again before it returns.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from client.provider_api.unlisted import UnlistedCodes
from client.providers import DIALECTS
from receiver.app import microseconds_now, new_ref
from receiver.commands.serve import tune
from receiver.domain.admission import Limits
from receiver.domain.deliveries import Quotas, delivery_rules
from receiver.domain.reading import CallbackRequest
from receiver.domain.records import TaskRecord
from receiver.domain.tokens import CallbackToken, Kind
from receiver.domain.transaction import Command, Operation, Transaction
from receiver.feed.feed import Feed
from receiver.feed.hub import Hub
from receiver.service.callbacks import Callbacks
from receiver.service.providers import Providers
from receiver.service.signing_keys import SigningKeys
from receiver.service.tasks import CallbackUrls, Tasks
from receiver.service.waits import Waits
from receiver.storage.sqlite.database import connect_here, connect_reader, connect_writer, on_thread, prepare
from receiver.storage.sqlite.files import FileWatch
from receiver.storage.sqlite.store import SqliteStore
from receiver.upkeep.relay import Relay
from receiver.upstream.schedules import Schedules
from tests.benchmarks.load import percentile
from tests.benchmarks.tasks import callback_body, register, running, task_record

__all__ = ["PER_SECOND", "WAITERS", "Wakes", "measure_wakes"]

Answer = TypeVar("Answer")

WAITERS = 1000
PER_SECOND = 1000
_LIMIT_SECONDS = 60.0
_PROVIDER = "capsolver"
_NO_QUOTAS = Quotas(standing_rows=0, standing_bytes=0, unreadable_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wakes:
    """Milliseconds from the return of a COMMIT to the return of its waiter."""

    wakes: int
    p50_ms: float
    p99_ms: float


async def measure_wakes(database: Path, wakes: int) -> dict[str, Wakes]:
    """Measure both kinds of waiters, "tasks" and "hub", with 1,000 of them and 1,000 callbacks a second."""
    hub = Hub()
    async with _noting_store(database) as store, asyncio.TaskGroup() as owner:
        feed = Feed(store)
        await feed.open()
        store.listen(Relay(feed, hub, _ignore_hint, owner).take)
        providers = Providers(DIALECTS, {}, Schedules(store, {}, microseconds_now), UnlistedCodes())
        rules = delivery_rules(DIALECTS, _NO_QUOTAS, secrets={}, confirm="mismatched", polled=())
        callbacks = Callbacks(store, providers, rules, now=microseconds_now, new_ref=new_ref)
        urls = CallbackUrls(None, SigningKeys(store, store.signing_keys, microseconds_now))
        waits = Waits(hub, feed, Limits())
        services = Tasks(store, providers, waits, urls=urls, now=microseconds_now, new_ref=new_ref)

        async def by_tasks(ref: str) -> None:
            await services.wait_for(ref, None, _LIMIT_SECONDS)

        async def by_hub(ref: str) -> None:
            with hub.waiting(ref) as waiter:
                await waiter.wait(_LIMIT_SECONDS)

        measured: dict[str, Wakes] = {}
        tune()
        for name, wait in (("tasks", by_tasks), ("hub", by_hub)):
            tasks = [task_record(len(measured) * (wakes + WAITERS) + number) for number in range(wakes + WAITERS)]
            await register(store, tasks)
            measured[name] = await _Course(store, callbacks, tasks, wait).run(wakes)
    return measured


class _Course:
    """One measurement. With each callback a new waiter begins, so that 1,000 wait all the time."""

    def __init__(
        self,
        store: _NotingStore,
        callbacks: Callbacks,
        tasks: Sequence[TaskRecord],
        wait: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._callbacks = callbacks
        self._tasks = tasks
        self._wait = wait
        self._latencies: list[float] = []
        self._deliveries = [(_token(task), _incoming(task)) for task in tasks]

    async def run(self, wakes: int) -> Wakes:
        async with asyncio.TaskGroup() as waiters, asyncio.timeout(_LIMIT_SECONDS):
            for task in self._tasks[:WAITERS]:
                waiters.create_task(self._wait_once(task.ref))
            await asyncio.sleep(0.5)
            async with asyncio.TaskGroup() as callbacks:
                started = time.perf_counter()
                for number in range(wakes):
                    await asyncio.sleep(started + number / PER_SECOND - time.perf_counter())
                    callbacks.create_task(self._deliver(number))
                    waiters.create_task(self._wait_once(self._tasks[number + WAITERS].ref))
            while len(self._latencies) < wakes:
                await asyncio.sleep(0.001)
            # The waiters that began last must end too, but are not measured.
            measured = list(self._latencies)
            async with asyncio.TaskGroup() as callbacks:
                for number in range(wakes, len(self._tasks)):
                    callbacks.create_task(self._deliver(number))
        return Wakes(
            wakes=len(measured), p50_ms=percentile(measured, 50) * 1000, p99_ms=percentile(measured, 99) * 1000
        )

    async def _wait_once(self, ref: str) -> None:
        await self._wait(ref)
        self._latencies.append(time.perf_counter() - self._store.commits_at.pop(ref))

    async def _deliver(self, number: int) -> None:
        await self._callbacks.deliver(DIALECTS[_PROVIDER], *self._deliveries[number])


def _ignore_hint() -> None:
    pass


def _token(task: TaskRecord) -> CallbackToken:
    return CallbackToken(Kind.TASK, task.ref)


def _incoming(task: TaskRecord) -> CallbackRequest:
    headers = {"Content-Type": "application/json"}
    return CallbackRequest(
        method="POST", headers=headers, query=b"", body=callback_body(task.ref, task.task_id).encode()
    )


class _NotingConnection(sqlite3.Connection):
    """A connection that records the time at which COMMIT returned, for the tasks decided in the transaction."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.decided: list[str] = []
        self.commits_at: dict[str, float] = {}

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        cursor = super().execute(sql, *parameters)
        if sql == "COMMIT":
            self.commits_at |= dict.fromkeys(self.decided, time.perf_counter())
            self.decided.clear()
        return cursor


class _Noted:
    """A command that adds its tasks to `decided` when it decides."""

    def __init__(self, command: Command[Any], decided: list[str]) -> None:
        self.refs = command.refs
        self.weight = command.weight
        self._command = command
        self._decided = decided

    def decide(self, transaction: Transaction) -> Any:
        self._decided.extend(self.refs)
        return self._command.decide(transaction)


class _NotingStore(SqliteStore):
    """The real store, with the time at which the COMMIT of each task's outcome returned in `commits_at`."""

    commits_at: dict[str, float]
    decided: list[str]

    def begin(self, command: Command[Answer] | Operation[Answer], *, within_seconds: float) -> asyncio.Future[Answer]:
        """See `Store.begin`."""
        noted = command if isinstance(command, Operation) else _Noted(command, self.decided)
        return super().begin(noted, within_seconds=within_seconds)


@asynccontextmanager
async def _noting_store(database: Path) -> AsyncIterator[_NotingStore]:
    def connect() -> sqlite3.Connection:
        # The event loop and the connection's own thread use it in turns, as that of `connect_writer`.
        return sqlite3.connect(
            database, isolation_level=None, cached_statements=256, check_same_thread=False, factory=_NotingConnection
        )

    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(aiosqlite.Connection(connect, iter_chunk_size=64))
        connection: Any = writer._conn
        identity = await on_thread(writer, lambda connection: prepare(connection, database, microseconds_now()))
        fetch = await stack.enter_async_context(connect_reader(database))
        scan = await stack.enter_async_context(connect_reader(database))
        copying = await stack.enter_async_context(connect_writer(database))
        watch = await on_thread(writer, lambda connection: FileWatch(database, connection))
        here = stack.enter_context(closing(connect_here(database)))
        store = _NotingStore(database, identity, (writer, fetch, scan, copying, here), watch, time.monotonic)
        store.commits_at, store.decided = connection.commits_at, connection.decided
        await stack.enter_async_context(running(store))
        yield store
