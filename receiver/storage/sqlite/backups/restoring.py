"""A backup put in the place of a database, which stays beside it under another name.

A killed restore leaves the old database or the new one in place, complete, and never none. The note of the log's end
(`restore_check`) is left alone, so that the receiver notices the older copy at its next start.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from receiver.errors import CannotStartError
from receiver.storage.sqlite.backups.copies import (
    CopyFacts,
    Progress,
    UnfinishedFile,
    copy_database,
    flush_folder,
    unfinished_file,
)
from receiver.storage.sqlite.backups.locks import replacing
from receiver.storage.sqlite.schema import check_owner, check_schema

__all__ = ["RestoredDatabase", "check_not_in_use", "put_in_place", "restore"]

# SQLite holds a lock on these bytes of a database while it has it open (its file format, "Locking and concurrency").
_LOCK_START, _LOCK_BYTES = 0x40000000, 512
_HEADER = b"SQLite format 3\0"
_BESIDE = ("-wal", "-journal")
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class RestoredDatabase:
    """The facts about the database now in place, and the path of the one before, if there was one."""

    facts: CopyFacts
    before: Path | None


def restore(backup: Path, database: Path, show_progress: Progress, *, time_text: str) -> RestoredDatabase:
    """Put a checked copy of `backup` in the place of `database`, with its owner and mode 0600.

    Nothing is changed unless the copy is complete. The old database keeps its data as `<database>-before-<time_text>`.

    Raises:
        CannotStartError: a program has the database open, or the backup is not ours, newer or damaged. Also if a file
            cannot be written.
    """
    # SQLite keeps its other files beside the real one, not beside a link to it.
    place = Path(os.path.realpath(database))
    if not place.parent.is_dir():
        raise CannotStartError(f"{database}: there is no folder {place.parent}")
    with replacing(place), unfinished_file(place) as unfinished:
        check_not_in_use(place)
        with _open_backup(backup) as source:
            facts = copy_database(source, unfinished, place, show_progress)
        return RestoredDatabase(facts, put_in_place(unfinished, place, time_text=time_text))


def put_in_place(unfinished: UnfinishedFile, place: Path, *, time_text: str) -> Path | None:
    """Put a complete file in the place of a database that is not in use. Return the new path of the old one.

    Raises:
        CannotStartError: the old database is another program's, or a file cannot be written.
    """
    try:
        _give_owner(unfinished, place)
        is_readable = _close_log(place)
        return _replace(place, unfinished.path, time_text, is_readable=is_readable)
    except OSError as error:
        raise CannotStartError(f"{place}: it cannot be replaced: {error.strerror}", passes=True) from error


@contextmanager
def _open_backup(backup: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that reads the file, with its log if it has one.

    Raises:
        CannotStartError: it is no backup of a receiver, or its schema is newer.
    """
    if not backup.is_file():
        raise CannotStartError(f"{backup}: there is no such file")
    # Without a log, SQLite would make one beside it, which a read-only folder refuses.
    is_alone = not any(backup.with_name(f"{backup.name}{suffix}").exists() for suffix in (*_BESIDE, "-shm"))
    uri = f"{backup.absolute().as_uri()}?mode=ro{'&immutable=1' if is_alone else ''}"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            if not check_schema(connection, backup):
                raise CannotStartError(f"{backup}: expected a backup of a receiver, found an empty file")
            yield connection
    except sqlite3.Error as error:
        raise CannotStartError(f"{backup}: it cannot be read: {error}") from error


def check_not_in_use(place: Path) -> None:
    """Check that no program has the database open, even if SQLite cannot read it any more.

    Raises:
        CannotStartError: one has.
    """
    try:
        import fcntl
    except ImportError:
        # Windows replaces no open file.
        return
    try:
        descriptor = os.open(place, os.O_RDWR)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotStartError(f"{place}: it cannot be opened for writing: {error.strerror}") from None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_START)
    except OSError:
        raise CannotStartError(_in_use(place), passes=True) from None
    finally:
        os.close(descriptor)


def _give_owner(unfinished: UnfinishedFile, place: Path) -> None:
    """Give the file to the owner of the database, or without one to that of the folder. Others may not do so."""
    owner = (place if place.exists() else place.parent).stat()
    if owner.st_uid != os.fstat(unfinished.descriptor).st_uid:
        os.fchown(unfinished.descriptor, owner.st_uid, owner.st_gid)


def _close_log(place: Path) -> bool:
    """Bring all commits of the old database into its one file. Return False if SQLite cannot read it.

    Raises:
        CannotStartError: it is another program's, or in use, or cannot be written.
    """
    if not place.exists():
        return True
    with place.open("rb") as file:
        if file.read(len(_HEADER)) != _HEADER:
            # SQLite would remove a log that it takes for another file's.
            return False
    try:
        with closing(sqlite3.connect(f"{place.as_uri()}?mode=rw", uri=True, isolation_level=None)) as connection:
            check_owner(connection, place)
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGED:
            return False
        if code == sqlite3.SQLITE_BUSY:
            raise CannotStartError(_in_use(place), passes=True) from error
        raise CannotStartError(f"{place}: the old database cannot be closed: {error}", passes=True) from error
    return True


def _replace(place: Path, new: Path, time_text: str, *, is_readable: bool) -> Path | None:
    """Exchange the files. Return the new path of the old database."""
    before = place.with_name(f"{place.name}-before-{time_text}")
    if os.path.lexists(before):
        raise CannotStartError(f"{before}: it exists; try again in a second", passes=True)
    is_there = place.exists()
    if is_there:
        try:
            # A second name, so that there is a database at every moment. A start without one would make an empty one.
            before.hardlink_to(place)
        except OSError:
            # A file system without links.
            place.rename(before)
    if not (is_there and is_readable):
        _move_beside(place, before)
    new.replace(place)
    flush_folder(place.parent)
    return before if is_there else None


def _move_beside(place: Path, before: Path) -> None:
    """Move log and journal of the old database to its new name. SQLite would take them for parts of the new one."""
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            place.with_name(f"{place.name}{suffix}").rename(before.with_name(f"{before.name}{suffix}"))
    place.with_name(f"{place.name}-shm").unlink(missing_ok=True)


def _in_use(place: Path) -> str:
    return f"{place}: a program has the database open; stop the receiver first"
