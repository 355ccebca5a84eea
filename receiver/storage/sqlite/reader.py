"""Reads of the SQLite store. The functions run on the connection's thread, in the transaction of the caller.

`TaskReader` reads single tasks in batches. A read on a thread costs little, but the way there and back costs much. Each
row takes the GIL from a busy event loop and then waits to get it again. So requests that arrive during a read share the
next one: a thousand waiters, woken by a few commits, cost a few reads.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiosqlite
from pydantic_core import from_json

from client.protocol.filters import ResultFilter, TaskName, TaskSet
from receiver.domain.records import (
    Entry,
    History,
    Outcome,
    Page,
    StoredDelivery,
    TaskRecord,
    UnreadableDelivery,
    WaitingTasks,
)
from receiver.domain.shapes import SHAPES_KEPT, ShapeRecord
from receiver.errors import CursorGoneError, ReceiverError, StoreFailedError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import read_on_thread, snapshot
from receiver.storage.sqlite.rows import SLOTS, delivery_from, poll_from, shape_from, slots_of, task_from
from receiver.storage.sqlite.statements import json_array
from receiver.storage.store import PAGE_BYTES, TaskQuery

__all__ = [
    "Cursors",
    "TaskReader",
    "read_bounds",
    "read_deliveries",
    "read_history",
    "read_log",
    "read_named",
    "read_shapes",
    "read_task",
    "read_task_page",
    "read_tasks",
    "read_tasks_by_id",
    "read_unreadable",
    "read_waiting",
]

_MAX_BATCH = 256
_MAX_OUTCOMES = 16
_SCANNED_ROWS = 2000
_LOG_HEAD_COLUMNS = 3
_CURSOR = re.compile(r"([0-9a-f]{12})-([0-9]{1,18})", re.ASCII)


_TaskName = str | tuple[str, str | None]
"""Our id of a task, or the provider's id and the provider, if that is known."""


class TaskReader:
    """Reads tasks by our ids and by the provider's, on a connection that others may use, too."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._queue: deque[tuple[_TaskName, asyncio.Future[Any]]] = deque()
        self._arrived = asyncio.Event()
        self._is_running = False

    async def task(self, ref: str) -> TaskRecord | None:
        """See `Store.task`. The read begins after the call, so it sees all earlier commits. Cancelling is safe."""
        task: TaskRecord | None = await self._read(ref)
        return task

    async def tasks_by_id(self, id_text: str, provider: str | None) -> Sequence[TaskRecord]:
        """See `Store.tasks_by_id`; otherwise as `task`."""
        tasks: Sequence[TaskRecord] = await self._read((id_text, provider))
        return tasks

    async def _read(self, name: _TaskName) -> Any:
        if not self._is_running:
            found = await read_on_thread(self._connection, lambda connection: _read_current(connection, [name]))
            return found[name]
        task: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((name, task))
        self._arrived.set()
        return await task

    async def run(self) -> None:
        """Read until `stop`, and answer all calls made until then. If it is cancelled, the other calls fail."""
        self._is_running = True
        try:
            while self._is_running or self._queue:
                if self._queue:
                    await self._answer([self._queue.popleft() for _ in range(min(len(self._queue), _MAX_BATCH))])
                else:
                    self._arrived.clear()
                    await self._arrived.wait()
        finally:
            self._is_running = False
            for _, task in self._queue:
                if not task.done():
                    task.set_exception(StoreFailedError("the store was closed"))
            self._queue.clear()

    def stop(self) -> None:
        """Let `run` end."""
        self._is_running = False
        self._arrived.set()

    async def _answer(self, batch: Sequence[tuple[_TaskName, asyncio.Future[Any]]]) -> None:
        names = list(dict.fromkeys(name for name, _ in batch))
        found: Mapping[_TaskName, Any] | Exception
        try:
            found = await read_on_thread(self._connection, lambda connection: _read_current(connection, names))
        except Exception as error:
            # One of the names may be the cause. It must not fail the others.
            if len(names) > 1:
                for request in batch:
                    await self._answer([request])
                return
            found = error
        for name, task in batch:
            if task.done():
                continue
            if isinstance(found, Exception):
                task.set_exception(found)
            else:
                task.set_result(found[name])


def _read_current(connection: sqlite3.Connection, names: Sequence[_TaskName]) -> Mapping[_TaskName, Any]:
    """Return for our ids what `read_task` returns, and for the provider's what `read_tasks_by_id` returns."""
    refs = [name for name in names if isinstance(name, str)]
    found: dict[_TaskName, Any] = dict.fromkeys(refs)
    for task in read_tasks(connection, refs) if refs else ():
        found[task.ref] = task if task.joined_ref is None else read_task(connection, task.joined_ref)
    for name in names:
        if not isinstance(name, str):
            found[name] = read_tasks_by_id(connection, *name)
    return found


