"""JSON of the contract, made from records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from orjson import OPT_UTC_Z, Fragment, dumps
from pydantic_core import from_json, to_json

from client.protocol.models import LogEntry, PollPlanView, Registered, Task
from client.providers import PollPlan
from receiver.domain.records import SECOND, Entry, Outcome, TaskRecord, time_view

__all__ = ["entry_json", "json_response", "log_entry", "registered_view", "task_json", "task_view"]

CursorAt = Callable[[int], str]

_NO_OUTCOME = Outcome("processing", None, 0, None, None, source="", trust="", finished_at=0, valid_until=None)


def task_view(task: TaskRecord, cursor_at: CursorAt) -> Task:
    """Return the task as a superset of a getTaskResult answer.

    `cursor` is the position of its outcome in the log. A task without an outcome gets the head of the log at its
    registration: a reader from there cannot miss the outcome.
    """
    outcome = task.outcome
    fields: dict[str, Any] = {
        "ref": task.ref,
        "provider": task.provider,
        "type": task.type,
        "task_id": task.task_id,
        "tags": task.tags,
        "metadata": {} if task.metadata == "{}" else from_json(task.metadata),
        "created_at": time_view(task.created_at),
        "poll_after": time_view(task.poll_after),
        "next_poll_at": None if task.next_poll_at is None else time_view(task.next_poll_at),
        "deadline_at": time_view(task.deadline_at),
        "disputed": task.is_disputed,
        "cursor": cursor_at(task.registered_at if task.position is None else task.position),
    }
    if outcome is not None:
        fields |= {
            "status": outcome.status,
            "solution": None if outcome.solution is None else from_json(outcome.solution),
            "solution_removed": outcome.status == "ready" and outcome.solution is None,
            "error_id": outcome.error_id,
            "error_code": outcome.error_code,
            "error_description": outcome.error_description,
            "source": outcome.source,
            "trust": outcome.trust,
            "finished_at": time_view(outcome.finished_at),
            "valid_until": None if outcome.valid_until is None else time_view(outcome.valid_until),
            "supersedes": None if outcome.supersedes is None else cursor_at(outcome.supersedes),
        }
    return Task(**fields)


def task_json(task: TaskRecord, cursor_at: CursorAt) -> bytes:
    """Return the JSON of `task_view`, byte for byte.

    Stored JSON goes in as text, and there is no model, so this takes less than half of the time.
    """
    outcome = task.outcome or _NO_OUTCOME
    fields: dict[str, Any] = {
        "errorId": outcome.error_id,
        "errorCode": outcome.error_code,
        "errorDescription": outcome.error_description,
        "status": outcome.status,
        "solution": None if outcome.solution is None else _stored_json(outcome.solution),
        # An integer may be longer than orjson takes.
        "taskId": Fragment(b"%d" % task.task_id) if isinstance(task.task_id, int) else task.task_id,
        "ref": task.ref,
        "provider": task.provider,
        "type": task.type,
        "tags": task.tags,
        "metadata": _stored_json(task.metadata),
        "source": outcome.source or None,
        "trust": outcome.trust or None,
        "createdAt": time_view(task.created_at),
        "finishedAt": None if task.outcome is None else time_view(outcome.finished_at),
        "validUntil": None if outcome.valid_until is None else time_view(outcome.valid_until),
        "pollAfter": time_view(task.poll_after),
        "nextPollAt": None if task.next_poll_at is None else time_view(task.next_poll_at),
        "deadlineAt": time_view(task.deadline_at),
        "cursor": cursor_at(task.registered_at if task.position is None else task.position),
    }
    if task.is_disputed:
        fields["disputed"] = True
    if outcome.status == "ready" and outcome.solution is None:
        fields["solutionRemoved"] = True
    if outcome.supersedes is not None:
        fields["supersedes"] = cursor_at(outcome.supersedes)
    return dumps(fields, option=OPT_UTC_Z)


def _stored_json(text: str) -> Fragment:
    """Return stored JSON for an answer. Numbers that are no JSON, as Python code may give them, become null."""
    if "NaN" in text or "Infinity" in text:
        return Fragment(to_json(from_json(text), inf_nan_mode="null"))
    return Fragment(text)


def registered_view(task: TaskRecord, plan: PollPlan, callback_url: str | None, cursor_at: CursorAt) -> Registered:
    """Return the answer to a registration."""
    return Registered(
        ref=task.ref,
        task_id=task.task_id,
        callback_url=callback_url,
        fallback="receiver" if task.is_polled_here else "client",
        poll=PollPlanView(
            first_after_seconds=(task.poll_after - task.created_at) / SECOND,
            interval_seconds=plan.interval_seconds,
            max_polls=plan.max_polls,
            window_seconds=plan.window_seconds,
        ),
        deadline_at=time_view(task.deadline_at),
        cursor=cursor_at(task.registered_at),
    )


def log_entry(entry: Entry, cursor_at: CursorAt) -> LogEntry:
    """Return one entry of the log. A result has a task, a deletion or a hint only a ref."""
    if entry.kind == "result" and entry.task is not None:
        return LogEntry(cursor=entry.cursor, task=task_view(entry.task, cursor_at))
    return LogEntry(cursor=entry.cursor, ref=entry.ref, deleted=entry.kind == "deleted", hint=entry.kind == "hint")


def entry_json(entry: Entry, cursor_at: CursorAt) -> bytes:
    """Return one entry of the log as the JSON of a page."""
    if entry.kind == "result" and entry.task is not None:
        return b'{"cursor":%b,"task":%b}' % (to_json(entry.cursor), task_json(entry.task, cursor_at))
    return to_json({"cursor": entry.cursor, "ref": entry.ref, entry.kind: True})


def json_response(body: bytes | dict[str, Any], status: int = 200, **headers: str) -> web.Response:
    """Return a response with JSON, not to be cached."""
    raw = body if isinstance(body, bytes) else to_json(body)
    return web.Response(
        status=status, body=raw, content_type="application/json", headers={"Cache-Control": "no-store", **headers}
    )
