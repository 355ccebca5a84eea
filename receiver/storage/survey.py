"""A count of everything that retention would remove, by reading alone, whether a receiver runs or not.

It reads whole tables. With large ones this takes minutes, but only the operator waits for it.
"""

from __future__ import annotations

import sqlite3

from receiver.domain.records import Horizon, Removed, Survey
from receiver.settings import Settings
from receiver.storage.opening import open_for_reading
from receiver.storage.sqlite import retention_statements as pruning
from receiver.storage.sqlite.database import snapshot
from receiver.storage.sqlite.reader import read_bounds
from receiver.storage.sqlite.retention import BODIES_FLOOR, SOLUTIONS_FLOOR, read_floor
from receiver.storage.sqlite.rows import SLOTS, UNREAD_VERDICTS

__all__ = ["survey"]

# The first entry to stay: behind a position, and younger than a time.
_FIRST_TO_STAY = "SELECT min(position) FROM log WHERE position > ? AND finished_at > ?"
# The tasks to remove, in a table of this connection. A read-only connection may make one: SQLite keeps temporary tables
# in a database of their own. Without its index PostgreSQL would read all of it for each task.
_EXPIRED = f"CREATE TEMP TABLE expired AS {pruning.SELECT_EXPIRED_TASKS}"
_INDEX_EXPIRED = "CREATE INDEX expired_by_id ON expired (id)"
_COUNT_EXPIRED = "SELECT count(*) FROM expired"
# The entries to remove: their number, the bytes of their solutions and bodies, and the times of the oldest and the
# newest.
_ENTRIES = (
    "SELECT count(*), coalesce(sum(coalesce(length(solution), 0) + coalesce(length(body), 0)), 0), "
    "min(finished_at), max(finished_at) FROM log WHERE position > ? AND position <= ?"
)
# The bytes of other deliveries to remove with the tasks.
_BODIES_OF_EXPIRED = (
    "SELECT coalesce(sum(size), 0) FROM delivery WHERE body IS NOT NULL "
    f"AND EXISTS (SELECT 1 FROM expired WHERE expired.id = delivery.id / {SLOTS})"
)
# The solutions to remove from records that stay, and their bytes.
_SOLUTIONS = (
    "SELECT count(solution), coalesce(sum(length(solution)), 0) FROM log WHERE position > :after AND position <= :until"
)
# The bodies to remove from entries that stay, by age or with a solution, and their bytes.
_ENTRY_BODIES = (
    "SELECT count(*), coalesce(sum(length(body)), 0) FROM log WHERE position > :removed AND body IS NOT NULL "
    "AND (position <= :old OR (position > :after AND position <= :until AND solution IS NOT NULL))"
)
# The bodies to remove from other deliveries that stay, in the same way.
_BODIES = f"""
    SELECT count(*), coalesce(sum(delivery.size), 0) FROM delivery JOIN task ON task.id = delivery.id / {SLOTS}
    WHERE delivery.body IS NOT NULL AND NOT EXISTS (SELECT 1 FROM expired WHERE expired.id = task.id) AND (
        (delivery.received_at <= :deliveries AND task.status <> 'processing')
        OR (delivery.verdict NOT IN ({UNREAD_VERDICTS}) AND EXISTS (
            SELECT 1 FROM log WHERE log.position = task.position AND log.status = 'ready'
              AND log.position > :after AND log.position <= :until))
    )
"""
# The deliveries without a task to remove, and their bytes.
_STRAYS = "SELECT count(*), coalesce(sum(size), 0) FROM stray_delivery WHERE received_at <= ?"
# The tombstones to remove, by age or by number.
_TOMBSTONES = "SELECT count(*) FROM tombstone WHERE forgotten_at <= ? OR id <= (SELECT max(id) FROM tombstone) - ?"


def survey(settings: Settings, horizon: Horizon) -> Survey:
    """Count everything past the horizon in the database of the settings, as of now.

    Raises:
        CannotStartError: there is none, it cannot be read, or it is not of this version.
    """
    with open_for_reading(settings, is_hurried=False) as connection, snapshot(connection, "BEGIN DEFERRED"):
        return _count(connection, horizon)


def _count(connection: sqlite3.Connection, horizon: Horizon) -> Survey:
    run = connection.execute
    head, after = read_bounds(connection)
    surplus = run(pruning.SELECT_SURPLUS, (horizon.most_finished,)).fetchone()
    until = _end_of_old(connection, max(after, surplus[0] if surplus else 0), horizon.results, head)
    run(_EXPIRED, {"after": after, "until": until})
    run(_INDEX_EXPIRED)
    (tasks,) = run(_COUNT_EXPIRED).fetchone()
    entries, size, oldest, newest = run(_ENTRIES, (after, until)).fetchone()
    solutions_from = max(until, read_floor(connection, SOLUTIONS_FLOOR))
    solutions_until = _end_of_old(connection, solutions_from, horizon.solutions, head)
    bounds = {"after": solutions_from, "until": solutions_until}
    solutions, size_of_solutions = run(_SOLUTIONS, bounds).fetchone()
    bodies, size_of_bodies = run(_BODIES, bounds | {"deliveries": horizon.deliveries}).fetchone()
    bodies_from = max(until, read_floor(connection, BODIES_FLOOR))
    old = {"removed": until, "old": _end_of_old(connection, bodies_from, horizon.deliveries, head)}
    entry_bodies, size_of_entry_bodies = run(_ENTRY_BODIES, bounds | old).fetchone()
    strays, size_of_strays = run(_STRAYS, (horizon.deliveries,)).fetchone()
    (tombstones,) = run(_TOMBSTONES, (horizon.tombstones, horizon.most_tombstones)).fetchone()
    (size_of_expired,) = run(_BODIES_OF_EXPIRED).fetchone()
    return Survey(
        removed=Removed(tasks, entries, solutions, bodies + entry_bodies, strays, tombstones),
        size=sum((size, size_of_expired, size_of_solutions, size_of_bodies, size_of_entry_bodies, size_of_strays)),
        oldest=oldest,
        newest=newest,
    )


def _end_of_old(connection: sqlite3.Connection, after: int, old_until: int, head: int) -> int:
    """Return the position before the first entry behind `after` with a later time than `old_until`."""
    (first,) = connection.execute(_FIRST_TO_STAY, (after, old_until)).fetchone()
    return head if first is None else int(first) - 1
