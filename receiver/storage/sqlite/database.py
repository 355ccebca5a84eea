"""Connections to a database file, and the checks and migrations before its first use."""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from receiver.errors import CannotStartError, StoreFailedError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.files import MOST_LOG_BYTES, MOST_LOG_PAGES, lacks_log
from receiver.storage.sqlite.restore_check import has_gone_back, note_head
from receiver.storage.sqlite.schema import MIGRATIONS, check_schema, migrate

__all__ = [
    "Identity",
    "NeedsThreadError",
    "begin_at_once",
    "connect_here",
    "connect_reader",
    "connect_writer",
    "execute_repeated",
    "handle_of",
    "make_file",
    "on_thread",
    "open_log",
    "open_read_only",
    "prepare",
    "read_on_thread",
    "require_database",
    "rolled_back_on_error",
    "select_repeated",
    "snapshot",
    "stop_waiting",
    "waiting_if_busy",
    "write_transaction",
]

Answer = TypeVar("Answer")

_OLDEST_SQLITE = (3, 37, 0)
_BUSY_TIMEOUT_SECONDS = 1.0
_MAX_ROWS = 128
# Someone makes room, mounts the disk again, or mends the limits.
_PASSING_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)
_TEMPORARY_ERRORS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY)


@dataclass(frozen=True, slots=True)
class Identity:
    """The id of the log, the signing keys, newest first, and the last position of the log.

    `replaced_log_id`: the id until now, if an older copy of the database was put in place.
    """

    log_id: str
    signing_keys: tuple[bytes, ...]
    head: int
    replaced_log_id: str | None = None


def on_thread(connection: aiosqlite.Connection, function: Callable[[sqlite3.Connection], Answer]) -> Awaitable[Answer]:
    """Run `function` on the connection's own thread, in one hop. Cancelling the wait does not stop it.

    A transaction has to be one uninterrupted function there. A coroutine, cancelled between BEGIN and COMMIT, would
    leave it open.
    """
    # aiosqlite has no public call for this. To be replaced once it has one.
    run: Callable[..., Awaitable[Answer]] = connection._execute  # noqa: SLF001
    return run(function, connection._conn)  # noqa: SLF001


class NeedsThreadError(Exception):
    """The work takes too long, or has to wait, for the thread of the event loop."""


def handle_of(connection: aiosqlite.Connection) -> sqlite3.Connection:
    """Return the connection itself. Use it on the event loop only while its own thread has no work."""
    return connection._conn  # noqa: SLF001


def execute_repeated(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """Execute a statement with a group of values for all rows of values, many at a time.

    It is executed for 2^n rows at a time, so that SQLite keeps few statements prepared.
    """
    start = 0
    while start < len(rows):
        size = min(_MAX_ROWS, 1 << ((len(rows) - start).bit_length() - 1))
        values = list(chain.from_iterable(rows[start : start + size]))
        connection.execute(sql.repeat_values(statement, size), values)
        start += size


def select_repeated(
    connection: sqlite3.Connection, statement: str, keys: Sequence[Sequence[object]]
) -> list[tuple[Any, ...]]:
    """Return all rows for a group of values of each key, many at a time. NULL, as a value, must find nothing."""
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(keys), _MAX_ROWS):
        part = keys[start : start + _MAX_ROWS]
        # Filled up to 2^n, so that SQLite keeps few statements prepared.
        size = 1 << (len(part) - 1).bit_length()
        values = list(chain.from_iterable(part)) + [None] * ((size - len(part)) * len(part[0]))
        found += connection.execute(sql.repeat_values(statement, size), values).fetchall()
    return found