def read_tasks(connection: sqlite3.Connection, refs: Sequence[str]) -> Iterable[TaskRecord]:
    """Return the tasks with these refs, in any order, joined ones too."""
    if len(refs) == 1:
        return map(task_from, connection.execute(sql.SELECT_TASK_BY_REF, (refs[0],)).fetchall())
    return tasks_in_one_row(connection.execute(sql.SELECT_TASKS_BY_REFS, (json_array(refs),)).fetchone())


def tasks_in_one_row(row: tuple[str]) -> Iterable[TaskRecord]:
    """Return the tasks of a statement that packs them into one row, as JSON."""
    # Each row that leaves SQLite takes the GIL from a busy event loop, and waits for it.
    return map(task_from, from_json(row[0]))


def read_task(connection: sqlite3.Connection, ref: str) -> TaskRecord | None:
    """Return the task with this ref, or the one that it was joined to."""
    next_ref: str | None = ref
    task = None
    while next_ref is not None:
        row = connection.execute(sql.SELECT_TASK_BY_REF, (next_ref,)).fetchone()
        task = None if row is None else task_from(row)
        next_ref = None if task is None else task.joined_ref
    return task


def read_tasks_by_id(connection: sqlite3.Connection, id_text: str, provider: str | None) -> Sequence[TaskRecord]:
    """See `Store.tasks_by_id`."""
    if provider is None:
        rows = connection.execute(sql.SELECT_TASKS_BY_TASK_ID, (id_text,))
    else:
        rows = connection.execute(sql.SELECT_TASK_BY_TASK_ID, (id_text, provider))
    return [task_from(row) for row in rows]


def read_named(
    connection: sqlite3.Connection, names: Sequence[TaskName], max_bytes: int
) -> Sequence[tuple[TaskName, TaskRecord | None]]:
    """See `Store.named`."""
    tasks: list[tuple[TaskName, TaskRecord | None]] = []
    size = 0
    for name in names:
        if isinstance(name, str):
            task = read_task(connection, name)
        else:
            provider, id_text = name
            task = next(iter(read_tasks_by_id(connection, id_text, provider)), None)
        tasks.append((name, task))
        size += 0 if task is None else _size(task)
        if size > max_bytes:
            break
    return tasks


def read_task_page(
    connection: sqlite3.Connection, query: TaskQuery, before: int, limit: int
) -> tuple[Sequence[TaskRecord], str | None]:
    """See `Store.tasks`. The page begins before the task in the row `before`."""
    status, provider, tag = query
    if tag is None:
        rows = connection.execute(sql.SELECT_TASK_PAGE, (before, _SCANNED_ROWS))
    else:
        rows = connection.execute(sql.SELECT_TASK_PAGE_BY_TAG, (tag, before, _SCANNED_ROWS))
    tasks: list[TaskRecord] = []
    size = scanned = 0
    last = before
    for row in rows:
        task = task_from(row)
        if _matches(task, status, provider):
            if len(tasks) == limit or size > PAGE_BYTES:
                return tasks, str(last)
            tasks.append(task)
            size += _size(task)
        scanned += 1
        last = task.row
    return tasks, str(last) if scanned == _SCANNED_ROWS else None


def _matches(task: TaskRecord, status: str | None, provider: str | None) -> bool:
    if task.joined_ref is not None or (provider is not None and task.provider != provider):
        return False
    return status is None or status == ("processing" if task.outcome is None else task.outcome.status)


def _size(task: TaskRecord) -> int:
    solution = None if task.outcome is None else task.outcome.solution
    return len(task.metadata) + len(solution or "")


def read_history(connection: sqlite3.Connection, task: TaskRecord) -> History:
    """Return the kept deliveries, polls and outcomes of a task."""
    return History(
        deliveries=read_deliveries(connection, task),
        polls=tuple(poll_from(row) for row in connection.execute(sql.SELECT_POLLS, slots_of(task.row))),
        outcomes=_read_outcomes(connection, task),
    )


def read_deliveries(connection: sqlite3.Connection, task: TaskRecord) -> tuple[StoredDelivery, ...]:
    """See `Store.deliveries`."""
    return tuple(delivery_from(row[1:]) for row in connection.execute(sql.SELECT_DELIVERIES, (task.row,)))


