"""Helpers for tests of many parts: a receiver in this process, a receiver as a separate process, and waiting."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from client.providers import DIALECTS, Dialect
from client.sandbox.serving import serving, stop_accepting
from receiver.app import create_app
from receiver.health.monitor import Monitor
from receiver.logs import server_logger
from receiver.service.keys import Keys
from receiver.settings import Settings
from receiver.web.context import RUNTIME, Runtime
from receiver.web.server.connections import CONNECTIONS, HEAD_SECONDS
from receiver.web.server.runner import Runner, make_runner
from receiver.web.streaming.streams import StreamRules, Streams
from tests.contracts.check_answers import check_answer

__all__ = [
    "ADMIN",
    "PASS_ON",
    "PLACES",
    "Answer",
    "Api",
    "Places",
    "ReceiverProcess",
    "RunningReceiver",
    "eventually",
    "free_port",
    "receiver_process",
    "release_ports",
    "running_receiver",
]

ADMIN = "tests-only-admin-key-0123456789"
SUBMIT_ONLY = "tests-only-submit-key-012345678"
READ_ONLY = "tests-only-read-key-01234567890"
API_KEYS = f"admin:{ADMIN}:submit+read+admin,submitter:{SUBMIT_ONLY}:submit,reader:{READ_ONLY}:read"


class Places:
    """The places of databases: the files that tests name, or with `new_url` a PostgreSQL database in place of each."""

    def __init__(self) -> None:
        self.new_url: Callable[[], str] | None = None
        self.urls: dict[Path, str] = {}

    def __getitem__(self, database: Path | str) -> Path | str:
        """Return the place of a database. A file has the same one each time."""
        if isinstance(database, str) or self.new_url is None:
            return database
        if database not in self.urls:
            self.urls[database] = self.new_url()
        return self.urls[database]


PLACES = Places()
"""The places of the test that runs."""


@dataclass(frozen=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Api:
    """Requests to a running receiver, with a key of all scopes."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    @property
    def authorization(self) -> Mapping[str, str]:
        """The header of a key with all scopes."""
        return {"Authorization": f"Bearer {ADMIN}"}

    async def send(self, method: str, path: str, *, key: str | None = ADMIN, **options: Any) -> Answer:
        """Send a request and check its answer against the written contract. `path` may be a whole URL."""
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers.setdefault("Authorization", f"Bearer {key}")
        url = path if "://" in path else self.url + path
        async with self._session.request(
            method, url, headers=headers, allow_redirects=False, timeout=aiohttp.ClientTimeout(90), **options
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        check_answer(method, url.removeprefix(self.url), answer.status, response.content_type, answer.body)
        return answer

    async def register(self, **fields: Any) -> Any:
        """Register a task, by default of CapSolver. Return the JSON of the answer."""
        answer = await self.send("POST", "/v1/tasks", json={"provider": "capsolver", **fields})
        assert answer.status in (200, 201), answer.body
        return answer.json

    async def call_back(self, url: str, **fields: Any) -> Answer:
        """Deliver an answer, by default a ready one."""
        body = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}, **fields}
        return await self.send("POST", url, key=None, json=body)

    async def task(self, task_or_ref: object) -> Any:
        """Return a task's JSON."""
        return (await self.send("GET", f"/v1/tasks/{task_or_ref}")).json

    async def log(self, **parameters: Any) -> Any:
        """Return the log from its start, with hints."""
        query = {"after": "start", "hints": "true", **parameters}
        return (await self.send("GET", "/v1/results", params=query)).json


