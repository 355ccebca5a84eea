"""Plain requests before router, middleware and application, which cost as much as all other work for one.

Callbacks are answered here if they end in the usual acknowledgement, and tasks fetched by their ids if there is nothing
to refuse. The application answers all other requests. It gets the response to a callback that is made already, so that
it adds what it adds to every response.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage
from multidict import istr
from pydantic_core import to_json

from receiver.settings import ApiKey
from receiver.web.auth import bearer_key
from receiver.web.callbacks import RECEIVED, Begun, begin, receive
from receiver.web.context import Runtime
from receiver.web.edge.addresses import client_address
from receiver.web.edge.overload import RETRY_SECONDS, overloaded
from receiver.web.middleware import KEY_NAME, problem_fields, request_facts
from receiver.web.server.prebuilt import SENT, PrebuiltResponse, json_head
from receiver.web.server.unsent import send_small
from receiver.web.streaming.streams import PeerGoneError
from receiver.web.views import task_json

__all__ = ["Handler", "beginner", "front"]

Handler = Callable[[Any], Awaitable[web.StreamResponse]]
"""A handler of the low-level `web.Server`."""

_CALLBACK_PATH = re.compile(r"/callback/([a-z0-9]+)/([A-Za-z0-9_-]+)")
"""The spelling in our own URLs. The router knows the others."""

_TASK_PATH = re.compile(r"/v1/tasks/([A-Za-z0-9_-]{1,64})(?:\?provider=([a-z0-9]+))?")
_TASK_ROUTE = "/v1/tasks/{id}"
_OVERLOADED = to_json(problem_fields(overloaded()))
_TASK_HEADS = {
    200: json_head("200 OK"),
    202: json_head("202 Accepted"),
    503: json_head("503 Service Unavailable", f"Retry-After: {RETRY_SECONDS}", kind="application/problem+json"),
}
# The application waits for some of these, and refuses others.
_OTHER_HEADERS = tuple(map(istr, ("Expect", "Origin", "Prefer", "Sec-Fetch-Site")))
_MOST_BYTES = 64 * 1024

_log = structlog.get_logger()


def front(runtime: Runtime, application: Handler) -> Handler:
    """Return the handler that takes plain requests and leaves everything else to `application`."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = None
        if request.method == "POST":
            path = _CALLBACK_PATH.fullmatch(request.raw_path)
            if path is not None and "Expect" not in request.headers:
                response = await _received(request, runtime, path[1], path[2])
        elif request.method == "GET":
            path = _TASK_PATH.fullmatch(request.raw_path)
            if path is not None and PrebuiltResponse.fits(request) and _is_plain(request) and not runtime.edge.is_full:
                with runtime.edge.at_once():
                    response = await _fetched(request, runtime, path[1], path[2])
        return await application(request) if response is None else response

    return handle


def beginner(runtime: Runtime) -> Callable[[Any, StreamReader], Begun | None]:
    """Return the function that begins to store a callback before aiohttp makes a request of its parsed head and body.

    It returns None for everything else.
    """

    def begin_callback(message: Any, body: StreamReader) -> Begun | None:
        # There are messages for errors, too.
        if not isinstance(message, RawRequestMessage) or message.method != "POST":
            return None
        path = _CALLBACK_PATH.fullmatch(message.path)
        return None if path is None else begin(runtime, path[1], path[2], message, body)

    return begin_callback


async def _received(
    request: web.BaseRequest, runtime: Runtime, provider: str, token_text: str
) -> web.StreamResponse | None:
    try:
        response = await receive(request, runtime, provider, token_text)
    except Exception as error:
        request[RECEIVED] = error
        return None
    request[RECEIVED] = response
    return response if isinstance(response, PrebuiltResponse) else None


def _is_plain(request: web.BaseRequest) -> bool:
    if request.body_exists:
        return False
    headers = request.headers
    for name in _OTHER_HEADERS:  # noqa: SIM110  (`any` takes three times as long)
        if name in headers:
            return False
    return True


async def _fetched(
    request: web.BaseRequest, runtime: Runtime, task_or_ref: str, provider: str | None
) -> web.StreamResponse | None:
    """Answer with a task as `receiver.web.tasks.fetch` does, unless there is an error to tell. That changed nothing."""
    started = time.perf_counter()
    try:
        key = bearer_key(request, runtime, "read")
        owner = key.name
        if not runtime.edge.takes_key(owner):
            return None
        request[KEY_NAME] = owner
        # An overload is told here, too: a refusal by the application would cost more than the task.
        is_refused = runtime.overload.refuses_reads
        answer = (503, _OVERLOADED) if is_refused else await _task_answer(runtime, key, task_or_ref, provider)
    except Exception:
        return None
    except asyncio.CancelledError:
        runtime.bookkeeping.completed(request_facts(request, _TASK_ROUTE, None, started=started))
        raise
    if answer is None:
        return None
    status, body = answer
    try:
        data = _TASK_HEADS[status].with_body(body)
        await send_small(request, data, runtime.unsent, owner, runtime.streams.rules)
    except PeerGoneError as error:
        _log.info("answer.dropped", route=_TASK_ROUTE, key=owner, reason=str(error))
    finally:
        address = client_address(request, runtime.proxies) if is_refused else None
        facts = request_facts(request, _TASK_ROUTE, status, started=started, refused=address)
        runtime.bookkeeping.completed(facts)
    return SENT


async def _task_answer(
    runtime: Runtime, key: ApiKey, task_or_ref: str, provider: str | None
) -> tuple[int, bytes] | None:
    """Return the status and the body for a task, or None if the application has to answer."""
    if key.providers is not None and provider is not None and provider not in key.providers:
        return None
    runtime.unsent.check(key.name)
    task = await runtime.tasks.find(task_or_ref, provider, within=key.providers)
    if task is None:
        return None
    body = task_json(task, runtime.store.cursor_at)
    runtime.unsent.check_answer(key.name, len(body))
    if len(body) > _MOST_BYTES:
        return None
    runtime.metrics.fetched(task, time.time_ns() // 1000)
    return 202 if task.outcome is None else 200, body
