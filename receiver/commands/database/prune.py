"""`callback-receiver prune`: one run of retention, for show or for real, whether the receiver runs or not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from client.output import show, tell
from receiver.app import microseconds_now, retention_times
from receiver.commands.store import open_store
from receiver.domain.records import Horizon, Removed, Survey, time_view
from receiver.logs import configure_logs
from receiver.settings import Settings, load_settings
from receiver.storage.survey import survey
from receiver.upkeep.retention import prune

__all__ = ["prune_command"]

_NAMES = ("finished tasks", "places in the log", "solutions", "bodies of deliveries", "stray deliveries", "tombstones")


@click.command("prune", epilog="Exit codes: 0 done, 1 failed and may work later, 2 refused.")
@click.option("--apply/--dry-run", "is_applied", default=False, help="Remove it, or only count it (the default).")
def prune_command(*, is_applied: bool) -> None:
    """Remove tasks and bodies that are past their retention.

    The RECEIVER_RETENTION_ settings and RECEIVER_MAX_FINISHED_TASKS decide. A running receiver does the same by itself.
    The command works on the database itself, also while a receiver runs.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    horizon = retention_times(settings).horizon(microseconds_now())
    if is_applied:
        removed = asyncio.run(_apply(settings, horizon))
        show(f"removed: {_counts(removed)}")
        return
    found = survey(settings, horizon)
    show(f"would be removed: {_counts(found.removed)}")
    for line in _details(found):
        show(line)
    if any(found.removed):
        tell("nothing was changed; to remove it: callback-receiver prune --apply")


async def _apply(settings: Settings, horizon: Horizon) -> Removed:
    """Remove it and return the counts. Progress goes to standard error, once a second."""
    total = Removed()
    shown_at = time.monotonic()

    def show_progress(removed: Removed) -> None:
        nonlocal total, shown_at
        total = removed
        if time.monotonic() - shown_at >= 1:
            shown_at = time.monotonic()
            tell(f"so far: {_counts(total)}")

    async with open_store(settings, horizon.now) as store:
        await prune(store, horizon, show_progress)
    return total


def _counts(removed: Removed) -> str:
    parts = [f"{count:,} {name}" for count, name in zip(removed, _NAMES, strict=True) if count]
    return ", ".join(parts) or "nothing"


def _details(found: Survey) -> list[str]:
    lines = [f"answers and bodies: {found.size:,} bytes"] if found.size else []
    if found.oldest is not None and found.newest is not None:
        oldest, newest = (time_view(at).isoformat(timespec="seconds") for at in (found.oldest, found.newest))
        lines.append(f"places in the log: from {oldest} to {newest}")
    return lines
