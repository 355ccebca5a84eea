"""`callback-receiver doctor`: reads the facts that `receiver.commands.doctor.findings` judges, and changes nothing."""

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

from client.output import show, show_json
from client.providers import Dialect
from client.providers.codes import code_named
from receiver.commands.doctor.figures import number_lines, number_values
from receiver.commands.doctor.findings import Answered, Facts, Finding, judge
from receiver.commands.doctor.probes import ANSWER_SECONDS, asked, counted_there, own_address
from receiver.dialects import known_dialects
from receiver.domain.records import SECOND, UnlistedCode
from receiver.domain.tokens import Kind, make_token
from receiver.settings import Settings, is_loopback, load_settings
from receiver.storage.sqlite.diagnostics import Look, look, opened_to_look

__all__ = ["doctor", "examined"]

_HOUR = 3600 * SECOND
# A code that did not come for so long is nothing to act on any more.
_UNLISTED_FOR = 30 * 24 * _HOUR


@click.command(epilog="Exit codes: 0 all is well, 1 there is something to do, 2 cannot look.")
@click.option("--json", "is_json", is_flag=True, help="Findings and numbers as one line of JSON, for machines.")
def doctor(is_json: bool) -> None:
    """What is wrong with this receiver and what to do about it, and the numbers of each provider.

    Reads the settings and the database file, asks the receiver on this machine whether it can store and what it has
    counted, and a callback URL whether it can be reached. Changes nothing.
    """
    facts = asyncio.run(examined(load_settings(Path.cwd(), serves=False), now=time.time_ns() // 1000))
    findings = judge(facts)
    is_wrong = any(finding.is_wrong for finding in findings)
    if is_json:
        show_json(json.dumps({"findings": [_fields(finding) for finding in findings]} | number_values(facts)))
    else:
        for finding in findings:
            show(f"{'wrong' if finding.is_wrong else 'note '}  {finding.says}")
            show(f"       → {finding.todo}")
        for line in number_lines(facts):
            show(line)
        show("something is to be done" if is_wrong else "nothing is wrong")
    sys.exit(1 if is_wrong else 0)


async def examined(settings: Settings, *, now: int) -> Facts:
    """What there is to be judged.

    Raises:
        CannotStartError: the settings are wrong, or the database cannot be looked into.
    """
    dialects = known_dialects(settings)
    most_polls = {name: most for name, dialect in dialects.items() if (most := dialect.polls.max_polls) is not None}
    path = settings.database
    with opened_to_look(path) as connection:
        seen = look(connection, hour_ago=now - _HOUR, day_ago=now - 24 * _HOUR, most_polls=most_polls)
    keys = settings.keys
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_SECONDS)) as session:
        ready = await asked(session, f"http://{own_address(settings)}/readyz")
        counted = await counted_there(session, settings, ready)
        callback = await _callback_check(session, settings, dialects, seen)
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
        counted=counted,
        unlisted=[code for code in seen.unlisted if _is_unlisted(dialects, code, now)],
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
    return await asked(session, f"{url}/callback/{provider}/{make_token(Kind.TASK, uuid4(), provider, key)}")


def _is_local(url: str | None) -> bool:
    return url is not None and is_loopback(urlsplit(url).hostname or "")


def _is_unlisted(dialects: Mapping[str, Dialect], code: UnlistedCode, now: int) -> bool:
    """Tell whether the code came lately and is still declared nowhere."""
    dialect = dialects.get(code.provider)
    is_listed = dialect is not None and code_named(dialect.codes, code.code) is not None
    return not is_listed and code.last_seen > now - _UNLISTED_FOR


def _signs(dialect: Dialect | None) -> bool:
    return dialect is not None and dialect.callback is not None and dialect.callback.signature is not None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fields(finding: Finding) -> dict[str, object]:
    fields = asdict(finding)
    return {"about": fields["about"], "isWrong": fields["is_wrong"], "says": fields["says"], "todo": fields["todo"]}
