"""The facts about a receiver in its settings and its database file, whether it runs or not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from client.providers import Dialect
from client.providers.codes import code_named
from receiver.domain.access.api_keys import KeyRing, ending_keys
from receiver.domain.records import SECOND, UnlistedCode
from receiver.health.findings import Facts, Observed
from receiver.settings import Settings, is_loopback
from receiver.storage.opening import open_for_reading
from receiver.storage.sqlite.diagnostics import read_overview, read_text

__all__ = ["OBSERVED", "is_local", "observed_json", "read_local_facts"]

OBSERVED = "observed"
"""The name in the store of the text of `observed_json`."""

_HOUR = 3600 * SECOND
# An unlisted code this old needs no action any more.
_UNLISTED_FOR = 30 * 24 * _HOUR
_observed = TypeAdapter(Observed)


def read_local_facts(settings: Settings, dialects: Mapping[str, Dialect], *, now: int) -> tuple[Facts, bytes]:
    """Return the facts about the receiver with these settings, and the key that signs its callback URLs.

    Raises:
        CannotStartError: the settings are wrong, or the database cannot be read.
    """
    most_polls = {name: most for name, dialect in dialects.items() if (most := dialect.polls.max_polls) is not None}
    path = settings.database if isinstance(settings.database, Path) else None
    with open_for_reading(settings) as connection:
        seen = read_overview(connection, hour_ago=now - _HOUR, day_ago=now - 24 * _HOUR, most_polls=most_polls)
        observed = _lately_observed(read_text(connection, OBSERVED), now)
    keys = KeyRing(settings.keys, seen.keys)
    facts = Facts(
        now=now,
        # The files of PostgreSQL are its own matter.
        is_writable=path is None or (os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)),
        is_private=path is None or not path.stat().st_mode & 0o077,
        wal_bytes=0 if path is None else _size(path.with_name(f"{path.name}-wal")),
        free_bytes=sys.maxsize if path is None else shutil.disk_usage(path.absolute().parent).free,
        newest_task=seen.newest_task,
        public_url=settings.public_url,
        is_public_url_local=is_local(settings.public_url),
        scopes=None if keys.is_empty else frozenset().union(*(key.scopes for key in keys.valid(now))),
        ending_keys=ending_keys(seen.keys, settings.keys, now=now),
        signs=[provider for provider in seen.providers if _signs(dialects.get(provider))],
        secrets=frozenset(settings.callback_secrets),
        waiting=seen.waiting,
        hour=seen.hour,
        day=seen.day,
        unlisted=[code for code in seen.unlisted if _is_unlisted(dialects, code, now)],
        observed=observed,
    )
    return facts, [*settings.more_signing_keys, *seen.signing_keys][0]


def observed_json(observed: Observed) -> str:
    """Return the text to keep in the store."""
    return _observed.dump_json(observed).decode()


def is_local(url: str | None) -> bool:
    """Return True if the URL can only mean this machine."""
    return url is not None and is_loopback(urlsplit(url).hostname or "")


def _lately_observed(text: str | None, now: int) -> Observed:
    """Return the observations of the last hour. A receiver that runs renews them every few minutes."""
    try:
        observed = Observed() if text is None else _observed.validate_json(text)
    except ValidationError:
        # Of another version. The receiver writes it again.
        return Observed()
    canary = observed.canary
    return Observed(
        tuple(balance for balance in observed.balances if balance.at > now - _HOUR),
        canary if canary is not None and canary.at > now - _HOUR else None,
    )


def _is_unlisted(dialects: Mapping[str, Dialect], code: UnlistedCode, now: int) -> bool:
    """Return True if the code came lately and no declaration lists it yet."""
    dialect = dialects.get(code.provider)
    is_listed = dialect is not None and code_named(dialect.codes, code.code) is not None
    return not is_listed and code.last_seen > now - _UNLISTED_FOR


def _signs(dialect: Dialect | None) -> bool:
    return dialect is not None and dialect.callback is not None and dialect.callback.signature is not None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
