"""The SQLite store: one connection that writes, two that read, one file."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import structlog
from pydantic_core import to_json

from client.protocol.filters import ResultFilter, TaskName, TaskSet
from receiver.domain.records import (
    Entry,
    Growth,
    History,
    Horizon,
    Page,
    PollRecord,
    StandingUrl,
    StoredDelivery,
    TaskRecord,
    UnreadableDelivery,
    WaitingTasks,
)
from receiver.domain.shapes import ShapeRecord
from receiver.domain.transaction import Command, Operation
from receiver.errors import CursorGoneError, ReceiverError, StoreFailedError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import (
    Identity,
    connect_reader,
    connect_writer,
    make_file,
    on_thread,
    prepare,
    require_database,
)
from receiver.storage.sqlite.files import FileWatch, lacks_log
from receiver.storage.sqlite.reader import Reader, read_history, read_shapes, read_task, read_unreadable, read_waiting
from receiver.storage.sqlite.restore_check import forget_head, note_head
from receiver.storage.sqlite.retention import prunable
from receiver.storage.sqlite.rows import delivery_from, poll_from, slots_of, standing_url_from, task_from
from receiver.storage.sqlite.writer import Tally, Writer
from receiver.storage.store import PAGE_BYTES, WRITE_SECONDS, TaskQuery

__all__ = ["SqliteStore", "open_sqlite_store"]

Answer = TypeVar("Answer")

_log = structlog.get_logger()

_CURSOR = re.compile(r"([0-9a-f]{12})-([0-9]{1,18})", re.ASCII)
_SCAN = 2000
_LAST_ROW = 2**62
_LOG_HEAD_COLUMNS = 3


@asynccontextmanager
async def open_sqlite_store(
    path: Path, *, now: int, clock: Callable[[], float], create: bool = True, tally: Tally | None = None
) -> AsyncIterator[SqliteStore]:
    """A store on this file, which is made if need be and `create` is on; closed on leaving, when the writer has ended.

    `tally` is told of each commit of this store's own.

    Raises:
        CannotStartError: the file cannot be used; the text says why.
    """
    if not create:
        require_database(path)
    elif lacks_log(path):
        _log.error("log.missing", database=str(path), consequence="what was acknowledged last may be lost")
        forget_head(path)
    make_file(path)
    async with connect_writer(path) as writer:
        identity = await on_thread(writer, lambda: prepare(writer._conn, path, now))  # noqa: SLF001  (see on_thread)
        watch = await on_thread(writer, lambda: FileWatch(path, writer._conn))  # noqa: SLF001  (see on_thread)
        async with connect_reader(path) as fetch, connect_reader(path) as scan:
            yield SqliteStore(path, identity, (writer, fetch, scan), watch, clock, tally=tally)


class SqliteStore:
    """A `receiver.storage.store.Store`. Its owner runs `run` beside everything else and ends it with `stop`."""

    def __init__(
        self,
        path: Path,
        identity: Identity,
        connections: tuple[aiosqlite.Connection, aiosqlite.Connection, aiosqlite.Connection],
        watch: FileWatch,
        clock: Callable[[], float],
        *,
        tally: Tally | None = None,
    ) -> None:
        self._identity = identity
        self._connections = connections
        # Lists and pages take their time; one task by its id must not wait behind them.
        writer, self._fetch, self._scan = connections
        self._writer = Writer(
            writer,
            cursor_at=self.cursor_at,
            note_head=lambda position: note_head(path, identity.log_id, position),
            watch=watch,
            let_go=self._let_go,
            clock=clock,
            tally=tally,
        )
        self._reader = Reader(self._fetch)

    async def run(self) -> None:
        """Write and read what is asked until `stop`."""
        async with asyncio.TaskGroup() as owner:
            owner.create_task(self._reader.run(), name="reader")
            try:
                await self._writer.run()
            finally:
                self._reader.stop()

    def stop(self) -> None:
        """Lets `run` end when all it was given is stored."""
        self._writer.stop()

    async def write(
        self, command: Command[Answer] | Operation[Answer], *, within_seconds: float = WRITE_SECONDS
    ) -> Answer:
        """See `Store`."""
        return await self._writer.write(command, within_seconds)

    def commits(self) -> AsyncIterator[Growth]:
        """See `Store`."""
        return self._writer.commits()

    @property
    def queued(self) -> int:
        """See `Store`."""
        return self._writer.queued

    @property
    def failure(self) -> str | None:
        """See `Store`."""
        return self._writer.failure

    @property
    def signing_keys(self) -> Sequence[bytes]:
        """See `Store`."""
        return self._identity.signing_keys

    def cursor_at(self, position: int) -> str:
        """See `Store`."""
        return f"{self._identity.log_id}-{position}"

    async def task(self, ref: str) -> TaskRecord | None:
        """See `Store`."""
        return await self._reader.task(ref)

    async def tasks_by_id(self, id_text: str, provider: str | None) -> Sequence[TaskRecord]:
        """See `Store`."""
        return await _read(self._fetch, lambda connection: _read_by_id(connection, id_text, provider))

    async def named(
        self, names: Sequence[TaskName], *, max_bytes: int = PAGE_BYTES
    ) -> Sequence[tuple[TaskName, TaskRecord | None]]:
        """See `Store`."""
        if len(names) == 1 and isinstance(names[0], str):
            return [(names[0], await self.task(names[0]))]

        def read(connection: sqlite3.Connection) -> Sequence[tuple[TaskName, TaskRecord | None]]:
            found: list[tuple[TaskName, TaskRecord | None]] = []
            size = 0
            for name in names:
                task = _read_named(connection, name)
                found.append((name, task))
                size += 0 if task is None else _size(task)
                if size > max_bytes:
                    break
            return found

        return await _read(self._fetch, read)

    async def tasks(self, query: TaskQuery, *, page: str | None, limit: int) -> tuple[Sequence[TaskRecord], str | None]:
        """See `Store`."""
        status, provider, tag = query
        before = _page_row(page)

        def read(connection: sqlite3.Connection) -> tuple[Sequence[TaskRecord], str | None]:
            if tag is None:
                rows = connection.execute(sql.SELECT_TASK_PAGE, (before, _SCAN))
            else:
                rows = connection.execute(sql.SELECT_TASK_PAGE_BY_TAG, (tag, before, _SCAN))
            found: list[TaskRecord] = []
            size = looked_at = 0
            last = before
            for row in rows:
                task = task_from(row)
                if _matches(task, status, provider):
                    if len(found) == limit or size > PAGE_BYTES:
                        return found, str(last)
                    found.append(task)
                    size += _size(task)
                looked_at += 1
                last = task.row
            return found, str(last) if looked_at == _SCAN else None

        return await _read(self._scan, read)

    async def deliveries(self, task: TaskRecord) -> Sequence[StoredDelivery]:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> Sequence[StoredDelivery]:
            return [delivery_from(row) for row in connection.execute(sql.SELECT_DELIVERIES, slots_of(task.row))]

        return await _read(self._scan, read)

    async def unreadable(self, after: UnreadableDelivery | None, *, limit: int) -> Sequence[UnreadableDelivery]:
        """Some of the deliveries that no dialect could read, behind one of them; None: from the start."""
        return await _read(self._scan, lambda connection: read_unreadable(connection, after, limit))

    async def polls(self, task: TaskRecord) -> Sequence[PollRecord]:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> Sequence[PollRecord]:
            return [poll_from(row) for row in connection.execute(sql.SELECT_POLLS, slots_of(task.row))]

        return await _read(self._scan, read)

    async def history(self, task: TaskRecord) -> History:
        """See `Store`."""
        return await _read(self._scan, lambda connection: read_history(connection, task))

    async def next_due(self, provider: str) -> tuple[int, int] | None:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> tuple[int, int] | None:
            first, last = connection.execute(sql.SELECT_NEXT_DUE, {"provider": provider}).fetchone()
            return None if first is None else (int(first), int(last))

        return await _read(self._scan, read)

    async def remembered(self, name: str) -> str | None:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(sql.SELECT_META, (name,)).fetchone()
            return None if row is None else str(row[0])

        return await _read(self._scan, read)

    async def next_held(self) -> int | None:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> int | None:
            (held_until,) = connection.execute(sql.SELECT_NEXT_HELD).fetchone()
            return None if held_until is None else int(held_until)

        return await _read(self._scan, read)

    async def unpolled(
        self, provider: str, key_id: str, place: tuple[int, int], *, limit: int
    ) -> tuple[Sequence[str], tuple[int, int] | None]:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> tuple[Sequence[str], tuple[int, int] | None]:
            deadline, row = place
            found = connection.execute(sql.SELECT_UNFINISHED, (deadline, deadline, row, limit)).fetchall()
            refs = [
                ref
                for _, _, ref, its_provider, client_key_id, is_polled_here in found
                if its_provider == provider and not is_polled_here and client_key_id in (None, key_id)
            ]
            return refs, (found[-1][0], found[-1][1]) if len(found) == limit else None

        return await _read(self._scan, read)

    async def results(self, after: str | None, *, limit: int, only: ResultFilter, max_bytes: int = PAGE_BYTES) -> Page:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> Page:
            connection.execute("BEGIN")
            try:
                return self._read_log(connection, after, (limit, max_bytes), only)
            finally:
                connection.execute("COMMIT")

        return await _read(self._scan, read)

    async def head(self) -> str:
        """See `Store`."""
        return await _read(self._fetch, lambda connection: self.cursor_at(_read_bounds(connection)[0]))

    async def position(self, cursor: str | None) -> int:
        """See `Store`."""
        return await _read(self._fetch, lambda connection: self._position(cursor, _read_bounds(connection)))

    async def next_deadline(self) -> int | None:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> int | None:
            (deadline,) = connection.execute(sql.SELECT_NEXT_DEADLINE).fetchone()
            return None if deadline is None else int(deadline)

        return await _read(self._scan, read)

    async def prunable(self, horizon: Horizon) -> int | None:
        """See `Store`."""
        return await _read(self._scan, lambda connection: prunable(connection, horizon))

    async def standing_urls(self) -> Sequence[StandingUrl]:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> Sequence[StandingUrl]:
            return [standing_url_from(row) for row in connection.execute(sql.SELECT_STANDING_URLS)]

        return await _read(self._scan, read)

    async def standing_url(self, url_id: str) -> StandingUrl | None:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> StandingUrl | None:
            row = connection.execute(sql.SELECT_STANDING_URL, (url_id,)).fetchone()
            return None if row is None else standing_url_from(row)

        return await _read(self._scan, read)

    async def waiting_tasks(self) -> Sequence[WaitingTasks]:
        """See `Store`."""
        return await _read(self._scan, read_waiting)

    async def shapes(self, provider: str) -> Sequence[ShapeRecord]:
        """See `Store`."""
        return await _read(self._scan, lambda connection: read_shapes(connection, provider))

    async def _let_go(self) -> None:
        """Close all files. The writer first: what is closed last may copy from the log into the database."""
        for connection in self._connections:
            await on_thread(connection, connection._conn.close)  # noqa: SLF001  (see on_thread)

    def _read_log(
        self, connection: sqlite3.Connection, after: str | None, limits: tuple[int, int], only: ResultFilter
    ) -> Page:
        limit, max_bytes = limits
        bounds = head, _ = _read_bounds(connection)
        position = self._position(after, bounds)
        (until,) = connection.execute(sql.SELECT_LOG_WINDOW, (position, _SCAN)).fetchone()
        if until is None:
            return Page((), self.cursor_at(position), position, more=False)
        parameters = _filter_parameters(only) | {"after": position, "until": until, "limit": limit}
        entries = []
        size = 0
        for row in connection.execute(sql.SELECT_LOG, parameters):
            entries.append(self._entry(row))
            size += 0 if entries[-1].task is None else _size(entries[-1].task)
            if len(entries) == limit or size > max_bytes:
                until = row[0]
                break
        return Page(tuple(entries), self.cursor_at(until), until, more=until < head)

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        position, kind, ref = row[:_LOG_HEAD_COLUMNS]
        task = None if kind == "deleted" else task_from(row[_LOG_HEAD_COLUMNS:])
        if task is not None and kind == "result":
            task = task.evolve(position=position)
        return Entry(self.cursor_at(position), position, kind, ref, task)

    def _position(self, cursor: str | None, bounds: tuple[int, int]) -> int:
        head, floor = bounds
        if cursor is None:
            return floor
        parts = _CURSOR.fullmatch(cursor)
        if parts is None:
            raise ReceiverError("wrong-field", "after, cursor: expected one that this receiver gave, or `start`")
        position = int(parts[2])
        if parts[1] != self._identity.log_id:
            raise CursorGoneError("other-log", self.cursor_at(floor))
        if position > head:
            # From the oldest kept: how far the log went back is not known.
            raise CursorGoneError("beyond-end", self.cursor_at(floor))
        if position < floor:
            raise CursorGoneError("pruned", self.cursor_at(floor))
        return position


def _read_bounds(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the end of the log, and the place behind which everything is kept."""
    head, floor = connection.execute(sql.SELECT_BOUNDS).fetchone()
    return int(head), int(floor)


