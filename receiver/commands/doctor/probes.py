"""The facts for `doctor`, read from the settings, the database file, the running receiver and a callback URL."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from uuid import uuid4

import aiohttp

from client.providers import Dialect
from receiver.dialects import known_dialects
from receiver.domain.tokens import Kind, make_token
from receiver.health.facts import is_local, read_local_facts
from receiver.health.findings import Facts, ProbeResult
from receiver.settings import Settings

__all__ = ["PROBE_SECONDS", "own_address", "probe", "read_facts"]

PROBE_SECONDS = 5.0
_MAX_BODY = 10_000


async def read_facts(settings: Settings, *, now: int) -> Facts:
    """Return the facts about the receiver with these settings. Each HTTP request ends within 5 s.

    Raises:
        CannotStartError: the settings are wrong, or the database cannot be read.
    """
    dialects = known_dialects(settings)
    facts, key = read_local_facts(settings, dialects, now=now)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PROBE_SECONDS)) as session:
        ready = await probe(session, f"http://{own_address(settings)}/readyz")
        callback = await _probe_callback_url(session, settings, dialects, key)
    return replace(facts, ready=ready, callback=callback)


async def _probe_callback_url(
    session: aiohttp.ClientSession, settings: Settings, dialects: Mapping[str, Dialect], key: bytes
) -> ProbeResult | None:
    """Send a GET to the callback URL of a task that does not exist. Without a query it stores nothing."""
    url = settings.public_url
    provider = next((name for name, dialect in dialects.items() if dialect.callback is not None), None)
    if url is None or provider is None or is_local(url):
        return None
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
