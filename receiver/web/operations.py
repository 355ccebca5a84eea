"""Routes for operators: health, metrics, the written contracts, and proof of the host."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from importlib.resources import files

from aiohttp import web

from receiver.errors import CannotStartError, ReceiverError
from receiver.metrics import CONTENT_TYPE, Moment
from receiver.web.context import RUNTIME
from receiver.web.edge.edge import Edge
from receiver.web.middleware import API_KEY, mark_as_declared
from receiver.web.server.connections import CONNECTIONS, ConnectionRules, Connections
from receiver.web.server.runner import Runner
from receiver.web.views import json_response

__all__ = ["asyncapi", "at_own_address", "healthz", "metrics", "openapi", "readyz", "verification"]

_MOST_CONNECTIONS = 64


async def healthz(request: web.Request) -> web.Response:
    """`GET /healthz`: 200 while the process lives, 503 from a signal to end on."""
    if request.app[RUNTIME].waits.is_leaving:
        return json_response({"status": "stopping"}, 503)
    return json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: 503 with the reason if the last commit or probe (every 5 s) failed or was too slow, else 200.

    It is 503, too, from a signal to end until the end.
    """
    runtime = request.app[RUNTIME]
    failure = "the receiver is stopping" if runtime.waits.is_leaving else runtime.store.failure
    if failure is not None:
        return json_response({"status": "not ready", "reason": failure}, 503)
    return json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """Return the metrics for Prometheus; 503 while the store cannot be read.

    They are of all providers. So a key limited to some gets 403.
    """
    key = request[API_KEY]
    if key.providers is not None:
        text = f"the metrics are of all providers, and the API key {key.name} is limited to some"
        raise ReceiverError("provider-not-allowed", text)
    return await _rendered(request.app)


def at_own_address(host: str, port: int) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a cleanup context that serves the metrics at their own address while the application runs.

    Raises:
        CannotStartError: at startup, if it cannot listen at the address.
    """

    async def listening(app: web.Application) -> AsyncIterator[None]:
        async def answer(_request: web.Request) -> web.Response:
            return await _rendered(app)

        alone = web.Application()
        alone.router.add_get("/metrics", answer)
        alone.on_response_prepare.append(mark_as_declared)
        runtime = app[RUNTIME]
        rules = ConnectionRules(most=_MOST_CONNECTIONS, send_seconds=runtime.streams.rules.send_seconds)
        # Beside the receiver's own edge, because this listener has no room to share.
        alone[CONNECTIONS] = Connections(rules, runtime.metrics.connection_closed, runtime.streams.budget, Edge())
        runner = Runner(alone, shutdown_timeout=1)
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
    """Return the contract of the HTTP API, for anyone."""
    return json_response(_written("openapi.json"))


async def verification(request: web.Request) -> web.Response:
    """Return the text of the settings as it is: proof that the host is the account's own.

    2captcha asks for it at the root of the host before it calls back there (two independent implementations serve it;
    providers/README.md, "Form callbacks"). Its name and its text are settings, because those of other services are not
    known.
    """
    text = request.app[RUNTIME].verification_text
    return web.Response(text=text, content_type="text/plain", headers={"Cache-Control": "no-store"})


async def _rendered(app: web.Application) -> web.Response:
    runtime, connections = app[RUNTIME], app.get(CONNECTIONS)
    store = runtime.store
    moment = Moment(
        waiting=await store.waiting_tasks(),
        waiters=runtime.waits.waiting,
        streams=runtime.waits.streams,
        connections=0 if connections is None else len(connections),
        idle_connections=0 if connections is None else connections.idle,
        queued=store.queued,
        is_failing=store.failure is not None,
        is_overloaded=runtime.overload.refuses_reads,
        now=time.time_ns() // 1000,
    )
    text = runtime.metrics.rendered(moment)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})


@cache
def _written(name: str) -> bytes:
    return files("receiver.web").joinpath(name).read_bytes()
