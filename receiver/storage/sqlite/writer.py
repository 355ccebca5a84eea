"""The one task that writes: everything that is queued goes into one transaction, then all callers are released.

While a commit runs, further commands gather, and what the event loop has already read joins them; so the batch grows
with the load, and nothing waits by the clock for it to fill.

A batch that fails because of one command is rolled back and tried again one by one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiosqlite
import structlog

from receiver.domain.records import Entry, Growth, TaskKey, TaskRecord
from receiver.domain.transaction import Command, Operation
from receiver.errors import ReceiverError, StoreBusyError, StoreFailedError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import on_thread
from receiver.storage.sqlite.files import FilesLostError, FileWatch
from receiver.storage.sqlite.transaction import Batch, Decision

__all__ = ["Tally", "Writer"]

Answer = TypeVar("Answer")

_MAX_BATCH = 256
_QUIET_TURNS = 2
_MAX_QUEUED = 8192
_MAX_QUEUED_BYTES = 64 * 1024 * 1024
_TICK_SECONDS = 0.1
_PROBE_SECONDS = 5.0
_NOTE_SECONDS = 1.0
_SAVE_SECONDS = 30.0
_MAX_GROWTH = 10_000
_MAX_GROWN_ENTRIES = 2000

Tally = Callable[[int, Sequence[TaskRecord]], None]
"""Is told how many commands a commit held, and which tasks got an outcome by it."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Entry:
    command: Command[Any] | Operation[Any]
    answer: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Committed:
    answers: Sequence[Decision]
    position: int
    grown: Sequence[TaskKey]
    entries: Sequence[Entry] | None
    ended: Sequence[TaskRecord]


