"""Retention and deleting in SQLite: small steps, each in the transaction of the caller.

Retention removes the log from its oldest end only, whatever the times in it. So one position, the floor, says how much
is gone: a cursor before the floor has missed something, a cursor at it has not. Solutions, and bodies kept with
outcomes, have floors of their own, so no index has to order the log by age. Each step first finds its rows and then
removes them. A reader can therefore find out if there is anything to do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from receiver.domain.deliveries import ROW_BYTES, UNREADABLE_QUOTA, bodies_quota
from receiver.domain.records import TOMBSTONE_LIFE, Horizon, Removed, TaskRecord
from receiver.errors import ReceiverError
from receiver.storage.sqlite import retention_statements as pruning
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.reader import read_task
from receiver.storage.sqlite.rows import task_from
from receiver.storage.sqlite.statements import json_array

__all__ = ["BODIES_FLOOR", "FLOORS", "SOLUTIONS_FLOOR", "forget", "prunable", "prune", "read_floor"]

Row = TypeVar("Row", bound=tuple[Any, ...])

_FLOOR = "floor"
"""The name of the floor in `meta`: nothing behind this position was removed."""

SOLUTIONS_FLOOR = "solutions_floor"
"""The name of the floor of solutions. No entry up to it has a solution any more."""

BODIES_FLOOR = "bodies_floor"
"""The name of the floor of bodies. No entry up to it has the body of a delivery any more."""

FLOORS = (_FLOOR, SOLUTIONS_FLOOR, BODIES_FLOOR)
"""The names in `meta` with a position instead of a text."""

# A step ends with the row that reaches this. SQLite reads and overwrites what it frees, about 4 ms a megabyte: 200
# answers of 200 kB, which are kept twice, held up every callback for 350 ms.
_STEP_BYTES = 4 * 1024 * 1024

Freed = Sequence[tuple[str, int, int]]
"""Parts of quotas to be freed: name, rows, bytes."""


@dataclass(frozen=True, slots=True)
class _Step:
    """The rows that a step removed, and the quotas that they took."""

    removed: Removed
    freed: Freed = ()


def prunable(connection: sqlite3.Connection, horizon: Horizon) -> int | None:
    """See `Store.prunable`."""
    # The first table to lock on PostgreSQL is `meta`, as for an update of the schema.
    read_floor(connection, _FLOOR)
    row = connection.execute(pruning.SELECT_SURPLUS, (horizon.most_finished,)).fetchone()
    until = 0 if row is None else int(row[0])
    is_needed = (
        _old_entries(connection, _FLOOR, horizon.results, until, 1) is not None
        or _old_entries(connection, SOLUTIONS_FLOOR, horizon.solutions, 0, 1) is not None
        or _old_entries(connection, BODIES_FLOOR, horizon.deliveries, 0, 1) is not None
        or bool(_old_bodies(connection, horizon, 1))
        or _old_strays(connection, horizon, 1) is not None
        or bool(_old_tombstones(connection, horizon, 1))
    )
    return until if is_needed else None


def prune(connection: sqlite3.Connection, horizon: Horizon, until: int, limit: int) -> Removed | None:
    """Carry out `receiver.domain.transaction.Prune`."""
    step = _prune(connection, horizon, until, limit)
    if step is None:
        return None
    _free(connection, step.freed)
    return step.removed


def forget(connection: sqlite3.Connection, ref: str, now: int) -> Sequence[TaskRecord]:
    """Delete a task and the tasks joined to it, which come first, and leave tombstones. Return them.

    Raises:
        ReceiverError: `unknown-task`.
    """
    task = read_task(connection, ref)
    if task is None:
        raise ReceiverError("unknown-task", "no task has this ref")
    forgotten = [*_joined_to(connection, task), task]
    positions = [task.position for task in forgotten if task.position is not None]
    freed = _quotas_of_entries(connection, positions)
    for position in positions:
        _delete_entries_of(connection, position)
    connection.execute(pruning.PRUNE_TOMBSTONES, (now - TOMBSTONE_LIFE,))
    _free(connection, [*freed, *_delete_tasks(connection, [task.row for task in forgotten], now)])
    return forgotten


def _joined_to(connection: sqlite3.Connection, task: TaskRecord) -> Iterable[TaskRecord]:
    for row in connection.execute(sql.SELECT_JOINED_TASKS, (task.ref,)).fetchall():
        joined = task_from(row)
        yield from _joined_to(connection, joined)
        yield joined


def _delete_entries_of(connection: sqlite3.Connection, position: int) -> None:
    """Delete an outcome and those that it replaced from the log."""
    next_position: int | None = position
    while next_position is not None:
        row = connection.execute(pruning.DELETE_ENTRY, (next_position,)).fetchone()
        next_position = row[0] if row else None


def _delete_tasks(connection: sqlite3.Connection, rows: Sequence[int], now: int) -> Freed:
    """Delete tasks with everything that belongs to them, but not their log entries. Leave tombstones."""
    run = connection.execute
    tasks = json_array(rows)
    freed = run(pruning.SELECT_TASK_QUOTAS, (tasks,)).fetchall()
    deliveries = [row[0] for row in run(pruning.SELECT_DELIVERIES_OF_TASKS, (tasks,))]
    freed += _quotas_of(connection, deliveries)
    run(pruning.INSERT_TOMBSTONES, (now, tasks))
    for statement in pruning.DELETE_OF_TASKS:
        run(statement, (tasks,))
    return freed


def _free(connection: sqlite3.Connection, freed: Freed) -> None:
    for name, rows, size in freed:
        connection.execute(sql.FREE_QUOTA, (rows, size, name))


def _prune(connection: sqlite3.Connection, horizon: Horizon, until: int, limit: int) -> _Step | None:
    position = _old_entries(connection, _FLOOR, horizon.results, until, limit)
    if position is not None:
        return _remove_entries(connection, position, horizon.now)
    position = _old_entries(connection, SOLUTIONS_FLOOR, horizon.solutions, 0, limit)
    if position is not None:
        return _remove_solutions(connection, position)
    position = _old_entries(connection, BODIES_FLOOR, horizon.deliveries, 0, limit)
    if position is not None:
        return _remove_entry_bodies(connection, position)
    if bodies := _old_bodies(connection, horizon, limit):
        return _Step(Removed(bodies=len(bodies)), _remove_bodies(connection, bodies))
    if (stray := _old_strays(connection, horizon, limit)) is not None:
        return _remove_strays(connection, stray)
    if tombstones := _old_tombstones(connection, horizon, limit):
        connection.execute(pruning.DELETE_TOMBSTONES, (json_array(tombstones),))
        return _Step(Removed(tombstones=len(tombstones)))
    return None


def read_floor(connection: sqlite3.Connection, name: str) -> int:
    """Return the position of the floor with this name, 0 as long as nothing was removed."""
    row = connection.execute(sql.SELECT_META, (name,)).fetchone()
    return 0 if row is None else int(row[0])


def _old_entries(connection: sqlite3.Connection, floor: str, old_until: int, until: int, limit: int) -> int | None:
    """Return the last of the old entries behind the floor: not later than `old_until`, or not behind `until`."""
    after = max(read_floor(connection, floor), read_floor(connection, _FLOOR))
    rows = connection.execute(pruning.SELECT_ENTRY_TIMES, (after, limit))
    # Only an older version wrote entries without a time, and nothing more is known of them.
    return _last_old(rows, lambda position, time: position <= until or time is None or time <= old_until)


def _last_old(rows: Iterable[tuple[int, int | None, int]], is_old: Callable[[int, int | None], bool]) -> int | None:
    """Return the last of the old rows within a step."""
    last = None
    for row_id, time, _ in _within_step(rows):
        if not is_old(row_id, time):
            break
        last = row_id
    return last


def _within_step(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows, with their sizes at the end, until they make a step. No row behind them is read."""
    step_bytes = 0
    for row in rows:
        yield row
        step_bytes += row[-1]
        if step_bytes >= _STEP_BYTES:
            break


