"""An SQLite file as an end of a copy.

The source is held by a transaction that writes nothing, so a receiver that starts meanwhile cannot write either. The
target is a new file without a name of its own until it is complete. The file that it replaces is kept beside it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from receiver.errors import CannotStartError
from receiver.storage.copying.ends import NO_PARAMETERS, LogState, Rows, Table
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.backups.copies import Progress, UnfinishedFile, unfinished_file
from receiver.storage.sqlite.backups.locks import replacing
from receiver.storage.sqlite.backups.restoring import check_not_in_use, put_in_place
from receiver.storage.sqlite.database import open_read_only, require_database
from receiver.storage.sqlite.restore_check import has_gone_back, note_head
from receiver.storage.sqlite.retention import FLOORS
from receiver.storage.sqlite.schema import MIGRATIONS, check_schema, migrate

__all__ = ["SqliteSource", "SqliteTarget", "sqlite_source", "sqlite_target"]

_PAGE_ROWS = 2000
_PAGE_BYTES = 4 * 1024 * 1024
_CACHE_KIB = 64 * 1024
_SELECT_INDEXES = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"


@contextmanager
def sqlite_source(path: Path) -> Iterator[SqliteSource]:
    """Yield the database in the file as a source.

    Raises:
        CannotStartError: there is none, a program has it open, or its schema is older or newer. Also if it is a
            restored file: its log gets a new id, but only at a start.
    """
    place = Path(os.path.realpath(path))
    with ExitStack() as stack:
        with _failures_named(path), replacing(place):
            require_database(path)
            check_not_in_use(place)
            connection = stack.enter_context(
                closing(sqlite3.connect(f"{place.as_uri()}?mode=rw", uri=True, isolation_level=None))
            )
            version = check_schema(connection, path)
            if version < len(MIGRATIONS):
                raise CannotStartError(
                    f"{path}: the database has schema {version}, this program needs {len(MIGRATIONS)}; start the "
                    "receiver once to update it"
                )
            connection.execute("BEGIN IMMEDIATE")
            state = _state(connection)
        if has_gone_back(path, state.log_id, state.position):
            raise CannotStartError(
                f"{path}: it is a restored or moved file, so its log needs a new id; start the receiver once on it"
            )
        yield SqliteSource(str(path), connection, state)


class SqliteSource:
    """A `receiver.storage.copying.ends.Source`."""

    def __init__(self, name: str, connection: sqlite3.Connection, state: LogState) -> None:
        self.name = name
        self._connection = connection
        self._state = state

    async def state(self) -> LogState:
        """See `Source`."""
        return self._state

    async def rows(self, statement: str, parameters: Mapping[str, Any] = NO_PARAMETERS) -> Rows:
        """See `Source`."""
        with _failures_named(self.name):
            return self._connection.execute(statement, dict(parameters)).fetchall()

    async def count(self, table: Table) -> int:
        """See `Source`."""
        with _failures_named(self.name):
            return _count(self._connection, table)

    async def pages(self, table: Table) -> AsyncIterator[Rows]:
        """See `Source`."""
        statement = f"SELECT {', '.join(table.columns)} FROM {table.name} ORDER BY {', '.join(table.key)}"
        with _failures_named(self.name):
            pages = _paged(self._connection.execute(statement))
        while True:
            with _failures_named(self.name):
                page = next(pages, None)
            if page is None:
                return
            yield page


@contextmanager
def sqlite_target(path: Path, *, time_text: str) -> Iterator[SqliteTarget]:
    """Yield the file as a target. A database in its place stays as `<path>-before-<time_text>`.

    Raises:
        CannotStartError: a program has it open, it is not ours, or a file cannot be written.
    """
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise CannotStartError(f"{path}: there is no folder {place.parent}")
    with replacing(place), unfinished_file(place) as unfinished, ExitStack() as opened:
        check_not_in_use(place)
        old = opened.enter_context(open_read_only(path, may_be_older=True)) if place.exists() else None
        yield SqliteTarget(path, unfinished, old, opened, time_text=time_text)


class SqliteTarget:
    """A `receiver.storage.copying.ends.Target`. `before` is the path of the database that was there, after `finish`."""

    def __init__(
        self,
        path: Path,
        unfinished: UnfinishedFile,
        old: sqlite3.Connection | None,
        opened: ExitStack,
        *,
        time_text: str,
    ) -> None:
        self.name = str(path)
        self.before: Path | None = None
        self._place = Path(os.path.realpath(path))
        self._unfinished = unfinished
        self._connection = old
        self._opened = opened
        self._time_text = time_text
        self._indexes: list[tuple[str, str]] = []

    async def state(self) -> LogState | None:
        """See `Target`."""
        return None if self._connection is None else _state(self._connection)

    async def rows(self, statement: str, parameters: Mapping[str, Any] = NO_PARAMETERS) -> Rows:
        """See `Target`."""
        with _failures_named(self.name):
            return self._there.execute(statement, dict(parameters)).fetchall()

    async def clear(self) -> None:
        """See `Target`."""
        # Before the file is replaced.
        self._opened.close()
        with _failures_named(self.name):
            connection = sqlite3.connect(self._unfinished.path, isolation_level=None, check_same_thread=False)
            self._connection = self._opened.enter_context(closing(connection))
            # An unfinished copy is never used, so nothing has to undo it. The file is flushed in the end.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute("BEGIN")
            migrate(connection, self._place)
            self._indexes = connection.execute(_SELECT_INDEXES).fetchall()
            for name, _ in self._indexes:
                connection.execute(f"DROP INDEX {name}")

    async def write(self, table: Table, rows: Rows) -> None:
        """See `Target`."""
        if table.name == "meta":
            # PostgreSQL keeps them as texts.
            rows = [(name, int(value) if name in FLOORS else value) for name, value in rows]
        columns, places = ", ".join(table.columns), ", ".join("?" * len(table.columns))
        with _failures_named(self.name):
            self._there.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({places})", rows)

    async def count(self, table: Table) -> int:
        """See `Target`."""
        with _failures_named(self.name):
            return _count(self._there, table)

    async def finish(self, state: LogState, show_progress: Progress) -> None:
        """See `Target`."""
        connection = self._there
        with _failures_named(self.name):
            for number, (_, statement) in enumerate(self._indexes):
                show_progress(number / len(self._indexes))
                await _on_thread(connection, partial(connection.execute, statement))
            connection.execute("DELETE FROM sqlite_sequence")
            ends = [("log", state.position), ("task", state.task_row)]
            connection.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", ends)
            await _on_thread(connection, partial(connection.execute, "COMMIT"))
            self._opened.close()
            os.fsync(self._unfinished.descriptor)
        self.before = put_in_place(self._unfinished, self._place, time_text=self._time_text)
        # Without this note the next start takes the file for a restored one.
        note_head(self._place, state.log_id, state.position)

    @property
    def _there(self) -> sqlite3.Connection:
        if self._connection is None:
            raise CannotStartError(f"{self.name}: there is no database")
        return self._connection


@contextmanager
def _failures_named(name: object) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise CannotStartError(f"{name}: the database cannot be copied: {error}", passes=True) from error
    except OSError as error:
        raise CannotStartError(f"{name}: the database cannot be copied: {error.strerror}", passes=True) from error


async def _on_thread(connection: sqlite3.Connection, function: Callable[[], object]) -> None:
    """Run a long statement beside the event loop. Cancelling interrupts it, and waits for its end."""
    running = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        connection.interrupt()
        await asyncio.wait([running])
        running.exception()
        raise
    await running


def _paged(rows: Iterable[tuple[Any, ...]]) -> Iterator[Rows]:
    page: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        page.append(row)
        size += sum([len(value) for value in row if isinstance(value, str | bytes)])
        if len(page) >= _PAGE_ROWS or size >= _PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _state(connection: sqlite3.Connection) -> LogState:
    log_id = connection.execute(sql.SELECT_META, ("log_id",)).fetchone()
    ends = dict(connection.execute(sql.SELECT_SEQUENCES).fetchall())
    return LogState("" if log_id is None else str(log_id[0]), ends.get("log", 0), ends.get("task", 0))


def _count(connection: sqlite3.Connection, table: Table) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])
