"""The ledger of one SQLite transaction: reads what a batch needs at once, writes what it changed in a few statements.

Runs on the connection's thread. Changes are gathered and written by `flush`; what is rare is written at once, after a
flush, so that statements always see all that was decided before them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from pydantic_core import from_json, to_json

from client.provider_api.unlisted import MOST_CODES, UnlistedRow
from receiver.domain.records import (
    DELIVERIES_KEPT,
    SECOND,
    Delivery,
    Horizon,
    KeptBody,
    Outcome,
    PollRecord,
    Removed,
    StandingUrl,
    TaskKey,
    TaskRecord,
    UnlistedCode,
)
from receiver.domain.shapes import ShapeRecord
from receiver.domain.transaction import IdempotencyRecord, TaskIdKey
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.retention import counted_among, prune
from receiver.storage.sqlite.rows import (
    bare_values,
    delivery_from,
    delivery_id,
    delivery_range,
    delivery_values,
    outcome_values,
    poll_values,
    standing_url_from,
    task_from,
    task_state,
    task_values,
)
from receiver.storage.sqlite.shapes import add_shapes

__all__ = ["SqliteLedger"]

_MOST_ROWS = 128
_TOMBSTONE_LIFE = 90 * 24 * 3600 * SECOND


class SqliteLedger:
    """A `receiver.domain.transaction.Ledger` on an open transaction.

    `grown` names the tasks that somebody may wait for, `appended` is what came into the log: position, kind, ref, task.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.grown: list[TaskKey] = []
        self._appended: list[tuple[int, str, str, TaskRecord | None]] = []
        self._connection = connection
        self._tasks: dict[str, TaskRecord | None] = {}
        self._owners: dict[TaskIdKey, str | None] = {}
        self._new: dict[str, TaskRecord] = {}
        self._changed: dict[str, TaskRecord] = {}
        self._log: list[tuple[Any, ...]] = []
        self._deliveries: list[tuple[Any, ...]] = []
        self._quotas: dict[str, tuple[int, int]] = {}
        sequences = dict(connection.execute(sql.SELECT_SEQUENCES).fetchall())
        self.position: int = sequences.get("log", 0)
        self._last_row: int = sequences.get("task", 0)

    @property
    def appended(self) -> Sequence[tuple[int, str, str, TaskRecord | None]]:
        """What came into the log, with each task as the transaction left it, and the outcome of the place."""
        return [(position, kind, ref, self._as_left(task)) for position, kind, ref, task in self._appended]

    def preload(self, refs: Iterable[str]) -> None:
        """Read these tasks at once, in one row, because the GIL is given away for each."""
        wanted = list(dict.fromkeys(refs))
        if len(wanted) < 2:
            return
        self._tasks.update(dict.fromkeys(wanted))
        (rows,) = self._connection.execute(sql.SELECT_TASKS_BY_REFS, (to_json(wanted).decode(),)).fetchone()
        for row in from_json(rows):
            self._remember(task_from(row))

    def task(self, ref: str) -> TaskRecord | None:
        """See `Ledger`."""
        if ref not in self._tasks:
            row = self._connection.execute(sql.SELECT_TASK_BY_REF, (ref,)).fetchone()
            self._tasks[ref] = None
            if row is not None:
                self._remember(task_from(row))
        return self._tasks[ref]

    def task_by_id(self, key: TaskIdKey) -> TaskRecord | None:
        """See `Ledger`."""
        if key not in self._owners:
            row = self._connection.execute(sql.SELECT_TASK_BY_TASK_ID, (key.id_text, key.provider)).fetchone()
            self._owners[key] = None
            # A row may be older than what this transaction decided; then the id is not the task's any more.
            if row is not None and row[1] not in self._tasks:
                self._remember(task_from(row))
            elif row is not None and (known := self._tasks[row[1]]) is not None and known.id_text == key.id_text:
                self._owners[key] = known.ref
        ref = self._owners[key]
        return None if ref is None else self._tasks[ref]

    def is_forgotten(self, ref: str | None, key: TaskIdKey | None) -> bool:
        """See `Ledger`."""
        if ref is not None and self._connection.execute(sql.SELECT_TOMBSTONE_BY_REF, (ref,)).fetchone():
            return True
        return (
            key is not None
            and self._connection.execute(sql.SELECT_TOMBSTONE_BY_TASK_ID, (key.id_text, key.provider)).fetchone()
            is not None
        )

    def head(self) -> int:
        """See `Ledger`."""
        return self.position

    def add(self, task: TaskRecord) -> TaskRecord:
        """See `Ledger`."""
        self._last_row += 1
        task = task.evolve(row=self._last_row)
        self._remember(task)
        self._new[task.ref] = task
        if task.id_text is not None:
            self.grown.append(TaskKey(task.ref, task.provider, task.id_text))
        return task

    def change(self, task: TaskRecord) -> None:
        """See `Ledger`."""
        before = self._tasks.get(task.ref)
        if task.id_text is not None and (before is None or before.id_text != task.id_text):
            # Who waits under the id has to look: there may be an outcome already.
            self.grown.append(TaskKey(task.ref, task.provider, task.id_text))
        self._remember(task)
        (self._new if task.ref in self._new else self._changed)[task.ref] = task

    def release_id(self, task: TaskRecord, joined_ref: str) -> None:
        """See `Ledger`."""
        self.flush()
        self._connection.execute(sql.RELEASE_TASK_ID, (joined_ref, task.row))
        self._tasks[task.ref] = task.evolve(task_id=None, joined_ref=joined_ref)
        if task.id_text is not None:
            self._owners[TaskIdKey(task.provider, task.id_text)] = None

    def append_outcome(self, task: TaskRecord, outcome: Outcome) -> TaskRecord:
        """See `Ledger`."""
        if outcome.supersedes != task.position:
            outcome = replace(outcome, supersedes=task.position)
        self.position += 1
        task = task.evolve(position=self.position, outcome=outcome)
        self._log.append((self.position, "result", task.row, None, *outcome_values(outcome)))
        self._appended.append((self.position, "result", task.ref, task))
        self.grown.append(TaskKey(task.ref, task.provider, task.id_text))
        self.change(task)
        return task

    def append_hint(self, task: TaskRecord) -> None:
        """See `Ledger`."""
        self._append_bare("hint", task, None, task.hinted_at)

    def keep(self, task: TaskRecord | None, delivery: Delivery) -> None:
        """See `Ledger`."""
        if task is None:
            self._connection.execute(sql.INSERT_STRAY, delivery_values(delivery))
            return
        slot = delivery_id(task) if delivery.kept_id is None else delivery.kept_id
        if delivery.kept_id is None and task.deliveries > DELIVERIES_KEPT + 1:
            self.flush()
            self._give_back_bodies(slot, slot)
        self._deliveries.append((slot, *delivery_values(delivery)))

    def is_unreadable(self, kept: KeptBody) -> bool:
        """See `Ledger`."""
        self.flush()
        statement = sql.SELECT_IS_UNREADABLE_STRAY if kept.is_stray else sql.SELECT_IS_UNREADABLE
        return self._connection.execute(statement, (kept.id, kept.delivery.received_at)).fetchone() is not None

    def judge_stray(self, kept: KeptBody, verdict: str | None) -> None:
        """See `Ledger`."""
        if verdict is None:
            self._connection.execute(sql.DELETE_STRAY, (kept.id,))
        else:
            self._connection.execute(sql.JUDGE_STRAY, (verdict, kept.id))

    def mark_mismatched(self, task: TaskRecord, id_text: str) -> None:
        """See `Ledger`."""
        self.flush()
        self._connection.execute(sql.MARK_MISMATCHED, (*delivery_range(task), id_text))

    def forget(self, task: TaskRecord, now: int) -> None:
        """See `Ledger`."""
        self.flush()
        run = self._connection.execute
        for row in run(sql.SELECT_JOINED_TASKS, (task.ref,)).fetchall():
            self.forget(task_from(row), now)
        self.flush()
        self._give_back_bodies(*delivery_range(task))
        if task.quota is not None:
            self.spend(task.quota, -1, -task.kept_bytes)
        position = task.position
        while position is not None:
            row = run(sql.DELETE_LOG, (position,)).fetchone()
            position = row[0] if row else None
        run(sql.DELETE_DELIVERIES, delivery_range(task))
        run(sql.DELETE_POLLS, delivery_range(task))
        run(sql.DELETE_TAGS, (task.row,))
        run(sql.DELETE_IDEMPOTENCY, (task.ref,))
        run(sql.DELETE_TASK, (task.row,))
        run(sql.PRUNE_TOMBSTONES, (now - _TOMBSTONE_LIFE,))
        run(sql.INSERT_TOMBSTONE, (task.ref, task.provider, task.id_text, now))
        self._tasks[task.ref] = None
        if task.id_text is not None:
            self._owners[TaskIdKey(task.provider, task.id_text)] = None
        self._append_bare("deleted", task, task.ref, now)

    def prune(self, horizon: Horizon, until: int, limit: int) -> Removed | None:
        """See `Ledger`."""
        self.flush()
        removal = prune(self._connection, horizon, until, limit)
        if removal is None:
            return None
        for name, rows, size in removal.given_back:
            self.spend(name, -rows, -size)
        for key in removal.forgotten:
            self._tasks[key.ref] = None
            if key.id_text is not None:
                self._owners[TaskIdKey(key.provider, key.id_text)] = None
        return removal.removed

    def overdue(self, now: int, limit: int) -> Sequence[TaskRecord]:
        """See `Ledger`."""
        self.flush()
        return [task_from(row) for row in self._connection.execute(sql.SELECT_OVERDUE, (now, limit)).fetchall()]

    def due(self, provider: str, now: int, limit: int, *, reach: int, lease: int) -> Sequence[TaskRecord]:
        """See `Ledger`."""
        self.flush()
        held = (now + 1, now + lease)
        rows: list[Any] = []
        for statement, at in (
            (sql.SELECT_DUE_DISPUTES, now),
            (sql.SELECT_DUE_AGAIN, now),
            (sql.SELECT_DUE, now),
            (sql.SELECT_DUE_BEYOND, now + reach),
        ):
            rows += self._connection.execute(statement, (provider, at, *held, limit - len(rows))).fetchall()
        for row in rows:
            self._remember(task_from(row))
        return [task_from(row) for row in rows]

    def held(self, now: int, limit: int) -> Sequence[TaskRecord]:
        """See `Ledger`."""
        self.flush()
        tasks = [task_from(row) for row in self._connection.execute(sql.SELECT_HELD, (now, limit)).fetchall()]
        for task in tasks:
            self._remember(task)
        return tasks

    def held_delivery(self, task: TaskRecord) -> Delivery | None:
        """See `Ledger`."""
        self.flush()
        row = self._connection.execute(sql.SELECT_HELD_DELIVERY, delivery_range(task)).fetchone()
        return None if row is None else delivery_from(row)

    def judge_held(self, task: TaskRecord, verdict: str) -> None:
        """See `Ledger`."""
        self.flush()
        self._connection.execute(sql.JUDGE_HELD, (verdict, *delivery_range(task)))

    def remember(self, name: str, text: str) -> None:
        """See `Ledger`."""
        self._connection.execute(sql.SAVE_META, (name, text))

    def add_shapes(self, records: Sequence[ShapeRecord]) -> None:
        """See `Ledger`."""
        add_shapes(self._connection, records)

    def adopt(self, rows: Sequence[int]) -> None:
        """See `Ledger`."""
        self.flush()
        self._connection.execute(sql.ADOPT, (to_json(list(rows)).decode(),))
        # What was read before is not so any more.
        self._tasks.clear()
        self._owners.clear()

    def keep_poll(self, task: TaskRecord, poll: PollRecord) -> None:
        """See `Ledger`."""
        self._connection.execute(sql.INSERT_POLL, poll_values(task, poll))

    def unlisted_row(self, task: TaskRecord) -> UnlistedRow | None:
        """See `Ledger`."""
        row = self._connection.execute(sql.SELECT_UNLISTED_ROW, delivery_range(task)).fetchone()
        return None if row is None or row[0] is None else UnlistedRow(row[0], row[1], row[2] / SECOND)

    def add_unlisted(self, records: Sequence[UnlistedCode]) -> None:
        """See `Ledger`."""
        for record in records:
            self._connection.execute(sql.ADD_UNLISTED_CODE, record)
        for provider in {record.provider for record in records}:
            self._connection.execute(sql.PRUNE_UNLISTED_CODES, (provider, provider, MOST_CODES + 1))

    def amend_poll(self, task: TaskRecord, poll: PollRecord) -> None:
        """See `Ledger`."""
        values = (poll.started_at, poll.ended_at, poll.said, *delivery_range(task), poll.lease)
        self._connection.execute(sql.AMEND_POLL, values)

    def idempotency(self, owner: str, key: str) -> IdempotencyRecord | None:
        """See `Ledger`."""
        row = self._connection.execute(sql.SELECT_IDEMPOTENCY, (owner, key)).fetchone()
        return None if row is None else IdempotencyRecord(row[0], row[1], bool(row[2]))

    def add_idempotency(self, owner: str, key: str, record: IdempotencyRecord) -> None:
        """See `Ledger`."""
        values = (owner, key, record.body_digest, record.ref, record.is_new)
        self._connection.execute(sql.INSERT_IDEMPOTENCY, values)

    def standing_url(self, url_id: str) -> StandingUrl | None:
        """See `Ledger`."""
        row = self._connection.execute(sql.SELECT_STANDING_URL, (url_id,)).fetchone()
        return None if row is None else standing_url_from(row)

    def save_standing_url(self, url: StandingUrl) -> None:
        """See `Ledger`."""
        values = (url.id, url.provider, url.label, url.created_at, url.revoked_at)
        self._connection.execute(sql.SAVE_STANDING_URL, values)

    def quota(self, name: str) -> tuple[int, int]:
        """See `Ledger`."""
        if name not in self._quotas:
            self._quotas[name] = self._connection.execute(sql.SELECT_QUOTA, (name,)).fetchone() or (0, 0)
        return self._quotas[name]

    def spend(self, name: str, rows: int, size: int) -> None:
        """See `Ledger`."""
        used_rows, used_bytes = self.quota(name)
        self._quotas[name] = (max(used_rows + rows, 0), max(used_bytes + size, 0))

    def flush(self) -> None:
        """Write what was gathered, tasks first."""
        if self._new:
            self._write(sql.INSERT_TASK, [task_values(task) for task in self._new.values()])
            tags = [(tag, task.row) for task in self._new.values() for tag in dict.fromkeys(task.tags)]
            self._write(sql.INSERT_TAG, tags)
            self._new = {}
        if self._changed:
            self._write(sql.UPDATE_TASK, [task_state(task) for task in self._changed.values()])
            self._changed = {}
        if self._log:
            self._write(sql.INSERT_LOG, self._log)
            self._log = []
        if self._deliveries:
            self._write(sql.INSERT_DELIVERY, self._deliveries)
            self._deliveries = []
        if self._quotas:
            self._write(sql.SAVE_QUOTA, [(name, *used) for name, used in self._quotas.items()])
            self._quotas = {}

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write the rows by as few statements as there are bits in their number.

        Not executemany: that gives the GIL away for each row, and gets it back from a busy event loop late. The sizes
        are powers of two, so that few statements have to be kept prepared.
        """
        start = 0
        while start < len(rows):
            size = min(_MOST_ROWS, 1 << (len(rows) - start).bit_length() - 1)
            values = list(chain.from_iterable(rows[start : start + size]))
            self._connection.execute(sql.of_many_rows(statement, size), values)
            start += size

    def _remember(self, task: TaskRecord) -> None:
        before = self._tasks.get(task.ref)
        self._tasks[task.ref] = task
        id_before = None if before is None else before.id_text
        if id_before == task.id_text:
            return
        if id_before is not None:
            self._owners[TaskIdKey(task.provider, id_before)] = None
        if task.id_text is not None:
            self._owners[TaskIdKey(task.provider, task.id_text)] = task.ref

    def _append_bare(self, kind: str, task: TaskRecord, ref: str | None, came_at: int | None) -> None:
        self.position += 1
        row = None if ref is not None else task.row
        self._log.append((self.position, kind, row, ref, *bare_values(came_at)))
        self._appended.append((self.position, kind, task.ref, None if ref is not None else task))
        self.grown.append(TaskKey(task.ref, task.provider, task.id_text))

    def _as_left(self, task: TaskRecord | None) -> TaskRecord | None:
        latest = None if task is None else self._tasks.get(task.ref)
        return task if latest is None or task is None or latest.position != task.position else latest

    def _give_back_bodies(self, first: int, last: int) -> None:
        for name, rows, size in counted_among(self._connection, range(first, last + 1)):
            self.spend(name, -rows, -size)
