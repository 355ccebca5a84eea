"""`callback-receiver backup`: a checked copy of the database, whether the receiver runs or not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from client.output import show, tell
from client.signals import interrupts_noted
from receiver.app import microseconds_now
from receiver.domain.records import time_view
from receiver.logs import configure_logs
from receiver.settings import load_settings
from receiver.storage.opening import sqlite_file
from receiver.storage.sqlite.backups.copies import CopyFacts, Progress, back_up

__all__ = ["backup", "copy_text", "progress_told"]


@click.command(epilog="Exit codes: 0 done, 1 failed and may work later, 2 refused.")
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Write a checked copy of the database to FILE.

    FILE is new, and only its owner can read it. The receiver may run meanwhile. The copy holds every callback
    acknowledged before the command began. It also holds the signing key of the callback URLs, so keep it like a
    private key.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    started = microseconds_now()
    with progress_told() as show_progress:
        facts = back_up(sqlite_file(settings, "use pg_dump"), file, show_progress)
    show(f"saved {file}: {copy_text(facts)}, as of {time_view(started).isoformat(timespec='seconds')}")


def copy_text(facts: CopyFacts) -> str:
    """Return the facts of a copy as a phrase."""
    parts = [f"{facts.size:,} bytes", f"{facts.tasks:,} tasks", f"log position {facts.position:,}"]
    if facts.newest_at is not None:
        parts.append(f"newest entry of {time_view(facts.newest_at).isoformat(timespec='seconds')}")
    return ", ".join([*parts, f"schema {facts.schema}"])


@contextmanager
def progress_told() -> Iterator[Progress]:
    """Yield a function that shows the copied share, once a second. It ends the copying after a signal."""
    told_at = time.monotonic()
    with interrupts_noted() as check:

        def show_progress(share: float) -> None:
            nonlocal told_at
            check()
            if time.monotonic() - told_at >= 1:
                told_at = time.monotonic()
                tell(f"copied: {share:.0%}")

        yield show_progress
