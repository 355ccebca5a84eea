"""The sandbox: a provider that runs on this machine, on loopback."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from typing import Self

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic_core import to_json

from client.errors import BadArgumentError
from client.sandbox.callbacks import Callbacks, Clock, SentCallback
from client.sandbox.counts import Stats
from client.sandbox.fates import FaultsFor
from client.sandbox.service import Made, Service
from client.sandbox.settings import Settings
from client.sandbox.wire import Answer
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
        """The callbacks sent so far (the newest 1,000), oldest first, once at least `count` were sent and ended.

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
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, HOST, self._port, backlog=1024).start()
            self._url = f"http://{HOST}:{runner.addresses[0][1]}"
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
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[self._errors_as_json])
        app.router.add_post("/createTask", self._create_task)
        app.router.add_post("/getTaskResult", self._get_task_result)
        app.router.add_post("/getBalance", self._get_balance)
        app.router.add_get("/sandbox/stats", self._get_stats, allow_head=False)
        return app

    async def _create_task(self, request: web.Request) -> web.StreamResponse:
        made = self._service.create_task(await request.read(), address=request.remote or "", now=self._clock.now())
        if isinstance(made, Answer):
            return _response(made)
        return await self._answer_made(request, made)

    async def _answer_made(self, request: web.Request, made: Made) -> web.StreamResponse:
        """Answers, and starts the callback: before the answer only where that was ordered."""
        task = made.task
        if task.is_sync:
            await self._clock.sleep(max(0.0, task.finished_at - self._clock.now()))
        has_callback = task.callback_url is not None and (not task.is_sync or self._settings.is_sync_called_back)
        is_early = task.fate.faults.callback == "early"
        if has_callback and is_early:
            await self._running.send_early(task)
        response = _response(made.answer)
        if task.fate.is_cut:
            self._service.counts.faults["createTask.cut"] += 1
            _abort(request)
        else:
            await _send(request, response)
        if has_callback and not is_early:
            self._running.start(task)
        return response

    async def _get_task_result(self, request: web.Request) -> web.StreamResponse:
        polled = self._service.get_task_result(
            await request.read(), address=request.remote or "", now=self._clock.now()
        )
        response = _response(polled.answer)
        if polled.fetched is not None:
            await _send(request, response)
            self._running.fetched(polled.fetched)
        return response

    async def _get_balance(self, request: web.Request) -> web.StreamResponse:
        return _response(
            self._service.get_balance(await request.read(), address=request.remote or "", now=self._clock.now())
        )

    async def _get_stats(self, request: web.Request) -> web.StreamResponse:
        del request
        return _response(Answer(200, to_json(self.stats.as_json())))

    @web.middleware
    async def _errors_as_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What aiohttp refuses by itself (405, 404, 413), in the provider's envelope."""
        try:
            return await handler(request)
        except web.HTTPError as error:
            answer = self._service.unreadable(error.reason, status=error.status)
            response = _response(answer)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response


def _check_settings(dialect: str, settings: Settings) -> None:
    profile_named(dialect)
    if dialect == "capsolver" and settings.error_status is not None:
        raise BadArgumentError("error_status: capsolver documents 400 and 401, so it is not for you to choose")


def _response(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status, body=answer.body, content_type=answer.content_type, headers=answer.headers
    )


async def _send(request: web.Request, response: web.Response) -> None:
    """Puts the answer on the wire now; a caller who went away keeps nothing from happening after it."""
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
