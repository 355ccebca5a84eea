"""The tasks of the receiver's own callbacks. They have an index of their own."""

from __future__ import annotations

import sqlite3

from receiver.storage.sqlite import retention_statements as pruning
from receiver.storage.sqlite.statements import json_array

__all__ = ["prune_canary"]

# The oldest of them from before a time, with their outcomes. A task without one has a deadline, and then it has one.
SELECT_CANARY_TASKS = """
    SELECT id, position FROM task
    WHERE id > 0 AND provider = 'canary' AND created_at < ? AND status <> 'processing' ORDER BY id LIMIT 200
"""


def prune_canary(connection: sqlite3.Connection, before: int) -> None:
    """Carry out `receiver.domain.transaction.PruneCanary`.

    No tombstone is left, and no entry of the log: readers never saw these tasks. A later callback for one is refused.
    """
    rows = connection.execute(SELECT_CANARY_TASKS, (before,)).fetchall()
    for _, position in rows:
        next_position = position
        while next_position is not None:
            deleted = connection.execute(pruning.DELETE_ENTRY, (next_position,)).fetchone()
            next_position = deleted[0] if deleted else None
    tasks = json_array([row_id for row_id, _ in rows])
    for statement in pruning.DELETE_OF_TASKS:
        connection.execute(statement, (tasks,))
