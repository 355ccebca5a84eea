"""A running store on a file, and commands for it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any, overload
from uuid import UUID

from client.protocol.filters import ResultFilter
from client.providers import DIALECTS
from client.providers.readings import CallbackReading, Ready, TaskId
from receiver.domain.deliveries import DeliverToStanding, DeliverToTask, DeliveryRules, Quotas
from receiver.domain.reading import id_text_of
from receiver.domain.records import SECOND, Entry, StoredDelivery, TaskRecord
from receiver.domain.registrations import Register
from receiver.domain.transaction import Command, Operation, RowsNeeded, Transaction
from receiver.domain.verdicts import UnreadVerdict
from receiver.errors import ReceiverError
from receiver.storage.postgres.batch import LockingBatch
from receiver.storage.postgres.store import PostgresStore, open_postgres_store
from receiver.storage.sqlite.store import SqliteStore, open_sqlite_store
from receiver.storage.store import Store
from tests.postgres import execute
from tests.support import PLACES

__all__ = [
    "ALL",
    "NOW",
    "QUOTAS",
    "RULES",
    "a_delivery",
    "a_ref",
    "a_registration",
    "a_standing_delivery",
    "a_task",
    "change",
    "delivery_to_standing",
    "delivery_to_task",
    "kept_deliveries",
    "query",
    "restarted",
    "running_store",
    "whole_log",
]

NOW = 1_700_000_000 * SECOND
ALL = ResultFilter(hints=True)
QUOTAS = Quotas(standing_rows=1000, standing_bytes=2**24, unreadable_bytes=2**24)
RULES = DeliveryRules(dialect=DIALECTS["capsolver"], quotas=QUOTAS)

VIEW_OF_DELIVERIES = """
    CREATE TEMP VIEW kept_delivery AS
    SELECT id, received_at, verdict, method, body, size, standing_id FROM delivery
    UNION ALL
    SELECT task * 16 + slot, finished_at, verdict, method, body, size, standing_id FROM log WHERE slot IS NOT NULL
