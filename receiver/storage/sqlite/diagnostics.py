"""Opens a database file only to look, for commands: whether a receiver runs on it or not, nothing is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from receiver.domain.records import History, RecentTasks, TaskRecord, UnlistedCode, WaitingTasks
from receiver.errors import CannotStartError, ReceiverError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import connect_to_look, schema_version
from receiver.storage.sqlite.files import require_database
from receiver.storage.sqlite.history import read_history, read_waiting
from receiver.storage.sqlite.reader import read_task
from receiver.storage.sqlite.recent import read_recent
from receiver.storage.sqlite.rows import standing_url_from, task_from

__all__ = ["Look", "look", "look_up_task", "opened_to_look"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the database tells of the whole: `providers` are those that have tasks lately, or a standing URL."""

    newest_task: int | None
    waiting: tuple[WaitingTasks, ...]
    hour: tuple[RecentTasks, ...]
    day: tuple[RecentTasks, ...]
    providers: frozenset[str]
    signing_keys: tuple[bytes, ...]
    unlisted: tuple[UnlistedCode, ...]


@contextmanager
def opened_to_look(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can only read, to a database of this program with its current schema.

    Raises:
        CannotStartError: there is none, it is not ours, its schema is older or newer, or it cannot be read.
    """
    require_database(path)
    connection = connect_to_look(path)
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
    """The task with this ref (which wins) or provider's id, and what is kept of it; None where there is none.

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


def look(connection: sqlite3.Connection, *, hour_ago: int, day_ago: int, most_polls: Mapping[str, int]) -> Look:
    """What is judged of the whole database; of very many tasks, only of the newest.

    `most_polls`: how often a task of a provider may be polled, where that is known.
    """
    run = connection.execute
    newest = run(sql.SELECT_NEWEST).fetchone()
    waiting = tuple(read_waiting(connection))
    hour, day = (read_recent(connection, since, most_polls) for since in (hour_ago, day_ago))
    standing = {url.provider for url in map(standing_url_from, run(sql.SELECT_STANDING_URLS)) if url.revoked_at is None}
    used = {tasks.provider for tasks in waiting} | {tasks.provider for tasks in day if tasks.with_url} | standing
    return Look(
        newest_task=None if newest is None else newest[0],
        waiting=waiting,
        hour=hour,
        day=day,
        providers=frozenset(used),
        signing_keys=tuple(key for (key,) in run(sql.SELECT_SIGNING_KEYS)),
        unlisted=tuple(UnlistedCode(*row) for row in run(sql.SELECT_UNLISTED_CODES)),
    )
