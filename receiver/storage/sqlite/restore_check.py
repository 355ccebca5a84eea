"""A note of the end of the log, beside the database, to detect a database restored from a backup.

The note (`<database>-head`, mode 0600) holds the newest cursor, at most a second or so old, and the inode of the
database. Commits survive every crash, so at a start the database is never behind its note. If it is, then an older copy
was put in its place. Cursors given out since that copy may stand for lost results, so the log needs a new id. A copy of
both files is noticed, too, because it usually has another inode. A missing note counts as a restored database.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["forget_head", "has_gone_back", "note_head"]


def note_head(database: Path, log_id: str, position: int) -> None:
    """Note that the log with this id reached `position`. If that fails the older note stays, and it is still true."""
    note = _beside(database)
    fresh = note.with_name(f"{note.name}.new")
    with suppress(OSError):
        owned = database.stat()
        text = f"{log_id} {position} {owned.st_ino}\n"
        # A killed process may have left a file here. A link in its place is removed, never followed.
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            # A command of root must not leave a note that the receiver cannot read.
            if owned.st_uid != os.fstat(file.fileno()).st_uid:
                os.fchown(file.fileno(), owned.st_uid, owned.st_gid)
        fresh.replace(note)


def has_gone_back(database: Path, log_id: str, position: int) -> bool:
    """Return True if the log may once have been longer, because an older copy was put in its place."""
    try:
        noted_id, noted_position, file = _beside(database).read_text().split()
        return noted_id != log_id or int(noted_position) > position or int(file) != database.stat().st_ino
    except (OSError, ValueError):
        return True


def forget_head(database: Path) -> None:
    """Remove the note: at the next start the log gets a new id."""
    with suppress(OSError):
        _beside(database).unlink()


def _beside(database: Path) -> Path:
    return database.with_name(f"{database.name}-head")
