"""The two ends of a copy, and the tables that go from one to the other.

Tables and columns are read from the schema of the SQLite store, so that a new one cannot be forgotten. The PostgreSQL
store has the same ones, and a few of its own (`receiver/storage/postgres/schema.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from receiver.storage.sqlite.backups.copies import Progress
from receiver.storage.sqlite.schema import migrate

__all__ = ["NO_PARAMETERS", "LogState", "Rows", "Source", "Table", "Target", "tables"]

Rows = Sequence[tuple[Any, ...]]
NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Table:
    """A table with all its columns. Its rows are read in the order of its key."""

    name: str
    columns: Sequence[str]
    key: Sequence[str]


@dataclass(frozen=True, slots=True)
class LogState:
    """The id of a log, its end, and the last row of the tasks. Numbers up to these are never given again."""

    log_id: str
    position: int
    task_row: int


class Source(Protocol):
    """A database in one snapshot, which no program can change until the end of the copy. `name` is for texts."""

    name: str

    async def state(self) -> LogState:
        """Return the state of the log."""

    async def rows(self, statement: str, parameters: Mapping[str, Any] = NO_PARAMETERS) -> Rows:
        """Return the rows of a statement in the SQL of the SQLite store."""

    async def count(self, table: Table) -> int:
        """Return the number of rows to copy."""

    def pages(self, table: Table) -> AsyncIterator[Rows]:
        """Yield all rows of a table. A page has a few megabytes at most, apart from its last row."""


class Target(Protocol):
    """A database that is replaced as a whole by `finish`, or stays as it was. `name` is for texts."""

    name: str

    async def state(self) -> LogState | None:
        """Return the state of the log that is there, None if there is none."""

    async def rows(self, statement: str, parameters: Mapping[str, Any] = NO_PARAMETERS) -> Rows:
        """Return the rows of a statement on what is there."""

    async def clear(self) -> None:
        """Make room for the copy. What is there is not read any more."""

    async def write(self, table: Table, rows: Rows) -> None:
        """Write rows of the source."""

    async def count(self, table: Table) -> int:
        """Return the number of rows that were written."""

    async def finish(self, state: LogState, show_progress: Progress) -> None:
        """Put the copy in place. It is durable then. `show_progress` takes the share of this part."""


@lru_cache
def tables() -> Sequence[Table]:
    """Return all tables of the newest schema."""
    with closing(sqlite3.connect(":memory:")) as connection:
        migrate(connection, Path(":memory:"))
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        return [_table(connection, name) for (name,) in names.fetchall()]


def _table(connection: sqlite3.Connection, name: str) -> Table:
    columns = connection.execute("SELECT name, pk FROM pragma_table_info(?)", (name,)).fetchall()
    key = sorted((place, column) for column, place in columns if place)
    return Table(name, [column for column, _ in columns], [column for _, column in key])
