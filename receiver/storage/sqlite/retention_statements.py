"""The SQL of retention and of deleting, one comment each.

Rows to remove are named by position or by id. If nothing else is said, the parameter is a JSON array of ids.
"""

from __future__ import annotations

from receiver.storage.sqlite.rows import SLOTS, UNREAD_VERDICTS, slots_range

__all__ = ["DELETE_OF_TASKS"]

# The position behind the given number of newest finished tasks.
SELECT_SURPLUS = "SELECT position FROM task WHERE position > 0 ORDER BY position DESC LIMIT 1 OFFSET ?"
# The tasks that ended between two positions, and those joined to them without a later entry of their own. A joined task
# stays as long as the task that has its id, because it is found under that one.
SELECT_EXPIRED_TASKS = """
    WITH RECURSIVE expired (id, ref, provider, task_id) AS (
        SELECT task.id, task.ref, task.provider, task.task_id FROM log CROSS JOIN task ON task.id = log.task
        WHERE log.position > :after AND log.position <= :until AND task.position = log.position
          AND NOT EXISTS (SELECT 1 FROM task AS other WHERE other.ref = task.joined_ref)
        UNION
        SELECT joined.id, joined.ref, joined.provider, joined.task_id
        FROM expired CROSS JOIN task AS joined ON joined.joined_ref = expired.ref
        WHERE joined.position IS NULL OR joined.position <= :until
    )
    SELECT id, ref, provider, task_id FROM expired
"""
# The part of the quotas taken by tasks that deliveries made.
SELECT_TASK_QUOTAS = (
    "SELECT quota, count(*), sum(kept_bytes) FROM task "
    "WHERE id IN (SELECT value FROM json_each(?)) AND quota IS NOT NULL GROUP BY quota"
)
# The deliveries of tasks.
SELECT_DELIVERIES_OF_TASKS = (
    f"SELECT delivery.id FROM json_each(?) AS removed CROSS JOIN delivery ON delivery.id {slots_range('removed.value')}"
)
_POLLS_OF_TASKS = (
    f"SELECT poll.id FROM json_each(?) AS removed CROSS JOIN poll ON poll.id {slots_range('removed.value')}"
)
# The entries behind a position: their times, and about how many bytes go with each.
SELECT_ENTRY_TIMES = f"""
    SELECT position, finished_at, coalesce(length(solution), 0) + coalesce(length(body), 0) + coalesce((
        SELECT sum(delivery.size) FROM delivery
        WHERE delivery.id {slots_range("log.task")} AND delivery.body IS NOT NULL
    ), 0)
    FROM log WHERE position > ? ORDER BY position LIMIT ?
"""
# The bytes of these deliveries in the quota of unreadable bytes. The first parameter is the least for one.
SELECT_UNREADABLE_AMONG = (
    "SELECT count(*), coalesce(sum(max(size, ?)), 0) FROM delivery WHERE id IN (SELECT value FROM json_each(?)) "
    f"AND verdict IN ({UNREAD_VERDICTS}) AND body IS NOT NULL"
)
# The other bodies among these deliveries by the quota of the URL that brought them, and their bytes. The body that made
# a task counts for the task.
SELECT_BODIES_AMONG = (
    "SELECT coalesce(delivery.standing_id, task.quota) AS name, count(*), sum(max(delivery.size, ?)) "
    f"FROM delivery JOIN task ON task.id = delivery.id / {SLOTS} "
    "WHERE delivery.id IN (SELECT value FROM json_each(?)) AND delivery.body IS NOT NULL "
    f"AND delivery.verdict NOT IN ({UNREAD_VERDICTS}) AND name IS NOT NULL "
    f"AND (task.quota IS NULL OR delivery.id <> task.id * {SLOTS} + 1) GROUP BY name"
)
# The same for bodies that are kept with an outcome, by position. None of them is unreadable.
SELECT_BODIES_AMONG_ENTRIES = (
    "SELECT coalesce(log.standing_id, task.quota) AS name, count(*), sum(max(log.size, ?)) "
    "FROM log JOIN task ON task.id = log.task "
    "WHERE log.position IN (SELECT value FROM json_each(?)) AND log.body IS NOT NULL AND name IS NOT NULL "
    "AND (task.quota IS NULL OR log.slot <> 1) GROUP BY name"
)
# The tombstones of tasks. The first parameter is the time.
INSERT_TOMBSTONES = (
    "INSERT INTO tombstone (ref, provider, task_id, forgotten_at) "
    "SELECT ref, provider, task_id, ? FROM task WHERE id IN (SELECT value FROM json_each(?))"
)
# Tasks with everything that belongs to them, in this order.
DELETE_OF_TASKS = (
    f"DELETE FROM delivery WHERE id IN ({SELECT_DELIVERIES_OF_TASKS})",
    f"DELETE FROM poll WHERE id IN ({_POLLS_OF_TASKS})",
    "DELETE FROM tag WHERE task IN (SELECT value FROM json_each(?))",
    "DELETE FROM idempotency WHERE ref IN (SELECT ref FROM task WHERE id IN (SELECT value FROM json_each(?)))",
    "DELETE FROM task WHERE id IN (SELECT value FROM json_each(?))",
)
# One entry of the log. It names the one that it replaced.
DELETE_ENTRY = "DELETE FROM log WHERE position = ? RETURNING supersedes"
# The log behind one position, up to another.
DELETE_ENTRIES = "DELETE FROM log WHERE position > ? AND position <= ?"