class RunningReceiver(Api):
    """A receiver in this process, and requests to it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, runner: Runner, listener: socket.socket) -> None:
        super().__init__(url, session)
        self._runner = runner
        self._listener = listener

    @property
    def waiting(self) -> int:
        """The number of its waiting requests."""
        return self._runner.app[RUNTIME].waits.waiting

    @property
    def monitor(self) -> Monitor:
        """The judge of its health."""
        return self._runner.app[RUNTIME].monitor

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return self._runner.app[RUNTIME].waits.streams

    @property
    def connections(self) -> int:
        """The number of its open connections."""
        return len(self._runner.app[CONNECTIONS])

    @property
    def runtime(self) -> Runtime:
        """Its parts."""
        return self._runner.app[RUNTIME]

    @property
    def delayed(self) -> int:
        """The number of requests with a wrong key or none, waiting for their refusal."""
        return self._runner.app[RUNTIME].attempts.waiting

    @property
    def keys(self) -> Keys:
        """Its API keys."""
        return self._runner.app[RUNTIME].keys

    @property
    def unread_messages(self) -> int:
        """The bytes of websocket messages not carried out yet."""
        return len(self._runner.app[RUNTIME].streams.messages)

    def unsent(self) -> list[int]:
        """Return for each connection the bytes that the system did not take yet."""
        assert self._runner.server is not None
        transports = [connection.transport for connection in self._runner.server.connections]
        return [transport.get_write_buffer_size() for transport in transports if transport is not None]

    @property
    def unsent_answers(self) -> int:
        """The bytes of plain answers waiting for their peers."""
        return len(self._runner.app[RUNTIME].unsent)

    @property
    def ticker(self) -> Streams:
        """The source of the heartbeats of its streams."""
        return self._runner.app[RUNTIME].streams

    async def drain(self) -> None:
        """Begin to shut it down, as a signal does. The rest follows at the end."""
        await self._runner.drain()

    async def stop(self) -> None:
        """Shut it down at once."""
        await stop_accepting(self._listener)
        await self._runner.cleanup()


@asynccontextmanager
async def running_receiver(
    database: Path | str,
    *,
    dialects: Mapping[str, Dialect] = DIALECTS,
    port: int = 0,
    rules: StreamRules | None = None,
    send_buffer_bytes: int | None = None,
    most_connections: int = 40_000,
    head_seconds: float = HEAD_SECONDS,
    has_front: bool = True,
    **settings: Any,
) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver in this process, on a free port of loopback. Its callback URLs lead to it.

    `send_buffer_bytes` limits the unread bytes of a peer in the buffers of the system, approximately.
    """
    with socket.create_server(("127.0.0.1", port)) as listener:
        if send_buffer_bytes is not None:
            # Connections inherit it from the listening socket.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        given = Settings(
            database=PLACES[database],
            api_keys=settings.pop("api_keys", API_KEYS),
            public_url=settings.pop("public_url", url),
            _env_file=None,
            **settings,
        )
        app = create_app(given, dialects, rules=rules)
        runner = make_runner(
            app,
            most=most_connections,
            head_seconds=head_seconds,
            has_front=has_front,
            is_direct=given.direct_callbacks,
            logger=server_logger(),
            shutdown_timeout=2,
        )
        async with (
            serving(runner, listener),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            yield RunningReceiver(url, session, runner, listener)


PASS_ON = 'exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
"""A script for bash: the socket of this number becomes file descriptor 3 of the program in the arguments."""

_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port of loopback and keep it free until the test ends. Without a listener it refuses connections.

    Without this reservation, another test's next connection seldom but surely takes the port.
    """
    holder = socket.socket()
    _held.append(holder)
    # A server with the same option may listen beside it; servers of asyncio set it.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    return port


def release_ports() -> None:
    """Release the ports of `free_port`."""
    while _held:
        _held.pop().close()


@dataclass
class ReceiverProcess:
    """`callback-receiver serve` as a separate process: its address, the first line of its log and all others."""

    url: str
    process: asyncio.subprocess.Process
    first_line: Mapping[str, Any]
    lines: list[bytes]

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """Return the lines of the log with this event so far, but not the first line."""
        return [line for line in map(json.loads, self.lines) if line["event"] == name]

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()


_FIRST_EVENTS = ("database.restored", "receiver.started")


@asynccontextmanager
async def receiver_process(
    database: Path | str,
    *,
    port: int,
    url: str | None = None,
    file_limit: str | None = None,
    listener: socket.socket | None = None,
    variables: Mapping[str, str] | None = None,
    **environment: str | None,
) -> AsyncIterator[ReceiverProcess]:
    """Yield a receiver started as a user would start it. It is killed on leaving if it still runs.

    `url` is its database on PostgreSQL; then `database` only names the folder in which it runs.
    `environment` holds further RECEIVER_ variables without the prefix, None for one that is not set. `variables` holds
    those of other programs. `file_limit` limits its open files. `listener` is passed to it as systemd would do it.
    The log format `console` needs a port.
    """
    given = {name: value for name, value in os.environ.items() if not name.startswith("RECEIVER_")}
    usual = {
        "database": url or str(PLACES[database]),
        "port": str(port),
        "public_url": f"http://127.0.0.1:{port}",
        "api_keys": API_KEYS,
    }
    given |= {f"RECEIVER_{name.upper()}": value for name, value in (usual | environment).items() if value is not None}
    given |= variables or {}
    limited = () if file_limit is None else ("sh", "-c", f'ulimit -n {file_limit} && exec "$@"', "sh")
    passed = () if listener is None else ("bash", "-c", PASS_ON.format(listener.fileno()), "bash")
    process = await asyncio.create_subprocess_exec(
        *limited,
        *passed,
        *(sys.executable, "-m", "receiver", "serve"),
        env=given,
        cwd=database.parent if isinstance(database, Path) else "/",
        stderr=asyncio.subprocess.PIPE,
        pass_fds=() if listener is None else (listener.fileno(),),
    )
    assert process.stderr is not None
    async with asyncio.TaskGroup() as readers:
        try:
            # A process starts within a second, but not beside ten others.
            async with asyncio.timeout(60):
                first = await _next_line(process.stderr, port)
                if first["event"] == "database.restored":
                    first = await _next_line(process.stderr, port)
            assert first["event"] == "receiver.started", first
            lines: list[bytes] = []
            drain = readers.create_task(_drain(process.stderr, lines))
            yield ReceiverProcess(f"http://127.0.0.1:{first['port']}", process, first, lines)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await drain


async def _next_line(stream: asyncio.StreamReader, port: int) -> Mapping[str, Any]:
    line = await stream.readline()
    if line.startswith(b"{"):
        fields: Mapping[str, Any] = json.loads(line)
        return fields
    return {"event": next((event for event in _FIRST_EVENTS if event.encode() in line), line.decode()), "port": port}


async def _drain(stream: asyncio.StreamReader, lines: list[bytes]) -> None:
    while line := await stream.readline():
        lines.append(line)


async def eventually(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Return once `condition` holds; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
