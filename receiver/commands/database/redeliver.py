"""`callback-receiver redeliver`: read kept unreadable bodies with the dialects again, as a trial or for real.

The command opens the database itself, so it works whether the receiver runs or not. It uses short transactions, and a
running receiver stores callbacks between them. The receiver's waiters wake as after any other commit.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import click

from client.output import CannotShowError, show, show_json, tell
from client.providers import dialect_named
from receiver.app import delivery_rules_of, microseconds_now, new_ref
from receiver.commands.store import open_store
from receiver.dialects import known_dialects
from receiver.domain.deliveries import DeliveryRules
from receiver.domain.records import time_view
from receiver.domain.redelivery import Redeliver, Redelivered, read_redelivery
from receiver.logs import configure_logs
from receiver.settings import Settings, load_settings
from receiver.storage.opening import OwnedStore, open_for_reading
from receiver.storage.sqlite.batch import DryRun

__all__ = ["redeliver"]

_STEP = 100


@click.command(epilog="Exit codes: 0 done, 1 failed and may work later (stored decisions stay), 2 refused.")
@click.option("--provider", metavar="NAME", help="Only bodies that arrived on URLs of this provider.")
@click.option("--apply", "is_applied", is_flag=True, help="Store the decisions; without it nothing is written.")
@click.option("--json", "is_json", is_flag=True, help="One line of JSON for each body.")
def redeliver(provider: str | None, *, is_applied: bool, is_json: bool) -> None:
    """Read kept unreadable callbacks again.

    Run it after an upgrade or after a change of RECEIVER_PROVIDERS_FILE. It shows the verdict that each body would get
    now. With --apply it stores the verdict: the first outcome of a task wins, its waiters wake, and the bytes no longer
    count as unreadable. An answer finishes its task now, but is only as fresh as the time when it arrived.

    Bodies with a bad signature are never read again. Nor is any body of a provider with a secret in
    RECEIVER_CALLBACK_SECRETS, because signatures are not kept and the sender can no longer be checked.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    dialects = known_dialects(settings)
    rules = delivery_rules_of(settings, dialects)
    if provider is not None:
        dialect_named(provider, dialects)
    show_one = _show_json if is_json else _show_text
    counts = asyncio.run(_redeliver(_opened(settings, is_applied=is_applied), rules, provider, show_one))
    done = "became" if is_applied else "would become"
    text = (
        ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        or "nothing; no unreadable body is kept"
    )
    (tell if is_json else show)(f"{done}: {text}")
    if counts.total() > counts["unreadable"] and not is_applied:
        tell("nothing was written; to store it: callback-receiver redeliver --apply")


def _opened(settings: Settings, *, is_applied: bool) -> AbstractAsyncContextManager[OwnedStore | DryRun]:
    if is_applied:
        return open_store(settings, microseconds_now())
    return _dry_run(settings)


@asynccontextmanager
async def _dry_run(settings: Settings) -> AsyncIterator[DryRun]:
    with open_for_reading(settings, passes=True) as connection:
        yield DryRun(connection)


async def _redeliver(
    opened: AbstractAsyncContextManager[OwnedStore | DryRun],
    rules: Mapping[str, DeliveryRules],
    provider: str | None,
    show_one: Callable[[Redelivered], None],
) -> Counter[str]:
    """Return the number of bodies for each verdict. Each step is one transaction; an error keeps the earlier ones."""
    counts: Counter[str] = Counter()
    read_count, after = 0, None
    unseen: CannotShowError | None = None
    async with opened as store:
        while unseen is None and (kept := await store.unreadable(after, limit=_STEP)):
            after = kept[-1]
            redeliveries = [
                read_redelivery(rules, body, now=microseconds_now(), new_ref=lambda: str(new_ref()))
                for body in kept
                if provider in (None, body.provider)
            ]
            try:
                for redelivered in await store.write(Redeliver(redeliveries)):
                    counts[redelivered.verdict] += 1
                    show_one(redelivered)
            except CannotShowError as error:
                # Raised in here, it would be wrapped in an exception group.
                unseen = error
            read_count += len(kept)
            tell("1 body read" if read_count == 1 else f"{read_count} bodies read")
    if unseen is not None:
        raise unseen
    return counts


def _show_text(redelivered: Redelivered) -> None:
    body = redelivered.kept
    where = f"standing URL {body.delivery.standing_id}" if body.is_stray else f"task {body.ref}"
    received = time_view(body.delivery.received_at).isoformat(timespec="seconds")
    why = "" if redelivered.why is None else f"  ({redelivered.why})"
    show(f"{body.provider or '?'}  {where}  {received}  {redelivered.reading}  {redelivered.verdict}{why}")


def _show_json(redelivered: Redelivered) -> None:
    body = redelivered.kept
    line = {
        "provider": body.provider,
        "ref": redelivered.ref,
        "standingUrl": body.delivery.standing_id,
        "receivedAt": time_view(body.delivery.received_at).isoformat(timespec="milliseconds"),
        "reading": redelivered.reading,
        "verdict": redelivered.verdict,
        "why": redelivered.why,
    }
    show_json(json.dumps(line, ensure_ascii=False))
