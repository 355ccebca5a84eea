"""A PostgreSQL database as an end of a copy.

The source is one snapshot, under a lock that lets nobody write. The target is one transaction: it locks the tables,
replaces all rows and makes the indexes anew. Another program sees the database as it was, or the whole copy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from receiver.errors import CannotStartError
from receiver.settings import server_name
from receiver.storage.copying.ends import NO_PARAMETERS, LogState, Rows, Table, tables
from receiver.storage.postgres.connection import Server, close
from receiver.storage.postgres.dialect import translate
from receiver.storage.postgres.errors import NotDurableError, refuse
from receiver.storage.postgres.here import SELECT_OTHERS
from receiver.storage.postgres.schema import MIGRATIONS, OWN_META, OWN_TABLES, check_schema, migrate, require_schema
from receiver.storage.postgres.store import check_server
from receiver.storage.sqlite.backups.copies import Progress

__all__ = ["PostgresSource", "PostgresTarget", "postgres_source", "postgres_target"]

_PAGE_ROWS = 100
"""A page of a task's answers may have 2 MB for each row."""

# A copy takes minutes, and so does an index. Locks that others hold are not waited for.
_PATIENT = """
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0;
"""
_SELECT_INDEXES = """
    SELECT index.indexrelid::regclass::text, pg_get_indexdef(index.indexrelid) FROM pg_index AS index
    WHERE index.indrelid = ANY ($1::text[]::regclass[])
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = index.indexrelid) ORDER BY 1
"""
_SELECT_IDENTITIES = """
    SELECT attrelid::regclass::text, attname FROM pg_attribute
    WHERE attrelid = ANY ($1::text[]::regclass[]) AND attidentity <> ''
"""
_SAVE_HEAD = "UPDATE head SET position = $1, task_row = $2, late_id = 0"


@asynccontextmanager
async def postgres_source(url: str) -> AsyncIterator[PostgresSource]:
    """Yield the database as a source.

    Raises:
        CannotStartError: it cannot be used, a receiver is connected, or its schema is older or newer.
    """
    name = server_name(url)
    with _failures_named(name):
        connection = await Server(url).connect(is_hurried=False)
    try:
        with _failures_named(name):
            await check_server(connection, name)
            await _check_alone(connection, name, await require_schema(connection, name))
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await connection.execute(_PATIENT)
            # The lock comes before the snapshot, which the first query takes.
            await connection.execute(f"LOCK TABLE {_names(OWN_TABLES)} IN SHARE MODE")
        yield PostgresSource(name, connection)
    finally:
        await close(connection)


class _PostgresEnd:
    """Both ends: a connection in a transaction, and the name of its database for texts."""

    def __init__(self, name: str, connection: asyncpg.Connection) -> None:
        self.name = name
        self._connection = connection

    async def rows(self, statement: str, parameters: Mapping[str, Any] = NO_PARAMETERS) -> Rows:
        """See `Source` and `Target`."""
        with _failures_named(self.name):
            return await _rows(self._connection, statement, parameters)

    async def count(self, table: Table) -> int:
        """See `Source` and `Target`."""
        with _failures_named(self.name):
            return await _count(self._connection, table)


class PostgresSource(_PostgresEnd):
    """A `receiver.storage.copying.ends.Source`."""

    async def state(self) -> LogState:
        """See `Source`."""
        with _failures_named(self.name):
            state = await _state(self._connection)
        if state is None:
            raise CannotStartError(f"{self.name}: the log has no id; start the receiver once")
        return state

    async def pages(self, table: Table) -> AsyncIterator[Rows]:
        """See `Source`."""
        columns, key = ", ".join(table.columns), ", ".join(table.key)
        statement = f"SELECT {columns} FROM {table.name}{_shared(table)} ORDER BY {key}"
        with _failures_named(self.name):
            cursor = await self._connection.cursor(statement)
        while True:
            with _failures_named(self.name):
                rows = await cursor.fetch(_PAGE_ROWS)
            if not rows:
                return
            yield [tuple(row) for row in rows]


