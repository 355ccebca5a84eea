"""No statement of the store reads a whole table or sorts its rows."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest

from receiver.storage.sqlite import diagnostics, statements
from receiver.storage.sqlite import retention_statements as pruning_statements
from receiver.storage.sqlite.tables import api_keys, canary
from tests.receiver.storage.stores import running_store

pytestmark = pytest.mark.sqlite

GROWING = ("task", "log", "delivery", "stray_delivery", "poll", "tombstone", "idempotency", "tag")
"""Tables without a bound. The others hold a few rows."""

STATEMENTS = {
    name: text
    for name, text in {
        **vars(canary),
        **vars(pruning_statements),
        **vars(diagnostics),
        **vars(api_keys),
        **vars(statements),
    }.items()
    if isinstance(text, str) and re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT|WITH)\b", text)
} | {f"DELETE_OF_TASKS_{number}": text for number, text in enumerate(pruning_statements.DELETE_OF_TASKS)}
LISTS = {name: text for name, text in STATEMENTS.items() if name.startswith("SELECT_") and "ORDER BY" in text}


@pytest.fixture
async def connection(tmp_path: Path) -> sqlite3.Connection:
    """Return a connection to a database with the current schema."""
    async with running_store(tmp_path / "receiver.db"):
        pass
    return sqlite3.connect(tmp_path / "receiver.db")


def plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    """Return the steps of SQLite for the statement."""
    names = re.findall(r":([a-z_]+)", statement)
    values: Mapping[str, None] | tuple[None, ...] = dict.fromkeys(names) if names else (None,) * statement.count("?")
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
    connection.close()
    return [row[3] for row in rows]


def test_every_statement_is_checked() -> None:
    """A text is recognised as a statement, or it is one of the few others."""
    everything = {**vars(pruning_statements), **vars(diagnostics), **vars(api_keys), **vars(statements)}
    texts = {name for name, value in everything.items() if isinstance(value, str) and not name.startswith("_")}

    assert texts - STATEMENTS.keys() == {"LATE_VERDICTS", "UNREAD_VERDICTS"}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_reads_a_whole_table(connection: sqlite3.Connection, name: str) -> None:
    """Every access to a table without a bound is by an index or by its key."""
    steps = plan(connection, STATEMENTS[name])

    assert [step for step in steps if re.match(rf"SCAN ({'|'.join(GROWING)})\b", step)] == []


@pytest.mark.parametrize("name", LISTS)
def test_no_list_is_sorted(connection: sqlite3.Connection, name: str) -> None:
    """Lists come in the order of an index, and have a limit."""
    steps = plan(connection, LISTS[name])

    assert [step for step in steps if "TEMP B-TREE" in step] == []
    assert "LIMIT" in LISTS[name]
