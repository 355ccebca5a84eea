"""The sandbox: a provider on loopback. Its HTTP is read here, and answered by the service."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Self

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic_core import to_json

from client.errors import BadArgumentError
from client.sandbox.callbacks import Callbacks, Clock, SentCallback
from client.sandbox.counts import Stats
from client.sandbox.faults import FaultsFor
from client.sandbox.requests import (
    SCRAPELESS_KEY_HEADER,
    in_php_fields,
    read_fields,
    res_php_fields,
    scrapeless_create_fields,
    scrapeless_result_fields,
)
from client.sandbox.service import Caller, ReadFields, Reply, SandboxTask, Service
from client.sandbox.serving import serving
from client.sandbox.settings import SandboxSettings
from client.sandbox.wires.answers import Answer, as_text
from client.sandbox.wires.profiles import profile_named

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
    """A provider on `127.0.0.1` that speaks `dialect`, any of those in `client.sandbox.wires.profiles`, at its root.

    Listens from `async with` on, at `url` (port 0: any free one). `faults_for` is asked for the faults of each task
    without faults in its field `sandbox`. If it gives None, they are drawn by the rates of `settings`.
    Leaving the context, also by cancellation, drops unsent callbacks and closes all sockets. An object can be entered
    once.

    Raises:
        BadArgumentError: no such dialect, or a setting that has no meaning in it.
    """

    def __init__(
        self,
        dialect: str = "capsolver",
        settings: SandboxSettings | None = None,
        *,
        port: int = 0,
        faults_for: FaultsFor | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings or SandboxSettings()
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
        """All counts so far, as a snapshot; the same as `GET /sandbox/stats`."""
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
                self._app(self._callbacks),
                access_log=None,
                handler_cancellation=False,
                shutdown_timeout=_SHUTDOWN_SECONDS,
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

    def _app(self, callbacks: Callbacks) -> web.Application:
        routes = _Routes(self._service, callbacks, settings=self._settings, clock=self._clock)
        app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[routes.errors_as_answers])
        routes.add_to(app.router)
        return app


def _check_settings(dialect: str, settings: SandboxSettings) -> None:
    if profile_named(dialect).has_known_error_status and settings.error_status is not None:
        reason = "documents 400 and 401" if dialect == "capsolver" else "has one that is known"
        raise BadArgumentError(f"error_status: {dialect} {reason}, so it is not for you to choose")


class _Routes:
    """The requests of one sandbox: each is read, given to the service, and answered."""

    def __init__(self, service: Service, callbacks: Callbacks, *, settings: SandboxSettings, clock: Clock) -> None:
        self._service = service
        self._callbacks = callbacks
        self._settings = settings
        self._clock = clock

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the paths of the provider and of the statistics."""
        match self._service.profile.api:
            case "json":
                for call in ("createTask", "getTaskResult", "getBalance", *self._service.side_calls):
                    router.add_post(f"/{call}", partial(self._json, call))
            case "v1":
                for method in ("GET", "POST"):
                    router.add_route(method, "/in.php", self._in_php)
                    router.add_route(method, "/res.php", self._res_php)
            case "scrapeless":
                router.add_post("/api/v1/createTask", self._create_scrapeless)
                router.add_get("/api/v1/getTaskResult/{task_id}", self._get_scrapeless)
        router.add_get("/sandbox/stats", self._stats, allow_head=False)

    @web.middleware
    async def errors_as_answers(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer the refusals of aiohttp itself (405, 404, 413) in the provider's envelope."""
        try:
            return await handler(request)
        except web.HTTPError as error:
            response = _response(self._service.unreadable(error.reason, status=error.status))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response

    async def _json(self, call: str, request: web.Request) -> web.StreamResponse:
        return await self._respond(request, self._call(call, partial(read_fields, await request.read()), request))

    async def _in_php(self, request: web.Request) -> web.StreamResponse:
        form = await _form(request)
        reply = self._call("createTask", partial(in_php_fields, form, is_get=request.method == "GET"), request)
        return await self._respond(request, _as_asked(reply, "in", form))

    async def _res_php(self, request: web.Request) -> web.StreamResponse:
        form = {name: value for name, value in (await _form(request)).items() if isinstance(value, str)}
        action = form.get("action", "")
        side_calls = {name: name for name in self._service.side_calls}
        call = {"get": "getTaskResult", "getbalance": "getBalance", **side_calls}.get(action)
        if call is None:
            reply = Reply(self._service.unreadable("action: unknown", status=200))
        else:
            reply = self._call(call, partial(res_php_fields, form), request)
        return await self._respond(request, _as_asked(reply, action, form))

    async def _create_scrapeless(self, request: web.Request) -> web.StreamResponse:
        body, key = await request.read(), request.headers.get(SCRAPELESS_KEY_HEADER)
        reply = self._call("createTask", lambda: scrapeless_create_fields(read_fields(body), key), request)
        return await self._respond(request, reply)

    async def _get_scrapeless(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get(SCRAPELESS_KEY_HEADER)
        read = partial(scrapeless_result_fields, request.match_info["task_id"], key)
        return await self._respond(request, self._call("getTaskResult", read, request))

    async def _stats(self, request: web.Request) -> web.StreamResponse:
        del request
        return _response(Answer(200, to_json(self._service.stats().as_json())))

    def _call(self, name: str, read: ReadFields, request: web.Request) -> Reply:
        return self._service.call(name, read, Caller(request.remote or "", self._clock.now()))

    async def _respond(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = _response(reply.answer)
        if reply.made is not None:
            await self._respond_created(request, response, reply.made)
        elif reply.fetched is not None:
            await _send(request, response)
            self._callbacks.fetched(reply.fetched)
        return response

    async def _respond_created(self, request: web.Request, response: web.Response, task: SandboxTask) -> None:
        """Send the answer and start the callback. An early callback goes before the answer."""
        if task.is_sync:
            await self._clock.sleep(max(0.0, task.finished_at - self._clock.now()))
        has_callback = task.callback_url is not None and (not task.is_sync or self._settings.is_sync_called_back)
        is_early = task.plan.faults.callback == "early"
        if has_callback and is_early:
            await self._callbacks.send_early(task)
        if task.plan.is_cut:
            self._service.counts.faults["createTask.cut"] += 1
            if request.transport is not None:
                request.transport.abort()
        else:
            await _send(request, response)
        if has_callback and not is_early:
            self._callbacks.start(task)


def _as_asked(reply: Reply, action: str, form: Mapping[str, str | bytes]) -> Reply:
    """Return the answer as JSON for `json=1`, otherwise as text."""
    return reply if form.get("json") == "1" else replace(reply, answer=as_text(reply.answer, action))


async def _form(request: web.Request) -> Mapping[str, str | bytes]:
    """Return the fields of the form or of the query; a file is its bytes.

    Raises:
        web.HTTPBadRequest: it cannot be read.
    """
    try:
        posted = await request.post()
        fields: dict[str, str | bytes] = dict(request.query)
        for name, value in posted.items():
            fields[name] = value.file.read() if isinstance(value, web.FileField) else _as_sent(value)
    except ValueError:
        raise web.HTTPBadRequest from None
    return fields


def _as_sent(value: str | bytes | bytearray) -> str | bytes:
    return value if isinstance(value, str) else bytes(value)


def _response(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status, body=answer.body, content_type=answer.content_type, headers=answer.headers
    )


async def _send(request: web.Request, response: web.Response) -> None:
    """Put the answer on the wire now. If the caller went away, everything after it happens all the same."""
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
