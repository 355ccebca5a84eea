"""The statements of the PostgreSQL store. Most are those of SQLite, see `receiver/storage/postgres/dialect.py`.

Parameters are `?` or `:name`, as there. Where rows are locked, it is in the order of their ids, so that two batches
rarely wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Mapping

from receiver.storage.sqlite import retention_statements as pruning
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.diagnostics import SELECT_RECENT
from receiver.storage.sqlite.rows import OUTCOME_COLUMNS, SLOTS, TASK_COLUMNS

__all__ = ["LAZY", "LOCKED", "REPLACED", "locking"]

_COLUMNS = ", ".join((*(f"task.{name}" for name in TASK_COLUMNS), *(f"log.{name}" for name in OUTCOME_COLUMNS)))
_WITH_OUTCOME = "FROM task LEFT JOIN log ON log.position = task.position"

# The end of the log and the last row of the tasks, with room for new ones. The lock holds until the commit, so the
# commits of all receivers with new entries follow each other, and a reader never sees a position before a lower one.
TAKE_NUMBERS = (
    "UPDATE head SET position = position + ?, task_row = task_row + ? "
    "RETURNING position - ?::bigint AS position, task_row - ?::bigint AS task_row"
)
# The last late id, with room for new ones, under the same lock.
TAKE_LATE_IDS = "UPDATE head SET late_id = late_id + ? RETURNING late_id - ?::bigint"
# An id that became known after its outcome.
INSERT_LATE_ID = "INSERT INTO late_id (number, ref, provider, task_id) VALUES (?, ?, ?, ?)"
# Only the newest ones are kept. A receiver far behind wakes all its waiters.
DELETE_LATE_IDS = "DELETE FROM late_id WHERE number <= ?"
# The end of the log moves on by as many entries as a deletion made, under the lock taken before.
MOVE_HEAD = "UPDATE head SET position = ?"

# Locks on tasks, by our ids and the provider's, and by the ref that they were joined to.
LOCK_TASKS = """
    SELECT id FROM task WHERE id IN (
        SELECT id FROM task WHERE ref = ANY (?::text[])
        UNION ALL
        SELECT task.id FROM unnest(?::text[], ?::text[]) AS wanted (provider, task_id)
            JOIN task ON task.task_id = wanted.task_id AND task.provider = wanted.provider
        UNION ALL
        SELECT id FROM task WHERE joined_ref = ANY (?::text[])
    ) ORDER BY id FOR UPDATE
"""
# The same by row.
LOCK_ROWS = "SELECT id FROM task WHERE id = ANY (?::bigint[]) ORDER BY id FOR UPDATE"
# Tasks by row, with their outcomes. Their order is that of the rows.
SELECT_ROWS = (
    f"SELECT {_COLUMNS} FROM unnest(?::bigint[]) WITH ORDINALITY AS wanted (id, number) "
    "JOIN task ON task.id = wanted.id LEFT JOIN log ON log.position = task.position ORDER BY wanted.number"
)
# Locks on quotas. One that was never used gets its row here.
LOCK_QUOTAS = (
    "INSERT INTO quota (name, used_rows, used_bytes) SELECT name, 0, 0 FROM unnest(?::text[]) AS wanted (name) "
    "ORDER BY name ON CONFLICT (name) DO UPDATE SET name = excluded.name"
)
# Locks on deliveries without a task.
LOCK_STRAYS = "SELECT id FROM stray_delivery WHERE id = ANY (?::bigint[]) ORDER BY id FOR UPDATE"
# Locks on rows that several receivers share, by a number for each name. There may be no such row yet.
LOCK_SHARED = (
    "SELECT pg_advisory_xact_lock(number) FROM (SELECT hashtextextended(name, 0) AS number "
    "FROM unnest(?::text[]) AS wanted (name) ORDER BY 1) AS ordered"
)
# One operation at a time, in whatever receiver. The lock ends with the transaction.
LOCK_OPERATIONS = "SELECT pg_advisory_xact_lock(?::bigint)"
# A task and all tasks joined to it, by their refs.
SELECT_FAMILY = """
    WITH RECURSIVE family (ref) AS (
        SELECT ref FROM task WHERE ref = ?
        UNION
        SELECT task.ref FROM family JOIN task ON task.joined_ref = family.ref
    )
    SELECT ref FROM family
"""

# These are not translated.
# The end of the log.
SELECT_END = "SELECT position FROM head"
# The end and the id of the log, with the keys of the entries behind a position, in one snapshot. It has a row without
# any, too. `meta` is locked first, as by an update of the schema, which would otherwise wait in a circle with it.
SELECT_GROWTH = """
    SELECT head.position, meta.value, entry.ref, entry.provider, entry.task_id
    FROM meta RIGHT JOIN head ON meta.name = 'log_id' LEFT JOIN LATERAL (
        SELECT coalesce(log.ref, task.ref) AS ref, task.provider, task.task_id
        FROM log LEFT JOIN task ON task.id = log.task
        WHERE log.position > $1 ORDER BY log.position LIMIT $2
    ) AS entry ON true