def _remove_entries(connection: sqlite3.Connection, position: int, now: int) -> _Step:
    after = read_floor(connection, _FLOOR)
    expired = connection.execute(pruning.SELECT_EXPIRED_TASKS, {"after": after, "until": position}).fetchall()
    # The log may be ahead of its tasks: a joined task stays as long as the one with its id.
    freed = _quotas_of_entries(connection, _entries(connection, pruning.SELECT_ENTRIES_WITH_BODIES, after, position))
    freed += _delete_tasks(connection, [row[0] for row in expired], now)
    entries = connection.execute(pruning.DELETE_ENTRIES, (after, position)).rowcount
    connection.execute(sql.SAVE_META, (_FLOOR, position))
    return _Step(Removed(tasks=len(expired), entries=entries), freed)


def _remove_solutions(connection: sqlite3.Connection, position: int) -> _Step:
    after = read_floor(connection, SOLUTIONS_FLOOR)
    bodies = [row[0] for row in connection.execute(pruning.SELECT_BODIES_OF_SOLUTIONS, (after, position))]
    with_bodies = _entries(connection, pruning.SELECT_ENTRIES_WITH_BOTH, after, position)
    freed = [*_remove_bodies(connection, bodies), *_quotas_of_entries(connection, with_bodies)]
    solutions = connection.execute(pruning.REMOVE_SOLUTIONS, (after, position)).rowcount
    connection.execute(sql.SAVE_META, (SOLUTIONS_FLOOR, position))
    return _Step(Removed(solutions=solutions, bodies=len(bodies) + len(with_bodies)), freed)


