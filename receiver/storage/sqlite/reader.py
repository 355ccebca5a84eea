"""Reads of the SQLite store. The functions use the connection of the caller, in its transaction, if there is one.

`TaskReader` reads single tasks in batches, on the event loop. The way to a thread and back costs several reads. All
requests of a turn of the loop share statements: a thousand woken waiters cost some sixty.
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiosqlite

from client.protocol.filters import CANARY, ResultFilter, TaskName, TaskSet
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
from receiver.errors import CursorGoneError, ReceiverError
from receiver.storage.searches import Found, Search, SearchQueue
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import read_on_thread, select_repeated, snapshot
from receiver.storage.sqlite.rows import SLOTS, delivery_from, poll_from, shape_from, slots_of, task_from
from receiver.storage.sqlite.statements import json_array
from receiver.storage.store import PAGE_BYTES, TaskQuery

__all__ = [
    "Cursors",
    "TaskReader",
    "find_tasks",
    "read_bounds",
    "read_deliveries",
    "read_history",
    "read_log",
    "read_named",
    "read_shapes",
    "read_task",
    "read_task_page",
    "read_tasks_by_id",
    "read_unreadable",
    "read_waiting",
]

# A read takes some 10 µs, and 300 µs if its pages come from a disk.
_MAX_BATCH = 16
_TURN_SECONDS = 0.002
_SLOW_SECONDS = 0.005
# A slow read may also be one of a busy machine, so the next try comes soon.
_ASIDE_SECONDS = 0.25
# Two show that the id is ambiguous.
_MOST_OF_AN_ID = 2
_MAX_OUTCOMES = 16
_SCANNED_ROWS = 2000
_LOG_HEAD_COLUMNS = 4
_CURSOR = re.compile(r"([0-9a-f]{12})-([0-9]{1,18})", re.ASCII)


class TaskReader(SearchQueue):
    """Reads tasks by our ids and by the provider's.

    `here` belongs to the thread of the event loop. After a slow read the connection `aside`, with a thread of its own,
    reads for a while. Others may use that one, too.
    """

    def __init__(self, here: sqlite3.Connection, aside: aiosqlite.Connection, clock: Callable[[], float]) -> None:
        super().__init__(clock, max_batch=_MAX_BATCH, turn_seconds=_TURN_SECONDS)
        self._here = here
        self._aside = aside
        self._slow_until = clock()

    async def _find(self, searches: Sequence[Search]) -> Found:
        return self._find_here(searches) or await self._find_aside(searches)

    async def _find_alone(self, search: Search) -> Sequence[TaskRecord]:
        return (await self._find_aside([search]))[search]

    def _find_here(self, searches: Sequence[Search]) -> Found | None:
        """Return what is found, or None if only a thread may read now."""
        started = self._clock()
        if started < self._slow_until:
            return None
        try:
            return find_tasks(self._here, searches)
        except sqlite3.Error:
            # The other connection waits where this one fails at once. If it fails, too, then it says why.
            return None
        finally:
            ended = self._clock()
            if ended - started > _SLOW_SECONDS:
                self._slow_until = ended + _ASIDE_SECONDS

    async def _find_aside(self, searches: Sequence[Search]) -> Found:
        return await read_on_thread(self._aside, lambda connection: find_tasks(connection, searches))


def find_tasks(connection: sqlite3.Connection, searches: Sequence[Search]) -> Found:
    """Return the tasks of searches."""
    by_ref: dict[str | None, TaskRecord] = {}
    refs = dict.fromkeys(search.ref for search in searches if search.ref is not None)
    for row in select_repeated(connection, sql.SELECT_BATCH_BY_REFS, [(ref,) for ref in refs]):
        task = task_from(row)
        current = task if task.joined_ref is None else read_task(connection, task.joined_ref)
        if current is not None:
            by_ref[task.ref] = current
    by_id = defaultdict[str | None, list[TaskRecord]](list)
    rest = [search for search in searches if search.id_text is not None and search.ref not in by_ref]
    id_texts = dict.fromkeys(search.id_text for search in rest)
    for row in select_repeated(connection, sql.SELECT_TASKS_BY_IDS, [(id_text,) for id_text in id_texts]):
        task = task_from(row)
        by_id[task.id_text].append(task)
    found: dict[Search, Sequence[TaskRecord]] = {
        search: [by_ref[search.ref]] if search.ref in by_ref else () for search in searches
    }
    for search in rest:
        tasks = [task for task in by_id[search.id_text] if search.provider in (None, task.provider)]
        found[search] = tasks[:_MOST_OF_AN_ID]
    return found


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
    most = 1
    while len(tasks) < len(names) and size <= max_bytes:
        searches = [(name, _search_of(name)) for name in names[len(tasks) : len(tasks) + most]]
        found = find_tasks(connection, [search for _, search in searches])
        for name, search in searches:
            task = next(iter(found[search]), None)
            tasks.append((name, task))
            size += 0 if task is None else _size(task)
        # As many as fit, if they are as large as those until now.
        most = max(1, min(_MAX_BATCH, (max_bytes - size) * len(tasks) // max(1, size)))
    return tasks


def _search_of(name: TaskName) -> Search:
    return Search(name) if isinstance(name, str) else Search(None, name[1], name[0])


def read_task_page(
    connection: sqlite3.Connection,
    query: TaskQuery,
    before: int,
    limit: int,
    *,
    within: Collection[str] | None = None,
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
        if _matches(task, status, provider) and (within is None or task.provider in within):
            if len(tasks) == limit or size > PAGE_BYTES:
                return tasks, str(last)
            tasks.append(task)
            size += _size(task)
        scanned += 1
        last = task.row
    return tasks, str(last) if scanned == _SCANNED_ROWS else None


def _matches(task: TaskRecord, status: str | None, provider: str | None) -> bool:
    if task.joined_ref is not None or (task.provider != provider if provider else task.provider == CANARY):
        return False
    return status is None or status == task.status


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
    return [WaitingTasks(*row) for row in connection.execute(sql.SELECT_WAITING) if row[0] != CANARY]


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
    position, kind, ref, provider = row[:_LOG_HEAD_COLUMNS]
    task = None if kind == "deleted" else task_from(row[_LOG_HEAD_COLUMNS:])
    if task is not None and kind == "result":
        task = task.evolve(position=position)
    return Entry(cursors.at(position), position, kind, ref, task, provider)


def _filter_parameters(only: ResultFilter) -> dict[str, object]:
    tags = tuple(dict.fromkeys(only.tags))
    tasks = only.tasks or TaskSet()
    return {
        "hints": only.hints,
        "everything": only.is_everything,
        "with_canary": only.with_canary,
        "provider": only.provider,
        "tags": json_array(tags),
        "tag_count": len(tags),
        "refs": json_array(tasks.refs),
        "ids": json_array(tasks.task_ids),
        "within": None if only.within is None else json_array(sorted(only.within)),
    }
