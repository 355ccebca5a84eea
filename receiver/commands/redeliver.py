"""`callback-receiver redeliver`: kept unreadable bodies go through the dialects again, on trial or for good.

The command opens the database itself, so that it works whether the receiver runs or not; it takes short transactions,
between which a running receiver stores what comes, and that one's waiters wake within a moment, as by any commit.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import click

from client.output import CannotShowError, show, show_json, tell
from client.providers import dialect_named
from receiver.app import microseconds_now, new_ref
from receiver.commands.callback_url import open_store
from receiver.dialects import known_dialects
from receiver.domain.deliveries import Quotas
from receiver.domain.records import time_view
from receiver.domain.redelivery import Redeliver, Redelivered, RedeliveryRules, read_redelivery
from receiver.logs import configure_logs
from receiver.settings import Settings, load_settings
from receiver.storage.sqlite.store import SqliteStore
from receiver.storage.sqlite.unreadable import Rehearsal, open_rehearsal

__all__ = ["redeliver"]

_STEP = 100


@click.command(epilog="Exit codes: 0 done, 1 failed for a reason that may pass (what was decided stays so), 2 refused.")
@click.option("--provider", metavar="NAME", help="Only bodies that came on URLs of this provider.")
@click.option("--apply", "is_applied", is_flag=True, help="Store what is decided; without it nothing is written.")
@click.option("--json", "is_json", is_flag=True, help="One line of JSON for each body.")
def redeliver(provider: str | None, *, is_applied: bool, is_json: bool) -> None:
    """Read kept unreadable bodies again, as after an upgrade or a change of RECEIVER_PROVIDERS_FILE.

    Shows what each would become if it came now, and with --apply makes it so: the first outcome of a task wins, those
    who wait wake, and the bytes no longer count as unreadable. An answer is finished now, but no fresher than it came.

    Not read again are bodies with a bad signature, and all of a provider with a secret in RECEIVER_CALLBACK_SECRETS:
    signatures are not kept, so nobody could tell any more who wrote them.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    rules = _rules(settings)
    if provider is not None:
        dialect_named(provider, rules.dialects)
    show_one = _show_json if is_json else _show_text
    counts = asyncio.run(_redeliver(_opened(settings, is_applied=is_applied), rules, provider, show_one))
    done = "became" if is_applied else "would become"
    text = (
        ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        or "nothing, no unreadable body is kept"
    )
    (tell if is_json else show)(f"{done}: {text}")
    if counts.total() > counts["unreadable"] and not is_applied:
        tell("nothing was written: --apply does it")


def _rules(settings: Settings) -> RedeliveryRules:
    return RedeliveryRules(
        dialects=known_dialects(settings),
        signed=frozenset(settings.callback_secrets),
        polled=frozenset(settings.provider_keys),
        quotas=Quotas(
            standing_rows=settings.standing_max_tasks,
            standing_bytes=settings.standing_max_bytes,
            unreadable_bytes=settings.unreadable_max_bytes,
        ),
        confirm=settings.confirm_callbacks,
    )


def _opened(settings: Settings, *, is_applied: bool) -> AbstractAsyncContextManager[SqliteStore | Rehearsal]:
    if is_applied:
        return open_store(settings, microseconds_now())
    return open_rehearsal(settings.database)


async def _redeliver(
    opened: AbstractAsyncContextManager[SqliteStore | Rehearsal],
    rules: RedeliveryRules,
    provider: str | None,
    show_one: Callable[[Redelivered], None],
) -> Counter[str]:
    """How many became what. Each step is a transaction; what is left is left as it was."""
    counts: Counter[str] = Counter()
    looked_at, after = 0, None
    unseen: CannotShowError | None = None
    async with opened as store:
        while unseen is None and (kept := await store.unreadable(after, limit=_STEP)):
            after = kept[-1]
            redeliveries = [
                read_redelivery(rules, each, now=microseconds_now(), new_ref=lambda: str(new_ref()))
                for each in kept
                if provider in (None, each.provider)
            ]
            try:
                for each in await store.write(Redeliver(redeliveries)):
                    counts[each.verdict] += 1
                    show_one(each)
            except CannotShowError as error:
                # Not raised in there, where it would become one of a group.
                unseen = error
            looked_at += len(kept)
            tell(f"{looked_at} looked at")
    if unseen is not None:
        raise unseen
    return counts


def _show_text(each: Redelivered) -> None:
    where = f"standing URL {each.kept.delivery.standing_id}" if each.kept.is_stray else f"task {each.kept.ref}"
    received = time_view(each.kept.delivery.received_at).isoformat(timespec="seconds")
    why = "" if each.why is None else f"  ({each.why})"
    show(f"{each.kept.provider or '?'}  {where}  {received}  {each.reading}  {each.verdict}{why}")


def _show_json(each: Redelivered) -> None:
    line = {
        "provider": each.kept.provider,
        "ref": each.ref,
        "standingUrl": each.kept.delivery.standing_id,
        "receivedAt": time_view(each.kept.delivery.received_at).isoformat(timespec="milliseconds"),
        "reading": each.reading,
        "verdict": each.verdict,
        "why": each.why,
    }
    show_json(json.dumps(line, ensure_ascii=False))
