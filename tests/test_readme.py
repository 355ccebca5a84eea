"""The README says what the code does: its example runs, its table of settings is the settings."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from client.commands.demo import draw_picture
from client.providers import DIALECTS, read_providers
from client.sandbox import Sandbox, SandboxSettings
from client.sandbox.serving import serving
from receiver.app import create_app
from receiver.errors import PROBLEMS
from receiver.settings import Settings as ReceiverSettings
from receiver.settings import settings_table
from tests.readme import providers_table
from tests.support import ADMIN, running_receiver

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


async def test_the_example_runs(tmp_path: Path) -> None:
    """The Python of the README, as it stands there, prints an answer for each image, by callback."""
    (tmp_path / "example.py").write_text(EXAMPLES[0])
    (tmp_path / "images").mkdir()
    for number in range(3):
        draw_picture(tmp_path / "images" / f"{number}.png", number)
    settings = SandboxSettings(async_images=True, latency_seconds=(0.1, 0.3))
    async with running_receiver(tmp_path / "receiver.db") as api, Sandbox("capsolver", settings) as sandbox:
        variables = {
            "CAPSOLVER_CLIENT_KEY": "anything",
            "CAPSOLVER_URL": sandbox.url,
            "CALLBACK_RECEIVER_URL": api.url,
            "CALLBACK_RECEIVER_KEY": ADMIN,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "example.py", cwd=tmp_path, env=os.environ | variables, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(40):
            shown = (await process.communicate())[0].decode()

    assert process.returncode == 0
    assert shown.count("came by callback") == 3


def test_the_table_of_providers_is_what_is_known() -> None:
    """Renewed by `make docs`."""
    assert providers_table() in README


def test_the_declaration_of_a_provider_is_read() -> None:
    """The TOML of the README, as it stands there."""
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)

    mine = read_providers(example.encode(), DIALECTS)["myprovider"]

    assert mine.callback is not None
    assert mine.callback.task_id == "missing"
    assert mine.codes["ERROR_TEAPOT"].pause_seconds == 30


async def test_the_example_in_one_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application that mounts the receiver, as it stands in the README, answers a request by a callback."""
    (tmp_path / "example.py").write_text(EXAMPLES[1])
    settings = SandboxSettings(async_images=True, latency_seconds=(0.1, 0.3))
    draw_picture(tmp_path / "image.png", 1)
    async with Sandbox("capsolver", settings) as sandbox:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            for name, value in {
                "CAPSOLVER_CLIENT_KEY": "anything",
                "CAPSOLVER_URL": sandbox.url,
                "RECEIVER_API_KEYS": f"tests:{ADMIN}",
                "RECEIVER_PUBLIC_URL": f"{url}/receiver",
            }.items():
                monkeypatch.setenv(name, value)
            monkeypatch.chdir(tmp_path)
            app = runpy.run_path("example.py")["app"]
            async with served(app, listener):
                answer = await posted(f"{url}/solve", (tmp_path / "image.png").read_bytes())

    assert answer["source"] == "callback"
    assert answer["text"]


def test_the_table_of_settings_is_generated() -> None:
    """What `receiver.settings` says is what the README shows; `make docs` renews it."""
    (shown,) = re.findall(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)

    assert shown == settings_table()


def test_every_route_is_told(tmp_path: Path) -> None:
    """Each route of the application stands in the README's table."""
    settings = ReceiverSettings(database=tmp_path / "receiver.db", _env_file=None)
    routes = {resource.canonical for resource in create_app(settings).router.resources()}

    told = README.replace("/tasks/{ref}", "/tasks/{id}")
    # Callback URLs with slashes too many are told in words.
    assert {route for route in routes if f"{route}`" not in told and not route.startswith("/{lead}")} == set()


def test_every_problem_status_is_told() -> None:
    """Each HTTP status that a problem can have is named somewhere in the README."""
    assert {problem.status for problem in PROBLEMS.values() if str(problem.status) not in README} == set()


@asynccontextmanager
async def served(app: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    """Serve an application as `run_app` would."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    async with serving(runner, listener):
        yield


async def posted(url: str, body: bytes) -> Any:
    """Return the JSON that a POST is answered with."""
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as response:
        return await response.json()
