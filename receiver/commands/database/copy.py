"""`callback-receiver copy`: everything that is stored, from an SQLite file to PostgreSQL or back."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import click
from pydantic import SecretStr

from client.errors import BadArgumentError
from client.output import show, tell
from client.signals import run_interruptibly
from receiver.app import microseconds_now
from receiver.commands.database.backup import progress_told
from receiver.domain.records import time_view
from receiver.logs import configure_logs
from receiver.settings import database_from, load_settings, server_name
from receiver.storage.copying.copy import copy_store

__all__ = ["copy"]


@click.command(epilog="Exit codes: 0 done, 1 failed and may work later, 2 refused.")
@click.option("--from", "source_text", metavar="FILE|URL", help="The database to copy; RECEIVER_DATABASE by default.")
@click.option("--to", "target_text", metavar="FILE|URL", help="Its new place; RECEIVER_DATABASE by default.")
def copy(source_text: str | None, target_text: str | None) -> None:
    """Move everything from an SQLite file to PostgreSQL, or back. Stop all receivers first.

    Cursors, callback URLs, keys and open tasks stay valid. The source is not changed. If the copy breaks off, the
    target is not changed either, and you begin again. A target that has an older copy of the same log is replaced. One
    with anything else is refused.

    A password in an option stands in the process list. Better leave out the option of the server, and set
    RECEIVER_DATABASE in .env or as a file in RECEIVER_SECRETS_DIR.
    """
    if source_text is None and target_text is None:
        raise BadArgumentError("copy: expected --from or --to")
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    # A pooler may end a connection without traffic, as one is while indexes are made.
    known = settings.database if isinstance(settings.database, Path) else settings.database_listen or settings.database
    source = known if source_text is None else _place("--from", source_text)
    target = known if target_text is None else _place("--to", target_text)
    time_text = f"{time_view(microseconds_now()):%Y%m%dT%H%M%SZ}"
    with progress_told() as show_progress:
        copied = run_interruptibly(copy_store(source, target, show_progress, time_text=time_text))
    for name, rows in sorted(copied.rows.items()):
        if rows:
            show(f"{name}: {rows:,} rows")
    show(f"copied {_name(source)} to {_name(target)}: all rows are there, log position {copied.position:,}")
    if copied.before is not None:
        tell(f"the database before it is kept: {copied.before}")
    tell(f"now set RECEIVER_DATABASE to {_name(target)} and start the receivers; never start one on the old database")


def _place(option: str, text: str) -> Path | SecretStr:
    try:
        place = database_from(text)
    except ValueError as error:
        raise BadArgumentError(f"{option}: {error}") from None
    if isinstance(place, SecretStr):
        parts = urlsplit(place.get_secret_value())
        if parts.password or "password=" in parts.query:
            tell(f"{option}: its password stands in the process list; set RECEIVER_DATABASE instead")
    return place


def _name(place: Path | SecretStr) -> str:
    return str(place) if isinstance(place, Path) else server_name(place.get_secret_value())
