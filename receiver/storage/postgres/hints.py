"""Hints between receivers: the log has grown, look at it.

A hint is an empty NOTIFY, sent after the commit, on a connection of its own that also listens. In the transaction it
would take a lock of the whole cluster at each commit. Hints of 5 ms are sent as one. A lost hint costs at most a
second, because every receiver looks once a second without any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from receiver.storage.postgres.connection import close, connect, is_lost

__all__ = ["Hints"]

_TOGETHER_SECONDS = 0.005
_CHECK_SECONDS = 5.0
_AGAIN_SECONDS = 1.0

_log = structlog.get_logger()


class Hints:
    """Sends and takes the hints of one log, while `run` is running. `heard` is called for a hint of another receiver.

    `url` leads to the server directly: a pooler that shares connections between transactions loses notifications.
    """

    def __init__(self, url: str, log_id: str, heard: Callable[[], None]) -> None:
        self._url = url
        self._channel = f"callback_receiver_{log_id}"
        self._heard = heard
        self._grown = asyncio.Event()
        self._is_failing = False

    def send(self) -> None:
        """Tell the other receivers of a commit, soon."""
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
                    _log.warning("hints.failed", reason=str(error), consequence="waiters look once a second")
                self._is_failing = True
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _run_connected(self) -> None:
        connection = await connect(self._url)
        try:
            await connection.add_listener(self._channel, self._take)
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
                await asyncio.sleep(_TOGETHER_SECONDS)
                self._grown.clear()
                await connection.execute("SELECT pg_notify($1, '')", self._channel)
        finally:
            await close(connection)

    def _take(
        self, connection: asyncpg.Connection | PoolConnectionProxy[Any], sender: int, channel: str, _payload: object
    ) -> None:
        if channel == self._channel and sender != connection.get_server_pid():
            self._heard()
