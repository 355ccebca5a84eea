"""Reads what tells of tasks beside their records, on any connection and whatever thread it is used on."""

from __future__ import annotations

import sqlite3

from receiver.domain.records import History, Outcome, PollRecord, TaskRecord, WaitingTasks
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.rows import delivery_from, delivery_range

__all__ = ["read_history", "read_waiting"]

_MOST_OUTCOMES = 16


def read_history(connection: sqlite3.Connection, task: TaskRecord) -> History:
    """The kept deliveries, polls and outcomes of a task."""
    slots = delivery_range(task)
    return History(
        deliveries=tuple(delivery_from(row) for row in connection.execute(sql.SELECT_DELIVERIES, slots)),
        polls=tuple(PollRecord(*row) for row in connection.execute(sql.SELECT_POLLS, slots)),
        outcomes=_read_outcomes(connection, task),
    )


def read_waiting(connection: sqlite3.Connection) -> list[WaitingTasks]:
    """What waits, by provider; of more than 20,000 tasks those whose deadlines come first."""
    return [WaitingTasks(*row) for row in connection.execute(sql.SELECT_WAITING)]


def _read_outcomes(connection: sqlite3.Connection, task: TaskRecord) -> tuple[Outcome, ...]:
    """Each outcome names the place of the one that it replaced."""
    found: list[Outcome] = []
    position = task.position
    while position is not None and len(found) < _MOST_OUTCOMES:
        row = connection.execute(sql.SELECT_OUTCOME, (position,)).fetchone()
        # Those that were replaced may be pruned.
        if row is None:
            break
        found.append(Outcome(*row))
        position = found[-1].supersedes
    return tuple(reversed(found))
