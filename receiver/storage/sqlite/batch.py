"""One batch in one SQLite transaction: deciding its commands, fetching missing rows, and writing all changes.

A batch runs on the event loop if it is short, otherwise on the connection's thread. An operation sees the changes of
all commands before it, and so does a query of a decision. Those changes are therefore written first, in the same SQLite
transaction.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from client.provider_api.unlisted import MOST_CODES
from receiver.domain.access.api_keys import AddKey, NoteKeysUsed, RevokeKeys
from receiver.domain.records import Numbered, StoredDelivery, TaskKey, TaskRecord, UnreadableDelivery
from receiver.domain.shapes import SHAPES_KEPT
from receiver.domain.transaction import (
    QUERIES,
    Command,
    Forget,
    Key,
    Operation,
    Prune,
    PruneCanary,
    RowKind,
    RowsNeeded,
    Transaction,
)
from receiver.errors import ReceiverError
from receiver.storage.command_queue import Decision
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import NeedsThreadError, execute_repeated
from receiver.storage.sqlite.fetching import fetch
from receiver.storage.sqlite.reader import read_unreadable
from receiver.storage.sqlite.retention import forget, prune
from receiver.storage.sqlite.rows import (
    NO_DELIVERY,
    SLOTS,
    budget_values,
    changed_columns,
    delivery_values,
    idempotency_values,
    lease_values,
    log_delivery_values,
    outcome_values,
    poll_values,
    shape_values,
    slots_of,
    standing_url_values,
    task_values,
    ticket_values,
    time_values,
    update_values,
)
from receiver.storage.sqlite.statements import json_array
from receiver.storage.sqlite.tables.api_keys import change_keys
from receiver.storage.sqlite.tables.canary import prune_canary

__all__ = ["Batch", "DryRun"]

Answer = TypeVar("Answer")

# Each prefetch may decide the whole rest of the batch. Two or three find all missing rows of most commands.
_MAX_PREFETCHES = 4


class DryRun:
    """Decides commands as a store does, each on the changes of those before it, and writes nothing.

    It is for commands without a query, such as `Redeliver`, and reads on the thread of the event loop. The connection
    need not be able to write.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._transaction = Transaction(head=0, keeps_bodies=False)

    async def unreadable(self, after: UnreadableDelivery | None, *, limit: int) -> Sequence[UnreadableDelivery]:
        """See `SqliteStore.unreadable`."""
        return read_unreadable(self._connection, after, limit)

    async def write(self, command: Command[Answer]) -> Answer:
        """Return the answer of the command."""
        while True:
            try:
                return self._transaction.decide(command)
            except RowsNeeded as needed:
                self._transaction.supply(needed.keys, fetch(self._connection, needed.keys))


