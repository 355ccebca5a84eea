"""A lock on a database's folder, so that nobody opens the database while it is replaced.

SQLite opens a database by its name, and later its write-ahead log by another. Between the two, a replaced database
would get the log of the other one. The lock is the kernel's: it needs no file, and ends with its process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from receiver.errors import CannotStartError

__all__ = ["lock_at_once", "opening", "replacing"]


def lock_at_once(descriptor: int, *, is_shared: bool = False) -> bool:
    """Lock an open file or folder. Return False if another program holds the lock.

    Some network file systems know no such locks. There it is as if nobody else had one.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def opening(database: Path) -> Iterator[None]:
    """Let no program replace the database while the body opens its files.

    Raises:
        CannotStartError: it is being replaced now.
    """
    with _folder_locked(database, "a backup is being restored there; try again when it is done", is_shared=True):
        yield


@contextmanager
def replacing(database: Path) -> Iterator[None]:
    """Let no program of ours open the database in the body.

    Raises:
        CannotStartError: a program opens or replaces it now.
    """
    with _folder_locked(database, "another program is opening or restoring a database there; try again"):
        yield


@contextmanager
def _folder_locked(database: Path, refusal: str, *, is_shared: bool = False) -> Iterator[None]:
    try:
        descriptor = os.open(Path(os.path.realpath(database)).parent, os.O_RDONLY)
    except OSError:
        # Without a readable folder there is nothing to lock, and the next step has the error.
        yield
        return
    try:
        if not lock_at_once(descriptor, is_shared=is_shared):
            raise CannotStartError(f"{database}: {refusal}", passes=True)
        yield
    finally:
        os.close(descriptor)
