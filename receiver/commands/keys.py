"""`callback-receiver keys`: make, list and revoke API keys.

The commands open the database themselves, whether the receiver runs or not. A running receiver notices a change within
two seconds.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from client.output import show, show_exactly, show_json, tell
from client.providers import dialect_named
from receiver.app import microseconds_now, new_ref
from receiver.commands.store import open_store
from receiver.dialects import known_dialects
from receiver.domain.access.api_keys import AddKey, RevokeKeys, StoredKey
from receiver.domain.records import SECOND, time_view
from receiver.errors import CannotStartError
from receiver.logs import configure_logs
from receiver.settings import DEFAULT_SCOPES, KEY_NAME, SCOPES, ApiKey, Settings, digest_of, load_settings
from receiver.storage.opening import open_for_reading
from receiver.storage.sqlite.tables.api_keys import read_keys

__all__ = ["keys"]

_PREFIX = "cr_"
"""The start of each secret, by which scanners of repositories can find a published one."""
_SECRET_BYTES = 32
_UNIT_SECONDS = {"m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}
_MOST_SECONDS = 10 * 366 * 24 * 3600
_EXIT_CODES = "Exit codes: 0 done, 1 failed and may work later, 2 refused."


def _check_name(_context: click.Context, _option: click.Parameter, text: str) -> str:
    if not KEY_NAME.fullmatch(text):
        raise click.BadParameter("expected 1 to 64 letters, digits, dots, dashes and underscores")
    return text


def _read_seconds(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    parts = re.fullmatch(r"([0-9]{1,6})([mhdw])", text, re.ASCII)
    seconds = 0 if parts is None else int(parts[1]) * _UNIT_SECONDS[parts[2]]
    if not 0 < seconds <= _MOST_SECONDS:
        raise click.BadParameter("expected a time such as 90d, in m, h, d or w, of at most ten years")
    return seconds


@click.group()
def keys() -> None:
    """Make, list and revoke API keys.

    A running receiver notices each change within two seconds. Keys in RECEIVER_API_KEYS are listed, but changed there.
    """


@keys.command(epilog=_EXIT_CODES)
@click.argument("name", callback=_check_name)
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Repeatable; submit and read if not given."
)
@click.option("--provider", "providers", multiple=True, help="Limit the key to this provider. Repeatable.")
@click.option(
    "--expires", "seconds", metavar="TIME", callback=_read_seconds, help="Lifetime, such as 90d; else no end."
)
def add(name: str, scopes: Sequence[str], providers: Sequence[str], seconds: int | None) -> None:
    """Make a key and print its secret, once.

    Only the secret goes to standard output. It cannot be shown again, because only its digest is kept. Several keys may
    have one NAME. For a rotation, make the second one, use it everywhere, then revoke the first. Idempotency-Keys and
    limits go by the name, so they hold meanwhile.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    dialects = known_dialects(settings)
    now = microseconds_now()
    secret = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    key = StoredKey(
        id=str(new_ref()),
        name=name,
        digest=digest_of(secret),
        scopes=frozenset(scopes) or DEFAULT_SCOPES,
        providers=frozenset(dialect_named(provider, dialects).provider for provider in providers) or None,
        created_at=now,
        expires_at=None if seconds is None else now + seconds * SECOND,
    )
    asyncio.run(_add(settings, key))
    tell(f"{_line(key, now)}; revoke it with: callback-receiver keys revoke {key.id}")
    show_exactly(secret)


@keys.command("list", epilog="Exit codes: 0 done, 2 refused.")
@click.option("--json", "is_json", is_flag=True, help="One line of JSON for each key.")
def list_command(*, is_json: bool) -> None:
    """List all keys, oldest first, without their secrets.

    The time of the last use is at most a minute behind.
    """
    settings = load_settings(Path.cwd(), serves=False)
    now = microseconds_now()
    with open_for_reading(settings) as connection:
        stored = read_keys(connection)
    for key in stored:
        show_json(json.dumps(_as_json(key, now))) if is_json else show(_line(key, now))
    for given in settings.keys:
        show_json(json.dumps(_given_as_json(given))) if is_json else show(_given_line(given))
    if not stored and not settings.keys:
        tell("there is no key; make one with: callback-receiver keys add NAME")


