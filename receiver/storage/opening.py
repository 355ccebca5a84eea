"""The store of the settings: an SQLite file, or PostgreSQL, whose driver is loaded only for such a URL."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from receiver.domain.records import TaskRecord, UnreadableDelivery
from receiver.errors import CannotStartError
from receiver.settings import Settings
from receiver.storage.sqlite.database import open_read_only
from receiver.storage.sqlite.store import open_sqlite_store
from receiver.storage.sqlite.tables import signing_keys
from receiver.storage.store import Store

__all__ = [
    "OwnedStore",
    "driver_needed",
    "open_for_reading",
    "open_store",
    "replace_log_id",
    "replace_signing_key",
    "sqlite_file",
]


class OwnedStore(Store, Protocol):
    """A store with what its owner calls."""

    async def run(self) -> None:
        """Write and read until `stop`."""

    def stop(self) -> None:
        """Let `run` end after it has stored all commands that it has."""

    async def unreadable(self, after: UnreadableDelivery | None, *, limit: int) -> Sequence[UnreadableDelivery]:
        """Return unreadable deliveries behind one of them; None: from the start. An empty page is the end."""


@asynccontextmanager
async def open_store(
    settings: Settings,
    *,
    now: int,
    clock: Callable[[], float],
    create: bool = True,
    tally: Callable[[int, Sequence[TaskRecord]], None] | None = None,
) -> AsyncIterator[OwnedStore]:
    """Yield the store of the settings; make the database unless `create` is off. Leave after the writer has ended.

    `tally` is called for each commit of this store's own: the number of commands, and the tasks that ended.

    Raises:
        CannotStartError: the database cannot be used; the text says why.
    """
    if isinstance(settings.database, Path):
        async with open_sqlite_store(settings.database, now=now, clock=clock, create=create, tally=tally) as store:
            yield store
        return
    with driver_needed():
        from receiver.storage.postgres.store import open_postgres_store
    listen = settings.database_listen
    async with open_postgres_store(
        settings.database.get_secret_value(),
        now=now,
        listen_url=None if listen is None else listen.get_secret_value(),
        create=create,
        tally=tally,
    ) as shared_store:
        yield shared_store


@contextmanager
def open_for_reading(
    settings: Settings, *, passes: bool = False, is_hurried: bool = True
) -> Iterator[sqlite3.Connection]:
    """Yield a connection for the functions that read, on the caller's thread, whether a receiver runs or not.

    `passes`: a database that cannot be read now may be readable later. `is_hurried` limits the time of a statement on
    a server.

    Raises:
        CannotStartError: there is none, it is not ours, its schema is older or newer, or it cannot be read.
    """
    if isinstance(settings.database, Path):
        with open_read_only(settings.database, passes=passes) as connection:
            yield connection
        return
    with driver_needed():
        from receiver.storage.postgres.here import open_postgres_here
    with open_postgres_here(_server_url(settings, settings.database), is_hurried=is_hurried) as connection:
        yield connection


def replace_signing_key(settings: Settings, key: bytes, *, now: int, until: int) -> None:
    """Let `key` sign from now on, and let all earlier keys end. A receiver may run meanwhile.

    Raises:
        CannotStartError: there is no database, or it cannot be written.
    """
    if isinstance(settings.database, Path):
        signing_keys.replace_signing_key(settings.database, key, now=now, until=until)
        return
    with driver_needed():
        from receiver.storage.postgres.here import replace_signing_key_there
    replace_signing_key_there(_server_url(settings, settings.database), key, now=now, until=until)


def replace_log_id(settings: Settings) -> None:
    """Give the log of a restored copy another id. An SQLite file gets one by itself.

    Raises:
        CannotStartError: it is an SQLite file, it cannot be written, or a receiver is connected.
    """
    if isinstance(settings.database, Path):
        raise CannotStartError("RECEIVER_DATABASE: a restored SQLite file gets a new log id at the next start")
    with driver_needed():
        from receiver.storage.postgres.here import replace_log_id_there
    replace_log_id_there(_server_url(settings, settings.database))


def sqlite_file(settings: Settings, remedy: str) -> Path:
    """Return the file of the settings, for a command that works on files.

    Raises:
        CannotStartError: the database is on PostgreSQL. `remedy` says what to use there.
    """
    if isinstance(settings.database, Path):
        return settings.database
    raise CannotStartError(f"RECEIVER_DATABASE: this command is for SQLite files; on PostgreSQL {remedy}")


def _server_url(settings: Settings, database: SecretStr) -> str:
    """Return the URL of the server itself, for a single connection. A pooler may share its sessions."""
    return (settings.database_listen or database).get_secret_value()


@contextmanager
def driver_needed() -> Iterator[None]:
    """Let the body import the driver of PostgreSQL.

    Raises:
        CannotStartError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise CannotStartError(
            f"RECEIVER_DATABASE: for PostgreSQL, install callback-receiver[postgres]; {error.name} is missing"
        ) from None
