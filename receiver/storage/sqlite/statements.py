"""Every SQL statement of the SQLite store but those of retention and diagnostics, one comment each.

Parameters are bound, never written into the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from receiver.storage.sqlite.rows import (
    DELIVERY_COLUMNS,
    OUTCOME_COLUMNS,
    POLL_COLUMNS,
    SLOTS,
    SLOTS_OF_TASK,
    STANDING_URL_COLUMNS,
    TASK_COLUMNS,
    TASK_STATE_COLUMNS,
)

__all__ = ["of_many_rows"]

_VALUES = re.compile(r"VALUES (\([?, ]+\))")


@lru_cache
def of_many_rows(statement: str, rows: int) -> str:
    """Return the statement with its one group of values so many times."""
    return _VALUES.sub(lambda values: f"VALUES {', '.join([values[1]] * rows)}", statement, count=1)


def _of(table: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{table}.{column}" for column in columns)


def _values(count: int) -> str:
    return f"VALUES ({', '.join('?' * count)})"


_TASK = f"{_of('task', TASK_COLUMNS)}, {_of('log', OUTCOME_COLUMNS)}"
_OUTCOME = ", ".join(OUTCOME_COLUMNS)
_DELIVERY = ", ".join(DELIVERY_COLUMNS)
_POLL = ", ".join(POLL_COLUMNS)
_STANDING_URL = ", ".join(STANDING_URL_COLUMNS)
_WITH_OUTCOME = "FROM task LEFT JOIN log ON log.position = task.position"

# The last ids that were given out, so that a batch can number its rows itself; they never come again.
SELECT_SEQUENCES = "SELECT name, seq FROM sqlite_sequence WHERE name IN ('task', 'log')"
# The end of the log.
SELECT_HEAD = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'log'"
# The end of the log, and the place behind which everything is kept.
SELECT_BOUNDS = (
    "SELECT (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'log'), "
    "coalesce((SELECT value FROM meta WHERE name = 'floor'), 0)"
)

# The tasks of a batch in one row, as a JSON array of rows; the parameter is a JSON array of refs.
SELECT_TASKS_BY_REFS = (
    f"SELECT json_group_array(json_array({_TASK})) {_WITH_OUTCOME} WHERE task.ref IN (SELECT value FROM json_each(?))"
)
# The same by the provider's ids; the parameter is a JSON array of [provider, id].
SELECT_TASKS_BY_IDS = (
    f"SELECT json_group_array(json_array({_TASK})) FROM json_each(?) AS wanted "
    "CROSS JOIN task ON task.task_id = json_extract(wanted.value, '$[1]') "
    "AND task.provider = json_extract(wanted.value, '$[0]') LEFT JOIN log ON log.position = task.position"
)
# One task by our id.
SELECT_TASK_BY_REF = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.ref = ?"
# The task that has the provider's id.
SELECT_TASK_BY_TASK_ID = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.task_id = ? AND task.provider = ?"
# Those whose id went to this one, which are found under its ref.
SELECT_JOINED_TASKS = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.joined_ref = ? LIMIT 100"
# Tasks of any provider with this id; two are enough to see that it is ambiguous.
SELECT_TASKS_BY_TASK_ID = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.task_id = ? ORDER BY task.provider LIMIT 2"
# Whose deadline has come.
SELECT_OVERDUE = (
    f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.status = 'processing' AND task.deadline_at <= ? "
    "ORDER BY task.deadline_at LIMIT ?"
)
# When the next deadline comes.
SELECT_NEXT_DEADLINE = "SELECT min(deadline_at) FROM task WHERE status = 'processing'"

# What waits, by provider: of very many 20,000, so that nobody who asks costs more than that; by the index, those whose
# deadlines come first. Grouped here, because each row that leaves SQLite takes the GIL. When a client polls next is not
# known beyond its first poll; a task without its id is not polled here.
SELECT_WAITING = (
    "SELECT provider, count(*), min(CASE WHEN is_polled_here = 0 THEN poll_after "
    "WHEN task_id IS NOT NULL THEN next_poll_at END) "
    "FROM (SELECT provider, poll_after, is_polled_here, task_id, next_poll_at FROM task "
    "WHERE status = 'processing' AND deadline_at > 0 LIMIT 20000) GROUP BY provider"
)

# When the newest task was made.
SELECT_NEWEST = "SELECT created_at FROM task WHERE id = (SELECT max(id) FROM task)"

# A new task, with the id that the batch gave it.
INSERT_TASK = f"INSERT INTO task ({', '.join(TASK_COLUMNS)}) {_values(len(TASK_COLUMNS))}"
# The state of a task; what never changes is left out. `columnN` is SQLite's name for the Nth of the values.
UPDATE_TASK = (
    f"UPDATE task SET {', '.join(f'{name} = column{number}' for number, name in enumerate(TASK_STATE_COLUMNS, 1))} "
    f"FROM ({_values(len(TASK_STATE_COLUMNS) + 1)}) WHERE id = column{len(TASK_STATE_COLUMNS) + 1}"
)
# The ids of tasks that get another one, or none; before it is given to any. The parameter is a JSON array of rows.
RELEASE_TASK_IDS = "UPDATE task SET task_id = NULL WHERE id IN (SELECT value FROM json_each(?))"
# One entry of the log, at the place that the batch gave it.
INSERT_LOG = f"INSERT INTO log (position, kind, task, ref, {_OUTCOME}) {_values(4 + len(OUTCOME_COLUMNS))}"
# A delivery in its slot; the newest one takes the place of the newest one before.
INSERT_DELIVERY = f"INSERT OR REPLACE INTO delivery (id, {_DELIVERY}) {_values(1 + len(DELIVERY_COLUMNS))}"
# A delivery of which no task is known.
INSERT_STRAY = f"INSERT INTO stray_delivery ({_DELIVERY}) {_values(len(DELIVERY_COLUMNS))}"
# Bodies of tasks that no dialect could read, behind an id.
SELECT_UNREADABLE_BODIES = (
    f"SELECT delivery.id, task.provider, task.ref, {_of('delivery', DELIVERY_COLUMNS)} "
    f"FROM delivery CROSS JOIN task ON task.id = delivery.id / {SLOTS} "
    "WHERE delivery.id > ? AND delivery.verdict = 'unreadable' AND delivery.body IS NOT NULL "
    "ORDER BY delivery.id LIMIT ?"
)
# The same of standing URLs.
SELECT_UNREADABLE_STRAYS = (
    f"SELECT stray.id, standing_url.provider, NULL, {_of('stray', DELIVERY_COLUMNS)} "
    "FROM stray_delivery AS stray LEFT JOIN standing_url ON standing_url.id = stray.standing_id "
    "WHERE stray.id > ? AND stray.verdict = 'unreadable' AND stray.body IS NOT NULL "
    "ORDER BY stray.id LIMIT ?"
)
# One of a standing URL.
SELECT_STRAY = f"SELECT {_DELIVERY} FROM stray_delivery WHERE id = ?"
# It became a delivery of a task.
DELETE_STRAY = "DELETE FROM stray_delivery WHERE id = ?"
# It became nothing of which bytes are kept.
UPDATE_STRAY = "UPDATE stray_delivery SET verdict = ?, body = ? WHERE id = ?"
# The deliveries of one task by its ref, with their slots.
SELECT_DELIVERIES_BY_REF = (
    f"SELECT delivery.id % {SLOTS}, {_of('delivery', DELIVERY_COLUMNS)} FROM task "
    f"CROSS JOIN delivery ON delivery.id {SLOTS_OF_TASK} WHERE task.ref = ? ORDER BY delivery.id LIMIT {SLOTS}"
)
# The deliveries of one task, in order.
SELECT_DELIVERIES = f"SELECT {_DELIVERY} FROM delivery WHERE id BETWEEN ? AND ? ORDER BY id LIMIT {SLOTS}"
# Tasks of a provider that the receiver polls and whose time has come, oldest first; the parameters: provider, now, the
# earliest and latest end of a lease that holds, limit.
SELECT_DUE = (
    f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.status = 'processing' AND task.is_polled_here = 1 "
    "AND task.task_id IS NOT NULL AND task.provider = ? AND task.next_poll_at <= ? "
    "AND (task.leased_until IS NULL OR task.leased_until NOT BETWEEN ? AND ?) ORDER BY task.next_poll_at LIMIT ?"
)
# The same for those that are planned beyond the given moment: so far ahead that the clock was set back since.
SELECT_DUE_BEYOND = SELECT_DUE.replace("next_poll_at <= ?", "next_poll_at > ?")
# The same for those whose outcome is disputed.
SELECT_DUE_DISPUTES = (
    f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.is_disputed = 1 AND task.is_polled_here = 1 "
    "AND task.task_id IS NOT NULL AND task.provider = ? AND task.next_poll_at <= ? "
    "AND (task.leased_until IS NULL OR task.leased_until NOT BETWEEN ? AND ?) ORDER BY task.next_poll_at LIMIT ?"
)
# The same for those whose outcome is ours, of which a hint came afterwards.
SELECT_DUE_AGAIN = (
    f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.status = 'failed' AND task.is_disputed = 0 AND task.is_polled_here = 1 "
    "AND task.task_id IS NOT NULL AND task.provider = ? AND task.next_poll_at <= ? "
    "AND (task.leased_until IS NULL OR task.leased_until NOT BETWEEN ? AND ?) ORDER BY task.next_poll_at LIMIT ?"
)
# When the first and the last of them are due.
SELECT_NEXT_DUE = """
    SELECT min(at), max(at) FROM (
        SELECT min(next_poll_at) AS at FROM task
        WHERE status = 'processing' AND is_polled_here = 1 AND task_id IS NOT NULL AND provider = :provider
        UNION ALL
        SELECT max(next_poll_at) FROM task
        WHERE status = 'processing' AND is_polled_here = 1 AND task_id IS NOT NULL AND provider = :provider
        UNION ALL
        SELECT min(next_poll_at) FROM task
        WHERE is_disputed = 1 AND is_polled_here = 1 AND task_id IS NOT NULL AND provider = :provider
        UNION ALL
        SELECT min(next_poll_at) FROM task
        WHERE status = 'failed' AND is_disputed = 0 AND is_polled_here = 1 AND task_id IS NOT NULL
        AND next_poll_at IS NOT NULL AND provider = :provider
    )
