"""A watch on the files of an open database, so that nothing is acknowledged into a file without a name.

SQLite keeps its files open and never checks their names again. If someone removes, moves, replaces or truncates one of
them in use, then SQLite writes on into nothing. A program that opens the names meanwhile corrupts the rest
(https://www.sqlite.org/howtocorrupt.html, 4.1 and 1.4).

`FileWatch.check` compares the names with the opened files. It runs after each COMMIT and before the callers are
released. It also runs several times a second without any writes. So every acknowledged commit was in its named files at
some moment after it. After a failed check nothing is written any more. `FileWatch.save` then brings all acknowledged
commits to where the next start finds them:

* The write-ahead log is gone, and no program has written into a new one. This connection still has the old file open,
  so its pages are copied into the database. TRUNCATE leaves an empty log and a matching index. A program that has just
  made a new log finds the same.
* A new log has pages of another program. Copying ours would mix the two, so the commits in our log alone are lost.
* The index of the log is gone. Log and database are complete, and the next program to open them makes a new index.
* The database is gone or replaced. A complete copy is made from the files that are still open. It gets the name of the
  database if that is free; otherwise it stays beside it. The old log is emptied, so that it cannot pass for the log of
  the new database.
* A file was truncated. Its missing part is lost. Nothing is copied, because the copy would carry holes into the
  database.

In all cases all connections are closed then, first those that may write. As the last one, such a connection would copy
from its log into the database, and remove the log. The process has to be restarted.

Known gaps:

* A file may be replaced between its opening by SQLite and the first check. The watch then takes it for the right one,
  but nothing was acknowledged into it before.
* A process may be killed between the removal and the next check, a tenth of a second. The commits in the log alone are
  lost.
* A program may open the database during `save` and write in those milliseconds.
* Files overwritten in place, at their old size, are not noticed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from receiver.errors import CannotStartError
from receiver.storage.sqlite.restore_check import forget_head

__all__ = ["MOST_LOG_BYTES", "MOST_LOG_PAGES", "FileWatch", "FilesLostError", "data_version", "lacks_log"]

MOST_LOG_BYTES = 8 * 1024 * 1024
"""The log is cut to this size as soon as no reader holds it. Steady use takes less."""

MOST_LOG_PAGES = MOST_LOG_BYTES // 4096
"""A COMMIT that brings the log to this size makes a checkpoint, if `Checkpoints` has not come to its end before."""

_DATABASE, _LOG, _INDEX = range(3)


class FilesLostError(sqlite3.OperationalError):
    """A file of the database is not the opened one. The last commit may be in none of the named files."""


class FileWatch:
    """The open files of this process's connections, on the thread of the writing one.

    To be made after they were opened and one of them has written.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._paths = (path, *_beside(path))
        try:
            self._opened = [_state(file.stat()) for file in self._paths]
        except OSError as error:
            raise CannotStartError(f"{path}: a file of it was removed: {error.strerror}", passes=True) from error
        self._version = data_version(connection)
        self._least_bytes = _database_bytes(connection)
        self._rescued: Path | None = None
        self._is_truncated = False

    def check(self, connection: sqlite3.Connection, *, reads_version: bool) -> None:
        """Compare all names. With `reads_version`, note the commits of other connections, too.

        Raises:
            FilesLostError: a file is gone, was replaced, or was truncated.
        """
        # Before the names: the next check then notices a commit between the two.
        version = data_version(connection) if reads_version else self._version
        found = []
        for label, path, opened in zip(_LABELS, self._paths, self._opened, strict=True):
            try:
                state = _state(path.stat())
            except OSError as error:
                raise FilesLostError(f"{label} is gone: {error.strerror}") from None
            if state[:2] != opened[:2]:
                raise FilesLostError(f"{label} was replaced")
            found.append(state)
        if any(after[2] < before[2] for after, before in zip(found, self._opened, strict=True)):
            self._check_sizes(connection, found)
        self._opened, self._version = found, version
        if reads_version:
            self._least_bytes = _database_bytes(connection)

    def save(self, connection: sqlite3.Connection) -> str:
        """Save all acknowledged commits after a failed `check`. Return a text for the operator.

        Raises:
            sqlite3.Error, OSError: saving failed now. A later try may succeed.
        """
        result = self._save(connection)
        if result == _LOST:
            # Positions of lost entries may be used again, so the log needs a new id.
            forget_head(self._path)
        return result

    def _save(self, connection: sqlite3.Connection) -> str:
        if self._is_truncated:
            return _LOST
        if self._is_in_place(_DATABASE):
            return self._save_log(connection)
        return self._save_copy(connection)

    def _check_sizes(self, connection: sqlite3.Connection, found: Sequence[_State]) -> None:
        """Raise FilesLostError if a file became smaller by anything but SQLite."""
        # Read now, because another connection may have cut the file since the last check. Then it changed the version.
        if data_version(connection) != self._version:
            return
        # After VACUUM a checkpoint cuts the database to its size of that moment. Since the last look at the version our
        # commits have only made it larger. And this connection cuts the log to its limit.
        for number, least in ((_DATABASE, self._least_bytes), (_LOG, MOST_LOG_BYTES)):
            if found[number][2] < min(least, self._opened[number][2]):
                self._is_truncated = True
                raise FilesLostError(f"{_LABELS[number]} was truncated")

    def _is_in_place(self, number: int) -> bool:
        try:
            return _state(self._paths[number].stat())[:2] == self._opened[number][:2]
        except OSError:
            return False

    def _save_log(self, connection: sqlite3.Connection) -> str:
        if self._is_in_place(_LOG):
            return _SAVED
        if not _is_empty(self._paths[_LOG]):
            return _LOST
        self._empty_log(connection)
        return _SAVED

    def _save_copy(self, connection: sqlite3.Connection) -> str:
        database = self._path
        copy = self._rescued = self._rescued or _free_path(database.with_name(f"{database.name}-rescued"))
        unfinished = copy.with_name(f"{copy.name}.new")
        if not self._is_ours_alone(connection):
            return _LOST
        unfinished.unlink(missing_ok=True)
        _make(unfinished)
        connection.execute("VACUUM INTO ?", (str(unfinished),))
        if not self._is_ours_alone(connection):
            unfinished.unlink()
            return _LOST
        unfinished.replace(copy)
        self._empty_log(connection)
        try:
            database.hardlink_to(copy)
        except OSError:
            # The name is taken again, or the file system has no links.
            return f"all acknowledged data is in {copy.name}: {_CHOOSE}"
        copy.unlink()
        return _SAVED

    def _is_ours_alone(self, connection: sqlite3.Connection) -> bool:
        """Return True if no other program has written into the log of the file at the database's name."""
        is_ours = self._is_in_place(_LOG) or _is_empty(self._paths[_LOG])
        return is_ours and data_version(connection) == self._version

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """Copy the pages of the log into the database, and leave an empty log."""
        (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise sqlite3.OperationalError("another program reads the database")
        # An index without a log is the sign of a removed log.
        with suppress(OSError):
            _make(self._paths[_LOG])


_State = tuple[int, int, int]
_LABELS = ("the database file", "the write-ahead log (-wal)", "the index of the write-ahead log (-shm)")
_SAVED = "all acknowledged data is in the database: restart the receiver"
_LOST = "the last acknowledged data may be lost: restart the receiver; lost answers have to be polled"
_CHOOSE = "stop the receiver, put the right file of the two in place, remove the -wal and the -shm file, and start it"


def lacks_log(path: Path) -> bool:
    """Return True if the log was removed from a database in use. SQLite itself removes the index before the log."""
    log, index = _beside(path)
    return index.exists() and not log.exists()


def _beside(path: Path) -> tuple[Path, Path]:
    """Return the paths of log and index. SQLite keeps them beside the file itself, not beside a link to it."""
    real = os.path.realpath(path)
    return Path(f"{real}-wal"), Path(f"{real}-shm")


def _state(stat: os.stat_result) -> _State:
    return stat.st_dev, stat.st_ino, stat.st_size


def data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes after another connection has written, or has emptied the log."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _database_bytes(connection: sqlite3.Connection) -> int:
    """Return the size that the database file has once all of the log is copied into it."""
    pages, page_size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages) * int(page_size)


def _free_path(path: Path) -> Path:
    """Return the path, or one with a number behind it if there is a file: an earlier copy may be the only one."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(free for free in chain([path], numbered) if not os.path.lexists(free))


def _is_empty(path: Path) -> bool:
    try:
        return not path.stat().st_size
    except FileNotFoundError:
        return True


def _make(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
