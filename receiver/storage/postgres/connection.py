"""Connections to the server, and a connection with the calls of `sqlite3` for the functions that both stores share."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import asyncpg
from asyncpg.cursor import Cursor as ServerCursor
from asyncpg.pool import PoolConnectionProxy

from receiver.errors import CannotStartError
from receiver.storage.postgres.bridge import wait_here
from receiver.storage.postgres.dialect import Statement, translate
from receiver.storage.postgres.statements import LOCKED

__all__ = [
    "bridged",
    "close",
    "close_pool",
    "connect",
    "is_lost",
    "is_worth_repeating",
    "open_pool",
    "refuse",
]

Parameters = Sequence[Any] | Mapping[str, Any]

_CONNECT_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_STATEMENTS_CACHED = 512
_READERS = 8
_PORTION = 50

# A batch takes milliseconds. These limits keep a stopped receiver from holding up all others, and stay below the 10 s
# of a caller's patience.
_BEGIN = {"BEGIN": "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", "BEGIN IMMEDIATE": "BEGIN"}
_SESSION = """
    SET statement_timeout = '8s';
    SET lock_timeout = '4s';
    SET idle_in_transaction_session_timeout = '5s';
    SET jit = off;
    SET application_name = 'callback-receiver';
    SET timezone = 'UTC';
"""

# PostgreSQL's texts hold no NUL, but ids and codes of providers may. These two characters become pairs.
_ESCAPES = {"\0": "\1\2", "\1": "\1\1"}
_ESCAPED = re.compile("\1(.)", re.DOTALL)
_TO_ESCAPE = re.compile("[\0\1]")
_JSON_ESCAPE = re.compile(r"\\(u0000|u0001|.)", re.DOTALL)
_JSON_ESCAPES = {"u0000": r"\u0001\u0002", "u0001": r"\u0001\u0001"}

# Another batch was in the way: serialization, deadlock, a row with the same key, a lock held for too long.
_IN_THE_WAY = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
    asyncpg.LockNotAvailableError,
)
_OF_THE_SERVER = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresIOError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.UndefinedTableError,
    # After a server's last words asyncpg 0.32 refuses the next statement with this, until it reads the end.
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.TransactionRollbackError,
    ConnectionError,
    OSError,
    TimeoutError,
    asyncio.TimeoutError,
)


async def connect(url: str) -> asyncpg.Connection:
    """Return a connection for statements of the store.

    Raises:
        OSError, asyncpg.PostgresError, TimeoutError: the server cannot be used now.
    """
    connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS, statement_cache_size=_STATEMENTS_CACHED)
    try:
        await prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def close(connection: asyncpg.Connection) -> None:
    """Close a connection, broken or not."""
    try:
        await connection.close(timeout=_CLOSE_SECONDS)
    except Exception as error:
        if not is_lost(error):
            raise
        connection.terminate()


async def close_pool(pool: asyncpg.Pool) -> None:
    """Close all connections for reading, broken or not."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await pool.close()
    except Exception as error:
        if not is_lost(error):
            raise
        pool.terminate()


async def open_pool(url: str) -> asyncpg.Pool:
    """Return connections for reading, at most eight. They are made when they are needed.

    Raises:
        OSError, asyncpg.PostgresError, TimeoutError: as `connect`.
    """
    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=_READERS,
        init=prepare,
        reset=_end_snapshot,
        timeout=_CONNECT_SECONDS,
        statement_cache_size=_STATEMENTS_CACHED,
    )


async def _end_snapshot(connection: asyncpg.Connection) -> None:
    """End the snapshot of a cancelled read. The usual reset would undo the limits of the session."""
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")


async def prepare(connection: asyncpg.Connection) -> None:
    """Set the limits and the types of a new connection."""
    await connection.execute(_SESSION)
    for name in ("text", "varchar", "bpchar", "name"):
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=_encode_text, decoder=_decode_text, format="binary"
        )
    await connection.set_type_codec("json", schema="pg_catalog", encoder=_encode_json, decoder=str, format="text")
    # Sums of `bigint` are of this type.
    await connection.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=int, format="text")


def is_worth_repeating(error: Exception) -> bool:
    """Return True if another batch was in the way, so that the same batch may succeed now."""
    return isinstance(error, _IN_THE_WAY)


def is_lost(error: Exception) -> bool:
    """Return True if the server, or the way to it, failed. Return False if the content of one command failed."""
    # asyncpg raises InterfaceError for a closed connection, and its DataError, for a bad value, is one, too.
    is_closed = isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError | TypeError)
    return is_closed or isinstance(error, _OF_THE_SERVER)


def _escaped(value: Any) -> Any:
    """Return an array with its texts escaped, because the driver encodes those itself. Return other values as is."""
    return [_escape(part) if isinstance(part, str) else part for part in value] if isinstance(value, list) else value


