"""`python -m client watch`: results live in a terminal, or as lines of JSON for pipes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import Protocol

import click
import structlog
from pydantic_core import to_json
from rich.console import Console
from rich.text import Text

from client.arguments import read_receiver
from client.errors import ResultsGapError
from client.frames import Subscribe
from client.interrupts import run_interruptibly
from client.protocol import Task
from client.receiver_api import ReceiverApi, open_receiver_session
from client.results import LogReader, subscription_of
from client.timing import Timing

__all__ = ["watch"]

_EXIT_CODES = (
    "Exit codes: 0 as many results as --count says were shown, or the pipe was closed, 1 the receiver refused to tell, "
    "or standard output took no more, 2 wrong arguments, 130 interrupted."
)


@click.command(epilog=_EXIT_CODES)
@click.option("--json", "is_json", is_flag=True, help="One line of JSON for each result, with its solution.")
@click.option("--since", metavar="CURSOR", help="Go on behind this cursor; start: from the oldest kept. Default: now.")
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
    """Show results as they come: when, which task, how it ended and by which road, but no solution.

    The receiver is that of CALLBACK_RECEIVER_URL (and CALLBACK_RECEIVER_KEY). A gap in the log, and a receiver that is
    lost or found again, are told on standard error; it goes on all the same. Interrupted, it says with which --since to
    go on.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    url, key = read_receiver(None, None, os.environ)
    only = subscription_of(since, provider=provider, tags=tags, tasks=tasks or None)
    watching = _Watching(_Lines() if is_json else _Table())
    try:
        run_interruptibly(watching.run(url, key, only, count=count))
    except BrokenPipeError:
        _drop_buffered()
    except OSError as error:
        # A full disk, most often. The result that was not written whole is to be shown again.
        _drop_buffered()
        since = watching.shown_cursor or since
        go_on = "" if since is None else f"; go on with --since {since}"
        click.echo(f"client: cannot write to standard output: {error.strerror}{go_on}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        cursor = watching.cursor
        click.echo("client: interrupted" + ("" if cursor is None else f"; go on with --since {cursor}"), err=True)
        sys.exit(130)


def _drop_buffered() -> None:
    """What is still buffered has nowhere to go, and Python would complain about it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Shown(Protocol):
    """Where results are shown; what it writes is there at once."""

    def result(self, task: Task) -> None:
        """Shows a result."""

    def gap(self, gap: ResultsGapError) -> None:
        """Shows that results may have been missed."""


class _Watching:
    """Shows one result after the other; `cursor` is where to go on, `shown_cursor` that of the last one shown whole."""

    def __init__(self, shown: _Shown) -> None:
        self._shown = shown
        self._reader: LogReader | None = None
        self.shown_cursor: str | None = None

    @property
    def cursor(self) -> str | None:
        return None if self._reader is None else self._reader.cursor

    async def run(self, url: str, key: str | None, only: Subscribe, *, count: int | None) -> None:
        async with open_receiver_session() as session:
            self._reader = LogReader(ReceiverApi(session, url, key), only, Timing())
            left = count
            while left is None or left > 0:
                left = await self._show(self._reader, left)

    async def _show(self, reader: LogReader, left: int | None) -> int | None:
        """Shows at most `left` results, until there is a gap; how many are left then."""
        try:
            async with aclosing(reader.results()) as results:
                async for result in results:
                    self._shown.result(result)
                    self.shown_cursor = result.cursor
                    left = None if left is None else left - 1
                    if left == 0:
                        break
        except ResultsGapError as gap:
            click.echo(f"client: {gap}", err=True)
            self._shown.gap(gap)
        return left


class _Lines:
    """Lines of JSON."""

    def result(self, task: Task) -> None:
        click.echo(task.model_dump_json(by_alias=True))

    def gap(self, gap: ResultsGapError) -> None:
        click.echo(to_json({"gap": {"reason": gap.reason, "resumesAt": gap.resumes_at}}))


class _Table:
    """A line for each result, in columns. Solutions are secrets and screens are shared: only fields are named."""

    def __init__(self) -> None:
        self._console = _Console(highlight=False, soft_wrap=True)

    def result(self, task: Task) -> None:
        is_ready = task.status == "ready"
        finished_at = task.finished_at or task.created_at
        self._console.print(
            Text.assemble(
                (f"{finished_at.astimezone():%Y-%m-%d %H:%M:%S}", "dim"),
                f"  {_clean(task.provider):<11} {_clean(task.ref)}  {_clean(str(task.task_id or '-')):<36}  ",
                (f"{_clean(task.status if is_ready else task.error_code or task.status):<8}", _STYLES[is_ready]),
                f"  {_clean(task.source or '-'):<8}  ",
                (_clean(_fields(task)), "dim"),
            )
        )

    def gap(self, gap: ResultsGapError) -> None:
        """Standard error tells it."""


_STYLES = {True: "green", False: "red"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Lets the error be seen by those that know what it means here."""
        raise BrokenPipeError


def _fields(task: Task) -> str:
    if task.solution_removed:
        return "solution removed"
    names: Sequence[str] = sorted(task.solution) if isinstance(task.solution, dict) else ()
    return ", ".join(names)


def _clean(text: str) -> str:
    """What others wrote, without what would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
