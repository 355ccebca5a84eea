"""The SQL statements of the SQLite store, each with a comment. Retention and diagnostics have their own.

Parameters are bound, never written into the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from pydantic_core import to_json

from receiver.storage.sqlite.rows import (
    BUDGET_COLUMNS,
    DELIVERY_COLUMNS,
    IDEMPOTENCY_COLUMNS,
    LEASE_COLUMNS,
    LOG_DELIVERY_COLUMNS,
    OUTCOME_COLUMNS,
    POLL_COLUMNS,
    SHAPE_COLUMNS,
    SHAPE_KEY,
    SLOTS,
    STANDING_URL_COLUMNS,
    TASK_COLUMNS,
    TICKET_COLUMNS,
    UNLISTED_CODE_COLUMNS,
    UNLISTED_ROW_COLUMNS,
    slots_range,
)

__all__ = ["json_array", "repeat_values", "update_task"]

_VALUES = re.compile(r"VALUES (\([?, ]+\))")


@lru_cache
def repeat_values(statement: str, rows: int) -> str:
    """Return the statement with its group of values repeated for this number of rows."""
    return _VALUES.sub(lambda values: f"VALUES {', '.join([values[1]] * rows)}", statement, count=1)


@lru_cache
def update_task(columns: tuple[str, ...]) -> str:
    """Return the statement that writes these columns of a task. The id is its last parameter."""
    return f"UPDATE task SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?"


def json_array(values: Iterable[object]) -> str:
    """Return a parameter for json_each."""
    return to_json(list(values)).decode()


def _of(table: str, columns: Iterable[str]) -> str:
    return ", ".join(f"{table}.{column}" for column in columns)


def _values(count: int) -> str:
    return f"VALUES ({', '.join('?' * count)})"


def _insert(table: str, *columns: str) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) {_values(len(columns))}"


def _replace(table: str, *columns: str) -> str:
    return _insert(table, *columns).replace("INSERT", "INSERT OR REPLACE", 1)


_TASK = f"{_of('task', TASK_COLUMNS)}, {_of('log', OUTCOME_COLUMNS)}"
_DELIVERY = ", ".join(DELIVERY_COLUMNS)
# For decisions. They need no bytes but those of a callback that is held back. An empty body stands for the others.
_DELIVERY_IN_BRIEF = _DELIVERY.replace(
    "body", "CASE WHEN verdict = 'held' THEN body WHEN body IS NOT NULL THEN x'' END AS body"
)
# Microseconds since 1970 by the clock of the database, one time for a statement.
_CLOCK = "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)"
_STANDING_URL = ", ".join(STANDING_URL_COLUMNS)
_SHAPE = ", ".join(SHAPE_COLUMNS)
_WITH_OUTCOME = "FROM task LEFT JOIN log ON log.position = task.position"


def _deliveries(task: str, columns: str) -> str:
    """Return the query for the deliveries of a task with their ids, in order.

    All have a row of their own but the one kept with the outcome, received at its time.
    """
    return (
        f"WITH owner AS NOT MATERIALIZED (SELECT id AS owner_id, position AS outcome FROM task WHERE {task}) "
        f"SELECT id, {columns} FROM owner CROSS JOIN delivery ON id {slots_range('owner_id')} "
        f"UNION ALL SELECT task * {SLOTS} + slot, {columns.replace('received_at', 'finished_at')} "
        f"FROM log WHERE position = (SELECT outcome FROM owner) AND slot IS NOT NULL ORDER BY id LIMIT {SLOTS}"
    )


# The last ids in use, so that a batch can number its rows itself. They are never used again.
SELECT_SEQUENCES = "SELECT name, seq FROM sqlite_sequence WHERE name IN ('task', 'log')"
# The end of the log.
SELECT_HEAD = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'log'"
# The end of the log, and its floor: retention has removed nothing behind it.
SELECT_BOUNDS = (
    "SELECT (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'log'), "
    "coalesce((SELECT value FROM meta WHERE name = 'floor'), 0)"
)

# The tasks of a batch of commands, by our ids. The values are repeated for each ref.
SELECT_BATCH_BY_REFS = (
    f"SELECT {_TASK} FROM ({_values(1)}) AS wanted CROSS JOIN task ON task.ref = wanted.column1 "
    "LEFT JOIN log ON log.position = task.position"
)
# The same by the provider's ids. The values are repeated for each provider and id.
SELECT_BATCH_BY_IDS = (
    f"SELECT {_TASK} FROM ({_values(2)}) AS wanted "
    "CROSS JOIN task ON task.task_id = wanted.column2 AND task.provider = wanted.column1 "
    "LEFT JOIN log ON log.position = task.position"
)
# The same for all providers. Few tasks have the same id.
SELECT_TASKS_BY_IDS = (
    f"SELECT {_TASK} FROM ({_values(1)}) AS wanted CROSS JOIN task ON task.task_id = wanted.column1 "
    "LEFT JOIN log ON log.position = task.position"
)
# One task by our id.
SELECT_TASK_BY_REF = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.ref = ?"
# One task by the provider's id.
SELECT_TASK_BY_TASK_ID = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.task_id = ? AND task.provider = ?"
# The tasks that lost their id to this one. They are found under its ref.
SELECT_JOINED_TASKS = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.joined_ref = ? LIMIT 100"
# Tasks of any provider with this id. Two of them show that it is ambiguous.
SELECT_TASKS_BY_TASK_ID = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.task_id = ? ORDER BY task.provider LIMIT 2"
# Tasks past their deadline.
SELECT_OVERDUE = (
    f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.status = 'processing' AND task.deadline_at <= ? "
    "ORDER BY task.deadline_at LIMIT ?"
)
# The time of the next deadline.
SELECT_NEXT_DEADLINE = "SELECT min(deadline_at) FROM task WHERE status = 'processing'"

# Waiting tasks by provider. The limit bounds the cost of asking, and the index puts the earliest deadlines first. The
# rows are grouped here, because each row that leaves SQLite takes the GIL. Of a client's polls only the first is known.
# A task without its id is not polled here.
SELECT_WAITING = (
    "SELECT provider, count(*), min(CASE WHEN is_polled_here = 0 THEN poll_after "
    "WHEN task_id IS NOT NULL THEN next_poll_at END), min(CASE WHEN has_url THEN created_at END) "
    "FROM (SELECT provider, poll_after, is_polled_here, task_id, next_poll_at, has_url, created_at FROM task "
    "WHERE status = 'processing' AND deadline_at > 0 LIMIT 20000) GROUP BY provider"
)

# The creation time of the newest task.
SELECT_NEWEST = "SELECT created_at FROM task WHERE id = (SELECT max(id) FROM task)"

# A new task, with its id from the batch.
INSERT_TASK = _insert("task", *TASK_COLUMNS)
# Tasks lose their ids here before other tasks take them. The parameter is a JSON array of rows.
RELEASE_TASK_IDS = "UPDATE task SET task_id = NULL WHERE id IN (SELECT value FROM json_each(?))"
# One entry of the log, with its position from the batch.
INSERT_LOG = _insert("log", "position", "kind", "task", "ref", *OUTCOME_COLUMNS, *LOG_DELIVERY_COLUMNS)
# A delivery in its slot. The newest one replaces the one before.
INSERT_DELIVERY = _replace("delivery", "id", *DELIVERY_COLUMNS)
# A delivery without a known task.
INSERT_STRAY = _insert("stray_delivery", *DELIVERY_COLUMNS)
# Unreadable bodies of tasks, behind an id.
SELECT_UNREADABLE_BODIES = (
    f"SELECT delivery.id, task.provider, task.ref, {_of('delivery', DELIVERY_COLUMNS)} "
    f"FROM delivery CROSS JOIN task ON task.id = delivery.id / {SLOTS} "
    "WHERE delivery.id > ? AND delivery.verdict = 'unreadable' AND delivery.body IS NOT NULL "
    "ORDER BY delivery.id LIMIT ?"
)
# Unreadable bodies of standing URLs, behind an id.
SELECT_UNREADABLE_STRAYS = (
    f"SELECT stray.id, standing_url.provider, NULL, {_of('stray', DELIVERY_COLUMNS)} "
    "FROM stray_delivery AS stray LEFT JOIN standing_url ON standing_url.id = stray.standing_id "
    "WHERE stray.id > ? AND stray.verdict = 'unreadable' AND stray.body IS NOT NULL "
    "ORDER BY stray.id LIMIT ?"
)
# One delivery without a known task.
SELECT_STRAY = f"SELECT {_DELIVERY_IN_BRIEF} FROM stray_delivery WHERE id = ?"
# Redelivered, it belongs to a task now.
DELETE_STRAY = "DELETE FROM stray_delivery WHERE id = ?"
# Redelivered, it has another verdict and perhaps no bytes.
UPDATE_STRAY = "UPDATE stray_delivery SET verdict = ?, body = ? WHERE id = ?"
# A kept delivery gets another verdict.
UPDATE_VERDICT = "UPDATE delivery SET verdict = ? WHERE id = ?"
# The same for the one kept with an outcome. The parameters: the verdict, the position, the slot.
UPDATE_LOG_VERDICT = "UPDATE log SET verdict = ? WHERE position = ? AND slot = ?"
# The deliveries of one task by its ref.
SELECT_DELIVERIES_BY_REF = _deliveries("ref = ?", _DELIVERY_IN_BRIEF)
# The deliveries of one task by its row.
SELECT_DELIVERIES = _deliveries("id = ?", _DELIVERY)

_POLLED_HERE = "task.is_polled_here = 1 AND task.task_id IS NOT NULL AND task.provider = :provider"
# Each of these has an index. In the last, the receiver ended the task, and a hint came afterwards.
_UNFINISHED = f"task.status = 'processing' AND {_POLLED_HERE}"
_DISPUTED = f"task.is_disputed = 1 AND {_POLLED_HERE}"
_HINTED = f"task.status = 'failed' AND task.is_disputed = 0 AND {_POLLED_HERE} AND task.next_poll_at IS NOT NULL"


def _due(state: str, condition: str) -> str:
    """Return the query for tasks without a lease. A lease holds if it ends between :first_end and :last_end."""
    return (
        f"SELECT {_TASK} {_WITH_OUTCOME} WHERE {state} AND task.next_poll_at {condition} "
        "AND (task.leased_until IS NULL OR task.leased_until NOT BETWEEN :first_end AND :last_end) "
        "ORDER BY task.next_poll_at LIMIT :limit"
    )


# Tasks of a provider that the receiver has to poll now, oldest first.
SELECT_DUE = _due(_UNFINISHED, "<= :now")
# Tasks planned further ahead than any plan goes: the clock was set back since.
SELECT_DUE_BEYOND = _due(_UNFINISHED, "> :latest")
# The same for tasks with a disputed outcome.
SELECT_DUE_DISPUTES = _due(_DISPUTED, "<= :now")
# The same for tasks that the receiver ended itself, with a hint afterwards.
SELECT_DUE_AGAIN = _due(_HINTED, "<= :now")
# The times of the first and the last of them.
SELECT_NEXT_DUE = f"""
    SELECT min(at), max(at) FROM (
        SELECT min(next_poll_at) AS at FROM task WHERE {_UNFINISHED}
        UNION ALL
        SELECT max(next_poll_at) FROM task WHERE {_UNFINISHED}
        UNION ALL
        SELECT min(next_poll_at) FROM task WHERE {_DISPUTED}
        UNION ALL
        SELECT min(next_poll_at) FROM task WHERE {_HINTED}
    )
