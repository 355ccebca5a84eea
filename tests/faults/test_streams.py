"""Standard streams that fail. A log line decides nothing, and an answer that cannot be shown is reported."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from client.logs import Log
from client.output import standard_streams
from client.sandbox import FaultRates, Sandbox, SandboxSettings
from tests.client.support import PNG, Reply, reserved_port, scripted_provider
from tests.faults.commands import KEY, SECRET
from tests.faults.streams import BROKEN, broken_stream, started
from tests.receiver.storage.stores import a_ref, a_registration, running_store
from tests.support import Api, free_port, running_receiver

POLLS = """
[capsolver.polls]
firstAfterSeconds = 0.2
firstAfterCallbackSeconds = 0.3
intervalSeconds = 0.2
"""
SOLVED = {"errorId": 0, "status": "ready", "taskId": "task-7", "solution": {"text": "44795sds"}}
CLIENT_KEY = {"CAPSOLVER_CLIENT_KEY": "tests-only-client-key"}
KEPT = (
    "client: the answer to capsolver task task-7 was not shown; while the provider keeps it, TaskClient.attach gets it "
    "again"
)
SOLVE = ("solve", "image.png", "--provider", "capsolver")


class Caller(Api):
    """Requests with the key of `KEY`."""

    async def send(self, method: str, path: str, **options: Any) -> Any:
        """Send a request, as `Api` does."""
        return await super().send(method, path, **{"key": SECRET, **options})


async def until_ready(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until the receiver takes requests."""
    while True:
        try:
            async with session.get(f"{url}/readyz") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("kind", [*BROKEN, "all closed"])
