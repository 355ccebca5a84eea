"""Errors as `application/problem+json` (RFC 9457), readable as errors of the createTask family too."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import structlog
from aiohttp import web
from pydantic_core import to_json

from client.protocol.models import PROBLEM_PREFIX
from receiver.errors import PROBLEMS, ReceiverError
from receiver.settings import ApiKey
from receiver.web.context import RUNTIME
from receiver.web.edge.addresses import client_address
from receiver.web.server.bodies import is_inflated_below
from receiver.web.server.prebuilt import SECURITY_HEADERS
from receiver.web.server.unsent import send_answer
from receiver.web.streaming.streams import PeerGoneError

__all__ = [
    "API_KEY",
    "KEY_NAME",
    "STREAM_FACTS",
    "Handler",
    "mark_as_declared",
    "problem_fields",
    "problem_response",
    "request_facts",
    "request_middleware",
]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

API_KEY: web.RequestKey[ApiKey] = web.RequestKey("api_key", ApiKey)
"""The API key of a request."""

KEY_NAME: web.RequestKey[str] = web.RequestKey("key_name", str)
"""Name of the API key of a request, for its log line."""

STREAM_FACTS: web.RequestKey[dict[str, Any]] = web.RequestKey("stream_facts", dict)
"""Further fields of a stream's log line."""

_log = structlog.get_logger()


@web.middleware
async def request_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into problems, and write one log line for each request at its end.

    The line names the route, never the path: paths of callbacks hold tokens, and queries hold tickets. The status is
    null if the peer hung up before there was one.
    """
    started = time.perf_counter()
    status = None
    try:
        response = await _limited_answer(request, handler)
        status = response.status
        _stop_inflating(request, response)
        if isinstance(response, web.Response) and not response.prepared:
            response = await _sent(request, response)
            status = response.status
        return response
    finally:
        # Also for a cancelled request: so ends a stream whose peer hangs up, or a guess before its delayed refusal.
        route = _route(request)
        if route not in _QUIET_ROUTES and _is_logged(request):
            refused = _refused_address(request, status)
            facts = request_facts(request, route, status, started=started, refused=refused)
            _log.info("request.completed", **facts | request.get(STREAM_FACTS, {}))


def request_facts(
    request: web.BaseRequest, route: str, status: int | None, *, started: float, refused: str | None = None
) -> dict[str, Any]:
    """Return the fields of a request's log line. `started` is a time of `time.perf_counter`.

    `refused` is the address of the client if the request was refused.
    """
    facts: dict[str, Any] = {
        "method": request.method,
        "route": route,
        "status": status,
        "key": request.get(KEY_NAME),
        "milliseconds": round((time.perf_counter() - started) * 1000, 2),
    }
    if refused is not None:
        facts["address"] = refused
    return facts


async def mark_as_declared(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add the headers that keep a browser from taking a response for a page."""
    response.headers.update(SECURITY_HEADERS)


def problem_fields(error: ReceiverError) -> dict[str, Any]:
    """Return the members of the problem for `error`."""
    problem = PROBLEMS[error.slug]
    return {
        "type": f"{PROBLEM_PREFIX}{error.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": error.detail,
        "errorId": 1,
        "errorCode": f"RECEIVER_{error.slug.upper().replace('-', '_')}",
        "errorDescription": error.detail,
        **error.extra,
    }


def problem_response(error: ReceiverError) -> web.Response:
    """Return the problem for `error` as a response."""
    problem = PROBLEMS[error.slug]
    body = problem_fields(error)
    headers = {"Cache-Control": "no-store", **error.headers}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="callback-receiver"'
    return web.Response(
        status=problem.status, body=to_json(body), content_type="application/problem+json", headers=headers
    )


async def _sent(request: web.Request, response: web.Response) -> web.Response:
    """Send the response, or a refusal if too many bytes wait already. Only a GET is refused: it changed nothing."""
    runtime = request.app.get(RUNTIME)
    if runtime is None:
        # A callback through a route of another application: its response is tiny.
        return response
    owner = request.get(KEY_NAME, "")
    if request.method == "GET":
        try:
            runtime.unsent.check_answer(owner, _size_of(response))
        except ReceiverError as error:
            response = problem_response(error)
    try:
        with runtime.unsent.counted(owner, _size_of(response)):
            await send_answer(runtime.streams.rules.send_seconds, request, response)
    except PeerGoneError as error:
        _log.info("answer.dropped", route=_route(request), key=owner or None, reason=str(error))
    return response


def _size_of(response: web.Response) -> int:
    return len(response.body) if isinstance(response.body, bytes) else 0


def _is_logged(request: web.Request) -> bool:
    """Return True for each request with a key. Lines about strangers are limited, documents for anyone included."""
    runtime = request.app.get(RUNTIME)
    return runtime is None or KEY_NAME in request or runtime.edge.logs_refusal(request)


def _refused_address(request: web.Request, status: int | None) -> str | None:
    runtime = request.app.get(RUNTIME)
    if status is None or status < 400 or runtime is None:
        return None
    return client_address(request, runtime.proxies)


def _stop_inflating(request: web.Request, response: web.StreamResponse) -> None:
    """Close the connection if the server of another application would inflate the rest of the body to drop it."""
    if not request.content.is_eof() and is_inflated_below(request):
        response.force_close()
        # From now on the connection parses nothing.
        request.protocol.close()


async def _limited_answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer within the limits of the edge. Callbacks have limits of their own, and probes have none."""
    runtime, route = request.app.get(RUNTIME), _route(request)
    if runtime is None or route in _QUIET_ROUTES:
        return await _answer(request, handler)
    try:
        # Metrics are read when something is wrong.
        with nullcontext() if route == "/metrics" else runtime.edge.at_once():
            response = await _answer(request, handler)
            if KEY_NAME not in request:
                # Whatever the answer is, no key has paid for it.
                runtime.edge.admit_stranger(request)
            return response
    except ReceiverError as error:
        return problem_response(error)


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ReceiverError as error:
        return problem_response(error)
    except web.HTTPException as error:
        return _from_http(error)
    except Exception:
        _log.exception("request.failed", method=request.method, route=_route(request))
        return problem_response(ReceiverError("server-error", "the receiver failed; the reason is in its log"))


# Callbacks write their own line, with the verdict; probes would only fill the log.
_CALLBACK = "/callback/{provider}/{token}"
_QUIET_ROUTES = (_CALLBACK, "/healthz", "/readyz")


def _route(request: web.Request) -> str:
    if "token" in request.match_info:
        return _CALLBACK
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def _from_http(error: web.HTTPException) -> web.Response:
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            response = problem_response(ReceiverError("method-not-allowed", f"expected {allowed}, got {error.method}"))
            response.headers["Allow"] = allowed
        case web.HTTPNotFound():
            response = problem_response(ReceiverError("not-found", "this receiver has nothing at this address"))
        case web.HTTPRequestEntityTooLarge():
            response = problem_response(
                ReceiverError("body-too-large", "body: it is larger than this receiver accepts")
            )
        case _:
            response = problem_response(ReceiverError("bad-request", error.reason))
    return response