"""
# A stretch of the unfinished tasks, in the order of their deadlines; the parameters: deadline, deadline, row, limit.
SELECT_UNFINISHED = (
    "SELECT deadline_at, id, ref, provider, client_key_id, is_polled_here FROM task WHERE status = 'processing' "
    "AND deadline_at >= ? AND (deadline_at, id) > (?, ?) ORDER BY deadline_at, id LIMIT ?"
)
# The outcome at a place in the log.
SELECT_OUTCOME = f"SELECT {_OUTCOME} FROM log WHERE position = ? AND kind = 'result'"
# Whose callback has been held back for long enough.
SELECT_HELD = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.held_until <= ? ORDER BY task.held_until LIMIT ?"
# When the next of them is.
SELECT_NEXT_HELD = "SELECT min(held_until) FROM task WHERE held_until IS NOT NULL"
# A poll in its slot, like a delivery.
INSERT_POLL = f"INSERT OR REPLACE INTO poll (id, {_POLL}) {_values(1 + len(POLL_COLUMNS))}"
# The row of answers with one unlisted code that the last kept poll of a task left.
SELECT_UNLISTED_ROW = (
    "SELECT unlisted_code, unlisted_times, unlisted_since FROM task CROSS JOIN poll "
    f"ON poll.id {SLOTS_OF_TASK} WHERE task.ref = ? ORDER BY poll.id DESC LIMIT 1"
)
# What came, after all, of the poll with this lease; the parameters: what it says, the range of slots, the lease.
COMPLETE_POLL = "UPDATE poll SET started_at = ?, ended_at = ?, said = ? WHERE id BETWEEN ? AND ? AND lease = ?"
# The polls of one task, in order.
SELECT_POLLS = f"SELECT {_POLL} FROM poll WHERE id BETWEEN ? AND ? ORDER BY id LIMIT {SLOTS}"

# A tag of a task, to list by.
INSERT_TAG = "INSERT INTO tag (tag, task) VALUES (?, ?)"

# A task is forgotten in these steps: its rows, its outcomes one by one, and what remembers that it was.
DELETE_TASK = "DELETE FROM task WHERE id = ?"
DELETE_TAGS = "DELETE FROM tag WHERE task = ?"
DELETE_DELIVERIES = "DELETE FROM delivery WHERE id BETWEEN ? AND ?"
DELETE_POLLS = "DELETE FROM poll WHERE id BETWEEN ? AND ?"
DELETE_IDEMPOTENCY = "DELETE FROM idempotency WHERE ref = ?"
DELETE_LOG = "DELETE FROM log WHERE position = ? RETURNING supersedes"
INSERT_TOMBSTONE = "INSERT INTO tombstone (ref, provider, task_id, forgotten_at) VALUES (?, ?, ?, ?)"
# Old tombstones go a few at a time, whenever one is added.
PRUNE_TOMBSTONES = (
    "DELETE FROM tombstone WHERE id IN "
    "(SELECT id FROM tombstone WHERE forgotten_at < ? ORDER BY forgotten_at LIMIT 100)"
)
# Whether a ref was forgotten.
SELECT_TOMBSTONE_BY_REF = "SELECT 1 FROM tombstone WHERE ref = ?"
# Whether a provider's id was forgotten.
SELECT_TOMBSTONE_BY_TASK_ID = "SELECT 1 FROM tombstone WHERE provider = ? AND task_id = ? LIMIT 1"

# The first use of an Idempotency-Key.
SELECT_IDEMPOTENCY = "SELECT body_digest, ref, is_new FROM idempotency WHERE owner = ? AND key = ?"
INSERT_IDEMPOTENCY = "INSERT INTO idempotency (owner, key, body_digest, ref, is_new) VALUES (?, ?, ?, ?, ?)"

# Standing URLs.
SELECT_STANDING_URL = f"SELECT {_STANDING_URL} FROM standing_url WHERE id = ?"
SELECT_STANDING_URLS = f"SELECT {_STANDING_URL} FROM standing_url ORDER BY id LIMIT 1000"
SAVE_STANDING_URL = (
    f"INSERT INTO standing_url ({_STANDING_URL}) {_values(len(STANDING_URL_COLUMNS))} "
    "ON CONFLICT (id) DO UPDATE SET revoked_at = excluded.revoked_at"
)

# What is used of a quota.
SELECT_QUOTA = "SELECT used_rows, used_bytes FROM quota WHERE name = ?"
SAVE_QUOTA = (
    "INSERT INTO quota (name, used_rows, used_bytes) VALUES (?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET used_rows = excluded.used_rows, used_bytes = excluded.used_bytes"
)
# A part of it is free again.
GIVE_BACK_QUOTA = (
    "UPDATE quota SET used_rows = max(used_rows - ?, 0), used_bytes = max(used_bytes - ?, 0) WHERE name = ?"
)

# Facts about the database itself.
SELECT_META = "SELECT value FROM meta WHERE name = ?"
SAVE_META = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
# Signing keys, newest first.
SELECT_SIGNING_KEYS = "SELECT key FROM signing_key ORDER BY id DESC LIMIT 16"
INSERT_SIGNING_KEY = "INSERT INTO signing_key (key, created_at) VALUES (?, ?)"

# What was seen of a shape since it was last written; the content type is "" where there was none.
ADD_SHAPE = (
    "INSERT INTO shape (provider, method, content_type, fields, callbacks, readable, first_seen, last_seen) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (provider, method, content_type, fields) DO UPDATE SET "
    "callbacks = callbacks + excluded.callbacks, readable = readable + excluded.readable, "
    "first_seen = min(first_seen, excluded.first_seen), last_seen = max(last_seen, excluded.last_seen)"
)
# Only so many of a provider's are kept, those that were seen last.
PRUNE_SHAPES = (
    "DELETE FROM shape WHERE id IN (SELECT id FROM shape WHERE provider = ? ORDER BY last_seen DESC LIMIT -1 OFFSET ?)"
)
# The shapes of a provider's callbacks, newest first.
SELECT_SHAPES = (
    "SELECT provider, method, content_type, fields, callbacks, readable, first_seen, last_seen FROM shape "
    "WHERE provider = ? ORDER BY last_seen DESC LIMIT ?"
)

# How often an unlisted code came since that was last written.
ADD_UNLISTED_CODE = (
    "INSERT INTO unlisted_code (provider, code, times, first_seen, last_seen) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (provider, code) DO UPDATE SET times = times + excluded.times, "
    "first_seen = min(first_seen, excluded.first_seen), last_seen = max(last_seen, excluded.last_seen)"
)
# Only so many of a provider's are kept, those that were seen last.
PRUNE_UNLISTED_CODES = (
    "DELETE FROM unlisted_code WHERE provider = ? AND code NOT IN "
    "(SELECT code FROM unlisted_code WHERE provider = ? ORDER BY last_seen DESC LIMIT ?)"
)
# All of them, by provider and code: at most so many of each provider.
SELECT_UNLISTED_CODES = (
    "SELECT provider, code, times, first_seen, last_seen FROM unlisted_code ORDER BY provider, code LIMIT 10000"
)

# How far one look into the log goes: the last of the next so many positions.
SELECT_LOG_WINDOW = "SELECT max(position) FROM (SELECT position FROM log WHERE position > ? ORDER BY position LIMIT ?)"
# What stands between two positions and passes the filter. Its parameters, by name: after, until, limit, hints (0 or 1),
# everything (0 or 1), provider (or null), tags (JSON array), tag_count, refs (JSON array), ids (JSON array of
# [provider, taskId]). Deletions go to everyone: who waits for a deleted task must learn of it.
SELECT_LOG = f"""
    SELECT log.position, log.kind, coalesce(log.ref, task.ref), {_TASK}
    FROM log LEFT JOIN task ON task.id = log.task
    WHERE log.position > :after AND log.position <= :until
      AND (log.kind = 'deleted' OR task.id IS NOT NULL)
      AND (log.kind <> 'hint' OR :hints)
      AND (
        :everything OR log.kind = 'deleted'
        OR (
          (:provider IS NOT NULL OR :tag_count > 0)
          AND (:provider IS NULL OR task.provider = :provider)
          AND (SELECT count(*) FROM tag WHERE tag.task = task.id AND tag.tag IN (SELECT value FROM json_each(:tags)))
              = :tag_count
        )
        OR task.ref IN (SELECT value FROM json_each(:refs))
        OR EXISTS (SELECT 1 FROM json_each(:ids) AS pair
            WHERE json_extract(pair.value, '$[0]') = task.provider AND json_extract(pair.value, '$[1]') = task.task_id)
      )
    ORDER BY log.position LIMIT :limit
"""
# The keys of what came into the log after a position, for the waiters of this process: one more than are named to them,
# so that it shows when there are too many.
SELECT_GROWTH = (
    "SELECT coalesce(log.ref, task.ref), task.provider, task.task_id FROM log LEFT JOIN task ON task.id = log.task "
    "WHERE log.position > ? AND (log.ref IS NOT NULL OR task.id IS NOT NULL) ORDER BY log.position LIMIT 10001"
)

# Tasks behind a row, newest first, a bounded stretch of them; the filter is applied to what the stretch holds.
SELECT_TASK_PAGE = f"SELECT {_TASK} {_WITH_OUTCOME} WHERE task.id < ? ORDER BY task.id DESC LIMIT ?"
# The same for one tag.
SELECT_TASK_PAGE_BY_TAG = (
    f"SELECT {_TASK} FROM tag JOIN task ON task.id = tag.task LEFT JOIN log ON log.position = task.position "
    "WHERE tag.tag = ? AND tag.task < ? ORDER BY tag.task DESC LIMIT ?"
)

# Seen from one connection, this changes when another one has written.
DATA_VERSION = "PRAGMA data_version"