async def test_the_receiver_serves_without_a_log(tmp_path: Path, kind: str, log_format: str) -> None:
    """Callbacks and own polls work, SIGTERM ends it with 0, and the database is whole (structlog#132)."""
    port = free_port()
    (tmp_path / "providers.toml").write_text(POLLS)
    settings = SandboxSettings(
        latency_seconds=(0.1, 0.1), async_images=True, rates=FaultRates(callback_lost=1.0), client_keys=frozenset({"k"})
    )
    async with Sandbox("capsolver", settings) as sandbox, aiohttp.ClientSession() as session:
        environ = {
            "RECEIVER_DATABASE": "receiver.db",
            "RECEIVER_PORT": str(port),
            "RECEIVER_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "RECEIVER_API_KEYS": f"{KEY}:submit+read+admin",
            "RECEIVER_PROVIDERS_FILE": "providers.toml",
            "RECEIVER_PROVIDER_KEYS": json.dumps({"capsolver": "k"}),
            "RECEIVER_PROVIDER_URLS": json.dumps({"capsolver": sandbox.url}),
            "RECEIVER_LOG_FORMAT": log_format,
        }
        with broken_stream("closed" if kind == "all closed" else kind) as stream:
            streams = {2: stream} if kind != "all closed" else {0: None, 1: None, 2: None}
            async with started(tmp_path, "receiver", "serve", environ=environ, streams=streams) as process:
                api = Caller(f"http://127.0.0.1:{port}", session)
                await until_ready(session, api.url)
                tasks = [await api.register(type="ImageToTextTask") for _ in range(20)]
                answers = [await api.call_back(task["callbackUrl"], taskId=f"t{task['ref']}") for task in tasks]
                wrong = await api.send("POST", tasks[0]["callbackUrl"], key=None, data=b"\xff\x1b not readable")
                image = {"type": "ImageToTextTask", "body": "iVBORw0KGgo="}
                own = (await api.send("POST", "/v1/tasks", json={"provider": "capsolver", "task": image})).json
                polled = (await api.send("GET", f"/v1/tasks/{own['ref']}", params={"wait": "30"})).json
                process.send_signal(signal.SIGTERM)
                code = await process.wait()

    assert {answer.status for answer in answers} == {200}
    assert wrong.status < 500
    assert (polled["status"], polled["source"]) == ("ready", "poll")
    assert code == 0
    with closing(sqlite3.connect(tmp_path / "receiver.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM task").fetchone() == (21,)


async def test_lines_that_find_no_room_wait_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer goes on at once. Once there is room, lines come whole and in order, without waiting for a next one."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(writing, "w") as pipe, open(reading, "rb") as reader:  # noqa: ASYNC230, PTH123  (pipes)
        monkeypatch.setattr(sys, "stderr", pipe)
        with standard_streams():
            for number in range(30_000):
                sys.stderr.write(f'{{"event":"line.written","number":{number},"padding":"{"." * 50}"}}\n')
            raw = b""
            async with asyncio.timeout(30):
                while b"log.lost" not in raw:
                    raw += reader.read() or b""
                    await asyncio.sleep(0.01)

    lines = [json.loads(line) for line in raw.splitlines()]
    kept = len(lines) - 1
    assert [line["number"] for line in lines[:-1]] == list(range(kept))
    assert lines[-1] == {"event": "log.lost", "lines": 30_000 - kept, "level": "warning"}
    assert 0 < kept < 30_000


def test_a_log_of_the_application_that_fails_ends_no_task() -> None:
    """The client's lines go to processors and streams of the application. These may raise (structlog#132)."""

    def broken(*_: object) -> Any:
        raise BrokenPipeError

    structlog.configure(processors=[broken])
    try:
        Log().warning("report.lost", reports=2)
    finally:
        structlog.reset_defaults()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an image in it."""
    (tmp_path / "image.png").write_bytes(PNG)
    return tmp_path


@pytest.mark.parametrize("kind", BROKEN)
async def test_an_answer_is_shown_without_standard_error(folder: Path, kind: str) -> None:
    """The client also reports there that the receiver cannot be reached."""
    with reserved_port() as port:
        async with scripted_provider(createTask=Reply(SOLVED)) as provider:
            environ = {**CLIENT_KEY, "CALLBACK_RECEIVER_URL": f"http://127.0.0.1:{port}"}
            with broken_stream(kind) as stream:
                command = (*SOLVE, "--provider-url", provider.url)
                async with started(folder, "client", *command, environ=environ, streams={2: stream}) as process:
                    out, _ = await process.communicate()

    assert (process.returncode, out) == (0, b"44795sds\n")


@pytest.mark.parametrize("kind", BROKEN)
async def test_results_are_shown_without_standard_error(tmp_path: Path, kind: str) -> None:
    """`watch` also reports its connection there."""
    async with running_receiver(tmp_path / "receiver.db", api_keys=KEY) as api:
        caller = Caller(api.url, api._session)
        task = await caller.register()
        await caller.call_back(task["callbackUrl"], taskId="t1")
        environ = {"CALLBACK_RECEIVER_URL": api.url, "CALLBACK_RECEIVER_KEY": SECRET}
        command = ("watch", "--json", "--since", "start", "--count", "1")
        with broken_stream(kind) as stream:
            async with started(tmp_path, "client", *command, environ=environ, streams={2: stream}) as process:
                out, _ = await process.communicate()

    assert (process.returncode, json.loads(out)["ref"]) == (0, task["ref"])


@pytest.mark.parametrize("arguments", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(
    ("kind", "submitted", "lines"),
    [
        ("closed", 0, ["client: cannot write to standard output: it is closed"]),
        ("no reader", 0, []),
        (
            "full disk",
            1,
            [
                KEPT,
                "client: cannot write to standard output: No space left on device",
            ],
        ),
    ],
)
async def test_an_answer_that_cannot_be_shown(
    folder: Path, kind: str, submitted: int, lines: Sequence[str], arguments: Sequence[str]
) -> None:
    """If this is known before, nothing is paid. Else the answer can be fetched again. Exit code 1, no traceback."""
    async with scripted_provider(createTask=Reply(SOLVED)) as provider:
        with broken_stream(kind) as stream:
            command = (*SOLVE, "--provider-url", provider.url, *arguments)
            async with started(folder, "client", *command, environ=CLIENT_KEY, streams={1: stream}) as process:
                _, err = await process.communicate()
        calls = len(provider.calls["createTask"])

    assert (process.returncode, calls, err.decode().splitlines()) == (1, submitted, lines)


COMMANDS: Mapping[str, tuple[str, ...]] = {
    "receiver help": ("receiver", "serve", "--help"),
    "providers": ("receiver", "providers"),
    "providers --json": ("receiver", "providers", "--json"),
    "callback-url": ("receiver", "callback-url", "capsolver"),
    "doctor": ("receiver", "doctor"),
    "doctor --json": ("receiver", "doctor", "--json"),
    "explain": ("receiver", "explain", a_ref(1)),
    "prune": ("receiver", "prune"),
    "redeliver": ("receiver", "redeliver"),
    "client help": ("client", "solve", "--help"),
    "balance": ("client", "balance", "--provider", "capsolver"),
    "demo": ("client", "demo"),
}


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", ["no reader", "closed", "full disk"])
@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_that_cannot_tell_its_answer(tmp_path: Path, name: str, kind: str) -> None:
    """It ends with 1 and one line, or none if the reader had enough, as other programs do. There is no traceback."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
    async with scripted_provider(getBalance=Reply({"errorId": 0, "balance": 1.5})) as provider:
        environ = {
            **CLIENT_KEY,
            "CAPSOLVER_URL": provider.url,
            "RECEIVER_DATABASE": "receiver.db",
            "RECEIVER_PUBLIC_URL": "http://127.0.0.1:9",
        }
        with broken_stream(kind) as stream:
            module, *arguments = COMMANDS[name]
            async with started(tmp_path, module, *arguments, environ=environ, streams={1: stream}) as process:
                _, raw = await process.communicate()

    err = raw.decode()
    reasons = {
        "no reader": "",
        "closed": "cannot write to standard output: it is closed",
        "full disk": "cannot write to standard output: No space left on device",
    }
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert reasons[kind] in (err.splitlines() or [""])[-1]
    assert re.search("rror", err) is None


async def test_a_sandbox_serves_on_without_its_streams(tmp_path: Path) -> None:
    """Its tasks do not depend on a reader of its first line."""
    port = free_port()
    command = ("sandbox", "--dialect", "capsolver", "--port", str(port))
    async with (
        started(tmp_path, "client", *command, environ={}, streams={1: None, 2: None}) as process,
        aiohttp.ClientSession() as session,
    ):
        stats = None
        while stats is None:
            try:
                async with session.get(f"http://127.0.0.1:{port}/sandbox/stats") as response:
                    stats = await response.json()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        code = await process.wait()

    assert code == 0
