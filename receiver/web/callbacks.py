"""`GET or POST /callback/{provider}/{token}`: callbacks of providers.

Responses are tiny, never redirects, never cached, and say nothing about the task. A bad token costs up to four
HMACs for each signing key and touches no storage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import HttpVersion11, StreamReader, web

from client.providers import Dialect
from receiver.domain.deliveries import DeliveryResult
from receiver.domain.reading import CallbackRequest
from receiver.domain.tokens import CallbackToken
from receiver.domain.verdicts import VERDICTS, is_refusal
from receiver.errors import PROBLEMS, ReceiverError, TooManyRequestsError
from receiver.service.callbacks import Delivery
from receiver.settings import Network
from receiver.web.context import RUNTIME, Runtime
from receiver.web.edge.addresses import client_address, client_ip, is_in
from receiver.web.server.bodies import read_body
from receiver.web.server.prebuilt import PrebuiltResponse

__all__ = ["BEGUN", "LENIENT_PATH", "RECEIVED", "Begun", "begin", "callback", "receive"]

LENIENT_PATH = "{lead:/*}callback{first:/+}{provider}{second:/+}{token}{tail:/*}"
"""Spellings that proxies and senders make of `callback/{provider}/{token}`: more slashes before, between and behind.

`%2F` is not one of them, because it is no separator (RFC 3986, 2.2). Proxies turn it into slashes, never the reverse.
"""

RECEIVED: web.RequestKey[object] = web.RequestKey("received", object)
"""The response of `receive`, or the error it raised, if it was called before the application."""

_NO_HEADERS: Mapping[str, str] = {}
_HEADERS = {"Cache-Control": "no-store"}
_ACKNOWLEDGED = PrebuiltResponse("ok")

_log = structlog.get_logger()


# Not frozen, as one is made for each callback. Nothing changes it.
@dataclass(slots=True)
class Begun:
    """A callback that is being stored before aiohttp has made a request of it."""

    runtime: Runtime
    incoming: CallbackRequest
    delivery: Delivery
    started: float

    @property
    def stored(self) -> asyncio.Future[DeliveryResult]:
        """Done once it is stored, or could not be."""
        return self.delivery.stored

    def acknowledgement(self) -> bytes | None:
        """Return the whole response once it is stored. None: `receive` has to make another one."""
        if self.stored.exception() is not None or VERDICTS[self.stored.result().verdict].status != 200:
            return None
        delivered = self.runtime.callbacks.end(self.delivery)
        self.runtime.bookkeeping.stored(self.delivery.dialect.provider, self.incoming, delivered, self.started)
        return _ACKNOWLEDGED.whole()

    async def result(self) -> tuple[CallbackRequest, DeliveryResult]:
        """Return the callback and the verdict on it, or raise as `Callbacks.deliver` does."""
        return self.incoming, self.runtime.callbacks.end(self.delivery)


BEGUN: web.RequestKey[Begun] = web.RequestKey("begun", Begun)
"""The callback of a request, if it has begun already."""


def begin(runtime: Runtime, provider: str, token_text: str, message: Any, body: StreamReader) -> Begun | None:
    """Begin to store a plain callback. None, if there may be something else to do; then nothing has changed.

    `message` is a parsed head of aiohttp. The future may have failed already.
    """
    started = time.perf_counter()
    if not body.is_eof() or body.exception() is not None or body.total_bytes > runtime.max_body_bytes:
        return None
    if message.should_close or message.upgrade or message.version != HttpVersion11:
        return None
    headers = message.headers
    if "Content-Encoding" in headers or "Expect" in headers:
        return None
    token, dialect = runtime.signing_keys.check(token_text, provider), runtime.dialects.get(provider)
    if token is None or dialect is None or dialect.callback is None or message.method not in dialect.callback.methods:
        return None
    if provider in runtime.callback_networks or runtime.callbacks.makes_nothing(dialect, token):
        return None
    incoming = CallbackRequest(method=message.method, headers=headers, query=b"", body=body.read_nowait())
    return Begun(runtime, incoming, runtime.callbacks.begin(dialect, token, incoming), started)


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
    begun = request.get(BEGUN)
    if begun is not None:
        return await _answer_when_stored(request, runtime, begun.delivery.dialect, begun.result(), begun.started)
    started = time.perf_counter()
    # An unknown provider costs as much work as a bad token.
    token = runtime.signing_keys.check(token_text, provider)
    dialect = runtime.dialects.get(provider)
    if token is None or dialect is None or dialect.callback is None:
        return _refused_stranger(request, runtime, provider)
    if request.method == "GET" and not request.rel_url.raw_query_string:
        return _answer(404 if await runtime.callbacks.is_revoked(token) else 204)
    if request.method not in dialect.callback.methods:
        runtime.metrics.refused(dialect.provider, 405)
        _note_unread(runtime, dialect, request)
        return _answer(405, {"Allow": ", ".join(sorted(dialect.callback.methods))})
    return await _answer_when_stored(request, runtime, dialect, _deliver(request, runtime, dialect, token), started)


async def _deliver(
    request: web.BaseRequest, runtime: Runtime, dialect: Dialect, token: CallbackToken
) -> tuple[CallbackRequest, DeliveryResult]:
    incoming = _incoming(request, await _body_of(request, runtime, token))
    networks = runtime.callback_networks.get(dialect.provider)
    if networks is not None:
        incoming.is_foreign = not _is_from(request, networks, runtime)
    return incoming, await runtime.callbacks.deliver(dialect, token, incoming)


async def _answer_when_stored(
    request: web.BaseRequest,
    runtime: Runtime,
    dialect: Dialect,
    delivering: Awaitable[tuple[CallbackRequest, DeliveryResult]],
    started: float,
) -> web.StreamResponse:
    try:
        incoming, delivered = await delivering
    except ReceiverError as error:
        status = PROBLEMS[error.slug].status
        # Whoever kept a revoked URL, or knows a key that ends, is a stranger to the log.
        if error.slug != "not-found" or runtime.edge.logs_refusal(request):
            address = client_address(request, runtime.proxies)
            name, reason = dialect.provider, error.detail
            _log.warning("callback.refused", provider=name, status=status, address=address, reason=reason)
        runtime.metrics.refused(dialect.provider, status)
        return _answer(status, _headers_of(error))
    status = VERDICTS[delivered.verdict].status
    if status >= 400:
        incoming.address = client_address(request, runtime.proxies)
    runtime.bookkeeping.stored(dialect.provider, incoming, delivered, started)
    return _ACKNOWLEDGED if status == 200 and PrebuiltResponse.fits(request) else _answer(status)


def _refused_stranger(request: web.BaseRequest, runtime: Runtime, provider: str) -> web.Response:
    status, headers = 404, _NO_HEADERS
    try:
        runtime.edge.admit_stranger(request)
    except TooManyRequestsError as error:
        status, headers = PROBLEMS[error.slug].status, _headers_of(error)
    runtime.metrics.refused(provider, status)
    if runtime.edge.logs_refusal(request):
        address = client_address(request, runtime.proxies)
        _log.warning("callback.refused", status=status, address=address, reason="no such callback URL")
    return _answer(status, headers)


async def _body_of(request: web.BaseRequest, runtime: Runtime, token: CallbackToken) -> bytes:
    try:
        return await read_body(request, runtime.max_body_bytes)
    except ReceiverError:
        await runtime.callbacks.hint(token)
        raise


def _incoming(request: web.BaseRequest, body: bytes) -> CallbackRequest:
    query = b""
    if "?" in request.raw_path:
        query = request.rel_url.raw_query_string.encode("utf-8", "surrogateescape")
    return CallbackRequest(method=request.method, headers=request.headers, query=query, body=body)


def _is_from(request: web.BaseRequest, networks: Sequence[Network], runtime: Runtime) -> bool:
    address = client_ip(request, runtime.proxies)
    return address is not None and is_in(address, networks)


def _note_unread(runtime: Runtime, dialect: Dialect, request: web.BaseRequest) -> None:
    """Record the shape of a refused request if its body has arrived completely. It is not waited for."""
    if not request.content.is_eof() or "Content-Encoding" in request.headers:
        return
    # Errors in that do not change the response.
    with suppress(Exception):
        incoming = _incoming(request, request.content.read_nowait())
        runtime.observer.note(dialect.provider, incoming, is_readable=False)


def _headers_of(error: ReceiverError) -> Mapping[str, str]:
    if error.retry_after_seconds is None:
        return error.headers
    return {"Retry-After": str(error.retry_after_seconds), **error.headers}


def _answer(status: int, headers: Mapping[str, str] = _NO_HEADERS) -> web.Response:
    body = None if status == 204 else b"refused" if is_refusal(status) else b"ok"
    return web.Response(status=status, body=body, content_type="text/plain", headers={**_HEADERS, **headers})
