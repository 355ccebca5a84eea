"""Simpler servers to compare the receiver with, and one of another project."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiosqlite
from aiohttp import web

from tests.benchmarks.tasks import task_view_example

__all__ = ["PEERS", "is_dbos_installed"]

_CALLBACK = "/callback/{provider}/{token}"
_DB: web.AppKey[aiosqlite.Connection] = web.AppKey("db", aiosqlite.Connection)
_RECEIVING = "receiving"


def _bare(_database: Path) -> web.Application:
    """Return a server that parses the same JSON and answers, without anything else."""

    async def take(request: web.Request) -> web.Response:
        await request.json()
        return _ok()

    async def give(_request: web.Request) -> web.Response:
        return web.json_response(task)

    task = task_view_example()
    app = web.Application()
    app.router.add_post(_CALLBACK, take)
    app.router.add_get("/v1/tasks/{id}", give)
    return app


def _naive(database: Path) -> web.Application:
    """Return a receiver as written in an afternoon: one shared connection, one commit for each request."""

    async def take(request: web.Request) -> web.Response:
        await _store(request)
        return _ok()

    app = web.Application()
    app.cleanup_ctx.append(partial(_open_store, database))
    app.router.add_post(_CALLBACK, take)
    return app


async def _open_store(database: Path, app: web.Application) -> AsyncIterator[None]:
    async with aiosqlite.connect(database) as db:
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute("PRAGMA synchronous = FULL")
        await db.execute("CREATE TABLE callback (task_id TEXT PRIMARY KEY, body TEXT)")
        await db.commit()
        app[_DB] = db
        yield


async def _store(request: web.Request) -> Any:
    """Commit the callback, and return its JSON.

    The answers are found by their taskId, and a repeated callback makes no second row. Nothing keeps the statements of
    one request together. A commit includes the rows inserted by other requests, and their own commits then have
    nothing left to do.
    """
    body = await request.json()
    db = request.app[_DB]
    values = (body["taskId"], await request.text())
    await db.execute("INSERT OR REPLACE INTO callback (task_id, body) VALUES (?, ?)", values)
    await db.commit()
    return body


def _broadcaster(_database: Path) -> web.Application:
    """Return a server without a store: it parses the JSON, sends it to its subscribers, then answers.

    The token of its callback URLs is the ref of the task.
    """
    return _broadcaster_with(lambda request: request.json())


def _storing_broadcaster(database: Path) -> web.Application:
    """Return the same server with the store of the naive receiver. Each callback is durable before it is sent."""
    app = _broadcaster_with(_store)
    app.cleanup_ctx.append(partial(_open_store, database))
    return app


def _broadcaster_with(read: Callable[[web.Request], Awaitable[Any]]) -> web.Application:
    subscribers: defaultdict[str, list[web.WebSocketResponse]] = defaultdict(list)

    async def subscribe(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(compress=False)
        await websocket.prepare(request)
        async for message in websocket:
            for ref in message.json()["tasks"]:
                subscribers[ref].append(websocket)
        return websocket

    async def take(request: web.Request) -> web.Response:
        ref = request.match_info["token"]
        frame = json.dumps({"ref": ref, "answer": await read(request)}, separators=(",", ":"))
        for websocket in subscribers.pop(ref, ()):
            await websocket.send_str(frame)
        return _ok()

    app = web.Application()
    app.router.add_get("/v1/subscribe", subscribe)
    app.router.add_post(_CALLBACK, take)
    return app


def is_dbos_installed() -> bool:
    """Return True if DBOS can be imported. No lock names it."""
    return find_spec("dbos") is not None


def _dbos(database: Path) -> web.Application:
    """Return a server that sends each callback to a workflow of DBOS, which stores the message in SQLite."""
    dbos: Any = import_module("dbos")

    async def receive() -> None:
        while await dbos.DBOS.recv_async(timeout_seconds=3600) is not None:
            pass

    async def running(_app: web.Application) -> AsyncIterator[None]:
        dbos.DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{database}", "run_admin_server": False})
        workflow = dbos.DBOS.workflow()(receive)
        dbos.DBOS.launch()
        with dbos.SetWorkflowID(_RECEIVING):
            await dbos.DBOS.start_workflow_async(workflow)
        yield
        # Its own threads may wait for a message for an hour.
        await asyncio.to_thread(dbos.DBOS.destroy, workflow_completion_timeout_sec=0)

    async def take(request: web.Request) -> web.Response:
        await dbos.DBOS.send_async(_RECEIVING, await request.json())
        return _ok()

    app = web.Application()
    app.cleanup_ctx.append(running)
    app.router.add_post(_CALLBACK, take)
    return app


def _ok() -> web.Response:
    return web.json_response({"status": "ok"})


PEERS: Mapping[str, Callable[[Path], web.Application]] = {
    "bare": _bare,
    "naive": _naive,
    "broadcaster": _broadcaster,
    "storing broadcaster": _storing_broadcaster,
    "DBOS": _dbos,
}
"""Applications by the name of their server, made from the path of a database."""
