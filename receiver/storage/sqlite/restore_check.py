"""How far the log has been, noted beside the database: so that one which was restored from a backup is noticed.

The note (`<database>-head`, mode 0600) holds the newest cursor, a second or so old at most, and which file it is of.
Commits survive every crash, so at a start the database is never behind its note, unless an older copy was put in its
place; then cursors that were given out may stand for results that no longer exist, and the log needs a new id. A copy
of both is mostly another file. Without a note nothing is known, which comes to the same.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["forget_head", "has_gone_back", "note_head"]


def note_head(database: Path, log_id: str, position: int) -> None:
    """Note that the log with this id reached `position`. Where that fails the older note stays; it is true, too."""
    note = _beside(database)
    fresh = note.with_name(f"{note.name}.new")
    with suppress(OSError):
        text = f"{log_id} {position} {database.stat().st_ino}\n"
        # A process that was killed may have left one; a link that somebody put there is removed, never followed.
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        fresh.replace(note)


def has_gone_back(database: Path, log_id: str, position: int) -> bool:
    """Whether the log may have been further than `position`, because an older copy was put in its place."""
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
