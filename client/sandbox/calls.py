"""The HTTP side of a sandbox: each request is read, given to the service, and answered."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic_core import to_json

from client.sandbox.callbacks import Callbacks, Clock
from client.sandbox.reading import read_fields
from client.sandbox.service import Made, Polled, Read, Service
from client.sandbox.settings import Settings
from client.sandbox.side_calls import SideCalls
from client.sandbox.wires.capsolver import Answer
from client.sandbox.wires.scrapeless import KEY_HEADER, fields_of_create, fields_of_get
from client.sandbox.wires.v1_family import as_asked, fields_of_in, fields_of_res

__all__ = ["Calls"]

_PINGBACKS = frozenset({"add_pingback", "get_pingback", "del_pingback"})


class Calls:
    """Every request that one sandbox answers."""

    def __init__(self, service: Service, callbacks: Callbacks, *, settings: Settings, clock: Clock) -> None:
        self._service = service
        self._callbacks = callbacks
        self._settings = settings
        self._clock = clock
        self._side_calls = SideCalls(service, settings)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the paths of the provider, and that of the statistics."""
        match self._service.profile.api:
            case "json":
                router.add_post("/createTask", self._create_task)
                router.add_post("/getTaskResult", self._get_task_result)
                router.add_post("/getBalance", self._get_balance)
                for name in self._service.profile.reports:
                    router.add_post(f"/{name}", self._report)
            case "v1":
                for method in ("GET", "POST"):
                    router.add_route(method, "/in.php", self._in)
                    router.add_route(method, "/res.php", self._res)
            case "scrapeless":
                router.add_post("/api/v1/createTask", self._create_scrapeless)
                router.add_get("/api/v1/getTaskResult/{task_id}", self._get_scrapeless)
        router.add_get("/sandbox/stats", self._get_stats, allow_head=False)

    @web.middleware
    async def errors_as_answers(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What aiohttp refuses by itself (405, 404, 413), in the provider's envelope."""
        try:
            return await handler(request)
        except web.HTTPError as error:
            response = _response(self._service.unreadable(error.reason, status=error.status))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response

    async def _create_task(self, request: web.Request) -> web.StreamResponse:
        made = self._service.create_task(partial(read_fields, await request.read()), **self._who(request))
        return _response(made) if isinstance(made, Answer) else await self._answer_made(request, made)

    async def _get_task_result(self, request: web.Request) -> web.StreamResponse:
        polled = self._service.get_task_result(partial(read_fields, await request.read()), **self._who(request))
        return await self._answer_polled(request, polled)

    async def _get_balance(self, request: web.Request) -> web.StreamResponse:
        return _response(self._service.get_balance(partial(read_fields, await request.read()), **self._who(request)))

    async def _report(self, request: web.Request) -> web.StreamResponse:
        read = partial(read_fields, await request.read())
        return _response(self._side_calls.report(request.path.lstrip("/"), read, **self._who(request)))

    async def _in(self, request: web.Request) -> web.StreamResponse:
        form = await _form(request)
        is_json = form.get("json") == "1"
        read = partial(fields_of_in, form, is_get=request.method == "GET")
        made = self._service.create_task(read, **self._who(request))
        if isinstance(made, Answer):
            return _response(as_asked(made, "in", is_json=is_json))
        answer = as_asked(made.answer, "in", is_json=is_json)
        return await self._answer_made(request, Made(answer, made.task))

    async def _res(self, request: web.Request) -> web.StreamResponse:
        form = {name: value for name, value in (await _form(request)).items() if isinstance(value, str)}
        action = form.get("action", "")
        read = partial(fields_of_res, form)
        if action == "get":
            polled = self._service.get_task_result(read, **self._who(request))
        else:
            polled = Polled(self._side_call(action, read, request))
        answer = as_asked(polled.answer, action, is_json=form.get("json") == "1")
        return await self._answer_polled(request, Polled(answer, polled.fetched))

    async def _create_scrapeless(self, request: web.Request) -> web.StreamResponse:
        body, key = await request.read(), request.headers.get(KEY_HEADER)
        made = self._service.create_task(lambda: fields_of_create(read_fields(body), key), **self._who(request))
        return _response(made) if isinstance(made, Answer) else await self._answer_made(request, made)

    async def _get_scrapeless(self, request: web.Request) -> web.StreamResponse:
        read = partial(fields_of_get, request.match_info["task_id"], request.headers.get(KEY_HEADER))
        return await self._answer_polled(request, self._service.get_task_result(read, **self._who(request)))

    def _side_call(self, action: str, read: Read, request: web.Request) -> Answer:
        if action == "getbalance":
            return self._service.get_balance(read, **self._who(request))
        if action in self._service.profile.reports:
            return self._side_calls.report(action, read, **self._who(request))
        if action in _PINGBACKS:
            return self._side_calls.pingback(action, read, **self._who(request))
        return self._service.unreadable("action: unknown", status=200)

    async def _answer_made(self, request: web.Request, made: Made) -> web.StreamResponse:
        """Answers, and starts the callback: before the answer only where that was ordered."""
        task = made.task
        if task.is_sync:
            await self._clock.sleep(max(0.0, task.finished_at - self._clock.now()))
        has_callback = task.callback_url is not None and (not task.is_sync or self._settings.is_sync_called_back)
        is_early = task.fate.faults.callback == "early"
        if has_callback and is_early:
            await self._callbacks.send_early(task)
        response = _response(made.answer)
        if task.fate.is_cut:
            self._service.counts.faults["createTask.cut"] += 1
            _abort(request)
        else:
            await _send(request, response)
        if has_callback and not is_early:
            self._callbacks.start(task)
        return response

    async def _answer_polled(self, request: web.Request, polled: Polled) -> web.StreamResponse:
        response = _response(polled.answer)
        if polled.fetched is not None:
            await _send(request, response)
            self._callbacks.fetched(polled.fetched)
        return response

    async def _get_stats(self, request: web.Request) -> web.StreamResponse:
        del request
        return _response(Answer(200, to_json(self._service.stats().as_json())))

    def _who(self, request: web.Request) -> dict[str, Any]:
        return {"address": request.remote or "", "now": self._clock.now()}


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
    """Put the answer on the wire now; a caller who went away keeps nothing from happening after it."""
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
