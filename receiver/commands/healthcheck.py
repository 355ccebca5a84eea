"""`callback-receiver healthcheck`: one question to the receiver on this machine, as container engines ask it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import click

from client.errors import CallbackReceiverError
from receiver.commands.doctor.probes import PROBE_SECONDS, own_address, probe
from receiver.errors import CannotStartError
from receiver.settings import Settings, load_settings

__all__ = ["healthcheck"]


@click.command(epilog="Exit codes: 0 it can, 1 it cannot or does not answer, 2 wrong settings.")
@click.option("--alive", is_flag=True, help="Ask only if it answers requests.")
def healthcheck(*, alive: bool) -> None:
    """Ask the receiver on this machine if it can store, within 5 s.

    It is asked at RECEIVER_HOST and RECEIVER_PORT. With socket activation they must name the socket.
    """
    settings = load_settings(Path.cwd(), serves=False)
    if not settings.port:
        raise CannotStartError("RECEIVER_PORT: expected the port of a running receiver, got 0")
    click.echo(asyncio.run(_ask(settings, "healthz" if alive else "readyz")))


async def _ask(settings: Settings, route: str) -> str:
    address = own_address(settings)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PROBE_SECONDS)) as session:
        answer = await probe(session, f"http://{address}/{route}")
    if answer.status == 200:
        return f"{address} is well"
    status = "" if answer.status is None else f" answers {answer.status}"
    raise CallbackReceiverError(f"{address}{status}: {answer.reason or 'no reason given'}")