@keys.command(epilog=_EXIT_CODES)
@click.argument("key", metavar="ID|NAME")
@click.option("--all", "is_all", is_flag=True, help="Revoke all keys of this NAME, if there are several valid ones.")
def revoke(key: str, *, is_all: bool) -> None:
    """Refuse a key from now on, also if a receiver runs.

    Within two seconds, its open streams end, and its tickets are refused. A NAME with several valid keys needs --all.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    now = microseconds_now()
    for line in asyncio.run(_revoke(settings, key, is_all=is_all, now=now)):
        show(line)


async def _add(settings: Settings, key: StoredKey) -> None:
    async with open_store(settings, key.created_at, create=True) as store:
        await store.write(AddKey(key=key))


async def _revoke(settings: Settings, id_or_name: str, *, is_all: bool, now: int) -> Sequence[str]:
    """Revoke the key with this id, or the valid ones of this name. Return a line for each.

    Raises:
        CannotStartError: there is no such key in the database, or several have the name.
    """
    async with open_store(settings, now) as store:
        chosen = [key for key in await store.api_keys() if key.id == id_or_name]
        if not chosen:
            named = [key for key in await store.api_keys() if key.name == id_or_name]
            # A key that has ended is chosen only if there is no valid one.
            chosen = [key for key in named if key.state(now) == "valid"] or named
        if not chosen:
            raise _unknown(settings, id_or_name)
        ids = tuple(key.id for key in chosen)
        if len(ids) > 1 and not is_all:
            raise CannotStartError(f"{id_or_name}: expected an id or --all, because {len(ids)} keys have this name")
        await store.write(RevokeKeys(ids=ids, now=now))
        return [_line(key, now) for key in await store.api_keys() if key.id in ids]


def _unknown(settings: Settings, id_or_name: str) -> CannotStartError:
    if any(given.name == id_or_name for given in settings.keys):
        return CannotStartError(f"{id_or_name}: this key is in RECEIVER_API_KEYS; remove it there")
    return CannotStartError(f"{id_or_name}: there is no key with this id or name")


def _line(key: StoredKey, now: int) -> str:
    parts = [key.id, *_limits(key), f"expires {_time(key.expires_at)}", f"last used {_time(key.last_used_at)}"]
    revoked = "" if key.revoked_at is None else f" {_time(key.revoked_at)}"
    return "  ".join((*parts, f"{key.state(now)}{revoked}"))


def _given_line(key: ApiKey) -> str:
    return "  ".join(("RECEIVER_API_KEYS", *_limits(key), "expires never", "valid"))


def _limits(key: StoredKey | ApiKey) -> Iterator[str]:
    yield key.name
    yield "+".join(scope for scope in SCOPES if scope in key.scopes)
    yield "all providers" if key.providers is None else ",".join(sorted(key.providers))


def _time(time: int | None) -> str:
    return "never" if time is None else time_view(time).isoformat(timespec="seconds")


def _as_json(key: StoredKey, now: int) -> dict[str, Any]:
    times = {
        "createdAt": key.created_at,
        "expiresAt": key.expires_at,
        "revokedAt": key.revoked_at,
        "lastUsedAt": key.last_used_at,
    }
    shown = {name: None if time is None else time_view(time).isoformat() for name, time in times.items()}
    return {"id": key.id, **_limits_as_json(key), **shown, "state": key.state(now)}


def _given_as_json(key: ApiKey) -> dict[str, Any]:
    unknown = dict.fromkeys(("createdAt", "expiresAt", "revokedAt", "lastUsedAt"))
    return {"id": None, **_limits_as_json(key), **unknown, "state": "valid"}


def _limits_as_json(key: StoredKey | ApiKey) -> dict[str, Any]:
    providers = None if key.providers is None else sorted(key.providers)
    return {"name": key.name, "scopes": sorted(key.scopes), "providers": providers}
