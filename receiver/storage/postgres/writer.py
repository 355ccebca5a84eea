"""The writer: one asyncio task stores up to 256 queued commands in one transaction, then releases their callers.

States of a batch, and what the server can do to it:

* *open*: locks, decisions and writes. If another batch was in the way, this one is repeated, with all rows that it
  asked for locked at once. If the connection breaks, nothing was stored. The batch is tried again on a new one for a
  second, because most providers send a callback only once.
* *blocked*: another session holds a row, or a statement takes longer than it may. The commands are stored alone, those
  that are blocked are refused, and the others' callers have hardly waited. If all are blocked, then they stay for 10 s.
* *committing*: if the connection breaks now, nobody knows if it was stored. Callers are told so. It is not repeated.
  The log is read at once, so that its waiters are woken if it was.
* *outdated*: a newer program has changed the schema so that this one would harm it. All commands are refused, and the
  process ends: a balancer then leads callbacks to others. Without commands it is noticed within a second.
* *committed*: callers are released, then waiters here, then a hint goes to the other receivers.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from receiver.domain.records import Entry, Growth, TaskKey, TaskRecord
from receiver.domain.transaction import Command, Key, Operation
from receiver.errors import ReceiverError, StoreBusyError, StoreFailedError
from receiver.storage.command_queue import CommandQueue, Decision, Queued
from receiver.storage.postgres import statements as own
from receiver.storage.postgres.batch import LockingBatch
from receiver.storage.postgres.bridge import bridged, run_bridged
from receiver.storage.postgres.connection import Reconnecting, Server
from receiver.storage.postgres.errors import (
    CommitUnknownError,
    OutdatedError,
    is_blocked,
    is_lost,
    is_worth_repeating,
    reason_of,
)
from receiver.storage.postgres.follower import LogEnd, LogFollower
from receiver.storage.postgres.schema import CHECK_PROGRAM

__all__ = ["PostgresWriter"]

_MAX_REPEATS = 20
_FAILING_SECONDS = 1.0
_AGAIN_SECONDS = 0.05
_PROBE_SECONDS = 5.0
_BLOCKED_SECONDS = 10.0
_FEW_BLOCKED = 8
_MOST_BLOCKED = 256
# Whatever the default of the role: a row must be read as it is after its lock.
_BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; {CHECK_PROGRAM}"
_BEGIN_BRIEFLY = f"{_BEGIN}; SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '1s'"
# The server's limit on a statement must not end a wait for its replica: it then says that the commit is done. So this
# limit is the client's.
_COMMIT = "SET LOCAL statement_timeout = 0; COMMIT"
_COMMIT_SECONDS = 8.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Committed:
    answers: Sequence[Decision]
    grown: Sequence[TaskKey]
    entries: Sequence[Entry]


class PostgresWriter(CommandQueue):
    """Owns the writing connection. `run` must be running.

    `end` is the end of the log, from which on `follower` tells the listener of all that follows.
    """

    def __init__(
        self,
        server: Server,
        *,
        end: LogEnd,
        cursor_at: Callable[[int], str],
        announce: Callable[[], None],
        tally: Callable[[int, Sequence[TaskRecord]], None] | None = None,
        batch_type: type[LockingBatch] = LockingBatch,
    ) -> None:
        super().__init__(time.monotonic)
        self._cursor_at = cursor_at
        self._announce = announce
        self._tally = tally
        self._batch_type = batch_type
        self._writing = Reconnecting(server)
        self.follower = LogFollower(server, end, self._tell)
        self._wanted: Sequence[Key] = ()
        self._is_numbering = False
        self._blocked_since: float | None = None
        self._failing_since: float | None = None

    async def run(self) -> None:
        """Write until `stop`, then end with an empty queue.

        Raises:
            OutdatedError: this program must not write any more.
        """
        try:
            while self._queue or not self._is_stopping:
                if self._queue:
                    await self._gather()
                    await self._store(self._take())
                    self._batch = ()
                elif await self._wait_for_command(_PROBE_SECONDS):
                    await self._probe()
        except OutdatedError:
            self._refuse([*self._batch, *self._queue], StoreFailedError("the store cannot write now"))
            raise
        finally:
            self._is_stopping = True

    async def close(self) -> None:
        """Close the connection, after `run` has ended."""
        await self._writing.close()

    async def _store(self, batch: Sequence[Queued]) -> None:
        """Store all commands of a batch, in as many transactions as it takes."""
        while batch:
            batch = await self._store_some(batch)
            if self._blocked_since is not None and self._queue and len(batch) < _MOST_BLOCKED:
                # Beside commands that can be stored, a row that another session holds shows itself.
                self._batch = batch = [*batch, *self._take()]

    async def _store_some(self, batch: Sequence[Queued], *, is_brief: bool = False) -> Sequence[Queued]:
        """Store commands of a batch and release their callers. Return the others, which are to be stored next.

        If it `is_brief`, then commands that are blocked are returned at once.
        """
        known: Sequence[Key] = ()
        repeats = 0
        while True:
            try:
                with self.lateness.writing():
                    committed = await self._transact(batch, known, _BEGIN_BRIEFLY if is_brief else _BEGIN)
            except CommitUnknownError as error:
                self._note_failure(error, batch)
                self.follower.check()
                self._announce()
                return self._refuse(batch, StoreBusyError("the connection broke, and it may still be stored"))
            except OutdatedError:
                raise
            except Exception as error:
                known, repeats = self._wanted, repeats + 1
                if is_worth_repeating(error) and repeats <= _MAX_REPEATS:
                    await asyncio.sleep(random.random() * 0.002 * repeats)  # noqa: S311  (not a secret)
                    continue
                if is_blocked(error):
                    return batch if is_brief else await self._pass_by(batch, error)
                if is_lost(error):
                    if self._may_try_again(error, batch):
                        await asyncio.sleep(_AGAIN_SECONDS)
                        continue
                    return self._refuse(batch, StoreFailedError("the store cannot write now"))
                if len(batch) > 1:
                    return await self._store_alone(batch)
                _log.exception("command.failed", command=type(batch[0].command).__name__)
                return self._refuse(batch, StoreFailedError("the command cannot be stored"))
            self._end_failure()
            if not is_brief:
                self._blocked_since = None
            done = batch[: len(committed.answers)]
            # Callers first: a sender waits for its acknowledgement, but a wake-up may come microseconds later.
            self._release(done, committed.answers)
            if committed.grown or committed.entries:
                self._announce()
                self.follower.add(committed.grown, committed.entries)
            if self._tally is not None:
                ended = [entry.task for entry in committed.entries if entry.kind == "result" and entry.task is not None]
                self._tally(len(done), ended)
            return batch[len(done) :]

    async def _store_alone(self, batch: Sequence[Queued], *, is_brief: bool = False) -> Sequence[Queued]:
        """Store each command in a transaction of its own. Return those that are left.

        If it `is_brief`, then it ends after a few commands that are blocked, without one between that is not.
        """
        left: list[Queued] = []
        blocked = 0
        for number, queued in enumerate(batch, start=1):
            others = await self._store_some([queued], is_brief=is_brief)
            blocked = blocked + 1 if others else 0
            left += others
            if self._failing_since is not None or blocked == _FEW_BLOCKED:
                return [*left, *batch[number:]]
        return left

    async def _pass_by(self, batch: Sequence[Queued], error: Exception) -> Sequence[Queued]:
        """Store the commands that are not blocked, and refuse the others then. If all are, return them for some time.

        The row that numbers the entries, or a whole table, is rarely held for long. All can be stored afterwards.
        """
        now = asyncio.get_running_loop().time()
        since = self._blocked_since = self._blocked_since or now
        left = batch
        if len(batch) > 1 and not self._is_numbering:
            left = await self._store_alone(batch, is_brief=True)
        is_tried = len(left) < len(batch) or now - since > _BLOCKED_SECONDS or self._is_stopping
        has_broken = len(left) < len(batch) and self._failing_since is not None
        if has_broken or not is_tried:
            return left
        self._blocked_since = None
        if left and self._failing_since is None:
            self._note_failure(error, left)
        return self._refuse(left, StoreFailedError("the database takes too long"))

    def _refuse(self, batch: Sequence[Queued], error: ReceiverError) -> Sequence[Queued]:
        self._release(batch, [(None, error)] * len(batch))
        return ()

    def _may_try_again(self, error: Exception, batch: Sequence[Queued]) -> bool:
        """Return True within the first second of a failure, as long as a caller waits."""
        now = asyncio.get_running_loop().time()
        since = self._failing_since
        if since is None:
            self._note_failure(error, batch)
            return True
        return now - since < _FAILING_SECONDS and any(not queued.answer.done() for queued in batch)

    def _note_failure(self, error: Exception, batch: Sequence[Queued] = ()) -> None:
        reason = reason_of(error)
        if self._failing_since is None:
            self._failing_since = asyncio.get_running_loop().time()
            _log.error("commit.failed", reason=reason, commands=len(batch))
        self.failure = reason

    def _end_failure(self) -> None:
        self.failure = self._failing_since = None

    async def _transact(self, batch: Sequence[Queued], known: Sequence[Key], begin: str) -> _Committed:
        """Carry out the first commands of a batch in one transaction."""
        commands = [queued.command for queued in batch]
        connection = await self._writing.get()
        is_committing = False
        try:
            await self._begin(connection, begin)
            committed = await run_bridged(lambda: self._decide_and_write(bridged(connection), commands, known))
            # A closed connection does not even send it.
            is_committing = not connection.is_closed()
            status = await connection.execute(_COMMIT, timeout=_COMMIT_SECONDS)
        except BaseException as error:
            if (
                isinstance(error, Exception)
                and not connection.is_closed()
                and (not is_lost(error) or (is_blocked(error) and not is_committing))
            ):
                await self._roll_back(connection)
                raise
            await self._writing.close()
            if is_committing and isinstance(error, Exception):
                raise CommitUnknownError(reason_of(error)) from error
            raise
        if status != "COMMIT":
            raise asyncpg.InterfaceError("the transaction was rolled back")
        return committed

    async def _begin(self, connection: asyncpg.Connection, statement: str) -> None:
        try:
            await connection.execute(statement)
        except asyncpg.DivisionByZeroError as error:
            raise OutdatedError from error

    async def _roll_back(self, connection: asyncpg.Connection) -> None:
        try:
            await connection.execute("ROLLBACK")
        except Exception as error:
            if not is_lost(error):
                raise
            await self._writing.close()

    def _decide_and_write(
        self, connection: sqlite3.Connection, commands: Sequence[Command[Any] | Operation[Any]], known: Sequence[Key]
    ) -> _Committed:
        batch = self._batch_type(connection)
        try:
            answers = batch.run(commands, known)
        finally:
            self._wanted, self._is_numbering = list(batch.wanted), batch.is_numbering
        # The entries are made before the commit, because callers wait from then on.
        return _Committed(answers, batch.grown, [Entry(self._cursor_at(entry[0]), *entry) for entry in batch.appended])

    def _tell(self, growth: Growth) -> None:
        if self.listener is not None:
            self.listener(growth)

    async def _probe(self) -> None:
        """Check that writing works, or works again."""
        try:
            with self.lateness.writing():
                connection = await self._writing.get()
                await connection.execute(own.SAVE_PROBE)
        except Exception as error:
            if not is_lost(error) and not is_worth_repeating(error):
                raise
            await self._writing.close()
            self._note_failure(error)
        else:
            self._end_failure()