async def read_on_thread(connection: aiosqlite.Connection, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
    """Run `read` on the connection's own thread.

    Raises:
        StoreFailedError: SQLite failed.
    """
    try:
        return await on_thread(connection, read)
    except sqlite3.Error as error:
        raise StoreFailedError(f"the store cannot be read: {error}") from error


@contextmanager
def write_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the body writes; if it raises, roll it back."""
    connection.execute("BEGIN IMMEDIATE")
    with rolled_back_on_error(connection):
        yield
        connection.execute("COMMIT")


@contextmanager
def waiting_if_busy(connection: sqlite3.Connection) -> Iterator[None]:
    """Let the statements of the body wait for other connections, and none after it."""
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_SECONDS * 1000:.0f}")
    try:
        yield
    finally:
        stop_waiting(connection)


def stop_waiting(connection: sqlite3.Connection) -> None:
    """Let statements fail at once if another connection is writing, so that they can run on the event loop."""
    connection.execute("PRAGMA busy_timeout = 0")


def begin_at_once(connection: sqlite3.Connection) -> None:
    """Begin to write.

    Raises:
        NeedsThreadError: another connection is writing.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        raise NeedsThreadError from error


@contextmanager
def rolled_back_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    """Roll the open transaction back if the body raises."""
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(connection: sqlite3.Connection, begin: str = "BEGIN") -> Iterator[None]:
    """Let all reads of the body see the same commit."""
    connection.execute(begin)
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def make_file(path: Path) -> None:
    """Make the file, with mode 0600, unless it exists.

    Call this before connecting. A failed connection leaves a thread of aiosqlite 0.22 behind, and its end is noisy.

    Raises:
        CannotStartError: the file cannot be opened for writing.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        text = f"{path}: the database cannot be opened for writing: {error.strerror}"
        raise CannotStartError(text, passes=error.errno in _PASSING_ERRORS) from error


def connect_writer(path: Path) -> aiosqlite.Connection:
    """Return a connection that may write. The thread of the event loop may use it, too; see `handle_of`."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return aiosqlite.Connection(lambda: _connect(uri, is_shared=True), iter_chunk_size=64)


def connect_reader(path: Path) -> aiosqlite.Connection:
    """Return a connection that can only read."""
    return aiosqlite.Connection(lambda: _connect(f"{path.absolute().as_uri()}?mode=ro"), iter_chunk_size=64)


def connect_here(path: Path) -> sqlite3.Connection:
    """Return a connection for short reads on this thread. It waits for no other connection."""
    return _connect(f"{path.absolute().as_uri()}?mode=ro", timeout=0)


def require_database(path: Path) -> None:
    """Check that there is a database to open. For commands, which must not make one.

    Raises:
        CannotStartError: there is none, or its write-ahead log was removed, so that opening it could do harm.
    """
    if not path.is_file():
        raise CannotStartError(f"{path}: there is no database; start the receiver once, or set RECEIVER_DATABASE")
    if lacks_log(path):
        raise CannotStartError(
            f"{path}: its write-ahead log ({path.name}-wal) was removed; if a receiver is running, it saves its data "
            "now, so try again; otherwise start the receiver once",
            passes=True,
        )


@contextmanager
def open_read_only(path: Path, *, passes: bool = False, may_be_older: bool = False) -> Iterator[sqlite3.Connection]:
    """Yield a connection for reading, on the caller's thread, whether a receiver runs on the database or not.

    `passes`: a database that cannot be read now may be readable later. `may_be_older`: older schemas are accepted.

    Raises:
        CannotStartError: there is none, it is not ours, its schema is older or newer, or it cannot be read.
    """
    require_database(path)
    connection = _connect(f"{path.absolute().as_uri()}?mode=ro")
    try:
        # Temporary tables in memory: the disk may be full, and the folder of temporary files read-only.
        connection.execute("PRAGMA temp_store = MEMORY")
        version = check_schema(connection, path)
        if version < (1 if may_be_older else len(MIGRATIONS)):
            raise CannotStartError(
                f"{path}: the database has schema {version}, this program needs {len(MIGRATIONS)}; start the receiver "
                "once to update it"
            )
        yield connection
    except sqlite3.Error as error:
        raise CannotStartError(f"{path}: the database cannot be read: {error}", passes=passes) from error
    finally:
        connection.close()


def prepare(connection: sqlite3.Connection, path: Path, now: int) -> Identity:
    """Check and migrate an open database.

    Raises:
        CannotStartError: SQLite is too old, WAL does not work there, or the database is newer or not ours.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise CannotStartError(f"SQLite 3.37 or newer is needed, this is {sqlite3.sqlite_version}")
    with _starting(path):
        # Before the first write: another program's file stays unchanged.
        check_schema(connection, path)
        _restrict_modes(path)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise CannotStartError(f"{path}: the file system does not support SQLite's WAL mode (it is {mode})")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {MOST_LOG_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {MOST_LOG_PAGES}")
        with write_transaction(connection):
            migrate(connection, path)
            identity = _identify(connection, path, now)
    if has_gone_back(path, identity.log_id, identity.head):
        # The log has a new id. Without that, the note stays: a command must not claim it for its own copy.
        note_head(path, identity.log_id, identity.head)
    return identity


def open_log(connection: sqlite3.Connection, path: Path) -> None:
    """Open the write-ahead log and its index, which SQLite does with the first read.

    Raises:
        CannotStartError: they cannot be read.
    """
    with _starting(path):
        connection.execute(sql.SELECT_HEAD).fetchone()


@contextmanager
def _starting(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        passes = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _TEMPORARY_ERRORS
        raise CannotStartError(f"{path}: the database cannot be used: {error}", passes=passes) from error


def _restrict_modes(path: Path) -> None:
    """Set mode 0600 on the database and on the files of SQLite beside it."""
    try:
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            with suppress(FileNotFoundError):
                path.with_name(name).chmod(0o600)
    except OSError as error:
        raise CannotStartError(f"{path}: its mode cannot be set to 0600: {error.strerror}") from error


def _identify(connection: sqlite3.Connection, path: Path, now: int) -> Identity:
    """Return the identity. A log that went back gets a new id, so that old cursors show a gap."""
    log_id = known_id = _meta(connection, "log_id")
    (head,) = connection.execute(sql.SELECT_HEAD).fetchone()
    if known_id is None or has_gone_back(path, str(known_id), head):
        log_id = secrets.token_hex(6)
        connection.execute(sql.SAVE_META, ("log_id", log_id))
    keys = connection.execute(sql.SELECT_SIGNING_KEYS).fetchall()
    if not keys:
        keys = [(secrets.token_bytes(32),)]
        connection.execute(sql.INSERT_SIGNING_KEY, (keys[0][0], now))
    replaced = None if known_id in (None, log_id) else str(known_id)
    return Identity(str(log_id), tuple(key for (key,) in keys), head, replaced)


def _meta(connection: sqlite3.Connection, name: str) -> object:
    row = connection.execute(sql.SELECT_META, (name,)).fetchone()
    return None if row is None else row[0]


def _connect(uri: str, *, is_shared: bool = False, timeout: float = _BUSY_TIMEOUT_SECONDS) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            uri,
            uri=True,
            isolation_level=None,
            timeout=timeout,
            cached_statements=256,
            check_same_thread=not is_shared,
        )
    except sqlite3.Error as error:
        raise CannotStartError(f"the database cannot be opened: {error}") from error
