"""The receiver with a store that decides nothing: it finds the rows of the tasks, and writes the same rows, durably.

Its figures are the least that a receiver on SQLite takes here, whatever it saves in its decisions.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from contextlib import closing
from pathlib import Path

import aiosqlite

from client.providers.readings import Failed, Ready
from receiver.domain.deliveries import DeliverToTask, DeliveryResult
from receiver.domain.reading import Origin, make_outcome
from receiver.domain.records import TaskRecord
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.checkpoints import Checkpoints
from receiver.storage.sqlite.database import execute_repeated, handle_of, on_thread, select_repeated
from receiver.storage.sqlite.rows import log_delivery_values, outcome_values

__all__ = ["RowsAlone", "copy_database"]

_MOST = 256
_QUIET_TURNS = 2
# Only the columns that the simplest decision needs, and those that have to change.
_SELECT = (
    "SELECT task.ref, task.id, status, task_id, deliveries, held_until, quota FROM (VALUES (?)) AS wanted "
    "CROSS JOIN task ON task.ref = wanted.column1"
)
_UPDATE = "UPDATE task SET status = 'ready', deliveries = 1, position = ?, next_poll_at = NULL WHERE id = ?"


class RowsAlone:
    """The part of a `Store` that the path of a callback uses. `run` must be running."""

    def __init__(self, connection: aiosqlite.Connection, checkpoints: Checkpoints, task: TaskRecord) -> None:
        self._connection = connection
        self._checkpoints = checkpoints
        self._task = task.evolve(deliveries=1)
        self._delivered = DeliveryResult("accepted", self._task)
        self._queue: deque[tuple[DeliverToTask, asyncio.Future[DeliveryResult]]] = deque()
        self._arrived = asyncio.Event()

    def begin(self, command: DeliverToTask, *, within_seconds: float) -> asyncio.Future[DeliveryResult]:
        """Report the delivery as accepted, once its rows are durable."""
        del within_seconds
        answer: asyncio.Future[DeliveryResult] = asyncio.get_running_loop().create_future()
        self._queue.append((command, answer))
        self._arrived.set()
        return answer

    async def run(self) -> None:
        """Write batches as the receiver does: gathered and written on the event loop, committed on the thread."""
        connection = handle_of(self._connection)
        (position,) = connection.execute(sql.SELECT_HEAD).fetchone()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                await self._gather()
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST))]
                connection.execute("BEGIN IMMEDIATE")
                self._write(connection, position, [command for command, _ in batch])
                position += len(batch)
                await on_thread(self._connection, lambda there: there.execute("COMMIT"))
                self._checkpoints.committed(len(batch))
                for _, answer in batch:
                    if not answer.done():
                        answer.set_result(self._delivered)

    async def _gather(self) -> None:
        queued, quiet_turns = len(self._queue), 0
        while quiet_turns < _QUIET_TURNS and queued < _MOST:
            await asyncio.sleep(0)
            quiet_turns = quiet_turns + 1 if len(self._queue) == queued else 0
            queued = len(self._queue)

    def _write(self, connection: sqlite3.Connection, position: int, commands: list[DeliverToTask]) -> None:
        tasks = {row[0]: row[1] for row in select_repeated(connection, _SELECT, [(one.ref,) for one in commands])}
        states, entries = [], []
        for number, command in enumerate(commands, start=position + 1):
            row, delivery = tasks[command.ref], command.delivery
            states.append((number, row))
            if isinstance(command.reading, str) or not isinstance(command.reading.reading, Ready | Failed):
                raise TypeError(command.reading)
            outcome = make_outcome(command.reading.reading, Origin("callback", "token", delivery.received_at))
            kept = log_delivery_values(self._task, delivery.decided("accepted"))
            entries.append((number, "result", row, None, *outcome_values(outcome), *kept))
        connection.executemany(_UPDATE, states)
        execute_repeated(connection, sql.INSERT_LOG, entries)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database in use, as its backup would be."""
    with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)
