"""Shared helpers of the sandbox tests: calls, a server for callbacks, and clocks."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import web

from client.sandbox import Sandbox, SandboxSettings
from client.sandbox.serving import serving

__all__ = [
    "IMAGE",
    "KEY",
    "NOW",
    "TOKEN",
    "Catcher",
    "Caught",
    "Reply",
    "SettableClock",
    "StoppedClock",
    "ask",
    "call",
    "create_task",
    "get_task_result",
    "ordered",
]

KEY = "a-client-key"
IMAGE: dict[str, Any] = {"type": "ImageToTextTask", "body": "iVBORw0KGgo=", "imageType": "Yandex2025"}
TOKEN: dict[str, Any] = {"type": "ReCaptchaV2TaskProxyLess", "websiteURL": "https://example.com", "websiteKey": "6Le"}
NOW = SandboxSettings(latency_seconds=(0.0, 0.0), async_images=True)
"""Every task is asynchronous and finished at once."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def call(
    sandbox: Sandbox,
    path: str,
    body: Mapping[str, Any] | bytes = b"",
    *,
    method: str = "POST",
    as_type: str = "text/plain",
) -> Reply:
    """Send one request. A mapping is sent as JSON, under another content type."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, sandbox.url + path, data=io.BytesIO(raw), headers={"Content-Type": as_type}
        ) as response,
    ):
        return Reply(response.status, dict(response.headers), await response.read())


async def create_task(
    sandbox: Sandbox, task: Mapping[str, Any], *, callback_url: str | None = None, key: str = KEY
) -> Reply:
    """Return a createTask call."""
    return await call(sandbox, "/createTask", {"clientKey": key, "task": task, "callbackUrl": callback_url})


async def get_task_result(sandbox: Sandbox, created: Reply, *, key: str = KEY) -> Reply:
    """Return a getTaskResult call for the task in `created`."""
    return await call(sandbox, "/getTaskResult", {"clientKey": key, "taskId": created.json["taskId"]})


async def ask(
    sandbox: Sandbox, path: str, query: Mapping[str, str] | None = None, *, form: Mapping[str, Any] | None = None
) -> Reply:
    """Return a request with a query by GET, or with a form by POST, as in.php and res.php take them."""
    async with (
        aiohttp.ClientSession() as session,
        session.request("POST" if form else "GET", sandbox.url + path, params=query, data=form) as response,
    ):
        return Reply(response.status, dict(response.headers), await response.read())


def ordered(task: Mapping[str, Any], number: int = 0, **faults: Any) -> dict[str, Any]:
    """Return a task of its own content, made so by `number`, with faults ordered in it."""
    return {**task, "number": number, "sandbox": {"latencySeconds": 0, **faults}}


@dataclass
class Caught:
    """A callback as it came in."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, str]:
        """The fields of the form in the body, or of the query."""
        return dict(parse_qsl(self.body.decode() or self.query, keep_blank_values=True))


@dataclass
class Catcher:
    """A server for callbacks at `url`. It answers `status` to each, or nothing while `is_silent`."""

    status: int = 200
    is_silent: bool = False
    caught: list[Caught] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._catch)
        self._released = asyncio.Event()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(serving(runner))
            self.url = f"{url}/callback/capsolver/a-token"
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._released.set()
        await self._stack.aclose()

    @property
    def ids(self) -> list[str]:
        """The `taskId` of each callback, in the order of arrival."""
        return [caught.json["taskId"] for caught in self.caught]

    async def _catch(self, request: web.Request) -> web.Response:
        self.caught.append(
            Caught(request.method, request.path, request.query_string, dict(request.headers), await request.read())
        )
        if self.is_silent:
            await self._released.wait()
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


class StoppedClock:
    """A stopped clock, for machines of any speed."""

    def now(self) -> float:
        """Return the time of the clock in seconds."""
        return 1000.0

    async def sleep(self, seconds: float) -> None:
        """Sleep for real."""
        await asyncio.sleep(seconds)


@dataclass
class SettableClock:
    """The real time, with a lead. A test may enlarge it."""

    lead_seconds: float = 0.0

    def now(self) -> float:
        """Return the time of the clock in seconds."""
        return time.monotonic() + self.lead_seconds

    async def sleep(self, seconds: float) -> None:
        """Sleep for real."""
        await asyncio.sleep(seconds)
