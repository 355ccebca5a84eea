"""The writer: one asyncio task commits up to 256 queued commands in one transaction, then releases their callers.

The commands are decided and written on the event loop, and committed on the own thread of the writing connection. A
batch runs there as a whole if it takes long, or has to wait for another process or for a slow disk. Only this task
gives that thread work. So loop and thread never use the connection at the same time.

`receiver/storage/command_queue.py` collects the commands.

If one command fails its batch, then the batch is rolled back and its commands are tried one by one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiosqlite
import structlog

from receiver.domain.records import Entry, Growth, TaskKey, TaskRecord
from receiver.domain.transaction import Command, Operation
from receiver.errors import StoreBusyError, StoreFailedError
from receiver.storage.command_queue import CommandQueue, Decision, Queued
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.batch import Batch
from receiver.storage.sqlite.checkpoints import Checkpoints
from receiver.storage.sqlite.database import (
    NeedsThreadError,
    begin_at_once,
    handle_of,
    on_thread,
    rolled_back_on_error,
    stop_waiting,
    waiting_if_busy,
    write_transaction,
)
from receiver.storage.sqlite.files import FilesLostError, FileWatch, data_version

__all__ = ["Tally", "Writer"]

_MAX_LOOP_BYTES = 1024 * 1024
# A full batch takes some 10 ms.
_SLOW_SECONDS = 0.02
_SLOW_FOR_SECONDS = 2.0
_TICK_SECONDS = 0.1
_PROBE_SECONDS = 5.0
_NOTE_SECONDS = 1.0
_SAVE_SECONDS = 30.0
_MAX_GROWTH = 10_000
_FILES_LOST = "the store has lost its files"

Tally = Callable[[int, Sequence[TaskRecord]], None]
"""Takes the number of commands in a commit, and the tasks that it gave an outcome."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Committed:
    answers: Sequence[Decision]
    position: int
    grown: Sequence[TaskKey]
    entries: Sequence[Entry] | None
    ended: Sequence[TaskRecord]


