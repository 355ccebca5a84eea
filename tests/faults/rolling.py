"""`python -m tests.faults.rolling`: three receivers behind a balancer are replaced one after another, under load.

They share a PostgreSQL database of this run. 200 callbacks arrive each second, half of them over new connections. The
program prints the answers, and ends with 1 if one is not 200 or an acknowledged callback is not in the log.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click

from tests.deploy.proxies import PROXIES
from tests.faults.commands import run_command
from tests.faults.fleet import running_fleet
from tests.faults.restarts import PER_SECOND, Callbacks, sending
from tests.postgres import running_cluster
from tests.support import API_KEYS, release_ports

__all__ = ["roll_under_load"]

_PAUSE_SECONDS = 3.0
"""Time for the balancer to take a new receiver in before the next one stops."""


async def roll_under_load(
    database: str, folder: Path, *, updates: int = 1, per_second: int = PER_SECOND, balancer: str = "caddy"
) -> Callbacks:
    """Send callbacks from before the first replacement until after the last one. Return what became of them."""
    callbacks = Callbacks(sends_again=True)
    async with running_fleet(database, folder, balancer=balancer) as fleet:
        made = await run_command(
            folder, "callback-url", "capsolver", API_KEYS=API_KEYS, PUBLIC_URL=fleet.public_url, DATABASE=database
        )
        async with sending(callbacks, made.out.strip(), per_second=per_second):
            for _ in range(updates):
                for number in range(len(fleet.ports)):
                    await asyncio.sleep(_PAUSE_SECONDS)
                    await fleet.stop(number)
                    await fleet.start(number)
            await asyncio.sleep(_PAUSE_SECONDS)
        await callbacks.compare(fleet.balancer)
    return callbacks


@click.command()
@click.option("--updates", default=3, show_default=True, help="Times that all three are replaced.")
@click.option("--per-second", default=PER_SECOND, show_default=True)
@click.option("--balancer", type=click.Choice(PROXIES), default="caddy", show_default=True)
def main(updates: int, per_second: int, balancer: str) -> None:
    """Replace three receivers one after another and print the answers."""
    with tempfile.TemporaryDirectory() as folder, running_cluster() as cluster:
        callbacks = asyncio.run(
            roll_under_load(
                cluster.new_database(), Path(folder), updates=updates, per_second=per_second, balancer=balancer
            )
        )
    release_ports()
    click.echo(f"{3 * updates} replacements behind {balancer}, {per_second} callbacks a second")
    click.echo(f"  answers: {dict(callbacks.answers)}")
    click.echo(f"  acknowledged and not stored: {len(callbacks.missing)}, twice: {len(callbacks.doubled)}")
    is_right = set(callbacks.answers) == {"200"} and not callbacks.missing and not callbacks.doubled
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
