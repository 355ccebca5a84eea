"""`callback-receiver prune`: what retention would take now, and taking it, whether the receiver runs or not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from client.output import show, tell
from receiver.app import lives_of, microseconds_now
from receiver.commands.callback_url import open_store
from receiver.domain.records import Horizon, Removed, Survey, time_view
from receiver.logs import configure_logs
from receiver.settings import Settings, load_settings
from receiver.storage.sqlite.survey import survey
from receiver.upkeep.retention import prune

__all__ = ["prune_command"]

_NAMES = ("finished tasks", "places in the log", "solutions", "bodies of deliveries", "stray deliveries", "tombstones")


@click.command("prune", epilog="Exit codes: 0 done, 1 failed for a reason that may pass, 2 refused.")
@click.option(
    "--apply/--dry-run", "is_applied", default=False, help="Remove it, or only tell what would go (the default)."
)
def prune_command(*, is_applied: bool) -> None:
    """Remove what is older than the settings say, as a running receiver does by itself.

    Works on the database file, beside a running receiver too.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    horizon = lives_of(settings).horizon(microseconds_now())
    if is_applied:
        told = asyncio.run(_apply(settings, horizon))
        show(f"removed: {_counts(told)}")
        return
    found = asyncio.run(survey(settings.database, horizon))
    show(f"would go: {_counts(found.removed)}")
    for line in _details(found):
        show(line)
    if any(found.removed):
        tell("nothing was changed; to remove it: callback-receiver prune --apply")


async def _apply(settings: Settings, horizon: Horizon) -> Removed:
    """What went; progress goes to standard error, once a second."""
    gone = Removed()
    told_at = time.monotonic()

    def note(removed: Removed) -> None:
        nonlocal gone, told_at
        gone = removed
        if time.monotonic() - told_at >= 1:
            told_at = time.monotonic()
            tell(f"so far: {_counts(gone)}")

    async with open_store(settings, horizon.now) as store:
        await prune(store, horizon, note)
    return gone


def _counts(removed: Removed) -> str:
    parts = [f"{count:,} {name}" for count, name in zip(removed, _NAMES, strict=True) if count]
    return ", ".join(parts) or "nothing"


def _details(found: Survey) -> list[str]:
    lines = [f"answers and bodies: {found.size:,} bytes"] if found.size else []
    if found.oldest is not None and found.newest is not None:
        oldest, newest = (time_view(at).isoformat(timespec="seconds") for at in (found.oldest, found.newest))
        lines.append(f"places in the log: from {oldest} to {newest}")
    return lines