def _remove_entry_bodies(connection: sqlite3.Connection, position: int) -> _Step:
    after = max(read_floor(connection, BODIES_FLOOR), read_floor(connection, _FLOOR))
    freed = _quotas_of_entries(connection, _entries(connection, pruning.SELECT_ENTRIES_WITH_BODIES, after, position))
    bodies = connection.execute(pruning.REMOVE_ENTRY_BODIES, (after, position)).rowcount
    connection.execute(sql.SAVE_META, (BODIES_FLOOR, position))
    return _Step(Removed(bodies=bodies), freed)


def _remove_bodies(connection: sqlite3.Connection, deliveries: Sequence[int]) -> Freed:
    freed = _quotas_of(connection, deliveries)
    connection.execute(pruning.REMOVE_BODIES, (json_array(deliveries),))
    return freed


def _entries(connection: sqlite3.Connection, statement: str, after: int, until: int) -> Sequence[int]:
    """Return the positions that the statement finds behind one position, up to another."""
    return [row[0] for row in connection.execute(statement, (after, until))]


def _quotas_of_entries(connection: sqlite3.Connection, positions: Sequence[int]) -> list[tuple[str, int, int]]:
    """Return the part of the quotas that bodies kept with these outcomes take. Their tasks are still there."""
    found = connection.execute(pruning.SELECT_BODIES_AMONG_ENTRIES, (ROW_BYTES, json_array(positions))).fetchall()
    return [(bodies_quota(name), rows, size) for name, rows, size in found]


def _quotas_of(connection: sqlite3.Connection, deliveries: Sequence[int]) -> list[tuple[str, int, int]]:
    """Return the part of the quotas that the bodies of these deliveries take."""
    values = (ROW_BYTES, json_array(deliveries))
    rows, size = connection.execute(pruning.SELECT_UNREADABLE_AMONG, values).fetchone()
    others = connection.execute(pruning.SELECT_BODIES_AMONG, values).fetchall()
    unreadable = [(UNREADABLE_QUOTA, rows, size)] if rows else []
    return unreadable + [(bodies_quota(name), rows, size) for name, rows, size in others]


def _old_bodies(connection: sqlite3.Connection, horizon: Horizon, limit: int) -> Sequence[int]:
    rows = connection.execute(pruning.SELECT_OLD_BODIES, (horizon.deliveries, limit))
    return [row_id for row_id, _ in _within_step(rows)]


def _old_strays(connection: sqlite3.Connection, horizon: Horizon, limit: int) -> int | None:
    rows = connection.execute(pruning.SELECT_STRAY_TIMES, (limit,))
    return _last_old(rows, lambda _, time: time is not None and time <= horizon.deliveries)


def _remove_strays(connection: sqlite3.Connection, last: int) -> _Step:
    unreadable = connection.execute(pruning.SELECT_STRAY_BYTES, (ROW_BYTES, last)).fetchone()
    strays = connection.execute(pruning.DELETE_STRAYS, (last,)).rowcount
    return _Step(Removed(strays=strays), [(UNREADABLE_QUOTA, *unreadable)])


def _old_tombstones(connection: sqlite3.Connection, horizon: Horizon, limit: int) -> Sequence[int]:
    rows = connection.execute(pruning.SELECT_TOMBSTONES, (horizon.tombstones, limit)).fetchall()
    rows = rows or connection.execute(pruning.SELECT_SURPLUS_TOMBSTONES, (horizon.most_tombstones, limit)).fetchall()
    return [row[0] for row in rows]
