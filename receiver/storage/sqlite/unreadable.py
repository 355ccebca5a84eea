"""Kept bodies that no dialect could read: a page of them, and what would become of them if they came again."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiosqlite

from receiver.domain.records import UnreadableDelivery
from receiver.domain.transaction import Command, Transaction
from receiver.errors import CannotStartError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import connect_reader, on_thread, schema_version
from receiver.storage.sqlite.files import require_database
from receiver.storage.sqlite.rows import SLOTS, delivery_from
from receiver.storage.sqlite.transaction import decide
from receiver.storage.store import PAGE_BYTES

__all__ = ["DryRun", "open_dry_run", "read_unreadable"]

Answer = TypeVar("Answer")


def read_unreadable(
    connection: sqlite3.Connection, after: UnreadableDelivery | None, limit: int
) -> Sequence[UnreadableDelivery]:
    """Return the next of them behind one (None: from the start): first those of tasks, then those of standing URLs.

    They end at `limit`, or with the one with which their bytes are more than a page's.
    """
    is_behind_tasks = after is not None and after.is_stray
    place = 0 if after is None else after.id
    kept: list[UnreadableDelivery] = []
    if not is_behind_tasks:
        kept += _page(connection.execute(sql.SELECT_UNREADABLE_BODIES, (place, limit)))
    if not kept:
        kept += _page(connection.execute(sql.SELECT_UNREADABLE_STRAYS, (place if is_behind_tasks else 0, limit)))
    return kept


def _page(rows: sqlite3.Cursor) -> Iterator[UnreadableDelivery]:
    size = 0
    for row in rows:
        kept_id, provider, ref, *columns = row
        delivery = delivery_from(tuple(columns), slot=None if ref is None else kept_id % SLOTS)
        kept = UnreadableDelivery(id=kept_id, provider=provider, ref=ref, delivery=delivery)
        yield kept
        size += kept.delivery.size
        if size > PAGE_BYTES:
            break
    rows.close()


@asynccontextmanager
async def open_dry_run(path: Path) -> AsyncIterator[DryRun]:
    """Yield the database, opened so that nothing can be written to it.

    Raises:
        CannotStartError: there is none, it is not ours, or of another version.
    """
    require_database(path)
    async with connect_reader(path) as connection:

        def new_transaction() -> Transaction:
            if schema_version(connection._conn, path) < len(sql.MIGRATIONS):  # noqa: SLF001  (see on_thread)
                raise CannotStartError(f"{path}: the database is of an older version; start this receiver once")
            return Transaction(head=0)

        yield DryRun(path, connection, await _read(connection, path, new_transaction))


class DryRun:
    """Decides commands as a store would, each after those before it, and writes nothing."""

    def __init__(self, path: Path, connection: aiosqlite.Connection, transaction: Transaction) -> None:
        self._path = path
        self._connection = connection
        self._transaction = transaction

    async def unreadable(self, after: UnreadableDelivery | None, *, limit: int) -> Sequence[UnreadableDelivery]:
        """See `SqliteStore.unreadable`."""
        connection = self._connection
        return await _read(
            connection,
            self._path,
            lambda: read_unreadable(connection._conn, after, limit),  # noqa: SLF001  (see on_thread)
        )

    async def write(self, command: Command[Answer]) -> Answer:
        """What the command would decide."""
        connection = self._connection
        return await _read(
            connection,
            self._path,
            lambda: decide(connection._conn, self._transaction, command),  # noqa: SLF001  (see on_thread)
        )


async def _read(connection: aiosqlite.Connection, path: Path, read: Callable[[], Answer]) -> Answer:
    try:
        return await on_thread(connection, read)
    except sqlite3.Error as error:
        raise CannotStartError(f"{path}: the database cannot be read: {error}", passes=True) from error
