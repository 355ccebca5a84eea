"""Opens a database file: checks that it can be trusted, brings its schema up to date, knows its keys."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiosqlite

from receiver.errors import CannotStartError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.files import MOST_LOG_BYTES
from receiver.storage.sqlite.restore_check import has_gone_back, note_head

__all__ = [
    "Identity",
    "connect_read_only",
    "connect_reader",
    "connect_writer",
    "make_file",
    "on_thread",
    "prepare",
    "schema_version",
]

Answer = TypeVar("Answer")

_APPLICATION_ID = 0x43425243
_OLDEST_SQLITE = (3, 37, 0)
_BUSY_TIMEOUT_SECONDS = 1.0
_PASSING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY)


@dataclass(frozen=True, slots=True)
class Identity:
    """The id of the log, the signing keys, newest first, and the last position of the log."""

    log_id: str
    signing_keys: tuple[bytes, ...]
    head: int


def on_thread(connection: aiosqlite.Connection, function: Callable[[], Answer]) -> Awaitable[Answer]:
    """Run `function` on the connection's own thread, in one hop; cancelling the wait does not stop it.

    A transaction has to be one uninterrupted function there: a coroutine that is cancelled between BEGIN and COMMIT
    would leave it open. aiosqlite has no public call for that; to be removed when it has one.
    """
    run: Callable[[Callable[[], Answer]], Awaitable[Answer]] = connection._execute  # noqa: SLF001
    return run(function)


def make_file(path: Path) -> None:
    """Make the file, with mode 0600, if it is not there.

    To be called before connecting: a connection that cannot be made leaves a thread (aiosqlite 0.22) that dies noisily.

    Raises:
        CannotStartError: the file cannot be opened for writing.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise CannotStartError(f"{path}: the database cannot be opened for writing: {error.strerror}") from error


def connect_writer(path: Path) -> aiosqlite.Connection:
    """Return a connection that may write."""
    return aiosqlite.Connection(lambda: _connect(f"{path.absolute().as_uri()}?mode=rw"), iter_chunk_size=64)


def connect_reader(path: Path) -> aiosqlite.Connection:
    """Return a connection that can only read."""
    return aiosqlite.Connection(lambda: _connect(f"{path.absolute().as_uri()}?mode=ro"), iter_chunk_size=64)


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Return the same for a program without an event loop, on the caller's thread.

    Raises:
        CannotStartError: it cannot be opened.
    """
    return _connect(f"{path.absolute().as_uri()}?mode=ro")


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the schema of an open database.

    Raises:
        CannotStartError: the database is newer than the code or not ours.
    """
    return _check(connection, path)


def prepare(connection: sqlite3.Connection, path: Path, now: int) -> Identity:
    """Check and migrate an open database.

    Raises:
        CannotStartError: SQLite is too old, WAL does not work there, the database is newer than the code or not ours.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise CannotStartError(f"SQLite 3.37 or newer is needed, this is {sqlite3.sqlite_version}")
    try:
        # Before anything is written: what is not ours stays as it is.
        _check(connection, path)
        _close_to_others(path)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise CannotStartError(f"{path}: the file system does not support SQLite's WAL mode (it is {mode})")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {MOST_LOG_BYTES}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            _migrate(connection, path)
            identity = _identify(connection, path, now)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        passes = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _PASSING
        raise CannotStartError(f"{path}: the database cannot be used: {error}", passes=passes) from error
    if has_gone_back(path, identity.log_id, identity.head):
        # It has a new id. Not in any case: a command that an operator gives must not make the note its own.
        note_head(path, identity.log_id, identity.head)
    return identity


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of its schema."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != _APPLICATION_ID and (tables or application):
        raise CannotStartError(f"{path}: this is another program's database")
    if version > len(sql.MIGRATIONS):
        raise CannotStartError(
            f"{path}: the database is newer (schema {version}) than this program (schema {len(sql.MIGRATIONS)})"
        )
    return int(version)


def _close_to_others(path: Path) -> None:
    """Mode 0600 for the file and for those that SQLite keeps beside it."""
    try:
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            with suppress(FileNotFoundError):
                path.with_name(name).chmod(0o600)
    except OSError as error:
        raise CannotStartError(f"{path}: its mode cannot be set to 0600: {error.strerror}") from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = _check(connection, path)
    for step in sql.MIGRATIONS[version:]:
        # Not executescript: that would commit first.
        for statement in step.split(";"):
            if statement.strip():
                connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(sql.MIGRATIONS)}")


def _identify(connection: sqlite3.Connection, path: Path, now: int) -> Identity:
    """Return the log keeps its id unless it went back: then old cursors must show a gap."""
    log_id = _meta(connection, "log_id")
    (head,) = connection.execute(sql.SELECT_HEAD).fetchone()
    if log_id is None or has_gone_back(path, str(log_id), head):
        log_id = secrets.token_hex(6)
        connection.execute(sql.SAVE_META, ("log_id", log_id))
    keys = connection.execute(sql.SELECT_SIGNING_KEYS).fetchall()
    if not keys:
        keys = [(secrets.token_bytes(32),)]
        connection.execute(sql.INSERT_SIGNING_KEY, (keys[0][0], now))
    return Identity(str(log_id), tuple(key for (key,) in keys), head)


def _meta(connection: sqlite3.Connection, name: str) -> object:
    row = connection.execute(sql.SELECT_META, (name,)).fetchone()
    return None if row is None else row[0]


def _connect(uri: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_SECONDS, cached_statements=256
        )
    except sqlite3.Error as error:
        raise CannotStartError(f"the database cannot be opened: {error}") from error
