"""Helpers of the client's tests: quick providers, a provider and a receiver by script, a reserved port."""

from __future__ import annotations

import asyncio
import base64
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from aiohttp import web

from client import Task, TaskClient
from client.provider_api.timing import Timing
from client.providers import DIALECTS, Dialect, KeyLimits
from client.sandbox import SandboxSettings, expected_solution
from client.sandbox.serving import serving
from tests.support import ADMIN, Api

__all__ = [
    "AT_ONCE",
    "CREATED",
    "FAST",
    "PENDING",
    "PNG",
    "QUICK",
    "REGISTERED",
    "STORED",
    "HeldClock",
    "JumpingClock",
    "Reply",
    "ScriptedProvider",
    "fast",
    "image_task",
    "open_client",
    "ready",
    "reserved_port",
    "says",
    "scripted_provider",
    "scripted_receiver",
    "solution_of",
    "until",
    "until_bound",
]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
AT_ONCE = SandboxSettings(latency_seconds=(0.0, 0.0))
QUICK = SandboxSettings(latency_seconds=(0.0, 0.05), async_images=True)
CREATED = {"errorId": 0, "errorCode": "", "errorDescription": "", "status": "idle", "taskId": "task-1"}
PENDING = {"errorId": 0, "status": "processing"}
REGISTERED = {
    "ref": "ref-1",
    "callbackUrl": "http://127.0.0.1:1/callback/capsolver/token",
    "poll": {"firstAfterSeconds": 1, "intervalSeconds": 1, "windowSeconds": 300},
    "deadlineAt": "2999-01-02T03:09:35Z",
    "cursor": "c0",
}
STORED = {
    "ref": "ref-1",
    "provider": "capsolver",
    "status": "ready",
    "solution": {"text": "44795sds"},
    "taskId": "task-1",
    "source": "callback",
    "cursor": "c1",
    "createdAt": "2026-01-02T03:04:05Z",
    "deadlineAt": "2999-01-02T03:09:35Z",
}


def fast(**plan: Any) -> Mapping[str, Dialect]:
    """Return the shipped providers with short times. The first poll behind a callback comes too late for tests."""
    times = {
        "first_after_seconds": 0.02,
        "first_after_callback_seconds": 200.0,
        "interval_seconds": 0.05,
        "window_seconds": 500.0,
        "grace_seconds": 1.0,
        **plan,
    }
    limits = KeyLimits(requests_per_second=500.0)
    return MappingProxyType(
        {
            name: replace(dialect, polls=replace(dialect.polls, **times), key_limits=limits)
            for name, dialect in DIALECTS.items()
        }
    )


FAST = fast()


