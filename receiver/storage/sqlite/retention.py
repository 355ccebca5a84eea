"""Retention in SQLite: finds what is old, and removes a little of it in the transaction of the caller.

The log goes from its oldest end only, however the times in it stand: so one position, the floor, says what is kept, and
a cursor before it has missed something while one at it has not. Each kind is found first and then removed, so that a
reader can see whether there is anything to do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from receiver.domain.deliveries import ROW_BYTES, UNREADABLE_QUOTA, bodies_quota
from receiver.domain.records import SECOND, Horizon, Removed, TaskRecord
from receiver.errors import ReceiverError
from receiver.storage.sqlite import retention_statements as pruning
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.reader import read_task
from receiver.storage.sqlite.rows import slots_of, task_from

__all__ = ["FLOOR", "SOLUTIONS_FLOOR", "Removal", "counted_among", "forget", "prunable", "prune", "read_mark"]

FLOOR = "floor"
"""Where it is noted behind which position everything is kept."""

SOLUTIONS_FLOOR = "solutions_floor"
"""The same for solutions, of which there are none before it."""

# A step removes no more rows than those that reach this. SQLite reads and overwrites what it frees, about 4 ms a
# megabyte: 200 answers of 200 kB, which are kept twice, held up every callback for 350 ms.
_STEP_BYTES = 4 * 1024 * 1024

_TOMBSTONE_LIFE = 90 * 24 * 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Removal:
    """What a step removed, and what of quotas (name, rows, bytes) is free again."""

    removed: Removed
    given_back: Sequence[tuple[str, int, int]] = ()


def prunable(connection: sqlite3.Connection, horizon: Horizon) -> int | None:
    """See `Store.prunable`."""
    row = connection.execute(pruning.SELECT_SURPLUS, (horizon.most_finished,)).fetchone()
    until = 0 if row is None else int(row[0])
    is_needed = (
        _old_entries(connection, FLOOR, horizon.results, until, 1) is not None
        or _old_entries(connection, SOLUTIONS_FLOOR, horizon.solutions, 0, 1) is not None
        or bool(_old_bodies(connection, horizon, 1))
        or _old_strays(connection, horizon, 1) is not None
        or bool(_old_tombstones(connection, horizon, 1))
    )
    return until if is_needed else None


def prune(connection: sqlite3.Connection, horizon: Horizon, until: int, limit: int) -> Removed | None:
    """Carry out `receiver.domain.transaction.Prune`."""
    removal = _prune(connection, horizon, until, limit)
    if removal is None:
        return None
    _give_back(connection, removal.given_back)
    return removal.removed


def forget(connection: sqlite3.Connection, ref: str, now: int) -> Sequence[TaskRecord]:
    """Delete a task and those joined to it, which come first, and leave tombstones. Return them.

    Raises:
        ReceiverError: `unknown-task`.
    """
    task = read_task(connection, ref)
    if task is None:
        raise ReceiverError("unknown-task", "no task has this ref")
    forgotten = [*_joined_to(connection, task), task]
    for doomed in forgotten:
        _forget(connection, doomed, now)
    return forgotten


def _joined_to(connection: sqlite3.Connection, task: TaskRecord) -> Iterable[TaskRecord]:
    for row in connection.execute(sql.SELECT_JOINED_TASKS, (task.ref,)).fetchall():
        joined = task_from(row)
        yield from _joined_to(connection, joined)
        yield joined


def _forget(connection: sqlite3.Connection, task: TaskRecord, now: int) -> None:
    run = connection.execute
    first, last = slots = slots_of(task.row)
    _give_back(connection, counted_among(connection, range(first, last + 1)))
    if task.quota is not None:
        _give_back(connection, [(task.quota, 1, task.kept_bytes)])
    position = task.position
    while position is not None:
        row = run(sql.DELETE_LOG, (position,)).fetchone()
        position = row[0] if row else None
    run(sql.DELETE_DELIVERIES, slots)
    run(sql.DELETE_POLLS, slots)
    run(sql.DELETE_TAGS, (task.row,))
    run(sql.DELETE_IDEMPOTENCY, (task.ref,))
    run(sql.DELETE_TASK, (task.row,))
    run(sql.PRUNE_TOMBSTONES, (now - _TOMBSTONE_LIFE,))
    run(sql.INSERT_TOMBSTONE, (task.ref, task.provider, task.id_text, now))


def _give_back(connection: sqlite3.Connection, parts: Iterable[tuple[str, int, int]]) -> None:
    for name, rows, size in parts:
        connection.execute(sql.GIVE_BACK_QUOTA, (rows, size, name))


def _prune(connection: sqlite3.Connection, horizon: Horizon, until: int, limit: int) -> Removal | None:
    position = _old_entries(connection, FLOOR, horizon.results, until, limit)
    if position is not None:
        return _remove_entries(connection, position, horizon.now)
    position = _old_entries(connection, SOLUTIONS_FLOOR, horizon.solutions, 0, limit)
    if position is not None:
        return _remove_solutions(connection, position)
    if bodies := _old_bodies(connection, horizon, limit):
        return _remove_bodies(connection, bodies)
    if (stray := _old_strays(connection, horizon, limit)) is not None:
        return _remove_strays(connection, stray)
    if tombstones := _old_tombstones(connection, horizon, limit):
        connection.execute(pruning.DELETE_TOMBSTONES, (_json(tombstones),))
        return Removal(Removed(tombstones=len(tombstones)))
    return None


def read_mark(connection: sqlite3.Connection, name: str) -> int:
    """Return the position noted under FLOOR or SOLUTIONS_FLOOR."""
    row = connection.execute(sql.SELECT_META, (name,)).fetchone()
    return 0 if row is None else int(row[0])


def _old_entries(connection: sqlite3.Connection, mark: str, horizon: int, until: int, limit: int) -> int | None:
    """Return the last of the oldest entries behind the mark that are old, or not behind `until`."""
    after = max(read_mark(connection, mark), read_mark(connection, FLOOR))
    rows = connection.execute(pruning.SELECT_ENTRY_TIMES, (after, limit))
    # An entry without a time is of an older version, of which nothing more is known.
    return _last_of_prefix(rows, lambda position, time: position <= until or time is None or time <= horizon)


def _last_of_prefix(rows: Iterable[tuple[int, int | None, int]], is_old: Any) -> int | None:
    """Return the last of the old rows, of no more than make a step; no row behind it is read."""
    last, step_bytes = None, 0
    for key, time, size in rows:
        if not is_old(key, time):
            break
        last = key
        step_bytes += size
        if step_bytes >= _STEP_BYTES:
            break
    return last


def _remove_entries(connection: sqlite3.Connection, position: int, now: int) -> Removal:
    run = connection.execute
    after = read_mark(connection, FLOOR)
    doomed = run(pruning.SELECT_DOOMED, {"after": after, "until": position}).fetchall()
    rows = _json([row[0] for row in doomed])
    given_back = run(pruning.SELECT_TASK_QUOTAS, (rows,)).fetchall()
    deliveries = [row[0] for row in run(pruning.SELECT_DELIVERIES_OF_TASKS, (rows,))]
    given_back += counted_among(connection, deliveries)
    run(pruning.INSERT_TOMBSTONES, (now, rows))
    for statement in pruning.DELETE_OF_TASKS:
        run(statement, (rows,))
    entries = run(pruning.DELETE_ENTRIES, (after, position)).rowcount
    run(sql.SAVE_META, (FLOOR, position))
    return Removal(Removed(tasks=len(doomed), entries=entries), given_back)


def _remove_solutions(connection: sqlite3.Connection, position: int) -> Removal:
    after = read_mark(connection, SOLUTIONS_FLOOR)
    bodies = [row[0] for row in connection.execute(pruning.SELECT_BODIES_OF_SOLUTIONS, (after, position))]
    given_back = counted_among(connection, bodies)
    connection.execute(pruning.REMOVE_BODIES, (_json(bodies),))
    solutions = connection.execute(pruning.REMOVE_SOLUTIONS, (after, position)).rowcount
    connection.execute(sql.SAVE_META, (SOLUTIONS_FLOOR, position))
    return Removal(Removed(solutions=solutions, bodies=len(bodies)), given_back)


def _old_bodies(connection: sqlite3.Connection, horizon: Horizon, limit: int) -> Sequence[int]:
    bodies: list[int] = []
    step_bytes = 0
    for delivery, size in connection.execute(pruning.SELECT_OLD_BODIES, (horizon.deliveries, limit)):
        bodies.append(delivery)
        step_bytes += size
        if step_bytes >= _STEP_BYTES:
            break
    return bodies


def _remove_bodies(connection: sqlite3.Connection, deliveries: Sequence[int]) -> Removal:
    given_back = counted_among(connection, deliveries)
    connection.execute(pruning.REMOVE_BODIES, (_json(deliveries),))
    return Removal(Removed(bodies=len(deliveries)), given_back)


def counted_among(connection: sqlite3.Connection, deliveries: Sequence[int]) -> list[tuple[str, int, int]]:
    """Return the room that the kept bodies among these deliveries take of quotas: name, rows, bytes."""
    values = (ROW_BYTES, _json(deliveries))
    rows, size = connection.execute(pruning.SELECT_UNREADABLE_AMONG, values).fetchone()
    others = connection.execute(pruning.SELECT_BODIES_AMONG, values).fetchall()
    unreadable = [(UNREADABLE_QUOTA, rows, size)] if rows else []
    return unreadable + [(bodies_quota(name), rows, size) for name, rows, size in others]


def _old_strays(connection: sqlite3.Connection, horizon: Horizon, limit: int) -> int | None:
    rows = connection.execute(pruning.SELECT_STRAY_TIMES, (limit,))
    return _last_of_prefix(rows, lambda _, time: time <= horizon.deliveries)


def _remove_strays(connection: sqlite3.Connection, last: int) -> Removal:
    given_back = connection.execute(pruning.SELECT_STRAY_BYTES, (ROW_BYTES, last)).fetchone()
    strays = connection.execute(pruning.DELETE_STRAYS, (last,)).rowcount
    return Removal(Removed(strays=strays), [(UNREADABLE_QUOTA, *given_back)])


def _old_tombstones(connection: sqlite3.Connection, horizon: Horizon, limit: int) -> Sequence[int]:
    rows = connection.execute(pruning.SELECT_TOMBSTONES, (horizon.tombstones, limit)).fetchall()
    rows = rows or connection.execute(pruning.SELECT_SURPLUS_TOMBSTONES, (horizon.most_tombstones, limit)).fetchall()
    return [row[0] for row in rows]


def _json(ids: Sequence[int]) -> str:
    return to_json(list(ids)).decode()
