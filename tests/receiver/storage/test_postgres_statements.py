"""The statements of SQLite as PostgreSQL takes them, on the schema of the PostgreSQL store."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from asyncpg.prepared_stmt import PreparedStatement

from receiver.storage.postgres import statements as own
from receiver.storage.postgres.connection import Server, close
from receiver.storage.postgres.dialect import translate
from receiver.storage.postgres.schema import migrate
from receiver.storage.sqlite import diagnostics, retention_statements, statements
from receiver.storage.sqlite.schema import migrate as migrate_sqlite
from receiver.storage.sqlite.statements import repeat_values, update_task
from receiver.storage.sqlite.tables import api_keys, signing_keys
from tests.receiver.storage.test_plans import GROWING

LOCKED_TABLES = (
    "SELECT relname, granted FROM pg_locks JOIN pg_class ON pg_class.oid = relation WHERE pid = $1 AND relkind = 'r'"
)
UNTRANSLATED = ("SELECT_END", "SELECT_ENDS", "SELECT_GROWTH", "SELECT_LATE_IDS", "REPLACE_LOG_ID", "SAVE_PROBE")


def texts() -> Iterator[tuple[str, str]]:
    """Yield the names and the texts of all statements that the store shares or has of its own."""
    for module in (statements, retention_statements, diagnostics, api_keys, signing_keys, own):
        for name, text in vars(module).items():
            if name.isupper() and not name.startswith("_") and name not in UNTRANSLATED:
                yield from _parts(name, text)
    yield "update_task", update_task(("status", "position", "has_url"))
    yield "repeated", repeat_values(statements.INSERT_DELIVERY, 4)
    for name in ("SELECT_DUE", "SELECT_DUE_AGAIN", "SELECT_DUE_BEYOND", "SELECT_DUE_DISPUTES"):
        yield f"locking {name}", own.locking(getattr(statements, name))
    for name in ("SELECT_OVERDUE", "SELECT_HELD"):
        yield f"locking {name}", own.locking(getattr(statements, name))


def _parts(name: str, text: object) -> Iterator[tuple[str, str]]:
    if isinstance(text, str) and " " in text and name not in ("LATE_VERDICTS", "UNREAD_VERDICTS"):
        yield name, text
    elif name == "DELETE_OF_TASKS" and isinstance(text, tuple):
        yield from ((name, part) for part in text)


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection to a database with the schema."""
    connected = await Server(postgres_url).connect()
    async with connected.transaction():
        await migrate(connected, "test")
    yield connected
    await close(connected)


async def test_the_server_takes_every_statement(connection: asyncpg.Connection) -> None:
    """Each statement of the store is prepared by a real server."""
    refused = {}
    for name, text in texts():
        try:
            await connection.prepare(translate(text).text)
        except asyncpg.PostgresError as error:
            refused[name] = (str(error), translate(text).text)

    assert refused == {}


async def test_no_statement_reads_a_whole_table(connection: asyncpg.Connection) -> None:
    """Every access to a table without a bound is by an index, even if the server has no statistics yet.

    A new database has none, and the plans made for it stay until the server looks at its tables again.
    """
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    named = [*texts(), *((name, getattr(own, name)) for name in UNTRANSLATED)]
    found = {}
    for number, (name, text) in enumerate(named):
        statement = text if name in UNTRANSLATED else translate(text).text
        values = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", statement))))
        await connection.execute(f"PREPARE plan_{number} AS {statement}")
        explained = await connection.fetchval(
            f"EXPLAIN (FORMAT JSON) EXECUTE plan_{number}{f'({values})' if values else ''}"
        )
        if scans := list(_whole_scans(json.loads(explained)[0]["Plan"])):
            found[name] = scans

    assert found == {}