def image_task(number: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a task for the sandbox; each number is another image."""
    return {"type": "ImageToTextTask", "body": PNG + number.to_bytes(4), **fields}


def solution_of(task: Mapping[str, Any], provider: str = "capsolver") -> dict[str, Any]:
    """Return the right solution of an image task."""
    return expected_solution(provider, {**task, "body": base64.b64encode(task["body"]).decode()})


@asynccontextmanager
async def open_client(
    provider_url: str, receiver_url: str | None = None, *, provider: str = "capsolver", **options: Any
) -> AsyncIterator[TaskClient]:
    """Yield a client of a quick provider; with a receiver if its address is given."""
    options = {"client_key": "tests-only-client-key", "dialects": FAST, "receiver_key": ADMIN, **options}
    async with TaskClient(provider, provider_url=provider_url, receiver_url=receiver_url, **options) as tasks:
        yield tasks


def ready(text: str = "44795sds", **fields: Any) -> dict[str, Any]:
    """Return an answer of CapSolver's with a solution."""
    return {"errorId": 0, "errorCode": "", "status": "ready", "solution": {"text": text}, **fields}


@dataclass(frozen=True)
class Reply:
    """One answer by script: JSON or raw bytes; `first` is done before it is sent; `cuts` sends nothing."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    first: Callable[[dict[str, Any]], Awaitable[object]] | None = None
    cuts: bool = False


class JumpingClock:
    """A clock for tests to set forward, as if the process had been paused. Waits see it within 10 ms.

    `waits` counts the waits so far.
    """

    def __init__(self) -> None:
        clock = self

        class JumpingTiming(Timing):
            async def wait(self, woken: asyncio.Event, until: float) -> bool:
                clock.waits += 1
                while (left := until - self.clock()) > 0:
                    if await Timing.wait(self, woken, self.clock() + min(left, 0.01)):
                        return True
                return woken.is_set()

        self._ahead = 0.0
        self.waits = 0
        self.timing: Timing = JumpingTiming(clock=self._now)

    def _now(self) -> float:
        return time.monotonic() + self._ahead

    def jump(self, seconds: float = 60.0) -> None:
        """Move the clock forward."""
        self._ahead += seconds

    async def jump_first(self, _: dict[str, Any]) -> None:
        """Move the clock forward before a scripted reply."""
        self.jump()


class HeldClock:
    """A sandbox's clock with the real time. Its sleeps end only when `released` is set."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    def now(self) -> float:
        """Return the real time in seconds."""
        return time.monotonic()

    async def sleep(self, _seconds: float) -> None:
        """Wait for `released`, without a limit."""
        await self.released.wait()


class ScriptedProvider:
    """A provider with a script for each method: one reply after the other, then the last one for good."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.script: dict[str, list[Reply]] = defaultdict(lambda: [Reply(status=404)])

    def answers(self, method: str, *replies: Reply | dict[str, Any]) -> None:
        """Set the replies of a method from now on."""
        self.script[method] = [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        body = await request.json()
        self.calls[method].append(body)
        replies = self.script[method]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply.first is not None:
            await reply.first(body)
        if reply.cuts:
            assert request.transport is not None
            request.transport.abort()
        if isinstance(reply.body, bytes):
            return web.Response(status=reply.status, body=reply.body, headers=reply.headers)
        return web.json_response(reply.body, status=reply.status, headers=reply.headers)


@asynccontextmanager
async def scripted_provider(port: int = 0, **script: Any) -> AsyncIterator[ScriptedProvider]:
    """Yield a running `ScriptedProvider`; keywords are methods with a reply or a list of them."""
    provider = ScriptedProvider()
    for method, replies in script.items():
        provider.answers(method, *(replies if isinstance(replies, list) else [replies]))
    app = web.Application()
    app.router.add_post("/{method}", provider._answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    with socket.create_server(("127.0.0.1", port)) as listener:
        async with serving(runner, listener) as provider.url:
            yield provider


@asynccontextmanager
async def scripted_receiver(**routes: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Yield a receiver with the given routes (by name, see `_ROUTES`). Requests of other routes are held.

    Unless `subscribe` is given, it knows no websockets.
    """

    async def holds(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response(status=503)

    app = web.Application()
    for name, (method, path) in _ROUTES.items():
        app.router.add_route(method, path, routes.get(name, holds))
    if "subscribe" in routes:
        app.router.add_route("GET", "/v1/subscribe", routes["subscribe"])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    async with serving(runner) as url:
        yield url


_ROUTES = {
    "register": ("POST", "/v1/tasks"),
    "bind": ("PATCH", "/v1/tasks/{ref}"),
    "report": ("PUT", "/v1/tasks/{ref}/outcome"),
    "task": ("GET", "/v1/tasks/{ref}"),
    "results": ("GET", "/v1/results"),
}


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port reserved for this test: connections are refused, unless a server of ours listens on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def says(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a route with one answer for every request."""

    async def answers(_: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers=headers)

    return answers


async def until_bound(receiver: Api, task: Task) -> None:
    """Return once the receiver knows the provider's id of the task."""

    async def is_bound() -> bool:
        return (await receiver.task(task.ref))["taskId"] is not None

    await until(is_bound)


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 30.0) -> None:
    """Return once an awaited condition holds; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)