"""
# A part of the unfinished tasks, in the order of their deadlines. The parameters: deadline, deadline, row, limit.
SELECT_UNFINISHED = (
    "SELECT deadline_at, id, ref, provider, client_key_id, is_polled_here FROM task WHERE status = 'processing' "
    "AND deadline_at >= ? AND (deadline_at, id) > (?, ?) ORDER BY deadline_at, id LIMIT ?"
)
# The outcome at a position of the log.
SELECT_OUTCOME = f"SELECT {', '.join(OUTCOME_COLUMNS)} FROM log WHERE position = ? AND kind = 'result'"
# Tasks with a held callback, due for release.
SELECT_HELD = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.held_until <= ? ORDER BY task.held_until LIMIT ?"
# The time of the next release.
SELECT_NEXT_HELD = "SELECT min(held_until) FROM task WHERE held_until IS NOT NULL"
# A poll in its slot, like a delivery.
INSERT_POLL = _replace("poll", "id", *POLL_COLUMNS)
# The row of unlisted answers that the last kept poll of a task left.
SELECT_UNLISTED_ROW = (
    f"SELECT {', '.join(UNLISTED_ROW_COLUMNS)} FROM task CROSS JOIN poll "
    f"ON poll.id {slots_range('task.id')} WHERE task.ref = ? ORDER BY poll.id DESC LIMIT 1"
)
# The late answer of the poll with this lease. The parameters: the answer, the range of slots, the lease.
COMPLETE_POLL = "UPDATE poll SET started_at = ?, ended_at = ?, said = ? WHERE id BETWEEN ? AND ? AND lease = ?"
# The polls of one task, in order.
SELECT_POLLS = f"SELECT {', '.join(POLL_COLUMNS)} FROM poll WHERE id BETWEEN ? AND ? ORDER BY id LIMIT {SLOTS}"

# A tag of a task, to list by.
INSERT_TAG = _insert("tag", "tag", "task")

# Tombstones of a ref and of a provider's id.
SELECT_TOMBSTONE_BY_REF = "SELECT 1 FROM tombstone WHERE ref = ?"
SELECT_TOMBSTONE_BY_TASK_ID = "SELECT 1 FROM tombstone WHERE provider = ? AND task_id = ? LIMIT 1"

# The first use of an Idempotency-Key.
SELECT_IDEMPOTENCY = f"SELECT {', '.join(IDEMPOTENCY_COLUMNS)} FROM idempotency WHERE owner = ? AND key = ?"
INSERT_IDEMPOTENCY = _insert("idempotency", "owner", "key", *IDEMPOTENCY_COLUMNS)

# The time of the database.
SELECT_CLOCK = f"SELECT {_CLOCK}"

# Leases. All that ended a minute ago can go.
SELECT_LEASE = f"SELECT {', '.join(LEASE_COLUMNS)} FROM lease WHERE name = ?"
SAVE_LEASE = (
    f"{_insert('lease', 'name', *LEASE_COLUMNS)} "
    "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, ends_at = excluded.ends_at"
)
DELETE_ENDED_LEASES = f"DELETE FROM lease WHERE ends_at < {_CLOCK} - 60000000"

# Tickets by the digests of their secrets.
SELECT_TICKET = f"SELECT {', '.join(TICKET_COLUMNS)} FROM ticket WHERE digest = ?"
# One that ends later than a new one is from before a step of the clock, and would last too long.
_IS_VALID_TICKET = f"ends_at > {_CLOCK} AND ends_at <= {_CLOCK} + 60000000"
SELECT_VALID_TICKET = f"{SELECT_TICKET} AND {_IS_VALID_TICKET}"
SAVE_TICKET = (
    f"{_insert('ticket', 'digest', *TICKET_COLUMNS)} ON CONFLICT (digest) DO UPDATE SET ends_at = excluded.ends_at"
)
# All that ended a minute ago, or were used up.
DELETE_ENDED_TICKETS = f"DELETE FROM ticket WHERE ends_at < {_CLOCK} - 60000000 OR ends_at > {_CLOCK} + 120000000"
# The valid tickets of an API key, and those of all keys. The limits on tickets bound the rows that they count.
COUNT_TICKETS = f"SELECT count(*) FROM ticket WHERE owner = ? AND {_IS_VALID_TICKET}"
COUNT_ALL_TICKETS = f"SELECT count(*) FROM ticket WHERE {_IS_VALID_TICKET}"

# Budgets of provider keys.
SELECT_KEY_BUDGET = f"SELECT {', '.join(BUDGET_COLUMNS)} FROM key_budget WHERE name = ?"
SAVE_KEY_BUDGET = (
    f"{_insert('key_budget', 'name', *BUDGET_COLUMNS)} ON CONFLICT (name) DO UPDATE SET "
    f"{', '.join(f'{name} = excluded.{name}' for name in BUDGET_COLUMNS)}"
)
# The same with the time of the database.
SELECT_KEY_BUDGET_NOW = SELECT_KEY_BUDGET.replace("SELECT", f"SELECT {_CLOCK},", 1)

# Standing URLs.
SELECT_STANDING_URL = f"SELECT {_STANDING_URL} FROM standing_url WHERE id = ?"
SELECT_STANDING_URLS = f"SELECT {_STANDING_URL} FROM standing_url ORDER BY id LIMIT 1000"
SAVE_STANDING_URL = (
    f"{_insert('standing_url', *STANDING_URL_COLUMNS)} ON CONFLICT (id) DO UPDATE SET revoked_at = excluded.revoked_at"
)

# The used part of a quota.
SELECT_QUOTA = "SELECT used_rows, used_bytes FROM quota WHERE name = ?"
SAVE_QUOTA = (
    f"{_insert('quota', 'name', 'used_rows', 'used_bytes')} "
    "ON CONFLICT (name) DO UPDATE SET used_rows = excluded.used_rows, used_bytes = excluded.used_bytes"
)
# A part of a quota is free again.
FREE_QUOTA = "UPDATE quota SET used_rows = max(used_rows - ?, 0), used_bytes = max(used_bytes - ?, 0) WHERE name = ?"

# Facts about the database itself.
SELECT_META = "SELECT value FROM meta WHERE name = ?"
SAVE_META = f"{_insert('meta', 'name', 'value')} ON CONFLICT (name) DO UPDATE SET value = excluded.value"
# Signing keys, newest first.
SELECT_SIGNING_KEYS = "SELECT key FROM signing_key ORDER BY id DESC LIMIT 16"
INSERT_SIGNING_KEY = _insert("signing_key", "key", "created_at")

# Counts of a shape since the last write.
ADD_SHAPE = (
    f"{_insert('shape', *SHAPE_COLUMNS)} ON CONFLICT ({', '.join(SHAPE_KEY)}) DO UPDATE SET "
    "callbacks = callbacks + excluded.callbacks, readable = readable + excluded.readable, "
    "first_seen = min(first_seen, excluded.first_seen), last_seen = max(last_seen, excluded.last_seen)"
)
# All but the newest shapes of a provider go. The parameters: the provider, the number to keep.
PRUNE_SHAPES = (
    "DELETE FROM shape WHERE id IN (SELECT id FROM shape WHERE provider = ? ORDER BY last_seen DESC LIMIT -1 OFFSET ?)"
)
# The shapes of a provider's callbacks, newest first.
SELECT_SHAPES = f"SELECT {_SHAPE} FROM shape WHERE provider = ? ORDER BY last_seen DESC LIMIT ?"

# Counts of an unlisted code since the last write.
ADD_UNLISTED_CODE = (
    f"{_insert('unlisted_code', *UNLISTED_CODE_COLUMNS)} "
    "ON CONFLICT (provider, code) DO UPDATE SET times = times + excluded.times, "
    "first_seen = min(first_seen, excluded.first_seen), last_seen = max(last_seen, excluded.last_seen)"
)
# All but the newest codes of a provider go. The parameters: the provider twice, the number to keep.
PRUNE_UNLISTED_CODES = (
    "DELETE FROM unlisted_code WHERE provider = ? AND code NOT IN "
    "(SELECT code FROM unlisted_code WHERE provider = ? ORDER BY last_seen DESC LIMIT ?)"
)
# All unlisted codes, by provider and code. The number for each provider is bounded.
SELECT_UNLISTED_CODES = (
    f"SELECT {', '.join(UNLISTED_CODE_COLUMNS)} FROM unlisted_code ORDER BY provider, code LIMIT 10000"
)

# The last of the next entries of the log: one read goes no further.
SELECT_LOG_WINDOW = "SELECT max(position) FROM (SELECT position FROM log WHERE position > ? ORDER BY position LIMIT ?)"
_DELETED_PROVIDER = (
    "CASE WHEN log.kind = 'deleted' THEN (SELECT provider FROM tombstone WHERE tombstone.ref = log.ref) END"
)
# The entries between two positions that match the filter. Its parameters, by name: after, until, limit, hints (0 or 1),
# everything (0 or 1), with_canary (0 or 1), provider (or null), tags (JSON array), tag_count, refs (JSON array), ids
# (JSON array of [provider, taskId]), within (JSON array of providers, or null). Deletions match every filter but the
# last: a waiter of a deleted task must learn of it. Its provider stands in its tombstone.
SELECT_LOG = f"""
    SELECT log.position, log.kind, coalesce(log.ref, task.ref), {_DELETED_PROVIDER}, {_TASK}
    FROM log LEFT JOIN task ON task.id = log.task
    WHERE log.position > :after AND log.position <= :until
      AND (log.kind = 'deleted' OR task.id IS NOT NULL)
      AND (log.kind <> 'hint' OR :hints)
      AND (
        log.kind = 'deleted'
        OR (:everything AND (task.provider <> 'canary' OR :with_canary))
        OR (
          (:provider IS NOT NULL OR :tag_count > 0)
          AND (task.provider = :provider OR (:provider IS NULL AND task.provider <> 'canary'))
          AND (SELECT count(*) FROM tag WHERE tag.task = task.id AND tag.tag IN (SELECT value FROM json_each(:tags)))
              = :tag_count
        )
        OR task.ref IN (SELECT value FROM json_each(:refs))
        -- Compared as JSON, because SQLite cuts texts from JSON at a NUL.
        OR EXISTS (SELECT 1 FROM json_each(:ids) AS pair WHERE pair.value = json_array(task.provider, task.task_id))
      )
      AND (:within IS NULL
        OR coalesce(task.provider, {_DELETED_PROVIDER}) IN (SELECT value FROM json_each(:within)))
    ORDER BY log.position LIMIT :limit
"""
# The keys of new entries behind a position, for the waiters of this process.
SELECT_GROWTH = (
    "SELECT coalesce(log.ref, task.ref), task.provider, task.task_id FROM log LEFT JOIN task ON task.id = log.task "
    "WHERE log.position > ? AND (log.ref IS NOT NULL OR task.id IS NOT NULL) ORDER BY log.position LIMIT ?"
)

# A bounded number of tasks behind a row, newest first. The filter is applied to them afterwards.
SELECT_TASK_PAGE = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.id < ? ORDER BY task.id DESC LIMIT ?"
# The same for one tag.
SELECT_TASK_PAGE_BY_TAG = (
    f"SELECT {_TASK} FROM tag JOIN task ON task.id = tag.task LEFT JOIN log ON log.position = task.position "
    "WHERE tag.tag = ? AND tag.task < ? ORDER BY tag.task DESC LIMIT ?"
)