# The entries between two positions that keep a body.
SELECT_ENTRIES_WITH_BODIES = "SELECT position FROM log WHERE position > ? AND position <= ? AND body IS NOT NULL"
# Those that keep a solution, too.
SELECT_ENTRIES_WITH_BOTH = f"{SELECT_ENTRIES_WITH_BODIES} AND solution IS NOT NULL"
# The bytes of their deliveries go, the facts stay.
REMOVE_ENTRY_BODIES = "UPDATE log SET body = NULL WHERE position > ? AND position <= ? AND body IS NOT NULL"

# Solutions between two positions go, with the bodies beside them. Their records stay.
REMOVE_SOLUTIONS = (
    "UPDATE log SET solution = NULL, body = NULL WHERE position > ? AND position <= ? AND solution IS NOT NULL"
)
# The other bodies that brought those solutions. An unreadable one may still be of use.
SELECT_BODIES_OF_SOLUTIONS = f"""
    SELECT delivery.id FROM log
    CROSS JOIN delivery ON delivery.id {slots_range("log.task")}
    WHERE log.position > ? AND log.position <= ? AND log.status = 'ready'
      AND delivery.body IS NOT NULL AND delivery.verdict NOT IN ({UNREAD_VERDICTS})
"""

# Old bodies of finished tasks, but for those kept with outcomes, oldest first, and their sizes.
SELECT_OLD_BODIES = (
    f"SELECT delivery.id, delivery.size FROM delivery CROSS JOIN task ON task.id = delivery.id / {SLOTS} "
    "WHERE delivery.body IS NOT NULL AND delivery.received_at <= ? AND task.status <> 'processing' "
    "ORDER BY delivery.received_at LIMIT ?"
)
# The bytes of deliveries go, the facts stay.
REMOVE_BODIES = "UPDATE delivery SET body = NULL WHERE id IN (SELECT value FROM json_each(?))"

# Deliveries without a task, oldest first, their times and sizes.
SELECT_STRAY_TIMES = "SELECT id, received_at, size FROM stray_delivery WHERE id > 0 ORDER BY id LIMIT ?"
# The bytes of those up to an id in the quota of unreadable bytes. The first parameter is the least for one.
SELECT_STRAY_BYTES = (
    "SELECT count(*), coalesce(sum(max(size, ?)), 0) FROM stray_delivery WHERE id <= ? AND body IS NOT NULL"
)
DELETE_STRAYS = "DELETE FROM stray_delivery WHERE id <= ?"

# Old tombstones, and those behind the given number of newer ones.
SELECT_TOMBSTONES = "SELECT id FROM tombstone WHERE forgotten_at <= ? ORDER BY forgotten_at LIMIT ?"
SELECT_SURPLUS_TOMBSTONES = (
    "SELECT id FROM tombstone WHERE id > 0 AND id <= (SELECT max(id) FROM tombstone) - ? ORDER BY id LIMIT ?"
)
DELETE_TOMBSTONES = "DELETE FROM tombstone WHERE id IN (SELECT value FROM json_each(?))"
# A few old tombstones, whenever a task is deleted.
PRUNE_TOMBSTONES = (
    "DELETE FROM tombstone WHERE id IN "
    "(SELECT id FROM tombstone WHERE forgotten_at < ? ORDER BY forgotten_at LIMIT 100)"
)
