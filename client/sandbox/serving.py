"""A server on a socket of ours. It leaves no connection behind when it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

__all__ = ["serving", "stop_accepting"]

_BACKLOG = 1024
# An accepted connection needs one turn of the event loop for its transport and one to reach its protocol. If the
# protocol runs a coroutine, its first step needs one more.
_TURNS = 3


@asynccontextmanager
async def serving(runner: web.BaseRunner, listener: socket.socket | None = None) -> AsyncIterator[str]:
    """Serve on `listener`, or on a free port of loopback. Yield the URL.

    On leaving, the runner is cleaned up and all its connections are closed, even the last accepted ones.
    """
    with listener or socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()[:2]
        try:
            await runner.setup()
            await web.SockSite(runner, listening, backlog=_BACKLOG).start()
            yield f"http://{host}:{port}"
        finally:
            await stop_accepting(listening)
            await runner.cleanup()


async def stop_accepting(listener: socket.socket) -> None:
    """Accept no further connection. Return when the server has all accepted connections, so that it closes them.

    Call this before closing a server. The event loop accepts a connection in one turn and gives it to the server in the
    next. If the server is closed between the two, nothing closes the connection. Its peer then waits until the socket
    is collected as garbage (https://github.com/python/cpython/issues/109564). Remove this function with the last Python
    of that behaviour.
    """
    if listener.fileno() < 0:
        return
    with suppress(NotImplementedError):
        # The event loop of Windows accepts in another way.
        asyncio.get_running_loop().remove_reader(listener)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