async def test_meta_is_locked_first(connection: asyncpg.Connection, postgres_url: str) -> None:
    """An update of the schema locks `meta` before other tables. In another order a statement would block it."""
    statements = [translate(text).text for _, text in texts()] + [getattr(own, name) for name in UNTRANSLATED]
    other = await Server(postgres_url).connect()
    await other.execute("SET lock_timeout = 0")
    for statement in (text for text in statements if re.search(r"\bmeta\b", text)):
        # A statement holds the locks of its preparation until the end of the transaction.
        async with other.transaction():
            prepared = await other.prepare(statement)
        async with connection.transaction(), asyncio.TaskGroup() as group:
            await connection.execute("LOCK TABLE meta IN ACCESS EXCLUSIVE MODE")
            group.create_task(wait_in_vain(prepared))
            locks: list[tuple[str, bool]] = []
            while not any(not is_granted for _, is_granted in locks):
                locks = [tuple(row) for row in await connection.fetch(LOCKED_TABLES, other.get_server_pid())]
            await connection.execute("SELECT pg_cancel_backend($1)", other.get_server_pid())

        assert locks == [("meta", False)], statement
    await close(other)


async def wait_in_vain(prepared: PreparedStatement[Any]) -> None:
    """Run a statement until it is cancelled."""
    with pytest.raises(asyncpg.QueryCanceledError):
        await prepared.fetch(*[None] * len(prepared.get_parameters()))


def _whole_scans(node: Mapping[str, Any], around: str = "") -> Iterator[str]:
    """Yield the steps that read a whole table. The first rows of an index are none."""
    is_scan = "Scan" in node["Node Type"] and node.get("Relation Name") in GROWING
    is_first_rows = around == "Limit" and "Filter" not in node
    if is_scan and not is_first_rows and not node.keys() & {"Index Cond", "Recheck Cond"}:
        yield f"{node['Node Type']} of {node['Relation Name']}"
    for part in node.get("Plans", ()):
        yield from _whole_scans(part, node["Node Type"])


def test_a_statement_keeps_its_parameters() -> None:
    """A statement for PostgreSQL has the parameters of the one in SQLite's notation, each once or more often."""
    for _, text in texts():
        translated = translate(text)

        assert set(translated.names) == set(re.findall(r"(?<!:):([a-z_]+)", re.sub("--[^\n]*", "", text)))
        assert translated.names or translated.text.count("$") == text.count("?")


async def test_both_schemas_are_the_same(connection: asyncpg.Connection, tmp_path: Path) -> None:
    """Tables, columns and indexes are those of SQLite, but for the row with the end of the log."""
    with closing(sqlite3.connect(tmp_path / "receiver.db")) as other:
        migrate_sqlite(other, tmp_path / "receiver.db")
        theirs = _schema_of_sqlite(other)
    rows = await connection.fetch(
        "SELECT table_name, column_name, is_nullable = 'NO' FROM information_schema.columns "
        "WHERE table_schema = 'public'"
    )
    ours: dict[str, dict[str, bool]] = {}
    for table, column, is_required in rows:
        ours.setdefault(table, {})[column] = is_required
    indexes = await connection.fetch("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")
    assert set(ours.pop("head")) == {"only_row", "position", "task_row", "late_id"}
    assert set(ours.pop("late_id")) == {"number", "ref", "provider", "task_id"}
    assert {table: set(columns) for table, columns in ours.items()} == {
        table: set(columns) for table, columns in theirs.items()
    }
    required = {(table, column) for table, columns in theirs.items() for column in columns if columns[column]}
    assert required <= {(table, column) for table, columns in ours.items() for column in columns if columns[column]}
    with closing(sqlite3.connect(tmp_path / "receiver.db")) as other:
        names = {row[0] for row in other.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    assert {name for name in names if not name.startswith("sqlite_")} <= {row[0] for row in indexes}


def _schema_of_sqlite(connection: sqlite3.Connection) -> Mapping[str, Mapping[str, bool]]:
    tables = [
        row[0]
        for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        if not row[0].startswith("sqlite_")
    ]
    return {
        table: {row[1]: bool(row[3]) for row in connection.execute(f"PRAGMA table_info({table})")} for table in tables
    }
