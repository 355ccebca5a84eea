"""One batch in one PostgreSQL transaction of several receivers: locks, decisions, numbers, writes.

Decisions are those of the SQLite store. Other receivers write at the same time, so every row that a decision reads is
locked first, and read again by a later statement. With READ COMMITTED that one sees all that was committed before the
lock. States and races of a batch:

* *locking*: tasks in the order of their rows, then quotas by name, then shared rows, then deliveries without a task.
  Rows found only by a later decision are locked out of that order. A circle of waiting batches is broken by the server,
  and the batch is repeated. It then locks at once all that it has asked for before.
* *shared rows* are leases, budgets of keys, tickets and texts. They may be absent, so their names are locked. The
  database's clock is read behind these locks. So a later holder of a lock never gets an earlier time.
* *an absent row* cannot be locked: a ref, an id of a provider, an Idempotency-Key. If two receivers make it at the same
  time, then a unique index lets only the first one commit. The other batch is repeated, and finds the row.
  A tombstone is read after its task was found absent, so a task deleted meanwhile is found deleted.
* *a joined row is never locked with its task*: a lock that had to wait gives the new task, but the old outcome.
* *queries* for due, overdue and held tasks lock what they find, and skip what another receiver has locked.
* *numbering*: with all rows locked and all decisions made, the row of `head` gives the positions and the rows of new
  tasks. From here to the commit all other receivers with new entries wait, and this batch waits for no lock of theirs.
* *operations and queries see the database alone.* Written changes would need numbers, and locks after numbers are a
  circle. So the batch ends before such a command, and the next one begins with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from receiver.domain.records import TaskRecord
from receiver.domain.transaction import Command, Forget, Key, Operation, RowKind
from receiver.storage.command_queue import Decision
from receiver.storage.postgres import statements as own
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.batch import Batch
from receiver.storage.sqlite.database import NeedsThreadError
from receiver.storage.sqlite.fetching import fetch
from receiver.storage.sqlite.reader import read_task
from receiver.storage.sqlite.rows import task_from

__all__ = ["LATE_IDS_KEPT", "LockingBatch"]

LATE_IDS_KEPT = 1000
"""The number of late ids that stay for other receivers."""

_OPERATIONS = 0x43425244
_QUERIES: Mapping[RowKind, Sequence[str]] = {
    "due": (sql.SELECT_DUE_DISPUTES, sql.SELECT_DUE_AGAIN, sql.SELECT_DUE, sql.SELECT_DUE_BEYOND),
    "overdue": (sql.SELECT_OVERDUE,),
    "held": (sql.SELECT_HELD,),
}
"""Queries for any tasks that match. The one for joined tasks names its task, and has to find all."""

_SHARED: frozenset[RowKind] = frozenset({"meta", "lease", "key_budget", "ticket", "ticket_count"})
"""Kinds of rows that receivers share. A lock on the name holds others off, even if there is no row."""


class LockingBatch(Batch):
    """Commands and operations on an open transaction. `wanted` are all rows that its decisions asked for.

    A repeated batch gets them as `known`, so that it locks them in order. From the lock on `head` on `is_numbering` is
    True.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.wanted: dict[Key, None] = {}
        self.is_numbering = False
        self._locked: set[int] = set()

    def run(self, commands: Sequence[Command[Any] | Operation[Any]], known: Iterable[Key] = ()) -> Sequence[Decision]:
        """Write all changes, and return the answers to the first commands, at least to one.

        The other commands begin the next batch.
        """
        if isinstance(commands[0], Operation):
            return [self._operate(commands[0])]
        batch = _until_operation(commands)
        refs = dict.fromkeys(ref for command in batch for ref in command.refs)
        self._fetch([*(("task", ref) for ref in refs), *known])
        for number, command in enumerate(batch):
            # A query must not miss what was decided before it.
            self._may_wait = not self._transaction.has_changes
            try:
                self._answers.append(self._decide(command, batch[number + 1 :]))
            except NeedsThreadError:
                break
        self._write_changes()
        return self._answers

    def _fetch(self, keys: Sequence[Key]) -> None:
        keys = list(dict.fromkeys(keys))
        for key in keys:
            if key[0] in _QUERIES:
                self._transaction.supply([key], [(key, self._claim(key))])
        others = [key for key in keys if key[0] not in _QUERIES]
        if not others:
            return
        self.wanted |= dict.fromkeys(others)
        # Tombstones last: a task that was deleted since has one by then.
        others.sort(key=lambda key: key[0].startswith("forgotten"))
        while True:
            self._lock(others)
            rows = list(fetch(self._connection, others))
            # An id may have gone to another task in between.
            if all(task.row in self._locked for _, row in rows for task in _tasks_of(row)):
                break
        self._transaction.supply(others, rows)

    def _lock(self, keys: Sequence[Key]) -> None:
        kinds = {kind: [key for key in keys if key[0] == kind] for kind in ("task", "task_id", "joined")}
        if any(kinds.values()):
            found = self._execute(
                own.LOCK_TASKS,
                [key[1] for key in kinds["task"]],
                [key[1] for key in kinds["task_id"]],
                [key[2] for key in kinds["task_id"]],
                [key[1] for key in kinds["joined"]],
            )
            self._locked.update(row[0] for row in found)
        if quotas := [key[1] for key in keys if key[0] == "quota"]:
            self._execute(own.LOCK_QUOTAS, quotas)
        if shared := [" ".join(map(str, key)) for key in keys if key[0] in _SHARED]:
            self._execute(own.LOCK_SHARED, shared)
        if strays := [key[1] for key in keys if key[0] == "stray"]:
            self._execute(own.LOCK_STRAYS, strays)

    def _claim(self, key: Key) -> list[TaskRecord]:
        """Return the tasks that a query finds and no other receiver has locked. They are locked now."""
        names: dict[str, Any]
        kind, *parameters = key
        rows: list[int] = []
        if kind == "due":
            provider, now, limit, reach, lease = parameters
            names = {"provider": provider, "now": now, "latest": now + reach, "first_end": now + 1}
            names["last_end"] = now + lease
        for statement in _QUERIES[kind]:
            if kind == "due":
                found = self._connection.execute(own.locking(statement), names | {"limit": limit - len(rows)})
            else:
                found = self._connection.execute(own.locking(statement), parameters)
            rows += [row[0] for row in found]
        self._locked.update(rows)
        return [task_from(row) for row in self._execute(own.SELECT_ROWS, rows)]

    def _operate(self, operation: Operation[Any]) -> Decision:
        """Carry out an operation. Operations follow each other, in whatever receiver they are."""
        self._execute(own.LOCK_OPERATIONS, _OPERATIONS)
        if isinstance(operation, Forget):
            self._lock_family(operation.ref)
            self.position, _ = self._take_numbers(0, 0)
        decision = super()._operate(operation)
        if isinstance(operation, Forget):
            self._execute(own.MOVE_HEAD, self.position)
        return decision

    def _lock_family(self, ref: str) -> None:
        """Lock a task and all tasks joined to it, until no further ones are found."""
        refs: list[str] = []
        while True:
            task = read_task(self._connection, ref)
            found = [] if task is None else [row[0] for row in self._execute(own.SELECT_FAMILY, task.ref)]
            if set(found) <= set(refs):
                return
            refs = found
            self._execute(own.LOCK_TASKS, refs, [], [], [])

    def _write_changes(self) -> None:
        done = self._transaction
        if done.log or done.added:
            self.position, self._last_row = self._take_numbers(len(done.log), len(done.added))
        self._write_late_ids()
        super()._write_changes()

    def _write_late_ids(self) -> None:
        """Note the ids that became known for tasks with an outcome. Entries of the log name the others."""
        done = self._transaction
        named = {entry.task.ref for entry in done.log}
        late = [
            key
            for key in done.grown
            if key.id_text is not None and key.ref not in named and done.row(("task", key.ref)).position is not None
        ]
        if late:
            (number,) = self._execute(own.TAKE_LATE_IDS, len(late), len(late)).fetchone()
            self._connection.executemany(
                own.INSERT_LATE_ID, [(number + place, *key) for place, key in enumerate(late, 1)]
            )
            self._execute(own.DELETE_LATE_IDS, number - LATE_IDS_KEPT)

    def _take_numbers(self, entries: int, tasks: int) -> tuple[int, int]:
        """Return the end of the log and the last row of the tasks, from which on this batch may number."""
        self.is_numbering = True
        position, row = self._execute(own.TAKE_NUMBERS, entries, tasks, entries, tasks).fetchone()
        return int(position), int(row)

    def _execute(self, statement: str, *parameters: object) -> Any:
        return self._connection.execute(statement, parameters)


def _until_operation(commands: Sequence[Command[Any] | Operation[Any]]) -> Sequence[Command[Any]]:
    batch: list[Command[Any]] = []
    for command in commands:
        if isinstance(command, Operation):
            break
        batch.append(command)
    return batch


def _tasks_of(row: Any) -> Sequence[TaskRecord]:
    if isinstance(row, TaskRecord):
        return (row,)
    return row if isinstance(row, list) else ()
