"""`callback-receiver explain ID`: the timeline of a task, read from the database file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click

from client.output import show, show_json, tell
from client.protocol.models import TaskTimeline
from client.providers.values import MAX_TASK_ID_LENGTH, is_too_long
from receiver.dialects import known_dialects
from receiver.domain.timeline import timeline_of
from receiver.errors import CannotStartError, ReceiverError
from receiver.settings import Settings, load_settings
from receiver.storage.opening import open_for_reading
from receiver.storage.sqlite.diagnostics import find_task

__all__ = ["explain"]


@click.command(epilog="Exit codes: 0 shown, 1 no such task, 2 the database cannot be read.")
@click.argument("task_id", metavar="ID")
@click.option("--provider", help="The provider of the taskId, if several have a task with it.")
@click.option("--json", "is_json", is_flag=True, help="The JSON of GET /v1/tasks/ID/timeline, for machines.")
def explain(task_id: str, provider: str | None, is_json: bool) -> None:
    """Show the history of a task and what it waits for.

    ID is its ref or its taskId. The command only reads the database file, whether the receiver runs or not.
    """
    timeline = _read_timeline(load_settings(Path.cwd(), serves=False), task_id, provider, now=time.time_ns() // 1000)
    if timeline is None:
        tell("callback-receiver: no task has this ref or taskId")
        sys.exit(1)
    if is_json:
        show_json(timeline.model_dump_json(by_alias=True))
        return
    for line in _lines(timeline):
        show(line)


def _read_timeline(settings: Settings, task_id: str, provider: str | None, *, now: int) -> TaskTimeline | None:
    """Return the timeline of the task; None if there is no such task.

    Raises:
        CannotStartError: the database cannot be read, the id is too long, or several tasks have it.
    """
    if is_too_long(task_id):
        raise CannotStartError(f"ID: expected at most {MAX_TASK_ID_LENGTH} characters")
    with open_for_reading(settings) as connection:
        try:
            found = find_task(connection, task_id, provider)
        except ReceiverError as error:
            raise CannotStartError(f"--provider: {error.detail}") from None
    if found is None:
        return None
    task, history = found
    dialect = known_dialects(settings).get(task.provider)
    return timeline_of(task, history, None if dialect is None else dialect.polls, now=now)


def _lines(timeline: TaskTimeline) -> Iterator[str]:
    yield f"{timeline.provider} task {timeline.ref}: {timeline.status}{', disputed' if timeline.disputed else ''}"
    for step in timeline.steps:
        yield f"  {_moment(step.at)}  {step.happened}: {step.text}"
    shown = sum(step.happened == "callback.stored" for step in timeline.steps)
    if timeline.deliveries > shown:
        yield f"  {timeline.deliveries - shown} more deliveries were only counted"
    if timeline.waiting is not None:
        left = "" if timeline.waiting.polls_left is None else f"; polls left: {timeline.waiting.polls_left}"
        yield f"waits: {timeline.waiting.text}{left}"
        if timeline.waiting.leased_until is not None:
            yield f"being polled; the lease lasts until {_moment(timeline.waiting.leased_until)}"


def _moment(at: datetime | None) -> str:
    return "(time not noted)       " if at is None else at.isoformat(sep=" ", timespec="milliseconds")[:23]