"""
# Another id of the log, if it still has this one.
REPLACE_LOG_ID = "UPDATE meta SET value = $1 WHERE name = 'log_id' AND value = $2"
# The late ids behind a number.
SELECT_LATE_IDS = "SELECT number, ref, provider, task_id FROM late_id WHERE number > $1 ORDER BY number LIMIT $2"
# The end of the log, and the last late id.
SELECT_ENDS = "SELECT position, late_id FROM head"
# A write that changes nothing of a task.
SAVE_PROBE = """
    INSERT INTO meta (name, value) VALUES ('probed', now()::text)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


def _with_booleans(statement: str) -> str:
    """Return the counts of recent tasks with truth values of their own, which PostgreSQL cannot add up as numbers."""
    for before, after in (
        ("value AS most FROM json_each(:most_polls)", "value::bigint AS most FROM json_each_text(:most_polls::json)"),
        ("sum(answered AND has_url)", "count(*) FILTER (WHERE answered AND has_url <> 0)"),
        ("sum(polled), sum(late)", "count(*) FILTER (WHERE polled), count(*) FILTER (WHERE late)"),
        ("sum(ended)", "count(*) FILTER (WHERE ended)"),
        ("sum(nearly_out)", "count(*) FILTER (WHERE nearly_out)"),
        (", 0) AS ", ", false) AS "),
        ("ELSE 0 END AS late", "ELSE false END AS late"),
        ("task.has_url AND", "task.has_url <> 0 AND"),
    ):
        statement = statement.replace(before, after)
    return statement


def locking(statement: str) -> str:
    """Return the query for tasks so that it locks and returns their rows alone. It skips tasks locked by others."""
    head, found, rest = statement.partition(_WITH_OUTCOME)
    if not found or head != f"SELECT {_COLUMNS} ":
        raise ValueError(statement)
    return f"SELECT task.id FROM task{rest} FOR UPDATE SKIP LOCKED"


def _lowest(statement: str, column: str) -> str:
    """Return the query for a lowest value as one for the first row of its index, whatever the server knows of it."""
    rows = statement.replace(f"min({column})", column)
    return f"SELECT ({rows} ORDER BY {column} LIMIT 1)"


REPLACED: Mapping[str, str] = {
    sql.SELECT_SEQUENCES: "SELECT 'log', position FROM head UNION ALL SELECT 'task', task_row FROM head",
    sql.SELECT_HEAD: SELECT_END,
    sql.SELECT_BOUNDS: "SELECT position, coalesce(value::bigint, 0) FROM meta RIGHT JOIN head ON meta.name = 'floor'",
    # A name of the result cannot stand in a condition.
    pruning.SELECT_BODIES_AMONG: pruning.SELECT_BODIES_AMONG.replace(
        "AND name IS", "AND coalesce(delivery.standing_id, task.quota) IS"
    ),
    pruning.SELECT_BODIES_AMONG_ENTRIES: pruning.SELECT_BODIES_AMONG_ENTRIES.replace(
        "AND name IS", "AND coalesce(log.standing_id, task.quota) IS"
    ),
    SELECT_RECENT: _with_booleans(SELECT_RECENT),
    sql.SELECT_NEXT_DEADLINE: _lowest(sql.SELECT_NEXT_DEADLINE, "deadline_at"),
    sql.SELECT_NEXT_HELD: _lowest(sql.SELECT_NEXT_HELD, "held_until"),
    # Without a subquery of its own the newest polls of all tasks would be looked through.
    sql.SELECT_UNLISTED_ROW: sql.SELECT_UNLISTED_ROW.replace(
        "CROSS JOIN poll ON", "CROSS JOIN LATERAL (SELECT * FROM poll WHERE"
    ).replace("WHERE task.ref = ? ORDER BY poll.id DESC LIMIT 1", "ORDER BY id DESC LIMIT 1) AS poll WHERE ref = ?"),
}
"""Statements in place of those of SQLite, by the text there."""

LOCKED: Mapping[str, tuple[str, int]] = {
    pruning.SELECT_EXPIRED_TASKS: (LOCK_ROWS, 1),
    pruning.SELECT_OLD_BODIES: (LOCK_ROWS, SLOTS),
    pruning.SELECT_BODIES_OF_SOLUTIONS: (LOCK_ROWS, SLOTS),
    pruning.SELECT_STRAY_TIMES: (LOCK_STRAYS, 1),
}
"""Queries of retention for rows to remove, with the lock on these rows. Divided by the number, a found id names one."""

LAZY = frozenset(
    (
        sql.SELECT_LOG,
        sql.SELECT_TASK_PAGE,
        sql.SELECT_TASK_PAGE_BY_TAG,
        sql.SELECT_UNREADABLE_BODIES,
        sql.SELECT_UNREADABLE_STRAYS,
    )
)
"""Statements whose readers stop at a size. Their rows come from the server in portions."""
