"""`callback-receiver new-signing-key`: another key for callback URLs, after the old one has leaked."""

from __future__ import annotations

import secrets
from math import isnan
from pathlib import Path

import click

from client.output import show, tell
from receiver.app import microseconds_now
from receiver.domain.records import SECOND, time_view
from receiver.logs import configure_logs
from receiver.settings import load_settings
from receiver.storage.opening import open_for_reading, replace_signing_key
from receiver.storage.sqlite.diagnostics import read_standing_urls

__all__ = ["new_signing_key"]

_KEY_BYTES = 32
_MOST_HOURS = 90 * 24


def _a_number(_context: click.Context, _option: click.Parameter, hours: float) -> float:
    """Refuse NaN, which is in every range."""
    if isnan(hours):
        raise click.BadParameter(f"expected a number from 0 to {_MOST_HOURS}, got nan")
    return hours


@click.command("new-signing-key", epilog="Exit codes: 0 done, 1 failed and may work later, 2 refused.")
@click.option(
    "--accept-old",
    "hours",
    metavar="HOURS",
    required=True,
    type=click.FloatRange(0, _MOST_HOURS),
    callback=_a_number,
    help="Time for which URLs with the old key are accepted; 0 refuses them at once.",
)
def new_signing_key(hours: float) -> None:
    """Make a new key for callback URLs, because the old one may have leaked.

    The key is in the database and in all backups of it. Whoever has it can forge callbacks. A running receiver signs
    with the new key within two seconds.

    Until its end, the old key counts only for tasks and standing URLs that were there before. Choose 0 if wrong answers
    do more harm than late ones: refused callbacks are fetched by polls. Standing URLs have to be made anew.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    now = microseconds_now()
    until = now + round(hours * 3600 * SECOND)
    replace_signing_key(settings, secrets.token_bytes(_KEY_BYTES), now=now, until=until)
    end = "refused now" if until == now else f"accepted until {time_view(until).isoformat(timespec='seconds')}"
    show(f"a new key signs callback URLs; URLs of the old one are {end}")
    with open_for_reading(settings) as connection:
        standing = read_standing_urls(connection)
    for url in standing:
        label = f", {url.label}" if url.label else ""
        tell(f"renew the standing URL {url.id}{label}: callback-receiver callback-url {url.provider}")
    if settings.more_signing_keys:
        tell("RECEIVER_SIGNING_KEYS holds keys, and its first one signs: if it leaked, replace it there and restart")
    tell("backups from before hold the old key: make a new backup, and restore no older one")
