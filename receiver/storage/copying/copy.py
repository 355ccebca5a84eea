"""One copy of everything that is stored, from an SQLite file to PostgreSQL or back.

The target gets the same log: its id, its positions, the rows of the tasks, and the keys that sign callback URLs. So
cursors and URLs stay valid. States and failures:

* *a program uses the source or the target*: the copy is refused. A receiver that goes on with the source would store
  callbacks that the target never gets. Both logs would give the same positions to different results.
* *copying*: nothing can write into the source, and the target shows nothing of the copy. A copy that breaks off leaves
  both as they were, so it is begun again.
* *the counts differ*: nothing is put in place.
* *the target has this log already*: it is replaced if it holds nothing that the source lacks. So a copy can be run
  again, and a log can move back into the older file that it came from.
* *the target has another log, or newer entries*: the copy is refused. A log without any task is no reason, because a
  receiver that was started once leaves one.

Both ends are compared by the newest rows of the target: receivers number in order, so two logs that parted differ
there. A row that the source lacks was deleted there, and has left a tombstone for its task.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from client.protocol.filters import CANARY
from receiver.errors import CannotStartError
from receiver.storage.copying.ends import LogState, Source, Target, tables
from receiver.storage.copying.sqlite_ends import SqliteTarget, sqlite_source, sqlite_target
from receiver.storage.opening import driver_needed
from receiver.storage.sqlite.backups.copies import Progress
from receiver.storage.sqlite.statements import json_array

__all__ = ["Copied", "copy_store"]

# The rest of the time goes to indexes.
_SHARE_OF_ROWS = 0.8
_COMPARED = 100
# The number of a row, and what never changes in it.
_NUMBERED = {"log": "position, kind, task, ref, finished_at", "task": "id, ref, provider, created_at"}
# What operators make. Only old ones are removed.
_MADE = {"signing_key": "key", "api_key": "id", "standing_url": "id"}


@dataclass(frozen=True, slots=True)
class Copied:
    """The number of rows by table, the end of the log, and the path of a file that was replaced."""

    rows: Mapping[str, int]
    position: int
    before: Path | None


async def copy_store(
    source: Path | SecretStr, target: Path | SecretStr, show_progress: Progress, *, time_text: str
) -> Copied:
    """Copy everything from an SQLite file to PostgreSQL, or back. A replaced file gets `time_text` into its name.

    `show_progress` may raise to end the copy. Then, and if it is cancelled, both databases are as before.

    Raises:
        CannotStartError: an end is in use or cannot be used, the target has something else, or rows are missing.
    """
    async with AsyncExitStack() as stack:
        with driver_needed():
            from receiver.storage.copying.postgres_ends import postgres_source, postgres_target
        match source, target:
            case Path() as file, SecretStr() as url:
                from_file = stack.enter_context(sqlite_source(file))
                to_server = await stack.enter_async_context(postgres_target(url.get_secret_value()))
                return await _copy_all(from_file, to_server, show_progress)
            case SecretStr() as url, Path() as file:
                from_server = await stack.enter_async_context(postgres_source(url.get_secret_value()))
                to_file = stack.enter_context(sqlite_target(file, time_text=time_text))
                return await _copy_all(from_server, to_file, show_progress)
    if isinstance(source, Path):
        raise CannotStartError("copy: both are files; use backup and restore")
    raise CannotStartError("copy: both are on PostgreSQL; use pg_dump and pg_restore")


async def _copy_all(source: Source, target: Target, show_progress: Progress) -> Copied:
    state = await source.state()
    await _check_target(source, state, target)
    counts = {table.name: await source.count(table) for table in tables()}
    total, copied = sum(counts.values()), 0
    await target.clear()
    for table in tables():
        async for page in source.pages(table):
            await target.write(table, page)
            copied += len(page)
            show_progress(_SHARE_OF_ROWS * copied / total)
    for table in tables():
        count = await target.count(table)
        if count != counts[table.name]:
            raise CannotStartError(
                f"{target.name}: {counts[table.name]:,} rows of {table.name} became {count:,}, so the copy is dropped"
            )
    await target.finish(state, lambda share: show_progress(_SHARE_OF_ROWS + (1 - _SHARE_OF_ROWS) * share))
    return Copied(counts, state.position, target.before if isinstance(target, SqliteTarget) else None)


async def _check_target(source: Source, state: LogState, target: Target) -> None:
    """Check that a copy removes nothing that the source lacks.

    Raises:
        CannotStartError: the target has another log, newer entries, or newer keys.
    """
    there = await target.state()
    if there is None:
        return
    if there.log_id != state.log_id:
        if not await _is_unused(target, there):
            raise CannotStartError(f"{target.name}: it has another log; copy into an empty database")
        return
    if (
        there.position > state.position
        or there.task_row > state.task_row
        or await _have_parted(source, target)
        or await _has_newer_keys(source, target)
    ):
        raise CannotStartError(
            f"{target.name}: it was used since it was copied, and has what {source.name} has not; copy into an empty "
            "database"
        )


async def _is_unused(target: Target, there: LogState) -> bool:
    made = [await target.rows(f"SELECT 1 FROM {name} LIMIT 1") for name in ("api_key", "standing_url")]
    return not (there.position or there.task_row or any(made))


async def _have_parted(source: Source, target: Target) -> bool:
    """Return True if one of the newest rows of the target was never in the source."""
    refs = []
    for table, columns in _NUMBERED.items():
        number = columns.partition(",")[0]
        newest = await target.rows(f"SELECT {columns} FROM {table} ORDER BY {number} DESC LIMIT {_COMPARED}")
        if not newest:
            continue
        ends = {"first": newest[-1][0], "last": newest[0][0]}
        found = await source.rows(f"SELECT {columns} FROM {table} WHERE {number} BETWEEN :first AND :last", ends)
        known = {row[0]: row for row in found}
        if any(known.get(row[0], row) != row for row in newest):
            return True
        if table == "task":
            # Those of the canary leave no tombstone.
            refs = [ref for row_id, ref, provider, _ in newest if row_id not in known and provider != CANARY]
    statement = "SELECT ref FROM tombstone WHERE ref IN (SELECT value FROM json_each(:refs))"
    return len(await source.rows(statement, {"refs": json_array(refs)})) < len(refs)


async def _has_newer_keys(source: Source, target: Target) -> bool:
    """Return True if the newest key or standing URL of the target is not in the source."""
    for table, column in _MADE.items():
        newest = await target.rows(f"SELECT {column} FROM {table} ORDER BY created_at DESC LIMIT 1")
        if newest and newest[0] not in await source.rows(f"SELECT {column} FROM {table}"):
            return True
    return False
