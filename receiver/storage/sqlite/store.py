"""The SQLite store: one connection that writes, three that read, one for checkpoints, one file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import TypeVar

import aiosqlite
import structlog

from receiver.storage.shared import SharedStore
from receiver.storage.sqlite.backups.locks import opening
from receiver.storage.sqlite.checkpoints import Checkpoints
from receiver.storage.sqlite.database import (
    Identity,
    connect_here,
    connect_reader,
    connect_writer,
    make_file,
    on_thread,
    open_log,
    prepare,
    read_on_thread,
    require_database,
)
from receiver.storage.sqlite.files import FileWatch, lacks_log
from receiver.storage.sqlite.reader import (
    Cursors,
    TaskReader,
)
from receiver.storage.sqlite.restore_check import forget_head, note_head
from receiver.storage.sqlite.writer import Tally, Writer

__all__ = ["SqliteStore", "open_sqlite_store"]

Answer = TypeVar("Answer")

_log = structlog.get_logger()


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
        async with connect_reader(path) as fetch, connect_reader(path) as scan, connect_writer(path) as copying:
            with closing(connect_here(path)) as here:
                for connection in (copying, fetch, scan):
                    await on_thread(connection, lambda there: open_log(there, path))
                open_log(here, path)
                yield SqliteStore(path, identity, (writer, copying, fetch, scan, here), watch, clock, tally=tally)


class SqliteStore(SharedStore):
    """A `receiver.storage.store.Store`. Its owner runs `run` beside everything else and ends it with `stop`."""

    def __init__(
        self,
        path: Path,
        identity: Identity,
        connections: tuple[
            aiosqlite.Connection, aiosqlite.Connection, aiosqlite.Connection, aiosqlite.Connection, sqlite3.Connection
        ],
        watch: FileWatch,
        clock: Callable[[], float],
        *,
        tally: Tally | None = None,
    ) -> None:
        cursors = Cursors(identity.log_id)
        # Lists and pages take long. A single task, read by its id, must not wait behind them.
        writer, copying, self._fetch, self._scan, self._here = connections
        self._threads = writer, copying, self._fetch, self._scan
        self._checkpoints = Checkpoints(copying)
        self._writer = Writer(
            writer,
            cursor_at=cursors.at,
            note_head=lambda position: note_head(path, identity.log_id, position),
            watch=watch,
            checkpoints=self._checkpoints,
            close_files=self._close_files,
            clock=clock,
            tally=tally,
        )
        tasks = TaskReader(self._here, self._fetch, clock)
        super().__init__(self._writer, tasks, cursors, identity.signing_keys)

    async def run(self) -> None:
        """Write and read until `stop`."""
        async with asyncio.TaskGroup() as owner:
            owner.create_task(self._tasks.run(), name="reader")
            checkpoints = owner.create_task(self._checkpoints.run(), name="checkpoints")
            try:
                await self._writer.run()
            finally:
                self._tasks.stop()
                checkpoints.cancel()

    async def _read_soon(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        return await read_on_thread(self._fetch, read)

    async def _read_whole(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        return await read_on_thread(self._scan, read)

    async def _close_files(self) -> None:
        """Close all files. First those that may write: as the last one, it would copy from its log, and remove it."""
        for connection in self._threads:
            await on_thread(connection, sqlite3.Connection.close)
        self._here.close()
