"""The end of the log as this receiver knows it, and the growth behind it, in order.

The positions of several receivers are mixed. An own commit moves the known end only if it follows it without a gap.
Otherwise its own waiters are woken at once, and then the log is read up to the end. A subscriber must not see position
12 before 11 of another receiver.

The log of one id only grows. A shorter one has lost entries: by a failover to a replica that was behind, or because an
older copy was restored. Its next entries get positions that readers have seen. So it gets another id, which makes all
cursors gaps, and each receiver ends as soon as it finds its id gone. It begins anew with its next start.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import asyncpg
import structlog

from receiver.domain.records import Entry, Growth, TaskKey
from receiver.errors import CannotStartError
from receiver.storage.postgres import statements as own
from receiver.storage.postgres.batch import LATE_IDS_KEPT
from receiver.storage.postgres.connection import Reconnecting, Server
from receiver.storage.postgres.errors import OutdatedError, is_lost, reason_of
from receiver.storage.postgres.schema import SELECT_FITS

__all__ = ["LogEnd", "LogFollower", "LogReplacedError"]

_CHECK_SECONDS = 1.0
_MAX_GROWTH = 10_000

_log = structlog.get_logger()


class LogReplacedError(CannotStartError):
    """The log has another id, so this receiver has to start again."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}, so this receiver has to start again", passes=True)


@dataclass(frozen=True, slots=True)
class LogEnd:
    """The id of a log, its last position, and the number of its last late id."""

    log_id: str
    position: int
    late_id: int


class LogFollower:
    """Tells of all growth of a log behind its `end`: own commits by `add`, and those of others while `run` is running.

    It owns a connection for reading.
    """

    def __init__(self, server: Server, end: LogEnd, tell: Callable[[Growth], None]) -> None:
        self._tell = tell
        self._reading = Reconnecting(server)
        self._must_check = asyncio.Event()
        self._checked_at = time.monotonic()
        self._log_id, self._position, self._late_id = end.log_id, end.position, end.late_id

    def check(self) -> None:
        """Read the log for commits of other receivers now."""
        self._must_check.set()

    async def run(self) -> None:
        """Wake waiters for the commits of other receivers, until cancelled.

        Raises:
            LogReplacedError: the log has lost entries, and a log line says so. Or another receiver found that.
            OutdatedError: this program must not read any more.
        """
        is_failing = False
        while True:
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._must_check.wait()
            except TimeoutError:
                pass
            self._must_check.clear()
            try:
                await self._check_program()
                await self._read_growth()
                is_failing = False
            except Exception as error:
                if not is_lost(error):
                    raise
                if not is_failing:
                    _log.warning("log.not_read", reason=reason_of(error))
                is_failing = True
                await self._reading.close()

    async def close(self) -> None:
        """Close the connection, after `run` has ended."""
        await self._reading.close()

    def add(self, grown: Sequence[TaskKey], entries: Sequence[Entry]) -> None:
        """Tell of an own commit: changed tasks with possible waiters, and new entries."""
        after = self._position
        if entries:
            if entries[0].position == after + 1:
                self._position = entries[-1].position
            else:
                # The entries in between are other receivers'. They and these are read together, in order.
                entries = ()
                self._must_check.set()
        if grown or self._position > after:
            self._tell(Growth(after, self._position, tuple(grown), tuple(entries)))

    async def _check_program(self) -> None:
        """Raise OutdatedError if this program has become too old. It is checked once a second."""
        if time.monotonic() - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = time.monotonic()
        connection = await self._reading.get()
        if not await connection.fetchval(SELECT_FITS):
            raise OutdatedError

    async def _read_growth(self) -> None:
        """Read the keys of new entries and late ids, and wake their waiters."""
        connection = await self._reading.get()
        known = self._position
        rows = await connection.fetch(own.SELECT_LATE_IDS, self._late_id, LATE_IDS_KEPT)
        if rows:
            is_complete = rows[0][0] == self._late_id + 1
            self._late_id = rows[-1][0]
            keys = tuple(TaskKey(*row[1:]) for row in rows)
            self._tell(Growth(self._position, self._position, keys if is_complete else None, ()))
        rows = await connection.fetch(own.SELECT_GROWTH, self._position, _MAX_GROWTH + 1)
        until = int(rows[0][0])
        if rows[0][1] != self._log_id:
            raise LogReplacedError("the log has another id")
        if until < known:
            await self._replace_log(connection, until)
        # Own commits without a gap may have moved the end meanwhile. Then all that was read is known.
        if until <= self._position:
            return
        after, self._position = self._position, until
        keys = tuple(TaskKey(*row[2:]) for row in rows if row[2] is not None)
        self._tell(Growth(after, until, keys if len(rows) <= _MAX_GROWTH else None, None))

    async def _replace_log(self, connection: asyncpg.Connection, until: int) -> None:
        _log.error(
            "log.shrunk",
            reason=f"the database has lost {self._position - until} entries of the log that were there",
            consequence="readers are told of a gap, and the receivers start again",
        )
        # Of several receivers only the first one changes it.
        await connection.execute(own.REPLACE_LOG_ID, secrets.token_hex(6), self._log_id)
        raise LogReplacedError("the log has lost entries")
