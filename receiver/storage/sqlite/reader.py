"""Reads single tasks: those that are asked for while a read runs are read together by the next one.

A read on a thread costs little, but getting there and back costs much, and each row takes the GIL from a busy event
loop and waits for it again. So a thousand that wait, woken by a few commits, cost a few reads.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import aiosqlite
from pydantic_core import from_json, to_json

from receiver.domain.records import History, Outcome, TaskRecord, UnreadableDelivery, WaitingTasks
from receiver.domain.shapes import SHAPES_KEPT, Shape, ShapeRecord
from receiver.errors import StoreFailedError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import on_thread
from receiver.storage.sqlite.rows import SLOTS, delivery_from, poll_from, slots_of, task_from
from receiver.storage.store import PAGE_BYTES

__all__ = ["Reader", "read_history", "read_shapes", "read_task", "read_unreadable", "read_waiting"]

_MAX_BATCH = 256
_MOST_OUTCOMES = 16


class Reader:
    """Owns a reading connection while `run` runs; others may use it, too."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._wanted: deque[tuple[str, asyncio.Future[TaskRecord | None]]] = deque()
        self._asked = asyncio.Event()
        self._is_running = False

    async def task(self, ref: str) -> TaskRecord | None:
        """See `Store.task`. What was committed before the call is seen; cancelling it does not disturb others."""
        if not self._is_running:
            return (await on_thread(self._connection, lambda: self._read([ref])))[ref]
        answer: asyncio.Future[TaskRecord | None] = asyncio.get_running_loop().create_future()
        self._wanted.append((ref, answer))
        self._asked.set()
        return await answer

    async def run(self) -> None:
        """Read until `stop`; what was asked until then is still answered. Cancelled, it leaves nobody waiting."""
        self._is_running = True
        try:
            while self._is_running or self._wanted:
                if self._wanted:
                    await self._answer([self._wanted.popleft() for _ in range(min(len(self._wanted), _MAX_BATCH))])
                else:
                    self._asked.clear()
                    await self._asked.wait()
        finally:
            self._is_running = False
            for _, answer in self._wanted:
                if not answer.done():
                    answer.set_exception(StoreFailedError("the store was closed"))
            self._wanted.clear()

    def stop(self) -> None:
        """Lets `run` end."""
        self._is_running = False
        self._asked.set()

    async def _answer(self, batch: Sequence[tuple[str, asyncio.Future[TaskRecord | None]]]) -> None:
        refs = list(dict.fromkeys(ref for ref, _ in batch))
        found: Mapping[str, TaskRecord | None] | Exception
        try:
            found = await on_thread(self._connection, lambda: self._read(refs))
        except Exception as error:
            # Perhaps because of one of them: the others are not to suffer by it.
            if len(refs) > 1:
                for entry in batch:
                    await self._answer([entry])
                return
            found = (
                StoreFailedError(f"the store cannot be read: {error}") if isinstance(error, sqlite3.Error) else error
            )
        for ref, answer in batch:
            if answer.done():
                continue
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found[ref])

    def _read(self, refs: Sequence[str]) -> Mapping[str, TaskRecord | None]:
        """Run on the connection's thread."""
        connection = self._connection._conn  # noqa: SLF001  (see on_thread)
        if len(refs) == 1:
            return {refs[0]: read_task(connection, refs[0])}
        (rows,) = connection.execute(sql.SELECT_TASKS_BY_REFS, (to_json(refs).decode(),)).fetchone()
        found: dict[str, TaskRecord | None] = dict.fromkeys(refs)
        for task in map(task_from, from_json(rows)):
            found[task.ref] = task if task.joined_ref is None else read_task(connection, task.joined_ref)
        return found


def read_task(connection: sqlite3.Connection, ref: str) -> TaskRecord | None:
    """Return the task with this ref, or the one that it was joined to. Runs on the connection's thread."""
    wanted: str | None = ref
    task = None
    while wanted is not None:
        row = connection.execute(sql.SELECT_TASK_BY_REF, (wanted,)).fetchone()
        task = None if row is None else task_from(row)
        wanted = None if task is None else task.joined_ref
    return task


def read_history(connection: sqlite3.Connection, task: TaskRecord) -> History:
    """Return the kept deliveries, polls and outcomes of a task."""
    slots = slots_of(task.row)
    return History(
        deliveries=tuple(delivery_from(row) for row in connection.execute(sql.SELECT_DELIVERIES, slots)),
        polls=tuple(poll_from(row) for row in connection.execute(sql.SELECT_POLLS, slots)),
        outcomes=_read_outcomes(connection, task),
    )


def read_waiting(connection: sqlite3.Connection) -> list[WaitingTasks]:
    """Return the waiting tasks by provider. Above 20,000 only those with the earliest deadlines count."""
    return [WaitingTasks(*row) for row in connection.execute(sql.SELECT_WAITING)]


def read_shapes(connection: sqlite3.Connection, provider: str) -> Sequence[ShapeRecord]:
    """See `Store.shapes`; a connection that can only read will do."""
    rows = connection.execute(sql.SELECT_SHAPES, (provider, SHAPES_KEPT))
    return [
        ShapeRecord(provider, Shape(method, content_type or None, fields), *counts)
        for provider, method, content_type, fields, *counts in rows
    ]


def _read_outcomes(connection: sqlite3.Connection, task: TaskRecord) -> tuple[Outcome, ...]:
    """Return each outcome names the place of the one that it replaced."""
    found: list[Outcome] = []
    position = task.position
    while position is not None and len(found) < _MOST_OUTCOMES:
        row = connection.execute(sql.SELECT_OUTCOME, (position,)).fetchone()
        # Those that were replaced may be pruned.
        if row is None:
            break
        found.append(Outcome(*row))
        position = found[-1].supersedes
    return tuple(reversed(found))


def read_unreadable(
    connection: sqlite3.Connection, after: UnreadableDelivery | None, limit: int
) -> Sequence[UnreadableDelivery]:
    """Return the next unreadable deliveries behind one (None: from the start), first those of tasks, then strays.

    They end at `limit`, or as soon as their bodies exceed PAGE_BYTES.
    """
    is_behind_tasks = after is not None and after.is_stray
    start = 0 if after is None else after.id
    page: list[UnreadableDelivery] = []
    if not is_behind_tasks:
        page += _unreadable_page(connection.execute(sql.SELECT_UNREADABLE_BODIES, (start, limit)))
    if not page:
        first_stray = start if is_behind_tasks else 0
        page += _unreadable_page(connection.execute(sql.SELECT_UNREADABLE_STRAYS, (first_stray, limit)))
    return page


def _unreadable_page(rows: sqlite3.Cursor) -> Iterator[UnreadableDelivery]:
    size = 0
    for row_id, provider, ref, *columns in rows:
        delivery = delivery_from(tuple(columns), slot=None if ref is None else row_id % SLOTS)
        yield UnreadableDelivery(id=row_id, provider=provider, ref=ref, delivery=delivery)
        size += delivery.size
        if size > PAGE_BYTES:
            break
    rows.close()
