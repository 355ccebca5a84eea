"""`callback-receiver doctor`: reads the facts that `receiver.doctor` judges, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import click

from client.providers import Dialect
from receiver.catalog import known_dialects
from receiver.doctor import Answered, Facts, Finding, judge
from receiver.records import SECOND
from receiver.settings import Settings, is_loopback, load_settings
from receiver.storage.looking import Look, look, opened_to_look
from receiver.tokens import Kind, make_token

__all__ = ["doctor", "examined"]

_ANSWER_SECONDS = 5.0
_HOUR = 3600 * SECOND


@click.command(epilog="Exit codes: 0 all is well, 1 there is something to do, 2 cannot look.")
@click.option("--json", "is_json", is_flag=True, help="All findings as one line of JSON, for machines.")
def doctor(is_json: bool) -> None:
    """What is wrong with this receiver and what to do about it.

    Reads the settings and the database file, asks the receiver on this machine whether it can store, and a callback URL
    whether it can be reached. Changes nothing.
    """
    findings = asyncio.run(examined(load_settings(Path.cwd(), serves=False), now=time.time_ns() // 1000))
    is_wrong = any(finding.is_wrong for finding in findings)
    if is_json:
        click.echo(json.dumps({"findings": [_fields(finding) for finding in findings]}))
    else:
        for finding in findings:
            click.echo(f"{'wrong' if finding.is_wrong else 'note '}  {finding.says}\n       → {finding.todo}")
        click.echo("something is to be done" if is_wrong else "nothing is wrong")
    sys.exit(1 if is_wrong else 0)


async def examined(settings: Settings, *, now: int) -> list[Finding]:
    """What is wrong.

    Raises:
        CannotStartError: the settings are wrong, or the database cannot be looked into.
    """
    dialects = known_dialects(settings)
    path = settings.database
    with opened_to_look(path) as connection:
        seen = look(connection, hour_ago=now - _HOUR, day_ago=now - 24 * _HOUR)
    keys = settings.keys
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_ANSWER_SECONDS)) as session:
        ready = await _asked(session, f"http://{_own_address(settings)}/readyz")
        callback = await _callback_check(session, settings, dialects, seen)
    return judge(
        Facts(
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
        )
    )


async def _callback_check(
    session: aiohttp.ClientSession, settings: Settings, dialects: Mapping[str, Dialect], seen: Look
) -> Answered | None:
    """What a URL of a task that does not exist answers to a GET without a query, which stores nothing."""
    url = settings.public_url
    provider = next((name for name, dialect in dialects.items() if dialect.callback is not None), None)
    if url is None or provider is None or _is_local(url):
        return None
    key = [*settings.more_signing_keys, *seen.signing_keys][0]
    return await _asked(session, f"{url}/callback/{provider}/{make_token(Kind.TASK, uuid4(), provider, key)}")


async def _asked(session: aiohttp.ClientSession, url: str) -> Answered:
    """The answer to a GET; errors are told by their kind alone, because their texts may hold the URL and its token."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = await response.content.read(10_000)
            return Answered(response.status, _reason(body))
    except TimeoutError:
        return Answered(None, f"no answer within {_ANSWER_SECONDS:g} s")
    except aiohttp.ClientConnectorDNSError:
        return Answered(None, "its name is not known")
    except aiohttp.ClientConnectorCertificateError:
        return Answered(None, "its certificate is not valid")
    except aiohttp.ClientConnectorError as error:
        return Answered(None, f"cannot connect ({os.strerror(error.errno) if error.errno else 'no reason given'})")
    except aiohttp.ClientError as error:
        return Answered(None, type(error).__name__)


def _reason(body: bytes) -> str:
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    return str(said.get("reason", "")) if isinstance(said, dict) else ""


def _own_address(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104  (asked, not bound)
    return f"[{host}]:{settings.port}" if ":" in host.strip("[]") and "[" not in host else f"{host}:{settings.port}"


def _is_local(url: str | None) -> bool:
    return url is not None and is_loopback(urlsplit(url).hostname or "")


def _signs(dialect: Dialect | None) -> bool:
    return dialect is not None and dialect.callback is not None and dialect.callback.signature is not None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fields(finding: Finding) -> dict[str, object]:
    fields = asdict(finding)
    return {"about": fields["about"], "isWrong": fields["is_wrong"], "says": fields["says"], "todo": fields["todo"]}
