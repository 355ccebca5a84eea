"""The PostgreSQL store: several receivers on one database."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

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
from receiver.errors import CannotStartError, StoreBusyError, StoreFailedError
from receiver.settings import server_name
from receiver.storage.postgres.batch import LockingBatch
from receiver.storage.postgres.bridge import run_bridged
from receiver.storage.postgres.connection import (
    bridged,
    close,
    close_pool,
    connect,
    is_lost,
    open_pool,
    refuse,
)
from receiver.storage.postgres.hints import Hints
from receiver.storage.postgres.schema import check_schema, migrate
from receiver.storage.postgres.writer import PostgresWriter
from receiver.storage.searches import Found, Search, SearchQueue
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import snapshot
from receiver.storage.sqlite.reader import (
    Cursors,
    find_tasks,
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
from receiver.storage.sqlite.retention import prunable
from receiver.storage.sqlite.rows import poll_from, slots_of, standing_url_from
from receiver.storage.sqlite.store import page_row, unpolled_among
from receiver.storage.sqlite.tables.api_keys import read_keys
from receiver.storage.sqlite.tables.signing_keys import read_signing_keys
from receiver.storage.store import PAGE_BYTES, WRITE_SECONDS, TaskQuery

__all__ = ["PostgresStore", "open_postgres_store"]

Answer = TypeVar("Answer")

_OLDEST_SERVER = 140000
_POOL_SECONDS = 2.0
# A statement for one task or for this many takes about the same time.
_MAX_SEARCHES = 128
_TURN_SECONDS = 1.0
_DURABLE = ("on", "local", "remote_write", "remote_apply")


@dataclass(frozen=True, slots=True)
class _Identity:
    log_id: str
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

    `listen_url` leads to the server directly, if `url` leads to a pooler. `tally` is called for each commit of this
    store's own.

    Raises:
        CannotStartError: the database cannot be used; the text says why, without the password.
    """
    name = server_name(url)
    try:
        identity = await _prepare(url, name, now, create=create)
        pool = await open_pool(url)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise refuse(name, error) from None
    try:
        yield PostgresStore(url, listen_url or url, identity, pool, tally=tally, batch_type=batch_type)
    finally:
        await close_pool(pool)


