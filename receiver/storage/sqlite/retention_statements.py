"""The SQL of retention, one comment each. What a step removes it names by position or by id, in JSON."""

from __future__ import annotations

from receiver.storage.sqlite.rows import SLOTS, UNREAD_VERDICTS

__all__ = ["DELETE_OF_TASKS"]

# The position behind which stand so many of the newest finished tasks.
SELECT_SURPLUS = "SELECT position FROM task WHERE position > 0 ORDER BY position DESC LIMIT 1 OFFSET ?"
# The tasks that ended between two positions, with those joined to them whose own entries are no further. A joined task
# stays while the task stands that has its id: it is found under that one.
SELECT_DOOMED = """
    WITH RECURSIVE doomed (id, ref, provider, task_id) AS (
        SELECT task.id, task.ref, task.provider, task.task_id FROM log CROSS JOIN task ON task.id = log.task
        WHERE log.position > :after AND log.position <= :until AND task.position = log.position
          AND NOT EXISTS (SELECT 1 FROM task AS other WHERE other.ref = task.joined_ref)
        UNION
        SELECT joined.id, joined.ref, joined.provider, joined.task_id
        FROM doomed CROSS JOIN task AS joined ON joined.joined_ref = doomed.ref
        WHERE joined.position IS NULL OR joined.position <= :until
    )
    SELECT id, ref, provider, task_id FROM doomed
"""
# What the tasks take of the quotas under which deliveries made them.
SELECT_TASK_QUOTAS = (
    "SELECT quota, count(*), sum(kept_bytes) FROM task "
    "WHERE id IN (SELECT value FROM json_each(?)) AND quota IS NOT NULL GROUP BY quota"
)

_SLOTS_OF_TASKS = f"BETWEEN doomed.value * {SLOTS} AND doomed.value * {SLOTS} + {SLOTS - 1}"
_DELIVERIES_OF_TASKS = (
    f"SELECT delivery.id FROM json_each(?) AS doomed CROSS JOIN delivery ON delivery.id {_SLOTS_OF_TASKS}"
)
_POLLS_OF_TASKS = f"SELECT poll.id FROM json_each(?) AS doomed CROSS JOIN poll ON poll.id {_SLOTS_OF_TASKS}"
# The deliveries of tasks; the parameter of all that follow is a JSON array of ids, if nothing else is said.
SELECT_DELIVERIES_OF_TASKS = _DELIVERIES_OF_TASKS
# What stands behind a position, its time, and about how many bytes go with it.
SELECT_ENTRY_TIMES = f"""
    SELECT position, finished_at, coalesce(length(solution), 0) + coalesce((
        SELECT sum(delivery.size) FROM delivery
        WHERE delivery.id BETWEEN log.task * {SLOTS} AND log.task * {SLOTS} + {SLOTS - 1} AND delivery.body IS NOT NULL
    ), 0)
    FROM log WHERE position > ? ORDER BY position LIMIT ?
"""
# How many bytes these deliveries take of the quota of unreadable bytes; the other parameter is what one takes at least.
SELECT_UNREADABLE_AMONG = (
    "SELECT count(*), coalesce(sum(max(size, ?)), 0) FROM delivery WHERE id IN (SELECT value FROM json_each(?)) "
    f"AND verdict IN ({UNREAD_VERDICTS}) AND body IS NOT NULL"
)
# How many of the other bodies among these deliveries count for the URLs that brought them, and their bytes. The body
# that made a task is the task's.
SELECT_BODIES_AMONG = (
    "SELECT coalesce(delivery.standing_id, task.quota) AS name, count(*), sum(max(delivery.size, ?)) "
    f"FROM delivery JOIN task ON task.id = delivery.id / {SLOTS} "
    "WHERE delivery.id IN (SELECT value FROM json_each(?)) AND delivery.body IS NOT NULL "
    f"AND delivery.verdict NOT IN ({UNREAD_VERDICTS}) AND name IS NOT NULL "
    f"AND (task.quota IS NULL OR delivery.id <> task.id * {SLOTS} + 1) GROUP BY name"
)
# What remembers that the tasks were, and since when.
INSERT_TOMBSTONES = (
    "INSERT INTO tombstone (ref, provider, task_id, forgotten_at) "
    "SELECT ref, provider, task_id, ? FROM task WHERE id IN (SELECT value FROM json_each(?))"
)
# The tasks go with all that is theirs, in this order.
DELETE_OF_TASKS = (
    f"DELETE FROM delivery WHERE id IN ({_DELIVERIES_OF_TASKS})",
    f"DELETE FROM poll WHERE id IN ({_POLLS_OF_TASKS})",
    "DELETE FROM tag WHERE task IN (SELECT value FROM json_each(?))",
    "DELETE FROM idempotency WHERE ref IN (SELECT ref FROM task WHERE id IN (SELECT value FROM json_each(?)))",
    "DELETE FROM task WHERE id IN (SELECT value FROM json_each(?))",
)
# The log behind one position, up to another.
DELETE_ENTRIES = "DELETE FROM log WHERE position > ? AND position <= ?"

# Solutions between two positions go, their records stay.
REMOVE_SOLUTIONS = "UPDATE log SET solution = NULL WHERE position > ? AND position <= ? AND solution IS NOT NULL"
# The bodies in which those solutions came. One that nobody could read may still be of use.
SELECT_BODIES_OF_SOLUTIONS = f"""
    SELECT delivery.id FROM log
    CROSS JOIN delivery ON delivery.id BETWEEN log.task * {SLOTS} AND log.task * {SLOTS} + {SLOTS - 1}
    WHERE log.position > ? AND log.position <= ? AND log.status = 'ready'
      AND delivery.body IS NOT NULL AND delivery.verdict NOT IN ({UNREAD_VERDICTS})
"""

# Deliveries of tasks that have ended, with bytes as old as this, oldest first, and how many bytes.
SELECT_OLD_BODIES = (
    f"SELECT delivery.id, delivery.size FROM delivery CROSS JOIN task ON task.id = delivery.id / {SLOTS} "
    "WHERE delivery.body IS NOT NULL AND delivery.received_at <= ? AND task.status <> 'processing' "
    "ORDER BY delivery.received_at LIMIT ?"
)
# Their bytes go, the facts stay.
REMOVE_BODIES = "UPDATE delivery SET body = NULL WHERE id IN (SELECT value FROM json_each(?))"

# Deliveries of no task, oldest first, their times and sizes.
SELECT_STRAY_TIMES = "SELECT id, received_at, size FROM stray_delivery WHERE id > 0 ORDER BY id LIMIT ?"
# What those up to an id take of the quota of unreadable bytes; the first parameter is what one takes at least.
SELECT_STRAY_BYTES = (
    "SELECT count(*), coalesce(sum(max(size, ?)), 0) FROM stray_delivery WHERE id <= ? AND body IS NOT NULL"
)
DELETE_STRAYS = "DELETE FROM stray_delivery WHERE id <= ?"

# Tombstones as old as this, or of which there are so many newer ones.
SELECT_TOMBSTONES = "SELECT id FROM tombstone WHERE forgotten_at <= ? ORDER BY forgotten_at LIMIT ?"
SELECT_SURPLUS_TOMBSTONES = (
    "SELECT id FROM tombstone WHERE id > 0 AND id <= (SELECT max(id) FROM tombstone) - ? ORDER BY id LIMIT ?"
)
DELETE_TOMBSTONES = "DELETE FROM tombstone WHERE id IN (SELECT value FROM json_each(?))"
