"""`python -m client demo`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import click
from rich.console import Console

from client.commands.demo.run import run_demo
from client.logs import log_to_terminal
from client.output import CannotShowError

__all__ = ["demo"]

_BY_HAND = """
The parts by hand, each in a terminal of its own:
  make serve
  .venv/bin/python -m client sandbox --port 8081 --dialect capsolver --async-images
  export CAPSOLVER_CLIENT_KEY=anything CALLBACK_RECEIVER_URL=http://127.0.0.1:8080
  .venv/bin/python -m client solve IMAGE --provider capsolver --provider-url http://127.0.0.1:8081 --json"""


@click.command(epilog="Exit codes: 0 every answer came and was right, 1 otherwise.")
def demo() -> None:
    """Run two sandboxes, a receiver and clients on this machine, and watch tasks being answered. Under a minute."""
    log_to_terminal(logging.ERROR)
    # Ended by a signal, it stops what it started all the same.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    is_right = False
    unseen: Exception | None = None
    try:
        is_right = asyncio.run(run_demo(console))
    except* CannotShowError as group:
        unseen = group
    if unseen is not None:
        raise _first_of(unseen) from None
    console.print(_BY_HAND, highlight=False, soft_wrap=True)
    sys.exit(0 if is_right else 1)


def _first_of(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