class PostgresStore:
    """A `receiver.storage.store.Store`. Its owner runs `run` beside everything else and ends it with `stop`."""

    def __init__(
        self,
        url: str,
        listen_url: str,
        identity: _Identity,
        pool: asyncpg.Pool,
        *,
        tally: Callable[[int, Sequence[TaskRecord]], None] | None = None,
        batch_type: type[LockingBatch] = LockingBatch,
    ) -> None:
        self._identity = identity
        self._cursors = Cursors(identity.log_id)
        self._pool = pool
        self._hints = Hints(listen_url, identity.log_id, lambda: self._writer.check_log())
        self._writer = PostgresWriter(
            url, cursor_at=self._cursors.at, announce=self._hints.send, tally=tally, batch_type=batch_type
        )
        self._tasks = _TaskReader(self._read)

    async def run(self) -> None:
        """Write and read until `stop`."""
        try:
            await self._writer.open()
            async with asyncio.TaskGroup() as owner:
                owner.create_task(self._tasks.run(), name="reader")
                watching = [
                    owner.create_task(self._writer.watch(), name="watch"),
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
        return await self._read(lambda connection: read_named(connection, names, max_bytes))

    async def tasks(
        self, query: TaskQuery, *, page: str | None, limit: int, within: Collection[str] | None = None
    ) -> tuple[Sequence[TaskRecord], str | None]:
        """See `Store`."""
        before = page_row(page)
        return await self._read_snapshot(
            lambda connection: read_task_page(connection, query, before, limit, within=within)
        )

    async def deliveries(self, task: TaskRecord) -> Sequence[StoredDelivery]:
        """See `Store`."""
        return await self._read(lambda connection: read_deliveries(connection, task))

    async def unreadable(self, after: UnreadableDelivery | None, *, limit: int) -> Sequence[UnreadableDelivery]:
        """Return unreadable deliveries behind one of them; None: from the start. An empty page is the end."""
        return await self._read_snapshot(lambda connection: read_unreadable(connection, after, limit))

    async def polls(self, task: TaskRecord) -> Sequence[PollRecord]:
        """See `Store`."""
        return await self._rows(poll_from, sql.SELECT_POLLS, *slots_of(task.row))

    async def history(self, task: TaskRecord) -> History:
        """See `Store`."""
        return await self._read_snapshot(lambda connection: read_history(connection, task))

    async def next_due(self, provider: str) -> tuple[int, int] | None:
        """See `Store`."""
        ((first, last),) = await self._read(
            lambda connection: connection.execute(sql.SELECT_NEXT_DUE, {"provider": provider}).fetchall()
        )
        return None if first is None else (first, last)

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
        return await self._read(
            lambda connection: read_log(connection, self._cursors, after, limits=(limit, max_bytes), only=only)
        )

    async def head(self) -> str:
        """See `Store`."""
        head, _ = await self._read(read_bounds)
        return self.cursor_at(head)

    async def position(self, cursor: str | None) -> int:
        """See `Store`."""
        return self._cursors.position(cursor, await self._read(read_bounds))

    async def next_deadline(self) -> int | None:
        """See `Store`."""
        (deadline,) = await self._rows(lambda row: row[0], sql.SELECT_NEXT_DEADLINE)
        return None if deadline is None else int(deadline)

    async def prunable(self, horizon: Horizon) -> int | None:
        """See `Store`."""
        return await self._read_snapshot(lambda connection: prunable(connection, horizon))

    async def standing_urls(self) -> Sequence[StandingUrl]:
        """See `Store`."""
        return await self._rows(standing_url_from, sql.SELECT_STANDING_URLS)

    async def standing_url(self, url_id: str) -> StandingUrl | None:
        """See `Store`."""
        urls = await self._rows(standing_url_from, sql.SELECT_STANDING_URL, url_id)
        return next(iter(urls), None)

    async def read_signing_keys(self) -> Sequence[SigningKey]:
        """See `Store`."""
        return await self._read(read_signing_keys)

    async def api_keys(self) -> Sequence[StoredKey]:
        """See `Store`."""
        return await self._read(read_keys)

    async def waiting_tasks(self) -> Sequence[WaitingTasks]:
        """See `Store`."""
        return await self._read(read_waiting)

    async def shapes(self, provider: str) -> Sequence[ShapeRecord]:
        """See `Store`."""
        return await self._read(lambda connection: read_shapes(connection, provider))

    async def _rows(
        self, record_from: Callable[[tuple[Any, ...]], Answer], statement: str, *parameters: object
    ) -> list[Answer]:
        """Return the records in the rows of a statement."""
        return await self._read(
            lambda connection: [record_from(row) for row in connection.execute(statement, parameters)]
        )

    async def _read_snapshot(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Let all statements of `read` see the same commit."""

        def read_in_snapshot(connection: sqlite3.Connection) -> Answer:
            with snapshot(connection):
                return read(connection)

        return await self._read(read_in_snapshot)

    async def _read(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Run `read` on a connection of the pool, once more if that one turns out to be broken.

        Raises:
            StoreBusyError: all connections are in use.
            StoreFailedError: the server cannot be used now.
        """
        try:
            try:
                return await self._read_once(read)
            except Exception as error:
                # A statement that took too long would take as long again.
                if not is_lost(error) or isinstance(error, asyncpg.QueryCanceledError):
                    raise
                return await self._read_once(read)
        except Exception as error:
            if not is_lost(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise StoreFailedError(f"the store cannot be read: {reason}") from error

    async def _read_once(self, read: Callable[[sqlite3.Connection], Answer]) -> Answer:
        try:
            connection = await self._pool.acquire(timeout=_POOL_SECONDS)
        except TimeoutError:
            raise StoreBusyError("too many reads are waiting for the database") from None
        try:
            return await run_bridged(lambda: read(bridged(connection)))
        except Exception as error:
            if is_lost(error):
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


async def _prepare(url: str, name: str, now: int, *, create: bool) -> _Identity:
    connection = await connect(url)
    try:
        await _check_server(connection, name)
        if not create and await check_schema(connection, name) == 0:
            raise CannotStartError(f"{name}: the receiver has no tables there; start the receiver once")
        async with connection.transaction():
            await migrate(connection, name)
            return await _identify(connection, now)
    finally:
        await close(connection)


async def _check_server(connection: asyncpg.Connection, name: str) -> None:
    rows = await connection.fetch(
        "SELECT name, setting FROM pg_settings WHERE name IN "
        "('server_version_num', 'server_version', 'server_encoding', 'synchronous_commit')"
    )
    settings: dict[str, str] = {row[0]: row[1] for row in rows}
    if int(settings["server_version_num"]) < _OLDEST_SERVER:
        raise CannotStartError(f"{name}: PostgreSQL 14 or newer is needed, this is {settings['server_version']}")
    if settings["server_encoding"] != "UTF8":
        raise CannotStartError(f"{name}: expected a database in UTF8, this one is in {settings['server_encoding']}")
    if settings["synchronous_commit"] not in _DURABLE:
        raise CannotStartError(
            f"{name}: synchronous_commit is {settings['synchronous_commit']}, so an acknowledged callback could be "
            "lost; set it to on"
        )
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        raise CannotStartError(f"{name}: this is a standby, which is read-only; name the primary", passes=True)


async def _identify(connection: asyncpg.Connection, now: int) -> _Identity:
    """Return the id of the log and the signing keys, newest first. The first program makes them."""
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
    return _Identity(str(log_id), tuple(row[0] for row in keys))
