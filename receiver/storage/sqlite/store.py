"""The SQLite store: one connection that writes, three that read, one file."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import structlog

from client.protocol.filters import ResultFilter, TaskName
from receiver.domain.access.api_keys import StoredKey
from receiver.domain.records import (
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
from receiver.domain.tokens import SigningKey
from receiver.domain.transaction import Command, Operation
from receiver.errors import ReceiverError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.backups.locks import opening
from receiver.storage.sqlite.database import (
    Identity,
    connect_here,
    connect_reader,
    connect_writer,
    make_file,
    on_thread,
    prepare,
    read_on_thread,
    require_database,
)
from receiver.storage.sqlite.files import FileWatch, lacks_log
from receiver.storage.sqlite.reader import (
    Cursors,
    TaskReader,
    read_bounds,
    read_deliveries,
    read_history,
    read_log,
    read_named,
    read_shapes,
    read_task_page,
    read_unreadable,
    read_waiting,
)
from receiver.storage.sqlite.restore_check import forget_head, note_head
from receiver.storage.sqlite.retention import prunable
from receiver.storage.sqlite.rows import poll_from, slots_of, standing_url_from
from receiver.storage.sqlite.tables.api_keys import read_keys
from receiver.storage.sqlite.tables.signing_keys import read_signing_keys
from receiver.storage.sqlite.writer import Tally, Writer
from receiver.storage.store import PAGE_BYTES, WRITE_SECONDS, TaskQuery

__all__ = ["SqliteStore", "open_sqlite_store", "page_row", "unpolled_among"]

Answer = TypeVar("Answer")

_log = structlog.get_logger()

_LAST_ROW = 2**62


@asynccontextmanager
async def open_sqlite_store(
    path: Path, *, now: int, clock: Callable[[], float], create: bool = True, tally: Tally | None = None
) -> AsyncIterator[SqliteStore]:
    """Yield a store on this file; make the file unless `create` is off. Leave after the writer has ended.

    `tally` is called for each commit of this store's own.

    Raises:
        CannotStartError: the file cannot be used; the text says why.
    """
    if not create:
        require_database(path)
    elif lacks_log(path):
        _log.error("log.missing", database=str(path), consequence="what was acknowledged last may be lost")
        forget_head(path)
    async with AsyncExitStack() as stack:
        with opening(path):
            make_file(path)
            writer = await stack.enter_async_context(connect_writer(path))
            identity = await on_thread(writer, lambda connection: prepare(connection, path, now))
            watch = await on_thread(writer, lambda connection: FileWatch(path, connection))
        if identity.replaced_log_id is not None:
            _log.warning(
                "database.restored",
                database=str(path),
                logId=identity.replaced_log_id,
                newLogId=identity.log_id,
                consequence="readers with a cursor are told of a gap",
            )
        async with connect_reader(path) as fetch, connect_reader(path) as scan:
            with closing(connect_here(path)) as here:
                yield SqliteStore(path, identity, (writer, fetch, scan, here), watch, clock, tally=tally)


class SqliteStore:
    """A `receiver.storage.store.Store`. Its owner runs `run` beside everything else and ends it with `stop`."""

    def __init__(
        self,
        path: Path,
        identity: Identity,
        connections: tuple[aiosqlite.Connection, aiosqlite.Connection, aiosqlite.Connection, sqlite3.Connection],
        watch: FileWatch,
        clock: Callable[[], float],
        *,
        tally: Tally | None = None,
    ) -> None:
        self._identity = identity
        self._cursors = Cursors(identity.log_id)
        # Lists and pages take long. A single task, read by its id, must not wait behind them.
        writer, self._fetch, self._scan, self._here = connections
        self._threads = writer, self._fetch, self._scan
        self._writer = Writer(
            writer,
            cursor_at=self._cursors.at,
            note_head=lambda position: note_head(path, identity.log_id, position),
            watch=watch,
            close_files=self._close_files,
            clock=clock,
            tally=tally,
        )
        self._tasks = TaskReader(self._here, self._fetch, clock)

    async def run(self) -> None:
        """Write and read until `stop`."""
        async with asyncio.TaskGroup() as owner:
            owner.create_task(self._tasks.run(), name="reader")
            try:
                await self._writer.run()
            finally:
                self._tasks.stop()

    def stop(self) -> None:
        """Let `run` end after it has stored all commands that it has."""
        self._writer.stop()

    def write(
        self, command: Command[Answer] | Operation[Answer], *, within_seconds: float = WRITE_SECONDS
    ) -> Coroutine[Any, Any, Answer]:
        """See `Store`."""
        return self._writer.write(command, within_seconds)

    def listen(self, listener: Callable[[Growth], None]) -> None:
        """See `Store`."""
        self._writer.listener = listener

    @property
    def queued(self) -> int:
        """See `Store`."""
        return self._writer.queued

    @property
    def failure(self) -> str | None:
        """See `Store`."""
        return self._writer.failure or self._writer.lateness.delay

    @property
    def is_late(self) -> bool:
        """See `Store`."""
        return self._writer.failure is None and self._writer.lateness.is_late

    @property
    def signing_keys(self) -> Sequence[bytes]:
        """See `Store`."""
        return self._identity.signing_keys

    def cursor_at(self, position: int) -> str:
        """See `Store`."""
        return self._cursors.at(position)

    async def task(self, ref: str) -> TaskRecord | None:
        """See `Store`."""
        return await self._tasks.task(ref)

    async def tasks_by_id(self, id_text: str, provider: str | None) -> Sequence[TaskRecord]:
        """See `Store`."""
        return await self._tasks.tasks_by_id(id_text, provider)

    async def find(self, ref_or_id: str, provider: str | None) -> Sequence[TaskRecord]:
        """See `Store`."""
        return await self._tasks.find(ref_or_id, provider)

    async def named(
        self, names: Sequence[TaskName], *, max_bytes: int = PAGE_BYTES
    ) -> Sequence[tuple[TaskName, TaskRecord | None]]:
        """See `Store`."""
        if len(names) == 1 and isinstance(names[0], str):
            return [(names[0], await self.task(names[0]))]
        return await read_on_thread(self._fetch, lambda connection: read_named(connection, names, max_bytes))

    async def tasks(
        self, query: TaskQuery, *, page: str | None, limit: int, within: Collection[str] | None = None
    ) -> tuple[Sequence[TaskRecord], str | None]:
        """See `Store`."""
        before = page_row(page)
        return await read_on_thread(
            self._scan, lambda connection: read_task_page(connection, query, before, limit, within=within)
        )

    async def deliveries(self, task: TaskRecord) -> Sequence[StoredDelivery]:
        """See `Store`."""
        return await read_on_thread(self._scan, lambda connection: read_deliveries(connection, task))

    async def unreadable(self, after: UnreadableDelivery | None, *, limit: int) -> Sequence[UnreadableDelivery]:
        """Return unreadable deliveries behind one of them; None: from the start. An empty page is the end."""
        return await read_on_thread(self._scan, lambda connection: read_unreadable(connection, after, limit))

    async def polls(self, task: TaskRecord) -> Sequence[PollRecord]:
        """See `Store`."""
        return await self._rows(poll_from, sql.SELECT_POLLS, *slots_of(task.row))

    async def history(self, task: TaskRecord) -> History:
        """See `Store`."""
        return await read_on_thread(self._scan, lambda connection: read_history(connection, task))

    async def next_due(self, provider: str) -> tuple[int, int] | None:
        """See `Store`."""

        def read(connection: sqlite3.Connection) -> tuple[int, int] | None:
            first, last = connection.execute(sql.SELECT_NEXT_DUE, {"provider": provider}).fetchone()
            return None if first is None else (int(first), int(last))

        return await read_on_thread(self._scan, read)

    async def remembered(self, name: str) -> str | None:
        """See `Store`."""
        texts = await self._rows(lambda row: str(row[0]), sql.SELECT_META, name)
        return next(iter(texts), None)

    async def next_held(self) -> int | None:
        """See `Store`."""
        (held_until,) = await self._rows(lambda row: row[0], sql.SELECT_NEXT_HELD)
        return None if held_until is None else int(held_until)

    async def unpolled(
        self, provider: str, key_id: str, place: tuple[int, int], *, limit: int
    ) -> tuple[Sequence[str], tuple[int, int] | None]:
        """See `Store`."""
        deadline, row = place
        rows = await self._rows(tuple, sql.SELECT_UNFINISHED, deadline, deadline, row, limit)
        return unpolled_among(rows, provider, key_id, limit)

    async def results(self, after: str | None, *, limit: int, only: ResultFilter, max_bytes: int = PAGE_BYTES) -> Page:
        """See `Store`."""
        return await read_on_thread(
            self._scan,
            lambda connection: read_log(connection, self._cursors, after, limits=(limit, max_bytes), only=only),
        )

    async def head(self) -> str:
        """See `Store`."""
        head, _ = await read_on_thread(self._fetch, read_bounds)
        return self.cursor_at(head)

    async def position(self, cursor: str | None) -> int:
        """See `Store`."""
        return self._cursors.position(cursor, await read_on_thread(self._fetch, read_bounds))

    async def next_deadline(self) -> int | None:
        """See `Store`."""
        (deadline,) = await self._rows(lambda row: row[0], sql.SELECT_NEXT_DEADLINE)
        return None if deadline is None else int(deadline)

    async def prunable(self, horizon: Horizon) -> int | None:
        """See `Store`."""
        return await read_on_thread(self._scan, lambda connection: prunable(connection, horizon))

    async def standing_urls(self) -> Sequence[StandingUrl]:
        """See `Store`."""
        return await self._rows(standing_url_from, sql.SELECT_STANDING_URLS)

    async def standing_url(self, url_id: str) -> StandingUrl | None:
        """See `Store`."""
        urls = await self._rows(standing_url_from, sql.SELECT_STANDING_URL, url_id)
        return next(iter(urls), None)

    async def read_signing_keys(self) -> Sequence[SigningKey]:
        """See `Store`."""
        return await read_on_thread(self._fetch, read_signing_keys)

    async def api_keys(self) -> Sequence[StoredKey]:
        """See `Store`."""
        return await read_on_thread(self._fetch, read_keys)

    async def waiting_tasks(self) -> Sequence[WaitingTasks]:
        """See `Store`."""
        return await read_on_thread(self._scan, read_waiting)

    async def shapes(self, provider: str) -> Sequence[ShapeRecord]:
        """See `Store`."""
        return await read_on_thread(self._scan, lambda connection: read_shapes(connection, provider))

    async def _rows(
        self, record_from: Callable[[tuple[Any, ...]], Answer], statement: str, *parameters: object
    ) -> list[Answer]:
        """Return the records in the rows of a statement."""
        return await read_on_thread(
            self._scan, lambda connection: [record_from(row) for row in connection.execute(statement, parameters)]
        )

    async def _close_files(self) -> None:
        """Close all files. The writer first: the last one to be closed may copy from the log into the database."""
        for connection in self._threads:
            await on_thread(connection, sqlite3.Connection.close)
        self._here.close()


def unpolled_among(
    rows: Sequence[tuple[Any, ...]], provider: str, key_id: str, limit: int
) -> tuple[Sequence[str], tuple[int, int] | None]:
    """Return the answer of `Store.unpolled` from rows of SELECT_UNFINISHED."""
    refs = [
        ref
        for _, _, ref, task_provider, client_key_id, is_polled_here in rows
        if task_provider == provider and not is_polled_here and client_key_id in (None, key_id)
    ]
    return refs, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


def page_row(page: str | None) -> int:
    """Return the row before which a page of tasks begins.

    Raises:
        ReceiverError: `wrong-field`.
    """
    if page is None:
        return _LAST_ROW
    if not re.fullmatch(r"[0-9]{1,18}", page, re.ASCII):
        raise ReceiverError("wrong-field", "page: expected a `nextPage` that this receiver gave")
    return int(page)