def _read_by_id(connection: sqlite3.Connection, id_text: str, provider: str | None) -> Sequence[TaskRecord]:
    if provider is None:
        rows = connection.execute(sql.SELECT_TASKS_BY_TASK_ID, (id_text,))
    else:
        rows = connection.execute(sql.SELECT_TASK_BY_TASK_ID, (id_text, provider))
    return [task_from(row) for row in rows]


def _read_named(connection: sqlite3.Connection, name: TaskName) -> TaskRecord | None:
    if isinstance(name, str):
        return read_task(connection, name)
    provider, id_text = name
    return next(iter(_read_by_id(connection, id_text, provider)), None)


async def _read(connection: aiosqlite.Connection, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
    try:
        return await on_thread(connection, lambda: read(connection._conn))  # noqa: SLF001  (see on_thread)
    except sqlite3.Error as error:
        raise StoreFailedError(f"the store cannot be read: {error}") from error


def _matches(task: TaskRecord, status: str | None, provider: str | None) -> bool:
    if task.joined_ref is not None or (provider is not None and task.provider != provider):
        return False
    return status is None or status == ("processing" if task.outcome is None else task.outcome.status)


def _size(task: TaskRecord) -> int:
    solution = None if task.outcome is None else task.outcome.solution
    return len(task.metadata) + len(solution or "")


def _page_row(page: str | None) -> int:
    if page is None:
        return _LAST_ROW
    if not re.fullmatch(r"[0-9]{1,18}", page, re.ASCII):
        raise ReceiverError("wrong-field", "page: expected a `nextPage` that this receiver gave")
    return int(page)


def _filter_parameters(only: ResultFilter) -> dict[str, object]:
    tags = tuple(dict.fromkeys(only.tags))
    tasks = only.tasks or TaskSet()
    return {
        "hints": only.hints,
        "everything": only.is_everything,
        "provider": only.provider,
        "tags": to_json(tags).decode(),
        "tag_count": len(tags),
        "refs": to_json(tuple(tasks.refs)).decode(),
        "ids": to_json(tuple(tasks.task_ids)).decode(),
    }
