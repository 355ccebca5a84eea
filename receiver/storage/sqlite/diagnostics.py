"""Reads of a database file for the commands `explain` and `doctor`. Nothing is changed."""

from __future__ import annotations

import math
import sqlite3
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic_core import to_json

from client.protocol import filters
from receiver.domain.access.api_keys import StoredKey
from receiver.domain.records import (
    SECOND,
    SUBMITTING,
    History,
    Latency,
    RecentTasks,
    StandingUrl,
    TaskRecord,
    UnlistedCode,
    WaitingTasks,
)
from receiver.errors import ReceiverError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import snapshot
from receiver.storage.sqlite.reader import read_history, read_task, read_tasks_by_id, read_waiting
from receiver.storage.sqlite.rows import LATE_VERDICTS, slots_range, standing_url_from
from receiver.storage.sqlite.tables.api_keys import read_keys

__all__ = [
    "SELECT_LATENCIES",
    "SELECT_RECENT",
    "SELECT_VERDICTS",
    "Overview",
    "find_task",
    "read_overview",
    "read_recent",
    "read_standing_urls",
    "read_text",
]

# The newest rows of a table, so that the cost of a query is bounded.
_NEWEST_ROWS = 20_000
_NEWEST = f"task.id > (SELECT coalesce(max(id), 0) - {_NEWEST_ROWS} FROM task) AND task.created_at >= :since"

# An outcome by unlisted codes of several polls is no answer, so its task has no lost callback.
_SOURCE = "CASE log.trust WHEN 'provisional' THEN 'deadline' ELSE log.source END"
# Counts of the tasks since a moment, by provider. Only tasks with a URL of their own can lose a callback. If a task may
# have few polls only, then using all of them is normal, as long as they bring an answer.
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
                EXISTS (SELECT 1 FROM delivery WHERE delivery.id {slots_range("task.id")}
                    AND delivery.verdict IN ({LATE_VERDICTS}))
            ELSE 0 END AS late
        FROM task LEFT JOIN log ON log.position = task.position LEFT JOIN plan ON plan.provider = task.provider
        WHERE {_NEWEST}
    )
    GROUP BY provider
"""
# The number of their kept deliveries, by provider and verdict, with those on standing URLs without a known task, and
# the time of the newest one.
SELECT_VERDICTS = f"""
    SELECT provider, verdict, count(*), max(received_at) FROM (
        SELECT task.provider AS provider, delivery.verdict AS verdict, delivery.received_at AS received_at FROM task
        CROSS JOIN delivery ON delivery.id {slots_range("task.id")}
        WHERE {_NEWEST} AND task.deliveries > 0
        UNION ALL
        SELECT task.provider, log.verdict, log.finished_at FROM task CROSS JOIN log ON log.position = task.position
        WHERE {_NEWEST} AND task.deliveries > 0 AND log.slot IS NOT NULL
        UNION ALL
        SELECT standing_url.provider, stray.verdict, stray.received_at FROM stray_delivery AS stray
        CROSS JOIN standing_url ON standing_url.id = stray.standing_id
        WHERE stray.id > (SELECT coalesce(max(id), 0) - {_NEWEST_ROWS} FROM stray_delivery)
            AND stray.received_at >= :since
    )
    GROUP BY provider, verdict
"""
# The times from `TaskRecord.counts_from` to the callback that ended the task. If a poll confirmed a callback, then that
# callback came at the hint. Tasks made by a delivery had no waiter, so they do not count.
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
    keys: tuple[StoredKey, ...]


def find_task(
    connection: sqlite3.Connection, ref_or_id: str, provider: str | None
) -> tuple[TaskRecord, History] | None:
    """Return the task with this ref, else with this id of the provider's, and its history. None if there is none.

    Raises:
        ReceiverError: `ambiguous-task-id`.
    """
    with snapshot(connection):
        task = read_task(connection, ref_or_id)
        if task is None:
            tasks = read_tasks_by_id(connection, ref_or_id, provider)
            if len(tasks) > 1:
                raise ReceiverError("ambiguous-task-id", "several providers have a task with this id; name one")
            task = next(iter(tasks), None)
        return None if task is None else (task, read_history(connection, task))


def read_overview(
    connection: sqlite3.Connection, *, hour_ago: int, day_ago: int, most_polls: Mapping[str, int]
) -> Overview:
    """Return an overview of the database, limited to the newest tasks.

    `most_polls`: the number of polls that a task of a provider may have, if it is known.
    """
    run = connection.execute
    newest = run(sql.SELECT_NEWEST).fetchone()
    waiting = tuple(read_waiting(connection))
    hour, day = (read_recent(connection, since, most_polls) for since in (hour_ago, day_ago))
    standing = {url.provider for url in read_standing_urls(connection)}
    used = {tasks.provider for tasks in waiting} | {tasks.provider for tasks in day if tasks.with_url} | standing
    return Overview(
        newest_task=None if newest is None else newest[0],
        waiting=waiting,
        hour=hour,
        day=day,
        providers=frozenset(used),
        signing_keys=tuple(key for (key,) in run(sql.SELECT_SIGNING_KEYS)),
        unlisted=tuple(UnlistedCode(*row) for row in run(sql.SELECT_UNLISTED_CODES)),
        keys=tuple(read_keys(connection)),
    )


def read_standing_urls(connection: sqlite3.Connection) -> list[StandingUrl]:
    """Return the standing URLs that were not revoked, oldest first."""
    urls = map(standing_url_from, connection.execute(sql.SELECT_STANDING_URLS))
    return [url for url in urls if url.revoked_at is None]


def read_text(connection: sqlite3.Connection, name: str) -> str | None:
    """See `Store.remembered`."""
    row = connection.execute(sql.SELECT_META, (name,)).fetchone()
    return None if row is None else str(row[0])


def read_recent(connection: sqlite3.Connection, since: int, most_polls: Mapping[str, int]) -> tuple[RecentTasks, ...]:
    """Return the counts of the tasks since a time, by provider; `most_polls` as in `read_overview`.

    A provider with nothing but deliveries on standing URLs is included, too.
    """
    values = {"since": since, "most_polls": to_json(most_polls).decode()}
    verdicts: dict[str, dict[str, int]] = defaultdict(dict)
    newest: dict[str, dict[str, int]] = defaultdict(dict)
    for provider, verdict, count, received_at in connection.execute(SELECT_VERDICTS, values):
        verdicts[provider][verdict] = count
        newest[provider][verdict] = received_at
    waited: dict[str, list[float]] = defaultdict(list)
    for provider, microseconds in connection.execute(SELECT_LATENCIES, values):
        waited[provider].append(microseconds / SECOND)
    tasks = {row[0]: RecentTasks(*row) for row in connection.execute(SELECT_RECENT, values)}
    return tuple(
        replace(
            tasks.get(provider) or RecentTasks(provider),
            most_polls=most_polls.get(provider),
            verdicts=verdicts.get(provider, {}),
            newest=newest.get(provider, {}),
            latency=_latency(sorted(waited.get(provider, []))),
        )
        for provider in sorted({*tasks, *verdicts} - {filters.CANARY})
    )


def _latency(seconds: Sequence[float]) -> Latency | None:
    """Return the figures of sorted latencies."""
    if not seconds:
        return None
    return Latency(len(seconds), statistics.median(seconds), seconds[math.ceil(0.95 * len(seconds)) - 1])
