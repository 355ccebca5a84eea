"""Checked copies of a database, made while other programs write it.

SQLite's online backup copies page by page. It reads one snapshot, so that commits meanwhile neither get into the copy
nor start it anew. The copy has a name of its own until it is complete, checked and on the disk.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from receiver.errors import CannotStartError
from receiver.storage.sqlite import statements as sql
from receiver.storage.sqlite.backups.locks import lock_at_once
from receiver.storage.sqlite.database import open_read_only, snapshot
from receiver.storage.sqlite.schema import check_schema

__all__ = ["CopyFacts", "Progress", "UnfinishedFile", "back_up", "copy_database", "flush_folder", "unfinished_file"]

Progress = Callable[[float], None]
"""Called with the copied share, 0 to 1, many times a second. KeyboardInterrupt in it ends the work cleanly."""

_PREFIX, _SUFFIX = ".callback-receiver-", ".unfinished"
_PAGES_PER_STEP = 1000
_INSTRUCTIONS_PER_CALL = 100_000


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """Facts about a checked copy. `newest_at`: the time of its newest log entry, in µs since 1970, if there is one."""

    size: int
    schema: int
    tasks: int
    position: int
    newest_at: int | None


@dataclass(frozen=True, slots=True)
class UnfinishedFile:
    """A file that is removed unless it gets another name. Its lock tells that its program still runs."""

    path: Path
    descriptor: int


def back_up(database: Path, target: Path, show_progress: Progress) -> CopyFacts:
    """Write a checked copy of the database to `target`, a new file with mode 0600. A receiver may run meanwhile.

    The copy holds every commit from before the call. If this fails or is interrupted, no file is left. A killed process
    may leave an unfinished file, and the next copy into that folder removes it.

    Raises:
        CannotStartError: there is no database, it is damaged, or the file exists or cannot be written.
    """
    if os.path.lexists(target):
        raise CannotStartError(_exists(target))
    with open_read_only(database, may_be_older=True) as source, unfinished_file(target) as unfinished:
        facts = copy_database(source, unfinished, target, show_progress)
        _publish(unfinished.path, target)
    return facts


def copy_database(
    source: sqlite3.Connection, unfinished: UnfinishedFile, target: Path, show_progress: Progress
) -> CopyFacts:
    """Copy an open database into the file, check the copy, and flush it to the disk. Texts name it `target`.

    Raises:
        CannotStartError: the copy is damaged or cannot be written.
        KeyboardInterrupt: `show_progress` raised it.
    """
    try:
        with snapshot(source):
            facts = _facts(source, unfinished.path)
            _copy_pages(source, unfinished.path, show_progress)
        os.fsync(unfinished.descriptor)
        copied = _checked(unfinished.path, show_progress)
    except sqlite3.Error as error:
        raise CannotStartError(f"{target}: the copy cannot be made: {error}", passes=not _is_damage(error)) from error
    except OSError as error:
        raise CannotStartError(f"{target}: the copy cannot be made: {error.strerror}", passes=True) from error
    if isinstance(copied, str):
        raise CannotStartError(f"{target}: the copy is damaged, as the database itself may be: {copied}")
    if copied != facts:
        raise CannotStartError(f"{target}: the copy differs from the database; the disk may be broken")
    return copied


@contextmanager
def unfinished_file(target: Path) -> Iterator[UnfinishedFile]:
    """Yield a new empty file with mode 0600 in the folder of `target`, and remove that name in the end.

    Files that killed programs left there are removed first.

    Raises:
        CannotStartError: a file cannot be made there.
    """
    try:
        _remove_abandoned(target.parent)
        unfinished = _make_unfinished(target.parent)
    except OSError as error:
        raise CannotStartError(f"{target}: a file cannot be made there: {error.strerror}", passes=True) from error
    try:
        yield unfinished
    finally:
        unfinished.path.unlink(missing_ok=True)
        os.close(unfinished.descriptor)


def flush_folder(folder: Path) -> None:
    """Flush the names in the folder to the disk. File systems that cannot do so need not."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _copy_pages(source: sqlite3.Connection, path: Path, show_progress: Progress) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as target:
        # An unfinished copy is never used, so nothing has to undo it. The caller flushes the file.
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")
        source.backup(
            target,
            pages=_PAGES_PER_STEP,
            progress=lambda _status, left, total: show_progress(1 - left / total if total else 1.0),
        )


def _checked(path: Path, show_progress: Progress) -> CopyFacts | str:
    """Return the facts of a finished copy, or the first damage in it."""
    # No log belongs to it, and none is made beside it.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as copy:
        # An error in there ends the query, and SQLite reports an interrupt.
        copy.set_progress_handler(lambda: show_progress(1.0), _INSTRUCTIONS_PER_CALL)
        try:
            (result,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
            return str(result) if result != "ok" else _facts(copy, path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise KeyboardInterrupt from None
            raise


def _facts(connection: sqlite3.Connection, path: Path) -> CopyFacts:
    def read(query: str) -> int:
        return int(connection.execute(query).fetchone()[0])

    schema = check_schema(connection, path)
    newest = connection.execute("SELECT finished_at FROM log ORDER BY position DESC LIMIT 1").fetchone()
    return CopyFacts(
        size=read("PRAGMA page_count") * read("PRAGMA page_size"),
        schema=schema,
        tasks=read("SELECT count(*) FROM task"),
        position=read(sql.SELECT_HEAD),
        newest_at=None if newest is None else newest[0],
    )


def _publish(path: Path, target: Path) -> None:
    """Give the file its final name, if nobody has taken it meanwhile."""
    try:
        target.hardlink_to(path)
    except FileExistsError:
        raise CannotStartError(_exists(target)) from None
    except OSError:
        # A file system without links.
        if os.path.lexists(target):
            raise CannotStartError(_exists(target)) from None
        path.rename(target)
    flush_folder(target.parent)


def _make_unfinished(folder: Path) -> UnfinishedFile:
    while True:
        path = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        # Another copy may have taken it for an abandoned one just now.
        if lock_at_once(descriptor) and os.fstat(descriptor).st_nlink:
            return UnfinishedFile(path, descriptor)
        os.close(descriptor)


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if lock_at_once(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def _exists(target: Path) -> str:
    return f"{target}: it exists, and a backup replaces no file; choose another name"


def _is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
