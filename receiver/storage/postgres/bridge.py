"""Synchronous functions over an asynchronous driver, so that both stores share the functions that run statements.

Such a function runs in a greenlet on the event loop. Each statement switches to the coroutine around it, which awaits
the driver, and back with the rows. SQLAlchemy's asyncio extension works in the same way. The function gets a connection
with the calls of `sqlite3`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import asyncpg
from asyncpg.cursor import Cursor as ServerCursor
from asyncpg.pool import PoolConnectionProxy
from greenlet import getcurrent, greenlet

from receiver.storage.postgres.connection import escaped
from receiver.storage.postgres.dialect import Statement, translate
from receiver.storage.postgres.statements import LOCKED

__all__ = ["bridged", "run_bridged", "wait_here"]

Answer = TypeVar("Answer")
Parameters = Sequence[Any] | Mapping[str, Any]

_PORTION = 50
_BEGIN = {
    "BEGIN": "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    # For SQLite it is the same. Here it is for a reader with temporary tables.
    "BEGIN DEFERRED": "BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE",
    "BEGIN IMMEDIATE": "BEGIN ISOLATION LEVEL READ COMMITTED",
}


async def run_bridged(function: Callable[[], Answer]) -> Answer:
    """Run a function that calls `wait_here`. A cancellation is raised in the function, at its statement."""
    runner = greenlet(function)
    waited = runner.switch()
    while not runner.dead:
        try:
            result = await waited
        except BaseException as error:
            waited = runner.throw(error)
        else:
            waited = runner.switch(result)
    return cast("Answer", waited)


def wait_here(awaitable: Awaitable[Answer]) -> Answer:
    """Return the result of `awaitable`, inside a function that `run_bridged` runs."""
    around: Any = getcurrent().parent
    return cast("Answer", around.switch(awaitable))


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
        values = [escaped(value) for value in translated.values(parameters)]
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
