"""`GET or POST /callback/{provider}/{token}`: callbacks of providers.

Responses are tiny, never redirects, never cached, and say nothing about the task. A bad token costs one HMAC for each
signing key and touches no storage.
"""

from __future__ import annotations

import time
from contextlib import suppress

import structlog
from aiohttp import web

from client.providers import Dialect
from receiver.domain.deliveries import DeliveryResult
from receiver.domain.reading import CallbackRequest
from receiver.domain.tokens import CallbackToken, check_token
from receiver.domain.verdicts import UNREAD, VERDICTS, is_refusal
from receiver.errors import PROBLEMS, ReceiverError
from receiver.web.context import RUNTIME, Runtime
from receiver.web.server.bodies import read_body
from receiver.web.server.prebuilt import PrebuiltResponse

__all__ = ["LENIENT_PATH", "RECEIVED", "callback", "receive"]

LENIENT_PATH = "{lead:/*}callback{first:/+}{provider}{second:/+}{token}{tail:/*}"
"""Spellings that proxies and senders make of `callback/{provider}/{token}`: more slashes before, between and behind.

`%2F` is not one of them, because it is no separator (RFC 3986, 2.2). Proxies turn it into slashes, never the reverse.
"""

RECEIVED: web.RequestKey[object] = web.RequestKey("received", object)
"""The response of `receive`, or the error it raised, if it was called before the application."""

_LONGEST_LOGGED = 100
_HEADERS = {"Cache-Control": "no-store"}
_ACKNOWLEDGED = PrebuiltResponse("ok")

_log = structlog.get_logger()


async def callback(request: web.Request, app: web.Application | None = None) -> web.StreamResponse:
    """Answer a callback that came by the route.

    `app` is the receiver's application, if the route belongs to another one.
    """
    received = request.get(RECEIVED)
    if isinstance(received, Exception):
        raise received
    if isinstance(received, web.StreamResponse):
        return received
    runtime = (request.app if app is None else app)[RUNTIME]
    return await receive(request, runtime, request.match_info["provider"], request.match_info["token"])


async def receive(request: web.BaseRequest, runtime: Runtime, provider: str, token_text: str) -> web.StreamResponse:
    """Return the verdict as an HTTP status, once the delivery is durable."""
    started = time.perf_counter()
    # An unknown provider costs as much work as a bad token.
    token = check_token(token_text, provider, runtime.signing_keys)
    dialect = runtime.dialects.get(provider)
    if token is None or dialect is None or dialect.callback is None:
        _log.warning("callback.refused", status=404, reason="no such callback URL")
        runtime.metrics.refused(provider, 404)
        return _answer(404)
    if request.method == "GET" and not request.rel_url.raw_query_string:
        return _answer(404 if await runtime.callbacks.is_revoked(token) else 204)
    if request.method not in dialect.callback.methods:
        runtime.metrics.refused(dialect.provider, 405)
        _note(runtime, dialect, _without_waiting(request), is_readable=False)
        return _answer(405, Allow=", ".join(sorted(dialect.callback.methods)))
    try:
        delivered = await _deliver(request, runtime, dialect, token)
    except ReceiverError as error:
        status = PROBLEMS[error.slug].status
        _log.warning("callback.refused", provider=dialect.provider, status=status, reason=error.detail)
        runtime.metrics.refused(dialect.provider, status)
        return _answer(status, **_retry_after(error))
    # Nothing that happens after the commit may change the answer, not even a log that cannot be written.
    with suppress(Exception):
        runtime.metrics.delivered(dialect.provider, delivered.verdict, delivered.task)
        _stored(dialect, delivered, started)
    status = VERDICTS[delivered.verdict].status
    return _ACKNOWLEDGED if status == 200 and PrebuiltResponse.fits(request) else _answer(status)


async def _deliver(
    request: web.BaseRequest, runtime: Runtime, dialect: Dialect, token: CallbackToken
) -> DeliveryResult:
    try:
        body = await read_body(request, runtime.max_body_bytes)
    except ReceiverError:
        await runtime.callbacks.hint(token)
        raise
    incoming = _incoming(request, body)
    delivered = await runtime.callbacks.deliver(dialect, token, incoming)
    _note(runtime, dialect, incoming, is_readable=delivered.verdict not in UNREAD)
    return delivered


def _incoming(request: web.BaseRequest, body: bytes) -> CallbackRequest:
    query = request.rel_url.raw_query_string.encode("utf-8", "surrogateescape")
    return CallbackRequest(method=request.method, headers=request.headers, query=query, body=body)


def _without_waiting(request: web.BaseRequest) -> CallbackRequest | None:
    """Return the request if its body has arrived completely. A request that is refused is not waited for."""
    if not request.content.is_eof() or "Content-Encoding" in request.headers:
        return None
    with suppress(Exception):
        return _incoming(request, request.content.read_nowait())
    return None


def _note(runtime: Runtime, dialect: Dialect, incoming: CallbackRequest | None, *, is_readable: bool) -> None:
    """Record the shape of the callback. Errors in that do not change the response."""
    with suppress(Exception):
        if incoming is not None:
            runtime.observer.note(dialect.provider, incoming, is_readable=is_readable)


def _stored(dialect: Dialect, delivered: DeliveryResult, started: float) -> None:
    task = delivered.task
    _log.info(
        "callback.stored",
        provider=dialect.provider,
        verdict=delivered.verdict,
        ref=None if task is None else task.ref,
        taskId=None if task is None or task.id_text is None else task.id_text[:_LONGEST_LOGGED],
        milliseconds=round((time.perf_counter() - started) * 1000, 2),
    )


def _retry_after(error: ReceiverError) -> dict[str, str]:
    return {} if error.retry_after_seconds is None else {"Retry-After": str(error.retry_after_seconds)}


def _answer(status: int, **headers: str) -> web.Response:
    body = None if status == 204 else b"refused" if is_refusal(status) else b"ok"
    all_headers = {**_HEADERS, **{name.replace("Retry_After", "Retry-After"): value for name, value in headers.items()}}
    return web.Response(status=status, body=body, content_type="text/plain", headers=all_headers)
