"""`callback-receiver callback-url`: make, list and revoke standing URLs.

The command opens the database itself for one transaction. It works whether the receiver runs or not, and needs no
route and no admin key. A running receiver sees the change at once, because each delivery looks up its URL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import click

from client.output import show, tell
from client.providers import Dialect, dialect_named
from receiver.app import microseconds_now, new_ref
from receiver.commands.store import open_store
from receiver.dialects import known_dialects
from receiver.domain.records import StandingUrl, time_view
from receiver.domain.registrations import CreateStandingUrl, RevokeStandingUrl
from receiver.domain.tokens import Kind, make_token
from receiver.errors import CannotStartError
from receiver.logs import configure_logs
from receiver.settings import Settings, load_settings

__all__ = ["callback_url"]

_LABEL_MAX_LENGTH = 100


def _check_label(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    if text is not None and (len(text) > _LABEL_MAX_LENGTH or not text.isprintable()):
        raise click.BadParameter(f"expected at most {_LABEL_MAX_LENGTH} printable characters")
    return text


@click.command("callback-url", epilog="Exit codes: 0 done, 1 failed and may work later, 2 refused.")
@click.argument("provider", required=False)
@click.option("--label", callback=_check_label, help="A note for --list, of at most 100 characters.")
@click.option("--list", "is_list", is_flag=True, help="List all standing URLs by id, without their tokens.")
@click.option("--revoke", metavar="ID", help="Refuse further deliveries on this URL (404), also if a receiver runs.")
def callback_url(provider: str | None, label: str | None, is_list: bool, revoke: str | None) -> None:
    """Make, list or revoke standing callback URLs.

    With PROVIDER, make a new URL. Give it to programs that submit tasks with their own library. The URL is a secret:
    anyone with it can deliver answers.
    """
    chosen = [provider is not None, is_list, revoke is not None]
    if sum(chosen) != 1:
        raise click.UsageError("expected a PROVIDER, --list, or --revoke ID")
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    now = microseconds_now()
    if provider is not None:
        dialect = dialect_named(provider, known_dialects(settings))
        made = asyncio.run(_make_url(settings, dialect, label, now=now, url_id=str(new_ref())))
        tell(f"id {made.id}; revoke it with: callback-receiver callback-url --revoke {made.id}")
        show(made.url)
        for note in made.notes:
            tell(note)
    elif revoke is not None:
        show(asyncio.run(_revoke_url(settings, _url_id(revoke), now=now)))
    else:
        lines = asyncio.run(_list_urls(settings, now=now))
        for line in lines:
            show(line)
        if not lines:
            tell("there is no standing URL; make one with: callback-receiver callback-url PROVIDER")


@dataclass(frozen=True, slots=True)
class _MadeUrl:
    """A new standing URL with notes for its owner."""

    id: str
    url: str
    notes: Sequence[str]


async def _make_url(settings: Settings, dialect: Dialect, label: str | None, *, now: int, url_id: str) -> _MadeUrl:
    """Return a new standing URL. It is valid as soon as this returns.

    Raises:
        CannotStartError: there is no database or no public URL, or the provider sends no callback. Also if its
            callbacks may lack the task id, because a standing URL cannot tell tasks apart without it.
    """
    rule = dialect.callback
    if rule is None:
        raise CannotStartError(f"{dialect.provider} documents no callback: its tasks are polled")
    if rule.task_id == "missing":
        raise CannotStartError(f"{dialect.provider}: its callbacks may lack a taskId; use the URL of each task")
    if settings.public_url is None:
        raise CannotStartError("RECEIVER_PUBLIC_URL: expected the address by which providers reach this receiver")
    async with open_store(settings, now) as store:
        key = [*settings.more_signing_keys, *store.signing_keys][0]
        await store.write(CreateStandingUrl(url=StandingUrl(url_id, dialect.provider, label, now, None)))
    token = make_token(Kind.STANDING, UUID(url_id), dialect.provider, key)
    notes = []
    if rule.task_id == "inferred":
        notes.append(
            f"note: {dialect.provider} does not document a taskId in its callbacks; a callback without one is kept as "
            "unreadable, and only a poll brings its answer"
        )
    return _MadeUrl(url_id, f"{settings.public_url}/callback/{dialect.provider}/{token}", notes)


async def _list_urls(settings: Settings, *, now: int) -> Sequence[str]:
    """Return one line for each standing URL: id, provider, creation time, state, label."""
    async with open_store(settings, now) as store:
        urls = await store.standing_urls()
    return [_line(url) for url in urls]


async def _revoke_url(settings: Settings, url_id: str, *, now: int) -> str:
    """Revoke the URL and return its line. Deliveries on it are answered 404 from now on.

    Raises:
        CannotStartError: no URL has this id.
    """
    async with open_store(settings, now) as store:
        url = await store.write(RevokeStandingUrl(url_id=url_id, now=now))
    if url is None:
        raise CannotStartError(f"--revoke: there is no standing URL {url_id}")
    return _line(url)


def _url_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise click.UsageError("--revoke: expected an id as --list shows it") from None


def _line(url: StandingUrl) -> str:
    made = time_view(url.created_at).isoformat(timespec="seconds")
    state = "valid" if url.revoked_at is None else f"revoked {time_view(url.revoked_at).isoformat(timespec='seconds')}"
    return "  ".join(part for part in (url.id, url.provider, made, state, url.label) if part)
