"""The sandbox: a provider that runs on this machine, on loopback."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack
from typing import Self

import aiohttp
from aiohttp import web

from client.errors import BadArgumentError
from client.sandbox.callbacks import Callbacks, Clock, SentCallback
from client.sandbox.calls import Calls
from client.sandbox.counts import Stats
from client.sandbox.fates import FaultsFor
from client.sandbox.service import Service
from client.sandbox.serving import serving
from client.sandbox.settings import Settings
from client.sandbox.wires import profile_named

__all__ = ["HOST", "Sandbox"]

HOST = "127.0.0.1"
_MAX_BODY_BYTES = 16 * 1024 * 1024
_SHUTDOWN_SECONDS = 0.2
_PARALLEL_CALLBACKS = 100


class _MonotonicClock:
    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Sandbox:
    """A provider on `127.0.0.1` that speaks `dialect`, any of those in `client.sandbox.wires`, at its root.

    Listens from `async with` on, at `url` (port 0: any free one). `faults_for` is asked for the faults of each task
    that does not order any in its field `sandbox`; where it gives None they are drawn by the rates of `settings`.
    Leaving the context, also by cancellation, drops the callbacks that were not sent and closes all sockets. The same
    object can be entered once.

    Raises:
        BadArgumentError: no such dialect, or a setting that has no meaning in it.
    """

    def __init__(
        self,
        dialect: str = "capsolver",
        settings: Settings | None = None,
        *,
        port: int = 0,
        faults_for: FaultsFor | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings or Settings()
        _check_settings(dialect, self._settings)
        self._service = Service(dialect, self._settings, faults_for=faults_for)
        self._clock = clock or _MonotonicClock()
        self._port = port
        self._url = ""
        self._callbacks: Callbacks | None = None
        self._stack: AsyncExitStack | None = None

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end; "" before the start."""
        return self._url

    @property
    def stats(self) -> Stats:
        """Everything counted so far, as a snapshot; the same as `GET /sandbox/stats`."""
        return self._service.stats()

    async def sent_callbacks(self, count: int = 0, *, timeout: float = 10.0) -> list[SentCallback]:
        """Return the callbacks sent so far (the newest 1,000), oldest first, once at least `count` were sent and ended.

        Raises:
            TimeoutError: there were fewer within `timeout` seconds.
        """
        return await self._running.wait_for(count, timeout)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(self._new_session())
            group = asyncio.TaskGroup()
            await group.__aenter__()
            # Always left as if all were well: an error of the caller must not come out as part of an ExceptionGroup.
            stack.push_async_callback(group.__aexit__, None, None, None)
            self._callbacks = Callbacks(
                group=group, session=session, service=self._service, settings=self._settings, clock=self._clock
            )
            stack.callback(self._callbacks.cancel)
            runner = web.AppRunner(
                self._app(), access_log=None, handler_cancellation=False, shutdown_timeout=_SHUTDOWN_SECONDS
            )
            self._url = await stack.enter_async_context(serving(runner, socket.create_server((HOST, self._port))))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._stack is not None:
            await self._stack.aclose()

    @property
    def _running(self) -> Callbacks:
        if self._callbacks is None:
            raise RuntimeError("the sandbox was not entered: use it in `async with`")
        return self._callbacks

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_PARALLEL_CALLBACKS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=self._settings.callback_timeout_seconds or self._service.profile.callback_seconds
            ),
        )

    def _app(self) -> web.Application:
        calls = Calls(self._service, self._running, settings=self._settings, clock=self._clock)
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[calls.errors_as_answers])
        calls.add_routes(app.router)
        return app


def _check_settings(dialect: str, settings: Settings) -> None:
    if profile_named(dialect).has_known_error_status and settings.error_status is not None:
        known = "documents 400 and 401" if dialect == "capsolver" else "has one that is known"
        raise BadArgumentError(f"error_status: {dialect} {known}, so it is not for you to choose")