class _Growing:
    """The growth of the log that nobody has been told of yet; bounded, because who is told may be slow."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._until = after
        self._tasks: list[TaskKey] | None = []
        self._entries: list[Entry] | None = []

    @property
    def is_news(self) -> bool:
        return self._until > self._after or self._tasks is None or bool(self._tasks)

    def grow(self, until: int, tasks: Sequence[TaskKey], entries: Sequence[Entry] | None) -> None:
        self._until = max(self._until, until)
        if self._tasks is not None:
            self._tasks = [*self._tasks, *tasks] if len(self._tasks) + len(tasks) <= _MAX_GROWTH else None
        if self._entries is not None:
            is_known = entries is not None and len(self._entries) + len(entries) <= _MAX_GROWN_ENTRIES
            self._entries = [*self._entries, *(entries or ())] if is_known else None

    def take(self) -> Growth:
        tasks = None if self._tasks is None else tuple(self._tasks)
        entries = None if self._entries is None else tuple(self._entries)
        growth = Growth(self._after, self._until, tasks, entries)
        self._after, self._tasks, self._entries = self._until, [], []
        return growth


class Writer:
    """Owns the writing connection. `run` must be running while `write` is awaited."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        *,
        cursor_at: Callable[[int], str],
        note_head: Callable[[int], None],
        watch: FileWatch,
        let_go: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        tally: Tally | None = None,
    ) -> None:
        self.failure: str | None = None
        self._connection = connection
        self._cursor_at = cursor_at
        self._clock = clock
        self._queue: deque[_Entry] = deque()
        self._queued_bytes = 0
        self._arrived = asyncio.Event()
        self._is_stopping = False
        self._has_ended = False
        self._known_position = 0
        self._data_version: int | None = None
        self._last_write = clock()
        self._tally = tally
        self._note_head = note_head
        self._watch = watch
        self._looked = clock()
        self._let_go = let_go
        self._loss: FilesLostError | None = None
        self._save_at: float | None = None
        self._noted = (clock(), 0)
        self._growing = _Growing(0)
        self._grew = asyncio.Event()

    async def write(self, command: Command[Answer] | Operation[Answer], within_seconds: float) -> Answer:
        """See `Store.write`."""
        if self._is_stopping:
            raise ReceiverError("shutting-down", "the receiver is shutting down", retry_after_seconds=5)
        if self._loss is not None:
            raise StoreFailedError("the store has lost its files")
        if len(self._queue) >= _MAX_QUEUED or self._queued_bytes + command.weight > _MAX_QUEUED_BYTES:
            raise StoreBusyError("too much is waiting to be stored")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._queue.append(_Entry(command, answer))
        self._queued_bytes += command.weight
        self._arrived.set()
        # Not asyncio.timeout: this is on the way of every callback, and a bare timer is a fifth of the work.
        limit = loop.call_later(within_seconds, _time_out, answer)
        try:
            return await answer
        finally:
            limit.cancel()

    @property
    def queued(self) -> int:
        """How many commands wait to be stored."""
        return len(self._queue)

    async def run(self) -> None:
        """Write until `stop`; then end when the queue is empty."""
        self._known_position = await on_thread(self._connection, self._head)
        self._noted = (self._clock(), self._known_position)
        self._growing = _Growing(self._known_position)
        try:
            while self._queue or not self._is_stopping:
                if self._queue:
                    await self._gather()
                    await self._commit(self._take())
                else:
                    await self._idle()
                if self._clock() - self._noted[0] >= _NOTE_SECONDS:
                    await self._note()
            await self._note()
        finally:
            self._is_stopping = self._has_ended = True
            self._grew.set()

    def stop(self) -> None:
        """Take no more commands and let `run` end when those it has are stored."""
        self._is_stopping = True
        self._arrived.set()

    async def commits(self) -> AsyncIterator[Growth]:
        """See `Store.commits`."""
        while True:
            await self._grew.wait()
            self._grew.clear()
            if self._growing.is_news:
                yield self._growing.take()
            if self._has_ended and not self._growing.is_news:
                return

    async def _gather(self) -> None:
        """Wait while each few turns of the event loop bring more commands, which takes microseconds when none come.

        The thread that commits and the loop that reads requests share the GIL. To let them fight over it costs more
        than to read first what has already come and to commit it together.
        """
        known, quiet_turns = len(self._queue), 0
        while quiet_turns < _QUIET_TURNS and known < _MAX_BATCH:
            await asyncio.sleep(0)
            quiet_turns = quiet_turns + 1 if len(self._queue) == known else 0
            known = len(self._queue)

    def _take(self) -> list[_Entry]:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_BATCH))]
        self._queued_bytes -= sum(entry.command.weight for entry in batch)
        return batch

    async def _commit(self, batch: list[_Entry]) -> None:
        if self._loss is not None:
            self._release(batch, [(None, StoreFailedError("the store has lost its files"))] * len(batch))
            return
        commands = [entry.command for entry in batch]
        try:
            committed = await on_thread(self._connection, lambda: self._transact(commands))
        except FilesLostError as error:
            # It was committed, and what is saved holds it.
            self._release(batch, [(None, StoreBusyError("the store has lost its files"))] * len(batch))
            await self._lose(error)
        except Exception as error:
            if _is_of_the_store(error):
                self.failure = str(error)
                _log.error("commit.failed", reason=str(error), commands=len(batch))
                self._release(batch, [(None, StoreFailedError("the store cannot write now"))] * len(batch))
            elif len(batch) > 1:
                for entry in batch:
                    await self._commit([entry])
            else:
                _log.exception("command.failed", command=type(commands[0]).__name__)
                self._release(batch, [(None, StoreFailedError("the command cannot be stored"))])
        else:
            self.failure = None
            self._last_write = self._clock()
            # Released first: an acknowledgement has a sender that waits, a wake-up loses nothing by the microseconds.
            self._release(batch, committed.answers)
            self._grow(committed.position, committed.grown, committed.entries)
            if self._tally is not None:
                self._tally(len(batch), committed.ended)

    @staticmethod
    def _release(batch: Sequence[_Entry], answers: Sequence[Decision]) -> None:
        for entry, (answer, error) in zip(batch, answers, strict=True):
            if entry.answer.done():
                continue
            if error is None:
                entry.answer.set_result(answer)
            else:
                entry.answer.set_exception(error)

    def _grow(self, position: int, grown: Sequence[TaskKey], entries: Sequence[Entry] | None) -> None:
        self._known_position = max(position, self._known_position)
        self._growing.grow(position, grown, entries)
        if self._growing.is_news:
            self._grew.set()

    async def _lose(self, error: FilesLostError) -> None:
        """Write nothing any more, and save what was acknowledged."""
        self._loss = error
        self.failure = str(error)
        _log.error("files.lost", reason=str(error))
        await self._save()

    async def _save(self) -> None:
        """Save what was acknowledged and close all files; where that fails, they stay open for the next try."""
        self._save_at = None
        try:
            said = await on_thread(self._connection, lambda: self._watch.save(self._connection._conn))  # noqa: SLF001  (see on_thread)
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.failure = f"{self._loss}; what was acknowledged is not saved yet: {reason}"
            self._save_at = self._clock() + _SAVE_SECONDS
            _log.error("files.not_saved", reason=reason)
        else:
            self.failure = f"{self._loss}; {said}"
            _log.error("files.given_up", reason=self.failure)
            await self._let_go()

    async def _note(self) -> None:
        """Note how far the log is, if that has changed."""
        position = self._known_position
        if self._loss is None and position != self._noted[1]:
            await on_thread(self._connection, lambda: self._note_head(position))
        self._noted = (self._clock(), position)

    async def _idle(self) -> None:
        """Wait for a command; meanwhile looks whether another process wrote, and whether writing still works."""
        self._arrived.clear()
        try:
            async with asyncio.timeout(_TICK_SECONDS):
                await self._arrived.wait()
        except TimeoutError:
            if self._loss is not None:
                if self._save_at is not None and self._clock() >= self._save_at:
                    await self._save()
                return
            try:
                self._grow(*await on_thread(self._connection, self._read_foreign_commits))
                if self._clock() - self._last_write >= _PROBE_SECONDS or self.failure is not None:
                    await on_thread(self._connection, self._probe)
                    self._last_write = self._clock()
                    self.failure = None
            except FilesLostError as error:
                await self._lose(error)
            except sqlite3.Error as error:
                if self.failure is None:
                    _log.error("probe.failed", reason=str(error))
                self.failure = str(error)

    # What follows runs on the connection's thread.

    def _transact(self, commands: Sequence[Command[Any] | Operation[Any]]) -> _Committed:
        connection = self._connection._conn  # noqa: SLF001  (see on_thread)
        connection.execute("BEGIN IMMEDIATE")
        try:
            batch = Batch(connection)
            foreign = self._since_known(connection) if batch.position > self._known_position else []
            answers = batch.run(commands)
            # What another process wrote in between is known only by its keys. Made before the commit, because from
            # then on somebody waits for it.
            entries = None if foreign else [Entry(self._cursor_at(entry[0]), *entry) for entry in batch.appended]
            ended = [task for _, kind, _, task in batch.appended if kind == "result" and task is not None]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._check_files(looks_for_others=self._clock() - self._looked >= _TICK_SECONDS)
        return _Committed(answers, batch.position, [*foreign, *batch.grown], entries, ended)

    def _read_foreign_commits(self) -> tuple[int, Sequence[TaskKey], Sequence[Entry] | None]:
        connection = self._connection._conn  # noqa: SLF001  (see on_thread)
        self._check_files(looks_for_others=True)
        (version,) = connection.execute(sql.DATA_VERSION).fetchone()
        if version == self._data_version:
            return self._known_position, [], []
        self._data_version = version
        # First the keys, then the head: what comes between the two is told twice rather than never.
        foreign = self._since_known(connection)
        head = self._head()
        return head, foreign, [] if head == self._known_position else None

    def _since_known(self, connection: sqlite3.Connection) -> list[TaskKey]:
        return [TaskKey(*row) for row in connection.execute(sql.SELECT_GROWTH, (self._known_position,))]

    def _head(self) -> int:
        (position,) = self._connection._conn.execute(sql.SELECT_HEAD).fetchone()  # noqa: SLF001  (see on_thread)
        return int(position)

    def _probe(self) -> None:
        connection = self._connection._conn  # noqa: SLF001  (see on_thread)
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(sql.SAVE_META, ("probed", str(self._clock())))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._check_files(looks_for_others=True)

    def _check_files(self, *, looks_for_others: bool) -> None:
        if looks_for_others:
            self._looked = self._clock()
        self._watch.check(self._connection._conn, looks_for_others=looks_for_others)  # noqa: SLF001  (see on_thread)


def _time_out(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(StoreBusyError("it was not stored in time; it may still be"))


def _is_of_the_store(error: Exception) -> bool:
    """Whether every command would fail now (full disk, locked or broken file), and not only one for what is in it."""
    of_one = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.NotSupportedError)
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, of_one)
