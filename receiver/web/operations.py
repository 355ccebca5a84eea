"""Routes for operators: health, metrics, the written contracts, and proof of the host."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from importlib.resources import files

from aiohttp import web

from receiver.errors import CannotStartError
from receiver.metrics import CONTENT_TYPE, Moment
from receiver.web.context import CONTEXT, Context
from receiver.web.middleware import mark_as_declared
from receiver.web.server.connections import Connections, Runner
from receiver.web.views import json_response

__all__ = ["asyncapi", "at_own_address", "healthz", "metrics", "openapi", "readyz", "verification"]

_MOST_CONNECTIONS = 64


async def healthz(_request: web.Request) -> web.Response:
    """200 while the process lives."""
    return json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """200 while the last commit, or the probe that is made every 5 s, succeeded; 503 with the reason otherwise."""
    failure = request.app[CONTEXT].inbox.failure
    if failure is not None:
        return json_response({"status": "not ready", "reason": failure}, 503)
    return json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """Return the numbers as Prometheus takes them; 503 while the store cannot be read."""
    return await _rendered(request.app[CONTEXT])


def at_own_address(host: str, port: int) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a cleanup context that serves the metrics at an address of their own.

    Raises:
        CannotStartError: at startup, where the address cannot be listened on.
    """

    async def listening(app: web.Application) -> AsyncIterator[None]:
        async def answer(_request: web.Request) -> web.Response:
            return await _rendered(app[CONTEXT])

        alone = web.Application()
        alone.router.add_get("/metrics", answer)
        alone.on_response_prepare.append(mark_as_declared)
        closed = app[CONTEXT].metrics.connection_closed
        send_seconds = app[CONTEXT].streams.rules.send_seconds
        connections = Connections(_MOST_CONNECTIONS, closed, app[CONTEXT].streams.budget, send_seconds=send_seconds)
        runner = Runner(alone, connections, shutdown_timeout=1)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                text = f"RECEIVER_METRICS_ADDRESS: cannot listen on {host}:{port}: {error.strerror}"
                raise CannotStartError(text) from None
            yield
        finally:
            await runner.cleanup()

    return listening


async def asyncapi(_request: web.Request) -> web.Response:
    """Return the contract of the streams, for anyone."""
    return json_response(_written("asyncapi.json"))


async def openapi(_request: web.Request) -> web.Response:
    """Return the contract of everything else, for anyone."""
    return json_response(_written("openapi.json"))


def verification(text: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that answers with this text, as it is: proof that the host is the account's own.

    2captcha asks for it at the root of the host before it calls back there (two independent implementations serve it;
    providers/README.md, "Form callbacks"). Its name and its text are settings, because those of other services are not
    known.
    """

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/plain", headers={"Cache-Control": "no-store"})

    return answer


async def _rendered(context: Context) -> web.Response:
    inbox, connections = context.inbox, context.connections
    moment = Moment(
        waiting=await inbox.waiting_tasks(),
        waiters=inbox.waiting,
        streams=inbox.streams,
        connections=0 if connections is None else len(connections),
        idle_connections=0 if connections is None else connections.idle,
        queued=inbox.queued,
        is_failing=inbox.failure is not None,
        now=time.time_ns() // 1000,
    )
    text = context.metrics.rendered(moment)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})


@cache
def _written(name: str) -> bytes:
    return files("receiver.web").joinpath(name).read_bytes()
