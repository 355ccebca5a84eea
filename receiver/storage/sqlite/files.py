"""The files of an open database, watched: nothing is acknowledged into a file that nobody will find again.

SQLite keeps its files open and never looks at their names again. Who removes, moves, replaces or truncates one of them
while it is in use lets it write on into nothing, and a program that opens the names meanwhile corrupts the rest
(https://www.sqlite.org/howtocorrupt.html, 4.1 and 1.4). `FileWatch.check` compares the names with the files that were
opened, after each COMMIT and before its callers are told, and several times a second where nothing is written. So all
that was acknowledged was in its named files at some moment after its commit. Once a check has failed, nothing is
written any more, and `FileWatch.save` brings what was acknowledged to where the next start finds it:

* The write-ahead log is gone, and nobody has written into a new one: its pages, to which this connection still has the
  file, are copied into the database, which is in place. TRUNCATE leaves an empty log and an index that says so, which
  is also what another program finds that has just made a new log.
* A new log has pages of another program: copying ours would mix the two, so what only our log has is lost.
* The index of the log is gone: log and database have everything, and the index is made anew by who opens them.
* The database is gone or another one: a whole copy is made, from the files that are still open. It takes the name of
  the database where that is free. The old log is emptied, so that nobody takes it for the log of the new database.
* A file was truncated: what is missing is lost. Nothing is copied, because it would carry holes into the database.

Whatever was done, all connections are closed then, the writer first: a connection that is closed last would copy from
its log into the database unasked. The process has to be restarted.

Known gaps. A file that is replaced between SQLite's opening it and the first look is taken for the right one; nothing
was acknowledged into it before. A process that is killed between the removal and the next look, a tenth of a second,
loses what only the log had. A program that opens the database while `save` works may write in those milliseconds.
Files that are overwritten in place, at their old size, are not noticed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from receiver.errors import CannotStartError
from receiver.storage.sqlite.restore_check import forget_head

__all__ = ["MOST_LOG_BYTES", "FileWatch", "FilesLostError", "lacks_log"]

MOST_LOG_BYTES = 8 * 1024 * 1024
"""The log is cut to this once no reader holds it: twice what it takes in steady use."""

_DATABASE, _LOG, _INDEX = range(3)


class FilesLostError(sqlite3.OperationalError):
    """A file of the database is not the one that was opened; what was just committed may be in none."""


class FileWatch:
    """The files that the connections of this process have open; made when they are open and one has written.

    Runs on the writing connection's thread.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._paths = (path, *_beside(path))
        try:
            self._opened = [_state(each.stat()) for each in self._paths]
        except OSError as error:
            raise CannotStartError(f"{path}: its files are taken away: {error.strerror}", passes=True) from error
        self._version = _version(connection)
        self._is_truncated = False

    def check(self, connection: sqlite3.Connection, *, looks_for_others: bool) -> None:
        """Compare all names. `looks_for_others`: notes, too, whether another connection has written.

        Raises:
            FilesLostError: one is gone, is another file, or was truncated.
        """
        # Before the names: what another connection does in between is then news for the next look.
        version = _version(connection) if looks_for_others else self._version
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

    def save(self, connection: sqlite3.Connection) -> str:
        """Save what was acknowledged, after `check` has failed, and say in words what came of it.

        Raises:
            sqlite3.Error, OSError: it cannot be done now; it may be later.
        """
        said = self._saved(connection)
        if said == _LOST:
            # Places in the log that were given out may be given out again: it needs a new id.
            forget_head(self._path)
        return said

    def _saved(self, connection: sqlite3.Connection) -> str:
        if self._is_truncated:
            return _LOST
        if self._is_in_place(_DATABASE):
            return self._save_log(connection)
        return self._save_copy(connection)

    def _check_sizes(self, connection: sqlite3.Connection, found: Sequence[_State]) -> None:
        """Raise FilesLostError where somebody else than SQLite made a file smaller."""
        # Asked now, because another connection may have done it after the last look: it says that it has been there.
        if _version(connection) != self._version:
            return
        # VACUUM leaves a file that has all its pages, and this connection cuts the log to its limit.
        pages, page_size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _SIZES)
        for number, least in ((_DATABASE, int(pages) * int(page_size)), (_LOG, MOST_LOG_BYTES)):
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
        copy = database.with_name(f"{database.name}-rescued")
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
            # There is one again, or the file system knows no links.
            return f"all that was acknowledged is in {copy.name}: {_CHOOSE}"
        copy.unlink()
        return _SAVED

    def _is_ours_alone(self, connection: sqlite3.Connection) -> bool:
        """Return True if nobody else has written into the log, for what stands now at the name of the database."""
        is_ours = self._is_in_place(_LOG) or _is_empty(self._paths[_LOG])
        return is_ours and _version(connection) == self._version

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """Copy the pages of the log into the database, and leave an empty log."""
        (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise sqlite3.OperationalError("another program reads the database")
        # An index without a log would say that it was taken away.
        with suppress(OSError):
            _make(self._paths[_LOG])


_State = tuple[int, int, int]
_LABELS = ("the database file", "the write-ahead log (-wal)", "the index of the write-ahead log (-shm)")
_SIZES = ("page_count", "page_size")
_SAVED = "all that was acknowledged is in the database: restart the receiver"
_LOST = "what was acknowledged last may be lost: restart the receiver; lost answers have to be polled"
_CHOOSE = "stop the receiver, put the right one of the two in place, remove the -wal and the -shm, and start it"


def lacks_log(path: Path) -> bool:
    """Return True if the log was taken from a database in use: SQLite removes the index first, and then the log."""
    log, index = _beside(path)
    return index.exists() and not log.exists()


def _beside(path: Path) -> tuple[Path, Path]:
    """Log and index, which SQLite keeps beside the file that a link leads to."""
    real = os.path.realpath(path)
    return Path(f"{real}-wal"), Path(f"{real}-shm")


def _state(stat: os.stat_result) -> _State:
    return stat.st_dev, stat.st_ino, stat.st_size


def _version(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has written, or has emptied the log."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _is_empty(path: Path) -> bool:
    try:
        return not path.stat().st_size
    except FileNotFoundError:
        return True


def _make(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