class Writer(CommandQueue):
    """Owns the writing connection. `run` must be running while `write` is awaited."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        *,
        cursor_at: Callable[[int], str],
        note_head: Callable[[int], None],
        watch: FileWatch,
        checkpoints: Checkpoints,
        close_files: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        tally: Tally | None = None,
    ) -> None:
        super().__init__(clock)
        self._connection = connection
        self._cursor_at = cursor_at
        self._clock = clock
        self._slow_until = 0.0
        self._position = 0
        self._data_version: int | None = None
        self._last_write = clock()
        self._tally = tally
        self._note_head = note_head
        self._watch = watch
        self._checkpoints = checkpoints
        self._version_read_at = clock()
        self._close_files = close_files
        self._loss: FilesLostError | None = None
        self._save_at: float | None = None
        self._noted_at, self._noted_position = clock(), 0

    async def run(self) -> None:
        """Write until `stop`, then end with an empty queue."""
        self._position = await on_thread(self._connection, _open)
        self._noted_at, self._noted_position = self._clock(), self._position
        try:
            while self._queue or not self._is_stopping:
                if self._queue:
                    await self._gather()
                    await self._commit(self._take())
                    self._batch = ()
                else:
                    await self._idle()
                if self._clock() - self._noted_at >= _NOTE_SECONDS:
                    await self._note()
            await self._note()
        finally:
            self._is_stopping = True

    async def _commit(self, batch: Sequence[Queued]) -> None:
        if self._loss is not None:
            self._release(batch, [(None, StoreFailedError(_FILES_LOST))] * len(batch))
            return
        try:
            with self.lateness.writing():
                committed = await self._transact(batch)
        except FilesLostError as error:
            # The batch was committed, and saving the files includes it.
            self._release(batch, [(None, StoreBusyError(_FILES_LOST))] * len(batch))
            await self._handle_loss(error)
        except Exception as error:
            if _fails_every_command(error):
                self.failure = str(error)
                _log.error("commit.failed", reason=str(error), commands=len(batch))
                self._release(batch, [(None, StoreFailedError("the store cannot write now"))] * len(batch))
            elif len(batch) > 1:
                for entry in batch:
                    await self._commit([entry])
            else:
                _log.exception("command.failed", command=type(batch[0].command).__name__)
                self._release(batch, [(None, StoreFailedError("the command cannot be stored"))])
        else:
            self.failure = None
            self._last_write = self._clock()
            self._checkpoints.committed(len(batch))
            self._release(batch, committed.answers)
            self._grow(committed.position, committed.grown, committed.entries)
            if self._tally is not None:
                # Behind the answers and the wake-ups.
                asyncio.get_running_loop().call_soon(self._tally, len(batch), committed.ended)

    def _grow(self, position: int, grown: Sequence[TaskKey], entries: Sequence[Entry] | None) -> None:
        after, self._position = self._position, max(position, self._position)
        if self.listener is not None and (grown or self._position > after):
            tasks = tuple(grown) if len(grown) <= _MAX_GROWTH else None
            self.listener(Growth(after, self._position, tasks, None if entries is None else tuple(entries)))

    async def _handle_loss(self, error: FilesLostError) -> None:
        """Stop writing, and save all acknowledged commits."""
        self._loss = error
        self._given_up = _FILES_LOST
        self.failure = str(error)
        _log.error("files.lost", reason=str(error))
        await self._checkpoints.stop()
        await self._save()

    async def _save(self) -> None:
        """Save all acknowledged commits and close the files. If saving fails, they stay open for the next try."""
        self._save_at = None
        try:
            saved = await on_thread(self._connection, self._save_there)
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.failure = f"{self._loss}; the acknowledged data is not saved yet: {reason}"
            self._save_at = self._clock() + _SAVE_SECONDS
            _log.error("files.not_saved", reason=reason)
        else:
            self.failure = f"{self._loss}; {saved}"
            _log.error("files.given_up", reason=self.failure)
            await self._close_files()

    async def _note(self) -> None:
        """Note the end of the log, if it has changed."""
        position = self._position
        if self._loss is None and position != self._noted_position:
            await on_thread(self._connection, lambda _: self._note_head(position))
        self._noted_at, self._noted_position = self._clock(), position

    async def _idle(self) -> None:
        """Wait for a command. Without one, check the database from time to time."""
        if await self._wait_for_command(_TICK_SECONDS):
            await self._tick()

    async def _tick(self) -> None:
        """Check if another process wrote, if the files are in place, and if writing still works."""
        if self._loss is not None:
            if self._save_at is not None and self._clock() >= self._save_at:
                await self._save()
            return
        try:
            self._end_left_over()
            self._grow(*await on_thread(self._connection, self._read_foreign_commits))
            if self._clock() - self._last_write >= _PROBE_SECONDS or self.failure is not None:
                with self.lateness.writing():
                    await on_thread(self._connection, self._probe)
                self._last_write = self._clock()
                self.failure = None
        except FilesLostError as error:
            await self._handle_loss(error)
        except sqlite3.Error as error:
            if self.failure is None:
                _log.error("probe.failed", reason=str(error))
            self.failure = str(error)

    async def _transact(self, batch: Sequence[Queued]) -> _Committed:
        """Carry out a batch. The connection's thread commits it. All of a long batch is done there."""
        commands = [queued.command for queued in batch]
        self._end_left_over()
        started = self._clock()
        if started >= self._slow_until and sum(queued.weight for queued in batch) <= _MAX_LOOP_BYTES:
            # Its thread has no work now: only this task gives it some.
            connection = handle_of(self._connection)
            try:
                begin_at_once(connection)
                written = self._write(connection, commands, is_on_loop=True)
            except NeedsThreadError:
                pass
            else:
                if self._clock() - started > _SLOW_SECONDS:
                    # Pages have to be read from the disk. The event loop must not wait for it again and again.
                    self._slow_until = self._clock() + _SLOW_FOR_SECONDS
                await on_thread(self._connection, self._finish)
                return written
        return await on_thread(self._connection, lambda connection: self._transact_there(connection, commands))

    def _end_left_over(self) -> None:
        """Roll back what an error such as a lack of memory left between writing and COMMIT. Nothing of it was told."""
        connection = handle_of(self._connection)
        if connection.in_transaction:
            connection.rollback()

    def _write(
        self, connection: sqlite3.Connection, commands: Sequence[Command[Any] | Operation[Any]], *, is_on_loop: bool
    ) -> _Committed:
        """Decide and write in an open transaction. If that fails, roll it back."""
        with rolled_back_on_error(connection):
            batch = Batch(connection, may_wait=not is_on_loop)
            foreign = self._read_growth(connection) if batch.position > self._position else []
            answers = batch.run(commands)
            # If another process wrote in between, then only the keys of its entries are known. The entries are made
            # before the commit, because callers wait from then on.
            entries = None if foreign else [Entry(self._cursor_at(entry[0]), *entry) for entry in batch.appended]
            ended = [task for _, kind, _, task, _ in batch.appended if kind == "result" and task is not None]
        return _Committed(answers, batch.position, [*foreign, *batch.grown], entries, ended)

    # These functions run on the connection's thread.

    def _transact_there(
        self, connection: sqlite3.Connection, commands: Sequence[Command[Any] | Operation[Any]]
    ) -> _Committed:
        with waiting_if_busy(connection):
            connection.execute("BEGIN IMMEDIATE")
            written = self._write(connection, commands, is_on_loop=False)
            self._finish(connection)
        return written

    def _finish(self, connection: sqlite3.Connection) -> None:
        """Make the transaction durable, and check that its files are in place."""
        with rolled_back_on_error(connection):
            connection.execute("COMMIT")
        self._check_files(connection, reads_version=self._clock() - self._version_read_at >= _TICK_SECONDS)

    def _read_foreign_commits(
        self, connection: sqlite3.Connection
    ) -> tuple[int, Sequence[TaskKey], Sequence[Entry] | None]:
        self._check_files(connection, reads_version=True)
        version = data_version(connection)
        if version == self._data_version:
            return self._position, [], []
        self._data_version = version
        # First the head, then the keys. An entry between the two is reported twice rather than never.
        head = _read_head(connection)
        foreign = self._read_growth(connection)
        return head, foreign, [] if head == self._position else None

    def _read_growth(self, connection: sqlite3.Connection) -> list[TaskKey]:
        # One more than can be named, so that the growth shows as too large.
        rows = connection.execute(sql.SELECT_GROWTH, (self._position, _MAX_GROWTH + 1))
        return [TaskKey(*row) for row in rows]

    def _probe(self, connection: sqlite3.Connection) -> None:
        with waiting_if_busy(connection), write_transaction(connection):
            connection.execute(sql.SAVE_META, ("probed", str(self._clock())))
        self._check_files(connection, reads_version=True)

    def _save_there(self, connection: sqlite3.Connection) -> str:
        with waiting_if_busy(connection):
            return self._watch.save(connection)

    def _check_files(self, connection: sqlite3.Connection, *, reads_version: bool) -> None:
        if reads_version:
            self._version_read_at = self._clock()
        self._watch.check(connection, reads_version=reads_version)


def _open(connection: sqlite3.Connection) -> int:
    """Prepare the connection for the event loop. Return the end of the log."""
    stop_waiting(connection)
    return _read_head(connection)


def _read_head(connection: sqlite3.Connection) -> int:
    (position,) = connection.execute(sql.SELECT_HEAD).fetchone()
    return int(position)


def _fails_every_command(error: Exception) -> bool:
    """Return True for a full disk, a locked or a broken file. Return False if the content of one command failed."""
    of_one_command = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.NotSupportedError)
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, of_one_command)
