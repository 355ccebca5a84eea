"""Shapes of callbacks in the SQLite store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from receiver.domain.shapes import SHAPES_KEPT, Shape, ShapeRecord
from receiver.storage.sqlite import statements as sql

__all__ = ["add_shapes", "read_shapes"]


def add_shapes(connection: sqlite3.Connection, records: Iterable[ShapeRecord]) -> None:
    """Add what was seen to what is known, in the transaction that is open; the oldest make room."""
    providers = set()
    for record in records:
        shape = record.shape
        connection.execute(
            sql.ADD_SHAPE,
            (
                record.provider,
                shape.method,
                shape.content_type or "",
                shape.fields,
                record.callbacks,
                record.readable,
                record.first_seen,
                record.last_seen,
            ),
        )
        providers.add(record.provider)
    for provider in providers:
        connection.execute(sql.PRUNE_SHAPES, (provider, SHAPES_KEPT))


def read_shapes(connection: sqlite3.Connection, provider: str) -> Sequence[ShapeRecord]:
    """See `Store.shapes`; a connection that can only read will do."""
    rows = connection.execute(sql.SELECT_SHAPES, (provider, SHAPES_KEPT))
    return [
        ShapeRecord(provider, Shape(method, content_type or None, fields), *counts)
        for provider, method, content_type, fields, *counts in rows
    ]
