"""A receiver with scripted websockets and pages, for faults of a receiver; and a subscriber."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from client.protocol.models import Task
from client.sandbox.serving import serving
from tests.client.support import STORED

__all__ = [
    "CUT",
    "Close",
    "ScriptedStreams",
    "Waiting",
    "heartbeat",
    "page",
    "result",
    "scripted_streams",
    "subscribed",
    "told_task",
]


@dataclass(frozen=True)
class Close:
    """Closes the websocket."""

    code: int
    reason: str = ""


CUT = object()
"""Cuts the connection off."""

Deed = Mapping[str, Any] | str | bytes | Close | object


@dataclass
class ScriptedStreams:
    """The script of a server, and the frames and queries it received.

    `sockets` holds for each websocket the frames to send once it subscribed, or the HTTP answer to its upgrade. After
    the last frame of a script the socket stays open. After the last script sockets only subscribe. `pages` are the
    answers of the log, `tasks` the answers for single tasks. After the last page requests are held.
    """

    sockets: list[Any] = field(default_factory=list)
    pages: list[tuple[int, Any]] = field(default_factory=list)
    tasks: dict[str, tuple[int, Any]] = field(default_factory=dict)
    url: str = ""
    received: list[list[Any]] = field(default_factory=list)
    queries: list[Mapping[str, str]] = field(default_factory=list)
    open_sockets: int = 0
    newest: web.WebSocketResponse | None = None

    async def subscribe(self, request: web.Request) -> web.StreamResponse:
        """Return the route of the websocket."""
        script = self.sockets.pop(0) if self.sockets else [subscribed()]
        if isinstance(script, web.Response):
            return script
        ws = web.WebSocketResponse(protocols=("callback-receiver.v1",), timeout=0.1)
        await ws.prepare(request)
        frames: list[Any] = []
        self.received.append(frames)
        self.open_sockets += 1
        self.newest = ws
        try:
            frames.append(json.loads(await ws.receive_str()))
            for deed in script:
                await _do(deed, ws, request)
            while (frame := await ws.receive()).type is WSMsgType.TEXT:
                frames.append(json.loads(frame.data))
        finally:
            self.open_sockets -= 1
        return ws

    async def tell(self, frame: Mapping[str, Any]) -> None:
        """Send a frame on the newest websocket."""
        assert self.newest is not None
        await self.newest.send_json(frame)

    async def results(self, request: web.Request) -> web.Response:
        """Return the route of the log."""
        self.queries.append(dict(request.query))
        if not self.pages:
            await asyncio.sleep(60)
        status, body = self.pages.pop(0)
        return web.json_response(body, status=status)

    async def task(self, request: web.Request) -> web.Response:
        """Return the route of one task."""
        missing = (404, {"type": "urn:callback-receiver:problem:unknown-task"})
        status, body = self.tasks.get(request.match_info["ref"], missing)
        return web.json_response(body, status=status)


async def _do(deed: Deed, ws: web.WebSocketResponse, request: web.Request) -> None:
    if isinstance(deed, Close):
        await ws.close(code=deed.code, message=deed.reason.encode())
    elif deed is CUT:
        assert request.transport is not None
        request.transport.abort()
    elif isinstance(deed, bytes):
        await ws.send_bytes(deed)
    else:
        await ws.send_str(deed if isinstance(deed, str) else json.dumps(deed))


@asynccontextmanager
async def scripted_streams(
    *sockets: Any, pages: list[tuple[int, Any]] | None = None, tasks: dict[str, tuple[int, Any]] | None = None
) -> AsyncIterator[ScriptedStreams]:
    """Yield a running server with this script; see `ScriptedStreams`."""
    streams = ScriptedStreams(list(sockets), pages or [], tasks or {})
    app = web.Application()
    app.router.add_get("/v1/subscribe", streams.subscribe)
    app.router.add_get("/v1/results", streams.results)
    app.router.add_get("/v1/tasks/{ref}", streams.task)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    async with serving(runner) as streams.url:
        yield streams


def subscribed(cursor: str = "c0") -> dict[str, Any]:
    """Return the answer to a subscription."""
    return {"type": "subscribed", "id": 0, "cursor": cursor}


def heartbeat(cursor: str) -> dict[str, Any]:
    """Return a sign of life."""
    return {"type": "heartbeat", "cursor": cursor}


def told_task(ref: str = "ref-1", **fields: Any) -> dict[str, Any]:
    """Return a finished task, as the receiver writes it."""
    return {**STORED, "ref": ref, **fields}


def result(cursor: str, ref: str = "ref-1", *, at: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a result; `at` is the cursor of the outcome, if it differs from the frame's."""
    return {"type": "result", "cursor": cursor, "task": told_task(ref, cursor=at or cursor, **fields)}


def page(cursor: str, *entries: dict[str, Any], more: bool = False) -> tuple[int, Any]:
    """Return a page of the log, up to this cursor."""
    return 200, {"results": list(entries), "cursor": cursor, "more": more}


class Waiting:
    """A subscriber with a record of its calls: about the task in `calls`, about the transport in `steps`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.steps: list[str] = []
        self.wakes = 0

    def offer(self, task: Task) -> None:
        """Note the task's status."""
        self.calls.append(task.status)

    def hint(self) -> None:
        """Note a hint."""
        self.calls.append("hint")

    def forget(self) -> None:
        """Note that there is no such task."""
        self.calls.append("forget")

    def wake(self) -> None:
        """Count."""
        self.wakes += 1

    def note(self, happened: str, **facts: Any) -> None:
        """Note the step."""
        self.steps.append(happened)
