"""The facts for `doctor`, read from the settings, the database file, the running receiver and a callback URL."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp

from client.providers import Dialect
from client.providers.codes import code_named
from receiver.dialects import known_dialects
from receiver.domain.records import SECOND, UnlistedCode
from receiver.domain.tokens import Kind, make_token
from receiver.health.findings import Facts, ProbeResult
from receiver.settings import Settings, is_loopback
from receiver.storage.sqlite.database import open_read_only
from receiver.storage.sqlite.diagnostics import Overview, read_overview

__all__ = ["PROBE_SECONDS", "own_address", "probe", "read_facts"]

PROBE_SECONDS = 5.0
_MAX_BODY = 10_000
_HOUR = 3600 * SECOND
# An unlisted code this old needs no action any more.
_UNLISTED_FOR = 30 * 24 * _HOUR


async def read_facts(settings: Settings, *, now: int) -> Facts:
    """Return the facts about the receiver with these settings. Each HTTP request ends within 5 s.

    Raises:
        CannotStartError: the settings are wrong, or the database cannot be read.
    """
    dialects = known_dialects(settings)
    most_polls = {name: most for name, dialect in dialects.items() if (most := dialect.polls.max_polls) is not None}
    path = settings.database
    with open_read_only(path) as connection:
        seen = read_overview(connection, hour_ago=now - _HOUR, day_ago=now - 24 * _HOUR, most_polls=most_polls)
    keys = settings.keys
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PROBE_SECONDS)) as session:
        ready = await probe(session, f"http://{own_address(settings)}/readyz")
        callback = await _probe_callback_url(session, settings, dialects, seen)
    return Facts(
        now=now,
        is_writable=os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK),
        is_private=not path.stat().st_mode & 0o077,
        wal_bytes=_size(path.with_name(f"{path.name}-wal")),
        free_bytes=shutil.disk_usage(path.absolute().parent).free,
        newest_task=seen.newest_task,
        public_url=settings.public_url,
        is_public_url_local=_is_local(settings.public_url),
        ready=ready,
        callback=callback,
        scopes=frozenset().union(*(key.scopes for key in keys)) if keys else None,
        signs=[provider for provider in seen.providers if _signs(dialects.get(provider))],
        secrets=frozenset(settings.callback_secrets),
        waiting=seen.waiting,
        hour=seen.hour,
        day=seen.day,
        unlisted=[code for code in seen.unlisted if _is_unlisted(dialects, code, now)],
    )


async def _probe_callback_url(
    session: aiohttp.ClientSession, settings: Settings, dialects: Mapping[str, Dialect], seen: Overview
) -> ProbeResult | None:
    """Send a GET to the callback URL of a task that does not exist. Without a query it stores nothing."""
    url = settings.public_url
    provider = next((name for name, dialect in dialects.items() if dialect.callback is not None), None)
    if url is None or provider is None or _is_local(url):
        return None
    key = [*settings.more_signing_keys, *seen.signing_keys][0]
    return await probe(session, f"{url}/callback/{provider}/{make_token(Kind.TASK, uuid4(), provider, key)}")


async def probe(session: aiohttp.ClientSession, url: str) -> ProbeResult:
    """Send a GET. Errors are named by their kind, because their texts may hold the URL with its token."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _MAX_BODY:
                    break
            return ProbeResult(response.status, _reason(bytes(body[:_MAX_BODY])))
    except TimeoutError:
        reason = f"no answer within {PROBE_SECONDS:g} s"
    except aiohttp.ClientConnectorDNSError:
        reason = "its host name cannot be resolved"
    except aiohttp.ClientConnectorCertificateError:
        reason = "its certificate is not valid"
    except aiohttp.ClientConnectorError as error:
        reason = f"cannot connect ({os.strerror(error.errno) if error.errno else 'no reason given'})"
    except (aiohttp.ClientError, ValueError) as error:
        reason = type(error).__name__
    return ProbeResult(None, reason)


def _reason(body: bytes) -> str:
    try:
        fields = json.loads(body)
    except ValueError:
        return ""
    return str(fields.get("reason", "")) if isinstance(fields, dict) else ""


def own_address(settings: Settings) -> str:
    """Return the address of a receiver with these settings, as seen from its own machine."""
    host = settings.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (asked, not bound)
    return f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"


def _is_local(url: str | None) -> bool:
    return url is not None and is_loopback(urlsplit(url).hostname or "")


def _is_unlisted(dialects: Mapping[str, Dialect], code: UnlistedCode, now: int) -> bool:
    """Return True if the code came lately and no declaration lists it yet."""
    dialect = dialects.get(code.provider)
    is_listed = dialect is not None and code_named(dialect.codes, code.code) is not None
    return not is_listed and code.last_seen > now - _UNLISTED_FOR


def _signs(dialect: Dialect | None) -> bool:
    return dialect is not None and dialect.callback is not None and dialect.callback.signature is not None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
