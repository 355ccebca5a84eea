"""`callback-receiver canary`: one callback of the receiver to itself, now, with the time of each stage."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import click

from client.output import show, show_json
from receiver.app import microseconds_now, new_ref
from receiver.commands.store import open_store
from receiver.domain.transaction import PruneCanary
from receiver.errors import CannotStartError
from receiver.logs import configure_logs
from receiver.settings import Settings, load_settings
from receiver.web.canary.loop import KEPT
from receiver.web.canary.probe import STAGES, CanaryRun, run_canary

__all__ = ["canary"]


@click.command(epilog="Exit codes: 0 it came back, 1 a stage failed, 2 refused.")
@click.option("--json", "is_json", is_flag=True, help="One line of JSON, for machines.")
def canary(is_json: bool) -> None:
    """Send a callback to the public URL and wait for it to come back.

    It goes out through DNS, TLS and the proxy, is stored by the running receiver, and comes back by websocket. The
    times are those of each stage; committed and frame count from the start. A running receiver does the same every
    RECEIVER_CANARY_MINUTES.
    """
    settings = load_settings(Path.cwd(), serves=False)
    configure_logs("console")
    run = asyncio.run(_send(settings))
    if is_json:
        show_json(json.dumps({"seconds": run.seconds, "failed": run.failed, "reason": run.reason}))
    else:
        for stage in STAGES:
            if stage in run.seconds:
                show(f"{stage:9}  {run.seconds[stage] * 1000:8.1f} ms")
        show("the callback came back" if run.failed is None else f"failed at {run.failed}: {run.reason}")
    sys.exit(0 if run.failed is None else 1)


async def _send(settings: Settings) -> CanaryRun:
    """Send it, and remove old ones.

    Raises:
        CannotStartError: there is no public URL or no database, or the database cannot be written.
    """
    if settings.public_url is None:
        raise CannotStartError("RECEIVER_PUBLIC_URL: expected the address by which providers reach this receiver")
    now = microseconds_now()
    async with open_store(settings, now) as store:
        key = [*settings.more_signing_keys, *store.signing_keys][0]
        run = await run_canary(settings.public_url, key, store, now=microseconds_now, new_ref=new_ref)
        await store.write(PruneCanary(before=now - KEPT))
    return run
