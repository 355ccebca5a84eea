"""Opens a database file only to look, for commands: whether a receiver runs on it or not, nothing is changed."""

from __future__ import annotations

import json
import math
import sqlite3
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from receiver.domain.records import (
    SECOND,
    SUBMITTING,
    History,
    Latency,
    RecentTasks,
    TaskRecord,
    UnlistedCode,
    WaitingTasks,
)
from receiver.errors import CannotStartError, ReceiverError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import connect_read_only, schema_version
from receiver.storage.sqlite.files import require_database
from receiver.storage.sqlite.reader import read_history, read_task, read_waiting
from receiver.storage.sqlite.rows import LATE_VERDICTS, SLOTS_OF_TASK, standing_url_from, task_from

__all__ = [
    "SELECT_LATENCIES",
    "SELECT_RECENT",
    "SELECT_VERDICTS",
    "Overview",
    "look_up_task",
    "open_read_only",
    "read_overview",
    "read_recent",
]

_NEWEST = "task.id > (SELECT coalesce(max(id), 0) - 20000 FROM task) AND task.created_at >= :since"

# What several polls with an unlisted code came to is no answer, and no lost callback.
_SOURCE = "CASE log.trust WHEN 'provisional' THEN 'deadline' ELSE log.source END"
# What became of the tasks since a moment, by provider; slots of deliveries as in `rows`. Only those with a URL of their
# own can lose a callback. Where a task may have few polls, it is in order that all are used if they brought something.
SELECT_RECENT = f"""
    WITH plan AS MATERIALIZED (SELECT key AS provider, value AS most FROM json_each(:most_polls))
    SELECT provider, sum(has_url), sum(answered AND has_url), sum(polled), sum(late),
        sum(ended), sum(CASE WHEN ended THEN polls ELSE 0 END), sum(nearly_out)
    FROM (
        SELECT task.provider AS provider, task.has_url AS has_url, task.polls AS polls, most,
            coalesce({_SOURCE} IN ('callback', 'poll'), 0) AS answered,
            log.source IS NOT NULL AS ended,
            coalesce(log.source IS NOT NULL AND task.polls * 10 >= most * 9
                AND (most >= 10 OR {_SOURCE} NOT IN ('callback', 'poll')), 0) AS nearly_out,
            coalesce(task.has_url AND {_SOURCE} = 'poll' AND task.hinted_at IS NULL, 0) AS polled,
            CASE WHEN task.deliveries > 0 AND task.has_url AND {_SOURCE} = 'poll' AND task.hinted_at IS NULL THEN
                EXISTS (SELECT 1 FROM delivery WHERE delivery.id {SLOTS_OF_TASK}
                    AND delivery.verdict IN ({LATE_VERDICTS}))
            ELSE 0 END AS late
        FROM task LEFT JOIN log ON log.position = task.position LEFT JOIN plan ON plan.provider = task.provider
        WHERE {_NEWEST}
    )
    GROUP BY provider
"""
# How many deliveries are kept of them, by provider and verdict; and of those on standing URLs without a known task.
SELECT_VERDICTS = f"""
    SELECT provider, verdict, count(*) FROM (
        SELECT task.provider AS provider, delivery.verdict AS verdict FROM task
        CROSS JOIN delivery ON delivery.id {SLOTS_OF_TASK}
        WHERE {_NEWEST} AND task.deliveries > 0
        UNION ALL
        SELECT standing_url.provider, stray.verdict FROM stray_delivery AS stray
        CROSS JOIN standing_url ON standing_url.id = stray.standing_id
        WHERE stray.id > (SELECT coalesce(max(id), 0) - 20000 FROM stray_delivery) AND stray.received_at >= :since
    )
    GROUP BY provider, verdict
"""
# From `TaskRecord.counts_from` to the callback that ended it, or that a poll confirmed: that came at the hint. Tasks
# that a delivery made were not waited for.
SELECT_LATENCIES = f"""
    SELECT provider, waited FROM (
        SELECT task.provider AS provider,
            CASE WHEN log.trust = 'confirmed' THEN task.hinted_at
                WHEN log.source = 'callback' THEN log.finished_at END - CASE
                WHEN task.bound_by = 'create' AND task.bound_at - task.created_at BETWEEN 0 AND {SUBMITTING}
                THEN task.bound_at ELSE task.created_at END AS waited
        FROM task JOIN log ON log.position = task.position
        WHERE {_NEWEST} AND task.created_by IS NOT NULL
    )
    WHERE waited IS NOT NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """An overview of the database. `providers` have recent tasks or a standing URL."""

    newest_task: int | None
    waiting: tuple[WaitingTasks, ...]
    hour: tuple[RecentTasks, ...]
    day: tuple[RecentTasks, ...]
    providers: frozenset[str]
    signing_keys: tuple[bytes, ...]
    unlisted: tuple[UnlistedCode, ...]


@contextmanager
def open_read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that can only read, to a database of this program with its current schema.

    Raises:
        CannotStartError: there is none, it is not ours, its schema is older or newer, or it cannot be read.
    """
    require_database(path)
    connection = connect_read_only(path)
    try:
        version = schema_version(connection, path)
        if version < len(sql.MIGRATIONS):
            raise CannotStartError(
                f"{path}: the database has schema {version}, this program {len(sql.MIGRATIONS)}; starting the receiver "
                "brings it up to date"
            )
        yield connection
    except sqlite3.Error as error:
        raise CannotStartError(f"{path}: the database cannot be read: {error}") from error
    finally:
        connection.close()


