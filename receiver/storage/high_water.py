"""How far the log has been, noted beside the database, so that a database which was restored from a backup is noticed.

The note (`<database>-head`, mode 0600) holds the newest cursor, at most about a second old. Commits survive every
crash, so at a start the database is never behind its note, unless an older copy was put in its place; then cursors that
were given out may stand for results that no longer exist, and the log needs a new id. Without a note nothing is known,
which comes to the same.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["note_head", "noted_head"]


def note_head(database: Path, log_id: str, position: int) -> None:
    """Notes that the log with this id reached `position`. Where that fails the older note stays; it is true, too."""
    note = _beside(database)
    fresh = note.with_name(f"{note.name}.new")
    with suppress(OSError):
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{log_id} {position}\n")
        fresh.replace(note)


def noted_head(database: Path) -> tuple[str, int] | None:
    """The id of the log and the position in the note; None where there is none that can be read."""
    try:
        log_id, position = _beside(database).read_text().split()
        return log_id, int(position)
    except (OSError, ValueError):
        return None


def _beside(database: Path) -> Path:
    return database.with_name(f"{database.name}-head")
