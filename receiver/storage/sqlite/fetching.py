"""Rows for decisions, read by their keys: the tasks of a whole batch at once.

Everything here runs in the transaction of the caller, and on its thread.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from receiver.domain.transaction import Key, RowKind
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.database import select_repeated
from receiver.storage.sqlite.rows import (
    SLOTS,
    budget_from,
    delivery_from,
    idempotency_from,
    lease_from,
    standing_url_from,
    task_from,
    ticket_from,
    unlisted_row_from,
)

__all__ = ["fetch"]

Rows = Iterator[tuple[Key, Any]]
Fetch = Callable[[sqlite3.Connection, Sequence[Key]], Rows]


def fetch(connection: sqlite3.Connection, keys: Iterable[Key]) -> Rows:
    """Yield the rows with these keys. A key without a row yields nothing."""
    by_kind = defaultdict[RowKind, list[Key]](list)
    for key in keys:
        by_kind[key[0]].append(key)
    for kind, kind_keys in by_kind.items():
        yield from _FETCHES[kind](connection, kind_keys)


def _tasks(connection: sqlite3.Connection, keys: Sequence[Key]) -> Rows:
    return _with_keys(select_repeated(connection, sql.SELECT_BATCH_BY_REFS, [key[1:] for key in keys]))


def _tasks_by_id(connection: sqlite3.Connection, keys: Sequence[Key]) -> Rows:
    return _with_keys(select_repeated(connection, sql.SELECT_BATCH_BY_IDS, [key[1:] for key in keys]))


def _with_keys(rows: Iterable[tuple[Any, ...]]) -> Rows:
    for row in rows:
        task = task_from(row)
        yield ("task", task.ref), task


def _exists(statement: str) -> Fetch:
    return _one_by_one(statement, lambda _: True)


def _one_by_one(statement: str, record_from: Callable[[tuple[Any, ...]], Any]) -> Fetch:
    """Return a function for rows that a batch rarely needs. The key holds the parameters."""

    def fetch_each(connection: sqlite3.Connection, keys: Sequence[Key]) -> Rows:
        for key in keys:
            row = connection.execute(statement, key[1:]).fetchone()
            if row is not None:
                yield key, record_from(row)

    return fetch_each


def _ticket_counts(connection: sqlite3.Connection, keys: Sequence[Key]) -> Rows:
    for key in keys:
        statement = sql.COUNT_TICKETS if key[1:] else sql.COUNT_ALL_TICKETS
        yield key, int(connection.execute(statement, key[1:]).fetchone()[0])


def _deliveries(connection: sqlite3.Connection, keys: Sequence[Key]) -> Rows:
    for key in keys:
        for row_id, *row in connection.execute(sql.SELECT_DELIVERIES_BY_REF, key[1:]).fetchall():
            yield ("delivery", key[1], row_id % SLOTS), delivery_from(tuple(row))


def _query(statement: str) -> Fetch:
    def fetch_each(connection: sqlite3.Connection, keys: Sequence[Key]) -> Rows:
        for key in keys:
            yield key, [task_from(row) for row in connection.execute(statement, key[1:]).fetchall()]

    return fetch_each


def _due(connection: sqlite3.Connection, keys: Sequence[Key]) -> Rows:
    for key in keys:
        _, provider, now, limit, reach, lease = key
        times = {"now": now, "latest": now + reach, "first_end": now + 1, "last_end": now + lease}
        rows: list[Any] = []
        for statement in (sql.SELECT_DUE_DISPUTES, sql.SELECT_DUE_AGAIN, sql.SELECT_DUE, sql.SELECT_DUE_BEYOND):
            parameters = {"provider": provider, **times, "limit": limit - len(rows)}
            rows += connection.execute(statement, parameters).fetchall()
        yield key, [task_from(row) for row in rows]


_FETCHES: Mapping[RowKind, Fetch] = {
    "task": _tasks,
    "task_id": _tasks_by_id,
    "forgotten_ref": _exists(sql.SELECT_TOMBSTONE_BY_REF),
    "forgotten_id": _exists(sql.SELECT_TOMBSTONE_BY_TASK_ID),
    "deliveries": _deliveries,
    "stray": _one_by_one(sql.SELECT_STRAY, delivery_from),
    "unlisted_row": _one_by_one(sql.SELECT_UNLISTED_ROW, unlisted_row_from),
    "quota": _one_by_one(sql.SELECT_QUOTA, tuple),
    "standing_url": _one_by_one(sql.SELECT_STANDING_URL, standing_url_from),
    "idempotency": _one_by_one(sql.SELECT_IDEMPOTENCY, idempotency_from),
    "due": _due,
    "overdue": _query(sql.SELECT_OVERDUE),
    "held": _query(sql.SELECT_HELD),
    "joined": _query(sql.SELECT_JOINED_TASKS),
    "clock": _one_by_one(sql.SELECT_CLOCK, lambda row: int(row[0])),
    "meta": _one_by_one(sql.SELECT_META, lambda row: None if row[0] is None else str(row[0])),
    "lease": _one_by_one(sql.SELECT_LEASE, lease_from),
    "ticket": _one_by_one(sql.SELECT_TICKET, ticket_from),
    "ticket_count": _ticket_counts,
    "key_budget": _one_by_one(sql.SELECT_KEY_BUDGET, budget_from),
}
