"""`/v1/tasks`: register, bind, report, fetch (with a long poll), list, delete."""

from __future__ import annotations

import re
import time

from aiohttp import web

from client.protocol.models import Binding, OutcomeReport, Registration, Reported, TaskList
from receiver.domain.records import TaskRecord
from receiver.errors import ReceiverError
from receiver.web.context import CONTEXT, Context
from receiver.web.middleware import KEY_NAME
from receiver.web.request import check_query, read_id, read_int, read_model, read_text, read_wait
from receiver.web.views import json_response, registered_view, task_view

__all__ = ["bind", "fetch", "forget", "list_tasks", "register", "report"]

_IN_FLIGHT: web.AppKey[set[tuple[str, str]]] = web.AppKey("in_flight", set)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_STATUSES = ("processing", "ready", "failed")


def prepare(app: web.Application) -> None:
    """What the handlers share beside the context."""
    app[_IN_FLIGHT] = set()


async def register(request: web.Request) -> web.Response:
    """`POST /v1/tasks`."""
    check_query(request)
    context = request.app[CONTEXT]
    owner = request[KEY_NAME]
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ReceiverError("wrong-field", "Idempotency-Key: expected 1 to 200 visible ASCII characters")
    registration = await read_model(request, Registration)
    in_flight = request.app[_IN_FLIGHT]
    if key is not None and (owner, key) in in_flight:
        raise ReceiverError(
            "idempotency-in-flight", "Idempotency-Key: wait for the first request to end", retry_after_seconds=1
        )
    if key is not None:
        in_flight.add((owner, key))
    try:
        take_on = context.inbox.register if registration.task is None else context.submissions.submit
        registered = await take_on(registration, owner=owner, idempotency_key=key)
    finally:
        in_flight.discard((owner, key or ""))
    if not registered.is_new:
        return _task_response(context, registered.task)
    task = registered.task
    view = registered_view(task, context.dialects[task.provider].polls, context.inbox)
    return json_response(view.model_dump_json(by_alias=True).encode(), 201)


async def bind(request: web.Request) -> web.Response:
    """`PATCH /v1/tasks/{ref}`."""
    check_query(request)
    context = request.app[CONTEXT]
    binding = await read_model(request, Binding)
    return _task_response(context, await context.inbox.bind(read_id(request), binding.task_id))


async def report(request: web.Request) -> web.Response:
    """`PUT /v1/tasks/{ref}/outcome`."""
    check_query(request)
    context = request.app[CONTEXT]
    body = await read_model(request, OutcomeReport)
    reported = await context.inbox.report(read_id(request), body)
    view = Reported(verdict=reported.verdict, task=task_view(reported.task, context.inbox.cursor_at))
    return json_response(view.model_dump_json(by_alias=True).encode())


async def fetch(request: web.Request) -> web.Response:
    """`GET /v1/tasks/{id}`: 200 finished, 202 processing, 404 unknown; waits for as long as is asked and allowed."""
    check_query(request, "wait", "provider")
    context = request.app[CONTEXT]
    task_or_ref, provider, seconds = read_id(request), read_text(request, "provider"), read_wait(request)
    if seconds:
        task = await context.inbox.wait_for(task_or_ref, provider, seconds, owner=request[KEY_NAME])
    else:
        task = await context.inbox.find(task_or_ref, provider)
    if task is None:
        raise ReceiverError("unknown-task", "no task has this ref or taskId")
    context.metrics.fetched(task, time.time_ns() // 1000)
    response = _task_response(context, task, 202 if task.outcome is None else 200)
    if seconds and "wait" not in request.query:
        response.headers["Preference-Applied"] = f"wait={seconds:g}"
    return response


async def list_tasks(request: web.Request) -> web.Response:
    """`GET /v1/tasks`: newest first."""
    check_query(request, "status", "provider", "tag", "page", "limit")
    context = request.app[CONTEXT]
    status = read_text(request, "status")
    if status not in (None, *_STATUSES):
        raise ReceiverError("wrong-field", f"status: expected one of {', '.join(_STATUSES)}")
    query = (status, read_text(request, "provider"), read_text(request, "tag"))
    limit = read_int(request, "limit", default=100, most=1000)
    async with context.pages.turn(request[KEY_NAME]):
        tasks, next_page = await context.inbox.tasks(query, page=read_text(request, "page"), limit=limit)
    view = TaskList(tasks=tuple(task_view(task, context.inbox.cursor_at) for task in tasks), next_page=next_page)
    return json_response(view.model_dump_json(by_alias=True).encode())


async def forget(request: web.Request) -> web.Response:
    """`DELETE /v1/tasks/{ref}`: 204."""
    check_query(request)
    await request.app[CONTEXT].inbox.forget(read_id(request))
    return web.Response(status=204, headers={"Cache-Control": "no-store"})


def _task_response(context: Context, task: TaskRecord, status: int = 200) -> web.Response:
    return json_response(task_view(task, context.inbox.cursor_at).model_dump_json(by_alias=True).encode(), status)
