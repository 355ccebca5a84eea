"""The PostgreSQL store: several receivers on one database."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from receiver.domain.records import TaskRecord
from receiver.errors import CannotStartError, StoreFailedError
from receiver.settings import server_name
from receiver.storage.postgres.batch import LockingBatch
from receiver.storage.postgres.bridge import bridged, run_bridged
from receiver.storage.postgres.connection import Server, close, close_pool
from receiver.storage.postgres.errors import NotDurableError, is_blocked, is_lost, is_worth_repeating, reason_of, refuse
from receiver.storage.postgres.follower import LogEnd
from receiver.storage.postgres.hints import Hints
from receiver.storage.postgres.schema import check_schema, migrate
from receiver.storage.postgres.statements import SELECT_ENDS
from receiver.storage.postgres.writer import PostgresWriter
from receiver.storage.searches import Found, Search, SearchQueue
from receiver.storage.shared import SharedStore
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import snapshot
from receiver.storage.sqlite.reader import (
    Cursors,
    find_tasks,
)

__all__ = ["PostgresStore", "check_server", "open_postgres_store"]

Answer = TypeVar("Answer")

_OLDEST_SERVER = 140000
_POOL_SECONDS = 2.0
# A statement for one task or for this many takes about the same time.
_MAX_SEARCHES = 128
_TURN_SECONDS = 1.0
_DRIVER_ERRORS = (OSError, ValueError, NotDurableError, asyncpg.PostgresError, asyncpg.InterfaceError)


@dataclass(frozen=True, slots=True)
class _Identity:
    end: LogEnd
    signing_keys: tuple[bytes, ...]


@asynccontextmanager
async def open_postgres_store(
    url: str,
    *,
    now: int,
    listen_url: str | None = None,
    create: bool = True,
    tally: Callable[[int, Sequence[TaskRecord]], None] | None = None,
    batch_type: type[LockingBatch] = LockingBatch,
) -> AsyncIterator[PostgresStore]:
    """Yield a store on this database; make its tables unless `create` is off. Leave after the writer has ended.

    If there is a `listen_url`, then it leads to the server directly, and `url` to a pooler that may share sessions.
    `tally` is called for each commit of this store's own.

    Raises:
        CannotStartError: the database cannot be used; the text says why, without the password.
    """
    name = server_name(url)
    try:
        server = Server(url, pooled=listen_url is not None)
        identity = await _prepare(server, name, now, create=create)
        pool = await server.open_pool()
    except _DRIVER_ERRORS as error:
        raise refuse(name, error) from None
    try:
        listening = server if listen_url is None else await _listening(listen_url)
        yield PostgresStore(server, listening, identity, pool, tally=tally, batch_type=batch_type)
    finally:
        await close_pool(pool)


class PostgresStore(SharedStore):
    """A `receiver.storage.store.Store`. Its owner runs `run` beside everything else and ends it with `stop`."""

    def __init__(
        self,
        server: Server,
        listening: Server,
        identity: _Identity,
        pool: asyncpg.Pool,
        *,
        tally: Callable[[int, Sequence[TaskRecord]], None] | None = None,
        batch_type: type[LockingBatch] = LockingBatch,
    ) -> None:
        cursors = Cursors(identity.end.log_id)
        self._pool = pool
        self._hints = Hints(listening, identity.end.log_id, lambda: self._writer.follower.check())
        self._writer = PostgresWriter(
            server,
            end=identity.end,
            cursor_at=cursors.at,
            announce=self._hints.send,
            tally=tally,
            batch_type=batch_type,
        )
        super().__init__(self._writer, _TaskReader(self._read), cursors, identity.signing_keys)

    async def run(self) -> None:
        """Write and read until `stop`."""
        try:
            async with asyncio.TaskGroup() as owner:
                owner.create_task(self._tasks.run(), name="reader")
                watching = [
                    owner.create_task(self._writer.follower.run(), name="follower"),
                    owner.create_task(self._hints.run(), name="hints"),
                ]
                try:
                    await self._writer.run()
                finally:
                    self._tasks.stop()
                    for task in watching:
                        task.cancel()
        finally:
            # Not in the tasks: one that is cancelled before its first step does nothing at all.
            await self._writer.close()
            await self._writer.follower.close()

    async def _read_soon(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        return await self._read(read)

    async def _read_whole(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Run a read with all statements in one snapshot."""

        def read_in_snapshot(connection: sqlite3.Connection) -> Answer:
            with snapshot(connection):
                return read(connection)

        return await self._read(read_in_snapshot)

    async def _read(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Run `read` on a connection of the pool, once more if that one turns out to be broken.

        Raises:
            StoreFailedError: the server cannot be used now, or all connections are in use.
        """
        try:
            try:
                return await self._read_once(read)
            except Exception as error:
                # A statement that took too long would take as long again.
                if not _may_read_again(error):
                    raise
                # The others have probably broken, too.
                await self._pool.expire_connections()
                return await self._read_once(read)
        except Exception as error:
            if not is_lost(error):
                raise
            raise StoreFailedError(f"the store cannot be read: {reason_of(error)}") from error

    async def _read_once(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        try:
            connection = await self._pool.acquire(timeout=_POOL_SECONDS)
        except TimeoutError:
            raise StoreFailedError("no connection to the database is free") from None
        try:
            return await run_bridged(lambda: read(bridged(connection)))
        except BaseException as error:
            # A cancelled statement may have begun a transaction, or its cancellation may meet the next statement.
            if not isinstance(error, Exception) or is_lost(error):
                connection.terminate()
            raise
        finally:
            await self._pool.release(connection)


class _TaskReader(SearchQueue):
    """Reads single tasks by `read`."""

    def __init__(self, read: Callable[[Callable[[sqlite3.Connection], Found]], Coroutine[Any, Any, Found]]) -> None:
        super().__init__(time.monotonic, max_batch=_MAX_SEARCHES, turn_seconds=_TURN_SECONDS)
        self._read_there = read

    async def _find(self, searches: Sequence[Search]) -> Found:
        return await self._read_there(lambda connection: find_tasks(connection, searches))


async def _listening(url: str) -> Server:
    """Return the server for notifications. If it cannot be used now, then `Hints` tells so, and waiters are late."""
    try:
        server = Server(url)
        await close(await server.connect())
    except _DRIVER_ERRORS as error:
        if not is_lost(error):
            raise refuse("RECEIVER_DATABASE_LISTEN", error) from None
    return server


def _may_read_again(error: Exception) -> bool:
    return is_worth_repeating(error) or (is_lost(error) and not is_blocked(error))


async def _prepare(server: Server, name: str, now: int, *, create: bool) -> _Identity:
    connection = await server.connect(is_hurried=False)
    try:
        async with connection.transaction(isolation="read_committed"):
            await connection.execute("SET LOCAL statement_timeout = 0")
            await check_server(connection, name)
            if not create and await check_schema(connection, name) == 0:
                raise CannotStartError(f"{name}: the receiver has no tables there; start the receiver once")
            await migrate(connection, name)
            return await _identify(connection, now)
    finally:
        await close(connection)


async def check_server(connection: asyncpg.Connection, name: str) -> None:
    """Check that the server is new enough, and the database is in UTF8.

    Raises:
        CannotStartError: it is not.
    """
    rows = await connection.fetch(
        "SELECT name, setting FROM pg_settings WHERE name IN "
        "('server_version_num', 'server_version', 'server_encoding')"
    )
    settings: dict[str, str] = {row[0]: row[1] for row in rows}
    if int(settings["server_version_num"]) < _OLDEST_SERVER:
        raise CannotStartError(f"{name}: PostgreSQL 14 or newer is needed, this is {settings['server_version']}")
    if settings["server_encoding"] != "UTF8":
        raise CannotStartError(f"{name}: expected a database in UTF8, this one is in {settings['server_encoding']}")


async def _identify(connection: asyncpg.Connection, now: int) -> _Identity:
    """Return the end of the log and the signing keys, newest first. The first program makes id and key."""
    log_id = await connection.fetchval("SELECT value FROM meta WHERE name = 'log_id'")
    if log_id is None:
        log_id = secrets.token_hex(6)
        await connection.execute("INSERT INTO meta (name, value) VALUES ('log_id', $1)", log_id)
    keys = await connection.fetch(sql.SELECT_SIGNING_KEYS)
    if not keys:
        await connection.execute(
            "INSERT INTO signing_key (key, created_at) VALUES ($1, $2)", secrets.token_bytes(32), now
        )
        keys = await connection.fetch(sql.SELECT_SIGNING_KEYS)
    ((position, late_id),) = await connection.fetch(SELECT_ENDS)
    return _Identity(LogEnd(str(log_id), position, late_id), tuple(row[0] for row in keys))
