"""`GET /metrics`: the numbers, for a key with the scope admin, or for anyone at an address of their own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from receiver.errors import CannotStartError
from receiver.metrics import CONTENT_TYPE, Moment
from receiver.web.context import CONTEXT, Context
from receiver.web.problems import mark_as_declared
from receiver.web.server import Connections, Runner

__all__ = ["at_own_address", "metrics"]

_MOST_CONNECTIONS = 64


async def metrics(request: web.Request) -> web.Response:
    """The numbers as Prometheus takes them; 503 while the store cannot be read."""
    return await _rendered(request.app[CONTEXT])


def at_own_address(host: str, port: int) -> Callable[[web.Application], AsyncIterator[None]]:
    """What serves the numbers at an address of their own while the application runs.

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