class Batch:
    """Commands and operations on an open SQLite transaction.

    `grown` names changed tasks with possible waiters. `appended` holds the new log entries: position, kind, ref, task,
    and the provider of a deleted one. Unless it `may_wait`, it takes no operation and no query.
    """

    def __init__(self, connection: sqlite3.Connection, *, may_wait: bool = True) -> None:
        self.grown: list[TaskKey] = []
        self.appended: list[tuple[int, str, str, TaskRecord | None, str | None]] = []
        self._connection = connection
        self._may_wait = may_wait
        sequences = dict(connection.execute(sql.SELECT_SEQUENCES).fetchall())
        self.position: int = sequences.get("log", 0)
        self._last_row: int = sequences.get("task", 0)
        self._transaction = Transaction(self.position)
        self._answers: list[Decision] = []
        self._numbered_until = 0
        self._prefetches = 0

    def run(self, commands: Sequence[Command[Any] | Operation[Any]]) -> Sequence[Decision]:
        """Write all changes, and return the answers as if the commands had run one by one.

        Raises:
            NeedsThreadError: a command takes long, and this batch may not wait.
        """
        if not self._may_wait and any(isinstance(command, Operation) for command in commands):
            raise NeedsThreadError
        refs = dict.fromkeys(ref for command in commands if not isinstance(command, Operation) for ref in command.refs)
        self._fetch([("task", ref) for ref in refs])
        for number, command in enumerate(commands):
            if isinstance(command, Operation):
                self._write_changes()
                self._answers.append(self._operate(command))
            else:
                self._answers.append(self._decide(command, commands[number + 1 :]))
        self._write_changes()
        return self._answers

    def _decide(self, command: Command[Any], later: Sequence[Command[Any] | Operation[Any]]) -> Decision:
        while True:
            try:
                return self._transaction.decide(command), None
            except ReceiverError as error:
                return None, error
            except RowsNeeded as needed:
                is_query = any(key[0] in QUERIES for key in needed.keys)
                if is_query and not self._may_wait:
                    raise NeedsThreadError from None
                if is_query and self._transaction.has_changes:
                    self._write_changes()
                else:
                    self._fetch([*needed.keys, *self._missing_later(later)])

    def _missing_later(self, later: Sequence[Command[Any] | Operation[Any]]) -> Iterable[Key]:
        """Return the missing rows of later commands, as far as they can be decided now. One fetch gets them all."""
        if self._prefetches == _MAX_PREFETCHES:
            return ()
        self._prefetches += 1
        keys: dict[Key, None] = {}
        for command in later:
            if isinstance(command, Operation):
                break
            keys |= dict.fromkeys(self._transaction.rows_missing(command))
        return keys

    def _fetch(self, keys: Sequence[Key]) -> None:
        if keys:
            keys = list(dict.fromkeys(keys))
            self._transaction.supply(keys, fetch(self._connection, keys))

    def _operate(self, operation: Operation[Any]) -> Decision:
        try:
            match operation:
                case Forget():
                    self._forget(operation)
                    return None, None
                case PruneCanary():
                    prune_canary(self._connection, operation.before)
                    return None, None
                case Prune():
                    return prune(self._connection, operation.horizon, operation.until, operation.limit), None
                case AddKey() | RevokeKeys() | NoteKeysUsed():
                    change_keys(self._connection, operation)
                    return None, None
        except ReceiverError as error:
            return None, error
        raise TypeError(operation)

    def _forget(self, operation: Forget) -> None:
        rows = []
        for task in forget(self._connection, operation.ref, operation.now):
            self.position += 1
            rows.append((self.position, "deleted", None, task.ref, *time_values(operation.now), *NO_DELIVERY))
            self.appended.append((self.position, "deleted", task.ref, None, task.provider))
            self.grown.append(TaskKey(task.ref, task.provider, task.id_text))
        self._write(sql.INSERT_LOG, rows)

    def _write_changes(self) -> None:
        """Write all decisions so far, give their answers numbers, and begin a new `Transaction` on the result."""
        done = self._transaction
        if done.has_changes:
            tasks = self._write_tasks(done)
            self._write_log(done, tasks)
            self._write_others(done)
        for answer, _ in self._answers[self._numbered_until :]:
            if isinstance(answer, Numbered):
                answer.number(self.position, self._last_row)
        self._numbered_until = len(self._answers)
        self.grown += done.grown
        self.position += len(done.log)
        self._last_row += len(done.added)
        self._transaction = Transaction(self.position)
        self._prefetches = 0

    def _write_tasks(self, done: Transaction) -> dict[str, TaskRecord]:
        """Return the tasks that changed, by ref, with their numbers."""
        tasks: dict[str, TaskRecord] = {key[1]: done.row(key) for key in done.changed if key[0] == "task"}
        for task in tasks.values():
            task.number(self.position, self._last_row)
        new = dict.fromkeys(done.added)
        released = [tasks[key[1]].row for key in done.changed if key[0] == "released_id" and key[1] not in new]
        if released:
            self._connection.execute(sql.RELEASE_TASK_IDS, (json_array(released),))
        self._write(sql.INSERT_TASK, [task_values(tasks[ref]) for ref in new])
        self._write(sql.INSERT_TAG, [(tag, tasks[ref].row) for ref in new for tag in dict.fromkeys(tasks[ref].tags)])
        changed = defaultdict[tuple[str, ...], list[TaskRecord]](list)
        for ref, task in tasks.items():
            if ref not in new:
                changed[changed_columns(done.before(ref), task)].append(task)
        for columns, alike in changed.items():
            if columns:
                # executemany, because the same for all rows in one statement takes twice as long.
                self._connection.executemany(sql.update_task(columns), map(update_values(columns), alike))
        return tasks

    def _write_log(self, done: Transaction, tasks: Mapping[str, TaskRecord]) -> None:
        rows: list[tuple[Any, ...]] = []
        for position, (kind, task, delivery) in enumerate(done.log, start=self.position + 1):
            task.number(self.position, self._last_row)
            outcome = task.outcome if kind == "result" else None
            values = time_values(task.hinted_at) if outcome is None else outcome_values(outcome)
            rows.append((position, kind, task.row, None, *values, *log_delivery_values(task, delivery)))
            # Readers get the task as it is written now, with the outcome of this position.
            latest = tasks[task.ref]
            latest = latest if latest.position == task.position else task
            self.appended.append((position, kind, task.ref, latest, None))
        self._write(sql.INSERT_LOG, rows)

    def _write_others(self, done: Transaction) -> None:
        rows = defaultdict[RowKind, list[tuple[Any, ...]]](list)
        for key in done.changed:
            kind, *parts = key
            if kind in _WRITES:
                rows[kind].append(_WRITES[kind][1](done, parts, done.row(key)))
            elif kind == "stray":
                self._change_stray(parts[0], done.row(key))
        for kind in rows:
            self._write(_WRITES[kind][0], rows[kind])
            if kind in _CLEANING:
                self._connection.execute(_CLEANING[kind])
        for key in done.changed:
            if key[0] == "verdict":
                self._update_verdict(done, key)
        for delivery in done.strays:
            self._connection.execute(sql.INSERT_STRAY, delivery_values(delivery))
        for ref, poll in done.late_polls:
            values = (poll.started_at, poll.ended_at, poll.summary, *slots_of(done.row(("task", ref)).row), poll.lease)
            self._connection.execute(sql.COMPLETE_POLL, values)
        self._write_counts(done)

    def _update_verdict(self, done: Transaction, key: Key) -> None:
        """Update the delivery where it is: in its table or with the outcome of its task."""
        verdict, (_, ref, slot) = done.row(key), key
        self._connection.execute(sql.UPDATE_VERDICT, (verdict, _slot(done, (ref, slot))))
        self._connection.execute(sql.UPDATE_LOG_VERDICT, (verdict, done.row(("task", ref)).position, slot))

    def _change_stray(self, stray_id: int, delivery: StoredDelivery | None) -> None:
        if delivery is None:
            self._connection.execute(sql.DELETE_STRAY, (stray_id,))
        else:
            self._connection.execute(sql.UPDATE_STRAY, (delivery.verdict, delivery.body, stray_id))

    def _write_counts(self, done: Transaction) -> None:
        """Add to the counts of each provider. The oldest make room."""
        run = self._connection.execute
        for record in done.shapes:
            run(sql.ADD_SHAPE, shape_values(record))
        for provider in {record.provider for record in done.shapes}:
            run(sql.PRUNE_SHAPES, (provider, SHAPES_KEPT))
        for code in done.unlisted_codes:
            run(sql.ADD_UNLISTED_CODE, code)
        for provider in {code.provider for code in done.unlisted_codes}:
            run(sql.PRUNE_UNLISTED_CODES, (provider, provider, MOST_CODES + 1))

    def _write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        execute_repeated(self._connection, statement, rows)


