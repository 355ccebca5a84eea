"""`/v1/tasks`: register, bind, report, fetch (with a long poll), list and delete tasks; read a timeline."""

from __future__ import annotations

import re
import time

from aiohttp import web
from pydantic_core import to_json

from client.protocol.models import Binding, OutcomeReport, Registration
from client.protocol.traceparent import TRACEPARENT, read_traceparent
from receiver.domain.records import TaskRecord
from receiver.domain.registrations import RegisteredTask
from receiver.errors import ReceiverError
from receiver.web.auth import check_provider
from receiver.web.context import RUNTIME, Runtime
from receiver.web.middleware import API_KEY, KEY_NAME
from receiver.web.request import read_id, read_int, read_model, read_text, read_wait
from receiver.web.views import json_response, registered_view, task_json

__all__ = ["bind", "fetch", "forget", "list_tasks", "register", "report", "timeline"]

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_STATUSES = ("processing", "ready", "failed")


async def register(request: web.Request) -> web.Response:
    """`POST /v1/tasks`: 201 with a new task, 200 with the one that has this `taskId`."""
    runtime = request.app[RUNTIME]
    owner = request[KEY_NAME]
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ReceiverError("wrong-field", "Idempotency-Key: expected 1 to 200 visible ASCII characters")
    registration = await read_model(request, Registration)
    check_provider(request[API_KEY], registration.provider)
    traceparent, tracing = read_traceparent(request.headers.get(TRACEPARENT)), runtime.tracing
    if tracing is None:
        registered = await _registered(runtime, registration, owner, key, traceparent)
    else:
        with tracing.submitting(registration.provider, traceparent) as span:
            registered = await _registered(runtime, registration, owner, key, span)
    if not registered.is_new:
        return _task_response(runtime, registered.task)
    task = registered.task
    plan, url = runtime.dialects[task.provider].polls, runtime.tasks.urls.of(task)
    view = registered_view(task, plan, url, runtime.store.cursor_at)
    return json_response(view.model_dump_json(by_alias=True).encode(), 201)


async def _registered(
    runtime: Runtime, registration: Registration, owner: str, key: str | None, traceparent: str | None
) -> RegisteredTask:
    if registration.task is not None:
        submit = runtime.submissions.submit
        return await submit(registration, owner=owner, idempotency_key=key, traceparent=traceparent)
    with runtime.submissions.keys_in_flight.held(owner, key):
        register = runtime.tasks.register
        return await register(registration, owner=owner, idempotency_key=key, traceparent=traceparent)


async def bind(request: web.Request) -> web.Response:
    """`PATCH /v1/tasks/{ref}`: 200 with the task."""
    runtime = request.app[RUNTIME]
    binding = await read_model(request, Binding)
    task = await runtime.tasks.bind(read_id(request), binding.task_id, within=request[API_KEY].providers)
    return _task_response(runtime, task)


async def report(request: web.Request) -> web.Response:
    """`PUT /v1/tasks/{ref}/outcome`: 200 with the verdict and the task."""
    runtime = request.app[RUNTIME]
    body = await read_model(request, OutcomeReport)
    reported = await runtime.tasks.report(read_id(request), body, within=request[API_KEY].providers)
    task = task_json(reported.task, runtime.store.cursor_at)
    return json_response(b'{"verdict":%b,"task":%b}' % (to_json(reported.verdict), task))


async def fetch(request: web.Request) -> web.Response:
    """`GET /v1/tasks/{id}`: 200 finished, 202 processing, 404 unknown. Waits as `wait` says, at most 50 s."""
    runtime = request.app[RUNTIME]
    task_or_ref, provider, seconds = read_id(request), _read_provider(request), read_wait(request)
    owner, within = request[KEY_NAME], request[API_KEY].providers
    if seconds:
        task = await runtime.tasks.wait_for(task_or_ref, provider, seconds, owner=owner, within=within)
    else:
        task = await runtime.tasks.find(task_or_ref, provider, within=within)
    if task is None:
        raise ReceiverError("unknown-task", "no task has this ref or taskId")
    runtime.metrics.fetched(task, time.time_ns() // 1000)
    response = _task_response(runtime, task, 202 if task.outcome is None else 200)
    if seconds and "wait" not in request.query:
        response.headers["Preference-Applied"] = f"wait={seconds:g}"
    return response


async def timeline(request: web.Request) -> web.Response:
    """`GET /v1/tasks/{id}/timeline`: 200 with the timeline, 404 for an unknown task."""
    tasks, within = request.app[RUNTIME].tasks, request[API_KEY].providers
    found = await tasks.timeline(read_id(request), _read_provider(request), within=within)
    if found is None:
        raise ReceiverError("unknown-task", "no task has this ref or taskId")
    return json_response(found.model_dump_json(by_alias=True).encode())


async def list_tasks(request: web.Request) -> web.Response:
    """`GET /v1/tasks`: newest first."""
    runtime = request.app[RUNTIME]
    status = read_text(request, "status")
    if status is not None and status not in _STATUSES:
        raise ReceiverError("wrong-field", f"status: expected one of {', '.join(_STATUSES)}, got {status[:80]!r}")
    query = (status, _read_provider(request), read_text(request, "tag"))
    within = request[API_KEY].providers
    limit = read_int(request, "limit", default=100, most=1000)
    async with runtime.unsent.turn(request[KEY_NAME]):
        tasks, next_page = await runtime.store.tasks(query, page=read_text(request, "page"), limit=limit, within=within)
    views = b",".join(task_json(task, runtime.store.cursor_at) for task in tasks)
    return json_response(b'{"tasks":[%b],"nextPage":%b}' % (views, to_json(next_page)))


async def forget(request: web.Request) -> web.Response:
    """`DELETE /v1/tasks/{ref}`: 204."""
    await request.app[RUNTIME].tasks.forget(read_id(request), within=request[API_KEY].providers)
    return web.Response(status=204, headers={"Cache-Control": "no-store"})


def _read_provider(request: web.Request) -> str | None:
    provider = read_text(request, "provider")
    check_provider(request[API_KEY], provider)
    return provider


def _task_response(runtime: Runtime, task: TaskRecord, status: int = 200) -> web.Response:
    return json_response(task_json(task, runtime.store.cursor_at), status)
