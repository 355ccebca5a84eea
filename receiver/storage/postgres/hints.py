"""Hints between receivers: the log has grown, look at it.

A hint is an empty NOTIFY, sent after the commit, on a connection of its own that also listens. In the transaction it
would take a lock of the whole cluster at each commit. The first hint leaves at once, and those of the next 5 ms as one.
A lost hint costs at most a second, because every receiver looks once a second without any.

A pooler that shares sessions takes LISTEN without an error, but passes notifications by chance only. It is noticed by
the number of the session, which a pooler makes up. And the first hint on a new connection has to come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from receiver.storage.postgres.connection import Server, close
from receiver.storage.postgres.errors import is_lost, reason_of

__all__ = ["Hints"]

_TOGETHER_SECONDS = 0.005
_CHECK_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_RETURN_SECONDS = 5.0
_NOTIFY = "SELECT pg_notify($1, '')"
_REMEDY = "RECEIVER_DATABASE_LISTEN has to name the server itself"

_log = structlog.get_logger()


class Hints:
    """Sends and takes the hints of one log, while `run` is running. `heard` is called for a hint of another receiver.

    `server` is the server itself, without a pooler between.
    """

    def __init__(self, server: Server, log_id: str, heard: Callable[[], None]) -> None:
        self._server = server
        self._channel = f"callback_receiver_{log_id}"
        self._heard = heard
        self._grown = asyncio.Event()
        self._returned = asyncio.Event()
        self._session = 0
        self._is_failing = self._is_pooled = False

    def send(self) -> None:
        """Tell the other receivers of a commit, at once or within 5 ms of the last hint."""
        self._grown.set()

    async def run(self) -> None:
        """Send and listen until cancelled. After an error it connects again."""
        while True:
            try:
                await self._run_connected()
            except Exception as error:
                if not is_lost(error):
                    raise
                if not self._is_failing:
                    self._warn(reason_of(error))
                self._is_failing = True
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _run_connected(self) -> None:
        connection = await self._server.connect()
        try:
            await connection.add_listener(self._channel, self._take)
            await self._check_return(connection)
            self._is_failing = False
            # Hints were lost until now.
            self._heard()
            while True:
                try:
                    async with asyncio.timeout(_CHECK_SECONDS):
                        await self._grown.wait()
                except TimeoutError:
                    # A connection that died without a word is noticed by a statement.
                    await connection.execute("SELECT 1")
                    continue
                self._grown.clear()
                await connection.execute(_NOTIFY, self._channel)
                await asyncio.sleep(_TOGETHER_SECONDS)
        finally:
            await close(connection)

    async def _check_return(self, connection: asyncpg.Connection) -> None:
        """Send a hint to this receiver itself."""
        self._session = await connection.fetchval("SELECT pg_backend_pid()")
        if self._session != connection.get_server_pid() and not self._is_pooled:
            # One that keeps a session for each connection passes them all.
            self._is_pooled = True
            self._warn(f"a pooler is in between, and may lose notifications; {_REMEDY}")
        self._returned.clear()
        await connection.execute(_NOTIFY, self._channel)
        try:
            async with asyncio.timeout(_RETURN_SECONDS):
                await self._returned.wait()
        except TimeoutError:
            raise ConnectionError(f"notifications do not arrive; {_REMEDY}") from None

    def _warn(self, reason: str) -> None:
        _log.warning("hints.failed", reason=reason, consequence="waiters look once a second")

    def _take(
        self, _connection: asyncpg.Connection | PoolConnectionProxy[Any], sender: int, channel: str, _payload: object
    ) -> None:
        if sender == self._session:
            self._returned.set()
        elif channel == self._channel:
            self._heard()
