"""Databases with millions of tasks, built once and kept in a cache outside the checkout.

The receiver makes one task over HTTP. SQL then repeats all of its rows, so the schema is that of this version.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from receiver.storage.sqlite.rows import SLOTS
from receiver.storage.sqlite.schema import MIGRATIONS
from tests.benchmarks.load import Target, run_load, write_targets
from tests.benchmarks.registering import register_tasks
from tests.benchmarks.servers import serving

__all__ = ["State", "cache_folder", "drop_from_memory", "open_database", "read_into_memory", "sample_refs"]

State = Literal["finished", "unfinished"]

_BYTES_EACH = 600
"""Free space to ask for, for each task. The file takes about 500 bytes, and SQLite sorts the indexes beside it."""
_TABLES = ("task", "log", "delivery")
_CHUNK = 1 << 20
_YEARS_AHEAD = 10 * 365 * 86_400_000_000
# Unique, because the factor is odd, and in no order, as the ids of providers are.
_TASK_ID = "printf('%08x-0000-4000-8000-%012x', (n * 2654435761) & 4294967295, n)"
# A UUIDv7 for each millisecond before the template's: they grow, as those of the receiver do.
_REF = (
    "printf('%08x-%04x-7%03x-%04x-%012x', (:millisecond + n) >> 16, (:millisecond + n) & 65535, "
    "(n * 2654435) & 4095, 32768 | (n * 40503 & 16383), (n * 2654435761) & 281474976710655)"
)
# Each row of the template is repeated with these columns made anew, if they are set in it.
_EXPRESSIONS = {
    ("task", "id"): "n",
    ("task", "ref"): _REF,
    ("task", "task_id"): _TASK_ID,
    ("task", "position"): "n",
    ("task", "deadline_at"): f"deadline_at + {_YEARS_AHEAD}",
    ("log", "position"): "n",
    ("log", "task"): "n",
    ("log", "ref"): _REF,
    ("log", "task_id"): _TASK_ID,
    ("log", "body"): "NULL",
    ("delivery", "id"): f"n * {SLOTS} + id % {SLOTS}",
    ("delivery", "task_id"): _TASK_ID,
    ("delivery", "body"): "NULL",
}


def cache_folder() -> Path:
    """Return the default folder of the databases, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "callback-receiver"


async def open_database(folder: Path, count: int, state: State) -> Path:
    """Return the database with this many tasks, all in one state. Build it if it is not there.

    Raises:
        RuntimeError: too little space is free for it.
    """
    schema = zlib.crc32("".join(MIGRATIONS).encode())
    path = folder / f"{count}-{state}-schema-{len(MIGRATIONS)}-{schema:08x}.db"
    if path.exists():
        return path
    _require_space(path, count * _BYTES_EACH)
    unfinished = path.with_suffix(".part")
    _remove(unfinished)
    async with serving("receiver", unfinished) as server:
        (task,) = await register_tasks(server.port, 1)
        body = {"errorId": 0, "taskId": task.task_id, "status": "ready", "solution": {"token": "x" * 40}}
        callback = write_targets(folder / "callback.json", [Target(task.callback_path, json.dumps(body))])
        if state == "finished":
            await run_load(server.port, 1, callback)
        callback.unlink()
    with closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
        _repeat(connection, count)
    unfinished.replace(path)
    _remove(unfinished)
    return path


def _require_space(path: Path, needed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise RuntimeError(f"{path}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def _remove(path: Path) -> None:
    """Remove the file, and all that the receiver and SQLite left beside it."""
    for beside in path.parent.glob(f"{path.stem}*"):
        if not beside.name.endswith(".db"):
            beside.unlink()


def _repeat(connection: sqlite3.Connection, count: int) -> None:
    """Replace the only task by `count` tasks like it."""
    for pragma in ("wal_checkpoint(TRUNCATE)", "journal_mode = OFF", "synchronous = OFF", "cache_size = -400000"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    (ref,) = connection.execute("SELECT ref FROM task").fetchone()
    milliseconds = int(ref.replace("-", "")[:12], 16) - count - 1
    # Made in one sort at the end, an index is ten times as fast.
    of_tables = f"FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL AND tbl_name IN {_TABLES}"
    indexes = connection.execute(f"SELECT name, sql {of_tables}").fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    connection.execute("BEGIN")
    for table in _TABLES:
        _repeat_rows(connection, table, count, milliseconds)
    connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name IN ('task', 'log') AND seq > 0", (count,))
    connection.execute("COMMIT")
    for _, made_by in indexes:
        connection.execute(made_by)
    # For the planner these are rows like any others: the receiver never analyzes.
    connection.execute("PRAGMA journal_mode = WAL").fetchall()


def _repeat_rows(connection: sqlite3.Connection, table: str, count: int, milliseconds: int) -> None:
    columns, row = _only_row(connection, table)
    if row is None:
        return
    made = ", ".join(
        name if value is None else _EXPRESSIONS.get((table, name), name)
        for name, value in zip(columns, row, strict=True)
    )
    connection.execute(f"CREATE TEMP TABLE template AS SELECT * FROM {table}")
    connection.execute(f"DELETE FROM {table}")
    connection.execute(
        "WITH RECURSIVE numbers(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < :count) "
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {made} FROM numbers CROSS JOIN template",
        {"count": count, "millisecond": milliseconds},
    )
    connection.execute("DROP TABLE template")


def _only_row(connection: sqlite3.Connection, table: str) -> tuple[Sequence[str], tuple[Any, ...] | None]:
    cursor = connection.execute(f"SELECT * FROM {table}")
    row = cursor.fetchone()
    assert cursor.fetchone() is None, f"{table}: one row at most is expected for one task"
    return [column[0] for column in cursor.description], row


def sample_refs(path: Path, wanted: int, count: int, seed: int) -> Sequence[str]:
    """Return the refs of this many tasks out of `count`, spread over all of them in no order."""
    step = max(1, count // wanted)
    rows = [(1 + (number * step + seed * 7919) % count,) for number in range(wanted)]
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        found = [connection.execute("SELECT ref FROM task WHERE id = ?", row).fetchone()[0] for row in rows]
    # In the order of their last characters, which say nothing about the place.
    return sorted(found, key=lambda ref: ref[::-1])


def read_into_memory(path: Path) -> None:
    """Read the file once, so that the system has its pages in memory."""
    with path.open("rb", buffering=0) as stream:
        while stream.read(_CHUNK):
            pass


def drop_from_memory(path: Path) -> None:
    """Take the pages of the file, and of its log, from the memory of the system."""
    for file in (path, path.with_name(f"{path.name}-wal")):
        if file.exists():
            with file.open("rb+", buffering=0) as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