def _read_outcomes(connection: sqlite3.Connection, task: TaskRecord) -> tuple[Outcome, ...]:
    """Return the outcomes of a task, oldest first. Each names the position of the one that it replaced."""
    outcomes: list[Outcome] = []
    position = task.position
    while position is not None and len(outcomes) < _MAX_OUTCOMES:
        row = connection.execute(sql.SELECT_OUTCOME, (position,)).fetchone()
        # Retention may have removed replaced outcomes.
        if row is None:
            break
        outcomes.append(Outcome(*row))
        position = outcomes[-1].supersedes
    return tuple(reversed(outcomes))


def read_waiting(connection: sqlite3.Connection) -> list[WaitingTasks]:
    """See `Store.waiting_tasks`."""
    return [WaitingTasks(*row) for row in connection.execute(sql.SELECT_WAITING)]


def read_shapes(connection: sqlite3.Connection, provider: str) -> Sequence[ShapeRecord]:
    """See `Store.shapes`."""
    return [shape_from(row) for row in connection.execute(sql.SELECT_SHAPES, (provider, SHAPES_KEPT))]


def read_unreadable(
    connection: sqlite3.Connection, after: UnreadableDelivery | None, limit: int
) -> Sequence[UnreadableDelivery]:
    """Return the next unreadable deliveries behind one (None: from the start), first those of tasks, then strays.

    They end at `limit`, or as soon as their bytes exceed PAGE_BYTES.
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


@dataclass(frozen=True, slots=True)
class Cursors:
    """The cursors of one log: its id and a position."""

    log_id: str

    def at(self, position: int) -> str:
        """Return the cursor of a position."""
        return f"{self.log_id}-{position}"

    def position(self, cursor: str | None, bounds: tuple[int, int]) -> int:
        """Return the position of a cursor; None: the floor. See `Store.position`."""
        head, floor = bounds
        if cursor is None:
            return floor
        parts = _CURSOR.fullmatch(cursor)
        if parts is None:
            raise ReceiverError("wrong-field", "after, cursor: expected one that this receiver gave, or `start`")
        position = int(parts[2])
        if parts[1] != self.log_id:
            raise CursorGoneError("other-log", self.at(floor))
        if position > head:
            # The reader starts again at the floor, because nobody knows how far the log went back.
            raise CursorGoneError("beyond-end", self.at(floor))
        if position < floor:
            raise CursorGoneError("pruned", self.at(floor))
        return position


def read_bounds(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the end of the log, and its floor: the position behind which nothing was removed."""
    head, floor = connection.execute(sql.SELECT_BOUNDS).fetchone()
    return int(head), int(floor)


def read_log(
    connection: sqlite3.Connection, cursors: Cursors, after: str | None, *, limits: tuple[int, int], only: ResultFilter
) -> Page:
    """See `Store.results`. `limits` are the most entries and bytes."""
    limit, max_bytes = limits
    with snapshot(connection):
        bounds = head, _ = read_bounds(connection)
        position = cursors.position(after, bounds)
        (until,) = connection.execute(sql.SELECT_LOG_WINDOW, (position, _SCANNED_ROWS)).fetchone()
        if until is None:
            return Page((), cursors.at(position), position, more=False)
        parameters = _filter_parameters(only) | {"after": position, "until": until, "limit": limit}
        entries = []
        size = 0
        for row in connection.execute(sql.SELECT_LOG, parameters):
            entries.append(_entry(cursors, row))
            size += 0 if entries[-1].task is None else _size(entries[-1].task)
            if len(entries) == limit or size > max_bytes:
                until = row[0]
                break
        return Page(tuple(entries), cursors.at(until), until, more=until < head)


def _entry(cursors: Cursors, row: tuple[Any, ...]) -> Entry:
    position, kind, ref = row[:_LOG_HEAD_COLUMNS]
    task = None if kind == "deleted" else task_from(row[_LOG_HEAD_COLUMNS:])
    if task is not None and kind == "result":
        task = task.evolve(position=position)
    return Entry(cursors.at(position), position, kind, ref, task)


def _filter_parameters(only: ResultFilter) -> dict[str, object]:
    tags = tuple(dict.fromkeys(only.tags))
    tasks = only.tasks or TaskSet()
    return {
        "hints": only.hints,
        "everything": only.is_everything,
        "provider": only.provider,
        "tags": json_array(tags),
        "tag_count": len(tags),
        "refs": json_array(tasks.refs),
        "ids": json_array(tasks.task_ids),
    }