"""
"""The deliveries of all tasks: those in their table, and those kept with the outcomes that they became."""


@overload
def running_store(database: Path) -> AbstractAsyncContextManager[SqliteStore]: ...
@overload
def running_store(
    database: Path | str, *, batch_type: type[LockingBatch] = ...
) -> AbstractAsyncContextManager[SqliteStore | PostgresStore]: ...
def running_store(
    database: Path | str, *, batch_type: type[LockingBatch] = LockingBatch
) -> AbstractAsyncContextManager[SqliteStore | PostgresStore]:
    """Return a store with its writer, on a file or on a URL. All queued commands are written before it closes."""
    place = PLACES[database]
    if isinstance(place, str):
        return _running(open_postgres_store(place, now=NOW, batch_type=batch_type))
    return _running(open_sqlite_store(place, now=NOW, clock=time.monotonic))


@asynccontextmanager
async def _running(
    opened: AbstractAsyncContextManager[SqliteStore | PostgresStore],
) -> AsyncIterator[SqliteStore | PostgresStore]:
    async with opened as store, asyncio.TaskGroup() as owner:
        owner.create_task(store.run(), name="writer")
        try:
            yield store
        finally:
            store.stop()


def a_ref(number: int) -> str:
    """Return the ref of this number."""
    return str(UUID(int=number))


def a_task(ref: str, **fields: Any) -> TaskRecord:
    """Return a CapSolver task with a URL of its own, changed by `fields`."""
    given: dict[str, Any] = {
        "row": 0,
        "provider": "capsolver",
        "type": None,
        "tags": (),
        "metadata": "{}",
        "created_by": "tests",
        "client_key_id": None,
        "has_url": True,
        "open_to_standing": False,
        "standing_id": None,
        "task_id": None,
        "bound_by": None,
        "registered_at": 0,
        "created_at": NOW,
        "poll_after": NOW + 30 * SECOND,
        "next_poll_at": NOW + 30 * SECOND,
        "deadline_at": NOW + 300 * SECOND,
    }
    return TaskRecord(ref=ref, **(given | fields))


def a_registration(number: int, **fields: Any) -> Register:
    """Return the command to register the task of this number."""
    return Register(task=a_task(a_ref(number), **fields), answer=None, idempotency=None)


def a_delivery(number: int, text: str = "answer", task_id: TaskId | None = None) -> DeliverToTask:
    """Return a ready answer on the URL of the task of this number."""
    return delivery_to_task(a_ref(number), CallbackReading(task_id, Ready({"text": text})), text.encode())


def a_standing_delivery(number: int, task_id: TaskId, text: str = "answer") -> DeliverToStanding:
    """Return a ready answer on a standing URL. A task made by it has the ref of this number."""
    reading = CallbackReading(task_id, Ready({"text": text}))
    return delivery_to_standing(a_ref(0), reading, text.encode(), ref=a_ref(number))


def delivery_to_task(
    ref: str,
    reading: CallbackReading | UnreadVerdict,
    body: bytes = b"body",
    *,
    at: int = NOW,
    rules: DeliveryRules = RULES,
) -> DeliverToTask:
    """Return a delivery of these bytes on the URL of a task, with the reading that a dialect made of them."""
    return DeliverToTask(ref=ref, reading=reading, delivery=_undecided(reading, body, at), rules=rules, now=at)


def delivery_to_standing(
    url_id: str,
    reading: CallbackReading | UnreadVerdict,
    body: bytes = b"body",
    *,
    ref: str,
    at: int = NOW,
    rules: DeliveryRules = RULES,
) -> DeliverToStanding:
    """Return a delivery on a standing URL. The task that it may make has this ref."""
    delivery = _undecided(reading, body, at, url_id)
    return DeliverToStanding(ref=ref, reading=reading, delivery=delivery, rules=rules, now=at)


def query(database: Path | str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query on a database, which the store may have open."""
    place = PLACES[database]
    if isinstance(place, str):
        return execute(place, statement)
    with closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def change(database: Path | str, statement: str) -> None:
    """Run a statement on a database that receivers use."""
    if isinstance(database, str):
        execute(database, statement)
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def kept_deliveries(database: Path, query: str) -> list[Any]:
    """Return the rows of a query on `kept_delivery`: the deliveries of all tasks, wherever they are."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.execute(VIEW_OF_DELIVERIES)
        return connection.execute(query).fetchall()


class Restarted:
    """A command without announced rows. Its first complete decision is dropped."""

    refs: Sequence[str] = ()

    def __init__(self, command: Command[Any]) -> None:
        self.weight = command.weight
        self._command = command
        self._is_dropped = False

    def decide(self, transaction: Transaction) -> Any:
        """Return the answer of the second decision."""
        try:
            answer = self._command.decide(transaction)
        except ReceiverError:
            self._drop_once()
            raise
        self._drop_once()
        return answer

    def _drop_once(self) -> None:
        if not self._is_dropped:
            self._is_dropped = True
            raise RowsNeeded([])


def restarted(command: Command[Any] | Operation[Any]) -> Command[Any] | Operation[Any]:
    """Return the command, restarted; an operation decides nothing."""
    return command if isinstance(command, Operation) else Restarted(command)


async def whole_log(store: Store, only: ResultFilter = ALL) -> Sequence[Entry]:
    """Return the log, filtered, page by page."""
    entries: list[Entry] = []
    page = await store.results(None, limit=500, only=only)
    entries.extend(page.entries)
    while page.more:
        page = await store.results(page.cursor, limit=500, only=only)
        entries.extend(page.entries)
    return entries


def _undecided(
    reading: CallbackReading | UnreadVerdict, body: bytes, at: int, standing_id: str | None = None
) -> StoredDelivery:
    return StoredDelivery(
        received_at=at,
        method="POST",
        content_type="application/json",
        body=body,
        size=len(body),
        id_text=id_text_of(reading),
        standing_id=standing_id,
    )
