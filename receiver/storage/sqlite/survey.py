"""What retention would take of a database, read without changing it, whether a receiver runs on it or not.

Reads whole tables, which takes seconds where they are large; nobody waits for it but the operator who asked.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from receiver.domain.records import Horizon, Removed, Survey
from receiver.errors import CannotStartError
from receiver.storage.sqlite import retention_statements as pruning
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import connect_reader, on_thread
from receiver.storage.sqlite.files import require_database
from receiver.storage.sqlite.retention import SOLUTIONS_FLOOR, read_mark
from receiver.storage.sqlite.rows import SLOTS, UNREAD_VERDICTS

__all__ = ["survey"]

# Where the first entry stands that stays: behind a position, and younger than a time.
_FIRST_KEPT = "SELECT min(position) FROM log WHERE position > ? AND finished_at > ?"
# The tasks that go, in a table of this connection's.
_DOOMED = f"CREATE TEMP TABLE doomed AS {pruning.SELECT_DOOMED}"
_DOOMED_TASKS = "SELECT count(*) FROM temp.doomed"
# How many entries go, the bytes of their solutions, and when the oldest and the newest of them came.
_ENTRIES = (
    "SELECT count(*), coalesce(sum(length(solution)), 0), min(finished_at), max(finished_at) FROM log "
    "WHERE position > ? AND position <= ?"
)
# How many bytes of deliveries go with the tasks.
_BODIES_OF_DOOMED = (
    "SELECT coalesce(sum(size), 0) FROM delivery WHERE body IS NOT NULL "
    f"AND id / {SLOTS} IN (SELECT id FROM temp.doomed)"
)
# How many solutions of records that stay go, and their bytes.
_SOLUTIONS = (
    "SELECT count(solution), coalesce(sum(length(solution)), 0) FROM log WHERE position > :after AND position <= :until"
)
# How many bodies of deliveries whose records stay go, and their bytes: by their age, or with a solution.
_BODIES = f"""
    SELECT count(*), coalesce(sum(delivery.size), 0) FROM delivery JOIN task ON task.id = delivery.id / {SLOTS}
    WHERE delivery.body IS NOT NULL AND task.id NOT IN (SELECT id FROM temp.doomed) AND (
        (delivery.received_at <= :deliveries AND task.status <> 'processing')
        OR (delivery.verdict NOT IN ({UNREAD_VERDICTS}) AND EXISTS (
            SELECT 1 FROM log WHERE log.position = task.position AND log.status = 'ready'
              AND log.position > :after AND log.position <= :until))
    )
"""
# How many deliveries of no task go, and their bytes.
_STRAYS = "SELECT count(*), coalesce(sum(size), 0) FROM stray_delivery WHERE received_at <= ?"
# How many tombstones go, by age or by number.
_TOMBSTONES = "SELECT count(*) FROM tombstone WHERE forgotten_at <= ? OR id <= (SELECT max(id) FROM tombstone) - ?"


async def survey(path: Path, horizon: Horizon) -> Survey:
    """What the horizon would take of the database at `path`, as it is now.

    Raises:
        CannotStartError: there is none, it cannot be read, or it is not of this version.
    """
    require_database(path)
    async with connect_reader(path) as connection:
        try:
            return await on_thread(connection, lambda: _survey(connection._conn, path, horizon))  # noqa: SLF001  (see on_thread)
        except sqlite3.Error as error:
            raise CannotStartError(f"{path}: the database cannot be read: {error}") from error


def _survey(connection: sqlite3.Connection, path: Path, horizon: Horizon) -> Survey:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != len(sql.MIGRATIONS):
        raise CannotStartError(f"{path}: the database is of another version; the receiver has to be started once")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("BEGIN")
    try:
        return _count(connection, horizon)
    finally:
        connection.execute("ROLLBACK")


def _count(connection: sqlite3.Connection, horizon: Horizon) -> Survey:
    run = connection.execute
    head, after = run(sql.SELECT_BOUNDS).fetchone()
    surplus = run(pruning.SELECT_SURPLUS, (horizon.most_finished,)).fetchone()
    until = _end_of_old(connection, max(after, surplus[0] if surplus else 0), horizon.results, head)
    run(_DOOMED, {"after": after, "until": until})
    (tasks,) = run(_DOOMED_TASKS).fetchone()
    entries, size, oldest, newest = run(_ENTRIES, (after, until)).fetchone()
    stay = max(until, read_mark(connection, SOLUTIONS_FLOOR))
    solved = {"after": stay, "until": _end_of_old(connection, stay, horizon.solutions, head)}
    solutions, size_of_solutions = run(_SOLUTIONS, solved).fetchone()
    bodies, size_of_bodies = run(_BODIES, solved | {"deliveries": horizon.deliveries}).fetchone()
    strays, size_of_strays = run(_STRAYS, (horizon.deliveries,)).fetchone()
    (tombstones,) = run(_TOMBSTONES, (horizon.tombstones, horizon.most_tombstones)).fetchone()
    (size_of_doomed,) = run(_BODIES_OF_DOOMED).fetchone()
    return Survey(
        removed=Removed(tasks, entries, solutions, bodies, strays, tombstones),
        size=size + size_of_doomed + size_of_solutions + size_of_bodies + size_of_strays,
        oldest=oldest,
        newest=newest,
    )


def _end_of_old(connection: sqlite3.Connection, after: int, horizon: int, head: int) -> int:
    """Return the place before the first entry behind `after` that is young."""
    (first,) = connection.execute(_FIRST_KEPT, (after, horizon)).fetchone()
    return head if first is None else int(first) - 1