def _encode_text(value: object) -> bytes:
    return _escape(str(value)).encode()


def _escape(text: str) -> str:
    if "\0" in text or "\1" in text:
        return _TO_ESCAPE.sub(lambda match: _ESCAPES[match[0]], text)
    return text


def _decode_text(value: bytes) -> str:
    text = value.decode()
    return _ESCAPED.sub(lambda match: "\0" if match[1] == "\2" else match[1], text) if "\1" in text else text


def _encode_json(text: str) -> str:
    if r"\u000" not in text:
        return text
    return _JSON_ESCAPE.sub(lambda match: _JSON_ESCAPES.get(match[1], match[0]), text)


class BridgedCursor:
    """The result of one statement, with the calls of an `sqlite3.Cursor`."""

    def __init__(self, rows: Sequence[tuple[Any, ...]], rowcount: int) -> None:
        self.rowcount = rowcount
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the other rows."""
        return list(self._rows)

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row."""
        return next(self._rows, None)

    def close(self) -> None:
        """Forget the other rows."""
        self._rows = iter(())


class LazyCursor(BridgedCursor):
    """The rows of one statement in portions, inside a transaction."""

    def __init__(self, cursor: ServerCursor[Any], wait: Callable[[Awaitable[Any]], Any]) -> None:
        super().__init__((), -1)
        self._rows = self._fetched(cursor, wait)

    @staticmethod
    def _fetched(cursor: ServerCursor[Any], wait: Callable[[Awaitable[Any]], Any]) -> Iterator[tuple[Any, ...]]:
        while rows := wait(cursor.fetch(_PORTION)):
            yield from map(tuple, rows)


class BridgedConnection:
    """A connection with the calls of `sqlite3.Connection`, for functions that `run_bridged` runs.

    BEGIN starts a snapshot for reading, and BEGIN IMMEDIATE a transaction for writing.
    """

    def __init__(
        self, connection: asyncpg.Connection | PoolConnectionProxy[Any], wait: Callable[[Awaitable[Any]], Any]
    ) -> None:
        self.driver = connection
        self._wait = wait
        self._is_reading = False

    @property
    def in_transaction(self) -> bool:
        """True between BEGIN and the end of the transaction."""
        return bool(self.driver.is_in_transaction())

    def execute(self, statement: str, parameters: Parameters = ()) -> BridgedCursor:
        """Run a statement of either notation, and return its result."""
        if statement == "BEGIN":
            self._is_reading = True
        statement = _BEGIN.get(statement, statement)
        translated = translate(statement)
        values = [_escaped(value) for value in translated.values(parameters)]
        if not translated.returns_rows:
            status = self._wait(self.driver.execute(translated.text, *values))
            return BridgedCursor((), _rowcount(status))
        if translated.is_lazy and self.in_transaction:
            return LazyCursor(self._wait(self._open(translated, values)), self._wait)
        if statement in LOCKED and not self._is_reading:
            self._lock_found(*LOCKED[statement], translated, values)
        return BridgedCursor(self._fetch(translated, values), -1)

    def executemany(self, statement: str, rows: Iterator[Sequence[Any]] | Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of the rows of values, in one trip to the server."""
        self._wait(self.driver.executemany(translate(statement).text, rows))

    def _fetch(self, statement: Statement, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._wait(self.driver.fetch(statement.text, *values))]

    def _lock_found(self, lock: str, divisor: int, statement: Statement, values: Sequence[Any]) -> None:
        """Lock what a query finds, until it finds nothing else. A lock that had to wait may change what it finds."""
        locked: set[int] = set()
        while not locked >= (found := {row[0] // divisor for row in self._fetch(statement, values)}):
            self.execute(lock, (list(found),))
            locked |= found

    async def _open(self, statement: Statement, values: Sequence[Any]) -> ServerCursor[Any]:
        return await self.driver.cursor(statement.text, *values)


def bridged(
    connection: asyncpg.Connection | PoolConnectionProxy[Any], wait: Callable[[Awaitable[Any]], Any] = wait_here
) -> sqlite3.Connection:
    """Return the connection for shared functions. `wait` returns the result of a coroutine of the driver.

    They use no other calls of `sqlite3.Connection` than those of `BridgedConnection`.
    """
    return cast("sqlite3.Connection", BridgedConnection(connection, wait))


def _rowcount(status: str) -> int:
    count = status.rpartition(" ")[2]
    return int(count) if count.isdecimal() else -1


def refuse(name: str, error: BaseException) -> CannotStartError:
    """Return the refusal for an error while opening. Errors of the driver do not name the password."""
    text = str(error) or type(error).__name__
    passes = isinstance(error, Exception) and is_lost(error)
    return CannotStartError(f"{name}: the database cannot be used: {text.splitlines()[0]}", passes=passes)
