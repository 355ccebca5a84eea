"""What retention would take of a database, read without changing it, whether a receiver runs on it or not.

Reads whole tables, which takes seconds where they are large; nobody waits for it but the operator who asked.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from receiver.domain.records import Horizon, Removed, Survey
from receiver.storage.sqlite import retention_statements as pruning
from receiver.storage.sqlite.database import open_read_only, snapshot
from receiver.storage.sqlite.reader import read_bounds
from receiver.storage.sqlite.retention import SOLUTIONS_FLOOR, read_floor
from receiver.storage.sqlite.rows import SLOTS

__all__ = ["survey"]

# Where the first entry stands that stays: behind a position, and younger than a time.
_FIRST_KEPT = "SELECT min(position) FROM log WHERE position > ? AND finished_at > ?"
# The tasks that go, in a table of this connection's.
_EXPIRED = f"CREATE TEMP TABLE expired AS {pruning.SELECT_EXPIRED_TASKS}"
_COUNT_EXPIRED = "SELECT count(*) FROM temp.expired"
# How many entries go, the bytes of their solutions, and when the oldest and the newest of them came.
_ENTRIES = (
    "SELECT count(*), coalesce(sum(length(solution)), 0), min(finished_at), max(finished_at) FROM log "
    "WHERE position > ? AND position <= ?"
)
# How many bytes of deliveries go with the tasks.
_BODIES_OF_EXPIRED = (
    "SELECT coalesce(sum(size), 0) FROM delivery WHERE body IS NOT NULL "
    f"AND id / {SLOTS} IN (SELECT id FROM temp.expired)"
)
# How many solutions of records that stay go, and their bytes.
_SOLUTIONS = (
    "SELECT count(solution), coalesce(sum(length(solution)), 0) FROM log WHERE position > :after AND position <= :until"
)
# How many bodies of deliveries whose records stay go, and their bytes: by their age, or with a solution.
_BODIES = f"""
    SELECT count(*), coalesce(sum(delivery.size), 0) FROM delivery JOIN task ON task.id = delivery.id / {SLOTS}
    WHERE delivery.body IS NOT NULL AND task.id NOT IN (SELECT id FROM temp.expired) AND (
        (delivery.received_at <= :deliveries AND task.status <> 'processing')
        OR (delivery.verdict NOT IN {pruning.UNUSABLE} AND EXISTS (
            SELECT 1 FROM log WHERE log.position = task.position AND log.status = 'ready'
              AND log.position > :after AND log.position <= :until))
    )
"""
# How many deliveries of no task go, and their bytes.
_STRAYS = "SELECT count(*), coalesce(sum(size), 0) FROM stray_delivery WHERE received_at <= ?"
# How many tombstones go, by age or by number.
_TOMBSTONES = "SELECT count(*) FROM tombstone WHERE forgotten_at <= ? OR id <= (SELECT max(id) FROM tombstone) - ?"


def survey(path: Path, horizon: Horizon) -> Survey:
    """Count everything past the horizon in the database at `path`, as of now.

    Raises:
        CannotStartError: there is none, it cannot be read, or it is not of this version.
    """
    with open_read_only(path) as connection:
        connection.execute("PRAGMA temp_store = MEMORY")
        with snapshot(connection):
            return _count(connection, horizon)


def _count(connection: sqlite3.Connection, horizon: Horizon) -> Survey:
    run = connection.execute
    head, after = read_bounds(connection)
    surplus = run(pruning.SELECT_SURPLUS, (horizon.most_finished,)).fetchone()
    until = _end_of_old(connection, max(after, surplus[0] if surplus else 0), horizon.results, head)
    run(_EXPIRED, {"after": after, "until": until})
    (tasks,) = run(_COUNT_EXPIRED).fetchone()
    entries, size, oldest, newest = run(_ENTRIES, (after, until)).fetchone()
    stay = max(until, read_floor(connection, SOLUTIONS_FLOOR))
    solved = {"after": stay, "until": _end_of_old(connection, stay, horizon.solutions, head)}
    solutions, size_of_solutions = run(_SOLUTIONS, solved).fetchone()
    bodies, size_of_bodies = run(_BODIES, solved | {"deliveries": horizon.deliveries}).fetchone()
    strays, size_of_strays = run(_STRAYS, (horizon.deliveries,)).fetchone()
    (tombstones,) = run(_TOMBSTONES, (horizon.tombstones, horizon.most_tombstones)).fetchone()
    (size_of_expired,) = run(_BODIES_OF_EXPIRED).fetchone()
    return Survey(
        removed=Removed(tasks, entries, solutions, bodies, strays, tombstones),
        size=size + size_of_expired + size_of_solutions + size_of_bodies + size_of_strays,
        oldest=oldest,
        newest=newest,
    )


def _end_of_old(connection: sqlite3.Connection, after: int, horizon: int, head: int) -> int:
    """Return the place before the first entry behind `after` that is young."""
    (first,) = connection.execute(_FIRST_KEPT, (after, horizon)).fetchone()
    return head if first is None else int(first) - 1