@asynccontextmanager
async def postgres_target(url: str) -> AsyncIterator[PostgresTarget]:
    """Yield the database as a target. Its tables are made if there are none.

    Raises:
        CannotStartError: it cannot be used, a receiver is connected, or its schema is newer.
    """
    name = server_name(url)
    with _failures_named(name):
        connection = await Server(url).connect(is_hurried=False)
    try:
        with _failures_named(name):
            await check_server(connection, name)
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            await connection.execute(_PATIENT)
            await migrate(connection, name)
            await _check_alone(connection, name, await check_schema(connection, name))
            await connection.execute(f"LOCK TABLE {_names(OWN_TABLES)} IN ACCESS EXCLUSIVE MODE")
        yield PostgresTarget(name, connection)
    finally:
        # What was not committed goes with the connection.
        await close(connection)


class PostgresTarget(_PostgresEnd):
    """A `receiver.storage.copying.ends.Target`, in a transaction."""

    def __init__(self, name: str, connection: asyncpg.Connection) -> None:
        super().__init__(name, connection)
        self._indexes: Sequence[asyncpg.Record] = ()

    async def state(self) -> LogState | None:
        """See `Target`."""
        with _failures_named(self.name):
            return await _state(self._connection)

    async def clear(self) -> None:
        """See `Target`."""
        run = self._connection.execute
        with _failures_named(self.name):
            await run(f"TRUNCATE {_names(OWN_TABLES, without=('meta', 'head'))}")
            await run("DELETE FROM meta WHERE name <> ALL ($1::text[])", list(OWN_META))
            self._indexes = await self._connection.fetch(_SELECT_INDEXES, [table.name for table in tables()])
            for index, _ in self._indexes:
                await run(f"DROP INDEX {index}")

    async def write(self, table: Table, rows: Rows) -> None:
        """See `Target`."""
        with _failures_named(self.name):
            await self._connection.copy_records_to_table(table.name, records=rows, columns=table.columns)

    async def finish(self, state: LogState, show_progress: Progress) -> None:
        """See `Target`."""
        run = self._connection.execute
        with _failures_named(self.name):
            for number, (_, statement) in enumerate(self._indexes):
                show_progress(number / len(self._indexes))
                await run(statement)
            names = [table.name for table in tables()]
            for table, column in await self._connection.fetch(_SELECT_IDENTITIES, names):
                sequence = f"pg_get_serial_sequence('{table}', '{column}')"
                await run(f"SELECT setval({sequence}, coalesce(max({column}), 0) + 1, false) FROM {table}")
            await run(_SAVE_HEAD, state.position, state.task_row)
            await run("COMMIT")
            # Without it the first queries on a million new rows are planned as if there were none.
            await run(f"ANALYZE {_names()}")


@contextmanager
def _failures_named(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, NotDurableError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise refuse(name, error) from None


async def _check_alone(connection: asyncpg.Connection, name: str, version: int) -> None:
    """Check that no receiver is connected, and that this program knows all tables and columns.

    Raises:
        CannotStartError: one is, or the schema is newer.
    """
    if version > len(MIGRATIONS):
        raise CannotStartError(
            f"{name}: the database is newer (schema {version}) than this program (schema {len(MIGRATIONS)}), which "
            "would lose columns; copy with the newer program"
        )
    if await connection.fetchval(SELECT_OTHERS):
        raise CannotStartError(f"{name}: a receiver is connected; stop all receivers first", passes=True)


def _names(further: Iterable[str] = (), *, without: Collection[str] = ()) -> str:
    names = {table.name for table in tables()} | {*further}
    return ", ".join(sorted(names.difference(without)))


async def _rows(connection: asyncpg.Connection, statement: str, parameters: Mapping[str, Any]) -> Rows:
    translated = translate(statement)
    return [tuple(row) for row in await connection.fetch(translated.text, *translated.values(parameters))]


async def _state(connection: asyncpg.Connection) -> LogState | None:
    log_id = await connection.fetchval("SELECT value FROM meta WHERE name = 'log_id'")
    if log_id is None:
        return None
    ((position, task_row),) = await connection.fetch("SELECT position, task_row FROM head")
    return LogState(log_id, position, task_row)


def _shared(table: Table) -> str:
    """Return the condition for the rows that are not the database's own."""
    own = ", ".join(f"'{name}'" for name in OWN_META)
    return f" WHERE name NOT IN ({own})" if table.name == "meta" else ""


async def _count(connection: asyncpg.Connection, table: Table) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM {table.name}{_shared(table)}"))