def _slot(done: Transaction, parts: Sequence[Any]) -> int:
    """Return the id of a delivery or a poll. Its task was written before, and so has its row."""
    ref, slot = parts
    row_id: int = done.row(("task", ref)).row * SLOTS + slot
    return row_id


_WRITES: Mapping[RowKind, tuple[str, Callable[[Transaction, Sequence[Any], Any], tuple[Any, ...]]]] = {
    "delivery": (
        sql.INSERT_DELIVERY,
        lambda done, parts, delivery: (_slot(done, parts), *delivery_values(delivery)),
    ),
    "poll": (sql.INSERT_POLL, lambda done, parts, poll: (_slot(done, parts), *poll_values(poll))),
    "quota": (sql.SAVE_QUOTA, lambda _, parts, used: (*parts, *used)),
    "standing_url": (sql.SAVE_STANDING_URL, lambda _, __, url: standing_url_values(url)),
    "idempotency": (
        sql.INSERT_IDEMPOTENCY,
        lambda _, parts, record: (*parts, *idempotency_values(record)),
    ),
    "meta": (sql.SAVE_META, lambda _, parts, text: (*parts, text)),
    "ticket": (sql.SAVE_TICKET, lambda _, parts, ticket: (*parts, *ticket_values(ticket))),
    "key_budget": (sql.SAVE_KEY_BUDGET, lambda _, parts, budget: (*parts, *budget_values(budget))),
    "lease": (sql.SAVE_LEASE, lambda _, parts, lease: (*parts, *lease_values(lease))),
}
"""Statements by kind, and their values from the key and the row."""

_CLEANING: Mapping[RowKind, str] = {"lease": sql.DELETE_ENDED_LEASES, "ticket": sql.DELETE_ENDED_TICKETS}
"""Statements that remove rows of the same kind that have ended."""