def look_up_task(
    connection: sqlite3.Connection, task_or_ref: str, provider: str | None
) -> tuple[TaskRecord, History] | None:
    """Return the task with this ref (which wins) or provider's id, and what is kept of it; None where there is none.

    Raises:
        ReceiverError: `ambiguous-task-id`.
    """
    # One transaction: what is told of the task is told as of one moment.
    connection.execute("BEGIN")
    try:
        task = read_task(connection, task_or_ref)
        if task is None:
            if provider is None:
                rows = connection.execute(sql.SELECT_TASKS_BY_TASK_ID, (task_or_ref,)).fetchall()
            else:
                rows = connection.execute(sql.SELECT_TASK_BY_TASK_ID, (task_or_ref, provider)).fetchall()
            if len(rows) > 1:
                raise ReceiverError("ambiguous-task-id", "several providers have a task with this id; name one")
            task = task_from(rows[0]) if rows else None
        return None if task is None else (task, read_history(connection, task))
    finally:
        connection.execute("ROLLBACK")


def read_overview(
    connection: sqlite3.Connection, *, hour_ago: int, day_ago: int, most_polls: Mapping[str, int]
) -> Overview:
    """Return an overview of the database, limited to the newest tasks.

    `most_polls`: how often a task of a provider may be polled, where that is known.
    """
    run = connection.execute
    newest = run(sql.SELECT_NEWEST).fetchone()
    waiting = tuple(read_waiting(connection))
    hour, day = (read_recent(connection, since, most_polls) for since in (hour_ago, day_ago))
    standing = {url.provider for url in map(standing_url_from, run(sql.SELECT_STANDING_URLS)) if url.revoked_at is None}
    used = {tasks.provider for tasks in waiting} | {tasks.provider for tasks in day if tasks.with_url} | standing
    return Overview(
        newest_task=None if newest is None else newest[0],
        waiting=waiting,
        hour=hour,
        day=day,
        providers=frozenset(used),
        signing_keys=tuple(key for (key,) in run(sql.SELECT_SIGNING_KEYS)),
        unlisted=tuple(UnlistedCode(*row) for row in run(sql.SELECT_UNLISTED_CODES)),
    )


def read_recent(connection: sqlite3.Connection, since: int, most_polls: Mapping[str, int]) -> tuple[RecentTasks, ...]:
    """What became of the tasks since then; `most_polls` are the polls that a task may have, where that is known.

    A provider that has only deliveries on standing URLs is told of, too.
    """
    values = {"since": since, "most_polls": json.dumps(dict(most_polls))}
    verdicts: dict[str, dict[str, int]] = defaultdict(dict)
    for provider, verdict, count in connection.execute(SELECT_VERDICTS, values):
        verdicts[provider][verdict] = count
    waited: dict[str, list[float]] = defaultdict(list)
    for provider, microseconds in connection.execute(SELECT_LATENCIES, values):
        waited[provider].append(microseconds / SECOND)
    tasks = {row[0]: RecentTasks(*row) for row in connection.execute(SELECT_RECENT, values)}
    return tuple(
        replace(
            tasks.get(provider) or RecentTasks(provider),
            most_polls=most_polls.get(provider),
            verdicts=verdicts.get(provider, {}),
            latency=_latency(sorted(waited.get(provider, []))),
        )
        for provider in sorted({*tasks, *verdicts})
    )


def _latency(seconds: Sequence[float]) -> Latency | None:
    """Of latencies that go up."""
    if not seconds:
        return None
    return Latency(len(seconds), statistics.median(seconds), seconds[math.ceil(0.95 * len(seconds)) - 1])
