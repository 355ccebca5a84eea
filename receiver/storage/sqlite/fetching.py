"""Rows that decisions need, read by their keys: the tasks of a whole batch at once, in as few rows as possible.

Everything here runs on the connection's thread, in the transaction of the caller.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic_core import from_json, to_json

from client.provider_api.unlisted import UnlistedRow
from receiver.domain.records import SECOND
from receiver.domain.transaction import IdempotencyRecord, Key, Kind
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.rows import delivery_from, standing_url_from, task_from

__all__ = ["fetch"]

Found = Iterator[tuple[Key, Any]]


def fetch(connection: sqlite3.Connection, keys: Iterable[Key]) -> Found:
    """Yield the rows with these keys; a key without a row brings none."""
    by_kind = defaultdict[Kind, list[Key]](list)
    for key in keys:
        by_kind[key[0]].append(key)
    for kind, wanted in by_kind.items():
        yield from _READS[kind](connection, wanted)


def _tasks(connection: sqlite3.Connection, keys: Sequence[Key]) -> Found:
    if len(keys) == 1:
        rows = connection.execute(sql.SELECT_TASK_BY_REF, (keys[0][1],)).fetchall()
    else:
        rows = _in_one_row(connection, sql.SELECT_TASKS_BY_REFS, [ref for _, ref in keys])
    return _as_tasks(rows)


def _tasks_by_id(connection: sqlite3.Connection, keys: Sequence[Key]) -> Found:
    if len(keys) == 1:
        _, provider, id_text = keys[0]
        rows = connection.execute(sql.SELECT_TASK_BY_TASK_ID, (id_text, provider)).fetchall()
    else:
        rows = _in_one_row(connection, sql.SELECT_TASKS_BY_IDS, [key[1:] for key in keys])
    return _as_tasks(rows)


def _in_one_row(connection: sqlite3.Connection, statement: str, wanted: Sequence[Any]) -> list[Any]:
    # Each row that leaves SQLite takes the GIL from a busy event loop, and waits for it.
    (rows,) = connection.execute(statement, (to_json(wanted).decode(),)).fetchone()
    found: list[Any] = from_json(rows)
    return found


def _as_tasks(rows: Iterable[Any]) -> Found:
    for task in map(task_from, rows):
        yield ("task", task.ref), task


def _exists(statement: str) -> Callable[[sqlite3.Connection, Sequence[Key]], Found]:
    return _one_by_one(statement, lambda _: True)


def _one_by_one(
    statement: str, record_from: Callable[[tuple[Any, ...]], Any]
) -> Callable[[sqlite3.Connection, Sequence[Key]], Found]:
    """Return a reader of rows of which a batch needs few; the key is the parameters."""

    def read(connection: sqlite3.Connection, keys: Sequence[Key]) -> Found:
        for key in keys:
            row = connection.execute(statement, key[1:]).fetchone()
            if row is not None:
                yield key, record_from(row)

    return read


def _deliveries(connection: sqlite3.Connection, keys: Sequence[Key]) -> Found:
    for key in keys:
        for slot, *row in connection.execute(sql.SELECT_DELIVERIES_BY_REF, key[1:]).fetchall():
            yield ("delivery", key[1], slot), delivery_from(tuple(row))


def _unlisted_row(row: tuple[Any, ...]) -> UnlistedRow | None:
    code, times, since = row
    return None if code is None else UnlistedRow(code, times, since / SECOND)


def _idempotency(row: tuple[Any, ...]) -> IdempotencyRecord:
    body_digest, ref, is_new = row
    return IdempotencyRecord(body_digest, ref, bool(is_new))


def _query(statement: str) -> Callable[[sqlite3.Connection, Sequence[Key]], Found]:
    def read(connection: sqlite3.Connection, keys: Sequence[Key]) -> Found:
        for key in keys:
            yield key, [task_from(row) for row in connection.execute(statement, key[1:]).fetchall()]

    return read


def _due(connection: sqlite3.Connection, keys: Sequence[Key]) -> Found:
    for key in keys:
        _, provider, now, limit, reach, lease = key
        leases = (now + 1, now + lease)
        rows: list[Any] = []
        for statement, at in (
            (sql.SELECT_DUE_DISPUTES, now),
            (sql.SELECT_DUE_AGAIN, now),
            (sql.SELECT_DUE, now),
            (sql.SELECT_DUE_BEYOND, now + reach),
        ):
            rows += connection.execute(statement, (provider, at, *leases, limit - len(rows))).fetchall()
        yield key, [task_from(row) for row in rows]


_READS: Mapping[Kind, Callable[[sqlite3.Connection, Sequence[Key]], Found]] = {
    "task": _tasks,
    "task_id": _tasks_by_id,
    "forgotten_ref": _exists(sql.SELECT_TOMBSTONE_BY_REF),
    "forgotten_id": _exists(sql.SELECT_TOMBSTONE_BY_TASK_ID),
    "deliveries": _deliveries,
    "stray": _one_by_one(sql.SELECT_STRAY, delivery_from),
    "unlisted_row": _one_by_one(sql.SELECT_UNLISTED_ROW, _unlisted_row),
    "quota": _one_by_one(sql.SELECT_QUOTA, tuple),
    "standing_url": _one_by_one(sql.SELECT_STANDING_URL, standing_url_from),
    "idempotency": _one_by_one(sql.SELECT_IDEMPOTENCY, _idempotency),
    "due": _due,
    "overdue": _query(sql.SELECT_OVERDUE),
    "held": _query(sql.SELECT_HELD),
}
