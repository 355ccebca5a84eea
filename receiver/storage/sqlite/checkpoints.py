"""Checkpoints: pages of the write-ahead log are copied into the database, so that the log can begin anew.

By default SQLite makes one in the COMMIT that brings the log to 1,000 pages. It takes milliseconds, and callbacks wait.
Here they are made beside the writer, on a connection with a thread of its own. They wait for nobody, and nobody waits
for them.

The log begins anew once all of it is copied and nobody reads from it. Under full load it may grow meanwhile, again and
again. Then SQLite makes a checkpoint in a COMMIT after all, at `MOST_LOG_PAGES`.
"""

from __future__ import annotations

import asyncio
import sqlite3

import aiosqlite
import structlog

from receiver.storage.sqlite.database import on_thread

__all__ = ["Checkpoints"]

_PAGES = 800
# The pages of a commit with one callback, apart from the page of its task.
_PAGES_OF_COMMIT = 4
# The second one copies what was written during the first one. That is little, so the log then seldom grows.
_TRIES = 2

_log = structlog.get_logger()


class Checkpoints:
    """Makes a checkpoint whenever commits have written some 800 pages, while `run` is running."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._pages = 0
        self._failure: str | None = None
        self._due = asyncio.Event()
        self._is_free = asyncio.Lock()

    def committed(self, commands: int) -> None:
        """Note a commit of so many commands."""
        self._pages += commands + _PAGES_OF_COMMIT
        if self._pages >= _PAGES:
            self._pages = 0
            self._due.set()

    async def run(self) -> None:
        """Make checkpoints until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            async with self._is_free:
                failure = await on_thread(self._connection, _make)
            if failure is not None and self._failure is None:
                _log.warning("checkpoint.failed", reason=failure, consequence="the write-ahead log grows")
            self._failure = failure

    async def stop(self) -> None:
        """Let the running one end, and begin no other one."""
        await self._is_free.acquire()


def _make(connection: sqlite3.Connection) -> str | None:
    """Make one and return None. If it fails, return the reason: the log has everything, and a later one may succeed."""
    try:
        for _ in range(_TRIES):
            (is_busy, pages, copied) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if is_busy or copied == pages:
                break
    except sqlite3.Error as error:
        return str(error)
    return None
