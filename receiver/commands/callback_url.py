"""Standing URLs, as an operator makes, lists and revokes them.

The commands open the database themselves, for one transaction each: so they work whether the receiver runs or not,
and need no route and no admin key. A running receiver sees them at once, because each delivery looks up its URL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from client.providers import Dialect
from receiver.domain.records import StandingUrl, time_view
from receiver.domain.registrations import CreateStandingUrl, RevokeStandingUrl
from receiver.domain.tokens import Kind, make_token
from receiver.errors import CannotStartError, ReceiverError
from receiver.settings import Settings
from receiver.storage.sqlite.store import SqliteStore, open_sqlite_store

__all__ = ["MadeUrl", "list_urls", "make_url", "open_store", "revoke_url"]


@dataclass(frozen=True, slots=True)
class MadeUrl:
    """A new standing URL, with what its owner should know."""

    id: str
    url: str
    notes: Sequence[str]


async def make_url(settings: Settings, dialect: Dialect, label: str | None, *, now: int, url_id: str) -> MadeUrl:
    """Return a new standing URL, valid once this returns.

    Raises:
        CannotStartError: there is no database or no public URL, the provider has no callback, or its callbacks may lack
            the id without which a standing URL cannot tell the task.
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
            f"note: {dialect.provider} does not document that its callbacks carry a taskId; one without it is kept as "
            "unreadable, and only a poll brings that answer"
        )
    return MadeUrl(url_id, f"{settings.public_url}/callback/{dialect.provider}/{token}", notes)


async def list_urls(settings: Settings, *, now: int) -> Sequence[str]:
    """One line for each standing URL: id, provider, when it was made, whether it was revoked, its label."""
    async with open_store(settings, now) as store:
        urls = await store.standing_urls()
    return [_line(url) for url in urls]


async def revoke_url(settings: Settings, url_id: str, *, now: int) -> str:
    """Return the line of the URL; deliveries on it are answered 404 from now on.

    Raises:
        CannotStartError: there is none with this id.
    """
    async with open_store(settings, now) as store:
        url = await store.write(RevokeStandingUrl(url_id=url_id, now=now))
    if url is None:
        raise CannotStartError(f"--revoke: there is no standing URL {url_id}")
    return _line(url)


def _line(url: StandingUrl) -> str:
    made = time_view(url.created_at).isoformat(timespec="seconds")
    state = "valid" if url.revoked_at is None else f"revoked {time_view(url.revoked_at).isoformat(timespec='seconds')}"
    return "  ".join(part for part in (url.id, url.provider, made, state, url.label) if part)


@asynccontextmanager
async def open_store(settings: Settings, now: int) -> AsyncIterator[SqliteStore]:
    """Yield the store of the settings, with its writer, for a command.

    Raises:
        CannotStartError: there is no database, or it cannot do now what is asked of it.
    """
    refused: ReceiverError | None = None
    async with (
        open_sqlite_store(settings.database, now=now, clock=time.monotonic, create=False) as store,
        asyncio.TaskGroup() as owner,
    ):
        owner.create_task(store.run(), name="writer")
        try:
            yield store
        except ReceiverError as error:
            # Not raised in the group, which would wrap it.
            refused = error
        finally:
            store.stop()
    if refused is not None:
        raise CannotStartError(f"{settings.database}: {refused.detail}", passes=refused.slug == "not-stored")
