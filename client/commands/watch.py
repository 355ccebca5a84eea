"""The command `watch`: results live in a terminal, or as lines of JSON for pipes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import Protocol

import click
from pydantic_core import to_json
from rich.console import Console
from rich.text import Text

from client.config.environment import read_receiver
from client.errors import ResultsGapError
from client.logs import log_to_terminal
from client.output import CannotShowError, printable, show_json, tell
from client.protocol.frames import Subscribe
from client.protocol.models import Task
from client.provider_api.timing import Timing
from client.receiver_api.http import ReceiverApi, open_receiver_session
from client.results import LogReader, subscription_of
from client.signals import run_interruptibly

__all__ = ["watch"]

_EXIT_CODES = (
    "Exit codes: 0 as many results as --count says were shown, or the pipe was closed, 1 the receiver refused to tell, "
    "or standard output took no more, 2 wrong arguments, 130 interrupted."
)


@click.command(epilog=_EXIT_CODES, short_help="Show results as they arrive at the receiver.")
@click.option("--json", "is_json", is_flag=True, help="One line of JSON for each result, with its solution.")
@click.option(
    "--since", metavar="CURSOR", help="Go on behind this cursor; start: from the oldest result kept. Default: now."
)
@click.option("--provider", metavar="NAME", help="Only results of this provider.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only results with this tag; may be repeated.")
@click.option("--task", "tasks", multiple=True, metavar="REF", help="Also this task, by its ref; may be repeated.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N results.")
def watch(
    is_json: bool,
    since: str | None,
    provider: str | None,
    tags: tuple[str, ...],
    tasks: tuple[str, ...],
    count: int | None,
) -> None:
    """Show results as they come: time, task, status and source, but no solution.

    The receiver is CALLBACK_RECEIVER_URL (with CALLBACK_RECEIVER_KEY). Standard error reports a gap in the log, and a
    lost or found receiver; the command goes on all the same. When interrupted, it prints the --since to go on with.
    """
    log_to_terminal(logging.INFO)
    url, key = read_receiver(None, None, os.environ)
    only = subscription_of(since, provider=provider, tags=tags, tasks=tasks or None)
    viewer = _Viewer(_JsonLines() if is_json else _Table())
    try:
        run_interruptibly(viewer.run(url, key, only, count=count))
    except CannotShowError as error:
        if error.is_closed_pipe:
            return
        # A full disk, most often. The result that was not written whole is to be shown again.
        since = viewer.shown_cursor or since
        go_on = "" if since is None else f"; go on with --since {since}"
        tell(f"client: {error}{go_on}")
        sys.exit(1)
    except KeyboardInterrupt:
        cursor = viewer.cursor
        tell("client: interrupted" + ("" if cursor is None else f"; go on with --since {cursor}"))
        sys.exit(130)


class _Display(Protocol):
    """A display of results. Everything it writes is there at once."""

    def result(self, task: Task) -> None:
        """Show a result."""

    def gap(self, gap: ResultsGapError) -> None:
        """Show that results may have been missed."""


class _Viewer:
    """The display of one result after the other. `shown_cursor` is the cursor of the last result shown whole."""

    def __init__(self, display: _Display) -> None:
        self._display = display
        self._reader: LogReader | None = None
        self.shown_cursor: str | None = None

    @property
    def cursor(self) -> str | None:
        """The place to go on from."""
        return None if self._reader is None else self._reader.cursor

    async def run(self, url: str, key: str | None, only: Subscribe, *, count: int | None) -> None:
        async with open_receiver_session() as session:
            self._reader = LogReader(ReceiverApi(session, url, key), only, Timing())
            left = count
            while left is None or left > 0:
                left = await self._show(self._reader, left)

    async def _show(self, reader: LogReader, left: int | None) -> int | None:
        """Show at most `left` results, until there is a gap. Return the number left then."""
        try:
            async with aclosing(reader.results()) as results:
                async for result in results:
                    self._display.result(result)
                    self.shown_cursor = result.cursor
                    left = None if left is None else left - 1
                    if left == 0:
                        break
        except ResultsGapError as gap:
            tell(f"client: {gap}")
            self._display.gap(gap)
        return left


class _JsonLines:
    """Lines of JSON."""

    def result(self, task: Task) -> None:
        show_json(task.model_dump_json(by_alias=True))

    def gap(self, gap: ResultsGapError) -> None:
        show_json(to_json({"gap": {"reason": gap.reason, "resumesAt": gap.resumes_at}}).decode())


class _Table:
    """A line for each result, in columns. Solutions are secrets and screens are shared: only fields are named."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def result(self, task: Task) -> None:
        is_ready = task.status == "ready"
        finished_at = task.finished_at or task.created_at
        self._console.print(
            Text.assemble(
                (f"{finished_at.astimezone():%Y-%m-%d %H:%M:%S}", "dim"),
                f"  {printable(task.provider):<11} {printable(task.ref)}  {printable(str(task.task_id or '-')):<36}  ",
                (f"{printable(task.status if is_ready else task.error_code or task.status):<8}", _STYLES[is_ready]),
                f"  {printable(task.source or '-'):<8}  ",
                (printable(_fields(task)), "dim"),
            )
        )

    def gap(self, gap: ResultsGapError) -> None:
        """Show nothing: standard error reports the gap."""


_STYLES = {True: "green", False: "red"}


def _fields(task: Task) -> str:
    if task.solution_removed:
        return "solution removed"
    names: Sequence[str] = sorted(task.solution) if isinstance(task.solution, dict) else ()
    return ", ".join(names)
