"""`callback-receiver restore`: a backup in the place of the database, which is kept beside it."""

from __future__ import annotations

from pathlib import Path

import click

from client.output import show, tell
from receiver.app import microseconds_now
from receiver.commands.database.backup import copy_text, progress_told
from receiver.domain.records import time_view
from receiver.logs import configure_logs
from receiver.settings import load_settings
from receiver.storage.opening import replace_log_id, sqlite_file
from receiver.storage.sqlite.backups.restoring import restore

__all__ = ["new_log_command", "restore_command"]


@click.command("restore", epilog="Exit codes: 0 done, 1 failed and may work later, 2 refused.")
@click.argument("file", type=click.Path(path_type=Path))
def restore_command(file: Path) -> None:
    """Put the backup FILE in the place of the database. Stop the receiver first.

    FILE is copied and checked before anything changes. The old database is kept beside the new one, under a name with
    the time. At its next start the receiver notices the older copy, and tells readers with a newer cursor of the gap.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    database = sqlite_file(settings, "use pg_restore")
    time_text = f"{time_view(microseconds_now()):%Y%m%dT%H%M%SZ}"
    with progress_told() as show_progress:
        restored = restore(file, database, show_progress, time_text=time_text)
    show(f"restored {database}: {copy_text(restored.facts)}")
    if restored.before is not None:
        tell(f"the database before it is kept: {restored.before}")
    tell("now start the receiver; keys and URLs revoked since the backup are valid again, so revoke them again")


@click.command("new-log", epilog="Exit codes: 0 done, 1 failed and may work later, 2 refused.")
def new_log_command() -> None:
    """Give the log of a restored PostgreSQL database a new id. Stop all receivers first.

    The copy is older than some cursors of readers. With the new id these readers are told of the gap, instead of
    missing results without a word. A restored SQLite file gets a new id by itself.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    replace_log_id(settings)
    show("the log has a new id; now start the receivers")
