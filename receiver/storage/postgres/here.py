"""A connection for commands, which run statements on their own thread, beside an event loop or without one."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import asyncpg

from receiver.errors import CannotStartError
from receiver.settings import server_name
from receiver.storage.postgres.bridge import bridged
from receiver.storage.postgres.connection import Server, close
from receiver.storage.postgres.errors import NotDurableError, refuse
from receiver.storage.postgres.schema import require_schema
from receiver.storage.sqlite.statements import INSERT_SIGNING_KEY, SAVE_META
from receiver.storage.sqlite.tables.signing_keys import END_KEYS

__all__ = ["SELECT_OTHERS", "open_postgres_here", "replace_log_id_there", "replace_signing_key_there"]

Answer = TypeVar("Answer")

SELECT_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'callback-receiver%' "
    "AND datname = current_database() AND pid <> pg_backend_pid()"
)


@contextmanager
def open_postgres_here(url: str, *, is_hurried: bool = True) -> Iterator[sqlite3.Connection]:
    """Yield a connection for the functions that both stores share. The driver runs on a thread of its own.

    `is_hurried` limits the time of a statement.

    Raises:
        CannotStartError: the server cannot be used, or its schema is older or newer.
    """
    name = server_name(url)
    with ThreadPoolExecutor(1) as thread:
        runner = asyncio.Runner()

        def wait(awaitable: Awaitable[Answer]) -> Answer:
            return thread.submit(runner.run, _result(awaitable)).result()

        try:
            connection = wait(Server(url).connect(is_hurried=is_hurried))
            try:
                wait(require_schema(connection, name))
                yield bridged(connection, wait)
            finally:
                wait(close(connection))
        except (OSError, ValueError, NotDurableError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise refuse(name, error) from None
        finally:
            thread.submit(runner.close).result()


def replace_signing_key_there(url: str, key: bytes, *, now: int, until: int) -> None:
    """Let `key` sign from now on, and let all earlier keys end.

    Raises:
        CannotStartError: as above.
    """
    with open_postgres_here(url) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(END_KEYS, {"until": until})
        connection.execute(INSERT_SIGNING_KEY, (key, now))
        connection.execute("COMMIT")


def replace_log_id_there(url: str) -> None:
    """Give the log another id, so that readers with an old cursor are told of a gap.

    Raises:
        CannotStartError: as above. Or a receiver is connected, which would go on with the old id.
    """
    with open_postgres_here(url) as connection:
        (others,) = connection.execute(SELECT_OTHERS).fetchone()
        if others:
            raise CannotStartError(
                f"{server_name(url)}: a receiver is connected; stop all receivers first", passes=True
            )
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(SAVE_META, ("log_id", secrets.token_hex(6)))
        connection.execute("COMMIT")


async def _result(awaitable: Awaitable[Answer]) -> Answer:
    return await awaitable
