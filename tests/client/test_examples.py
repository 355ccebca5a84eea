"""The examples in the docstrings of the entry points run as they stand there."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

import client
from client import TaskClient, load_providers, read_results
from client.sandbox import Sandbox, SandboxSettings
from receiver.app import create_app
from receiver.mounting import mount
from receiver.settings import load_settings
from tests.support import ADMIN, eventually, running_receiver


def example_of(function: Callable[..., Any]) -> str:
    """Return the code in the docstring of a function."""
    found = re.search(r"Example::\n\n((?:    .*\n|\n)+)", inspect.getdoc(function) or "")
    assert found is not None
    return textwrap.dedent(found[1])


async def run(code: str, shown: list[str]) -> None:
    """Run code that awaits, with the public names of the client; `shown` takes what it prints."""
    names: dict[str, Any] = {"Path": Path, "print": shown.append, **vars(client)}
    exec(f"async def example():\n{textwrap.indent(code, '    ')}", names)  # noqa: S102 - the code is ours
    await names["example"]()


@pytest.fixture
async def _services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Run a sandbox and a receiver, known to the examples by the environment, beside an image."""
    (tmp_path / "captcha.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(16))
    settings = SandboxSettings(async_images=True, latency_seconds=(0.1, 0.2))
    async with running_receiver(tmp_path / "receiver.db") as receiver, Sandbox("capsolver", settings) as sandbox:
        for name, value in {
            "CAPSOLVER_CLIENT_KEY": "anything",
            "CAPSOLVER_URL": sandbox.url,
            "CALLBACK_RECEIVER_URL": receiver.url,
            "CALLBACK_RECEIVER_KEY": ADMIN,
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield


@pytest.mark.usefixtures("_services")
async def test_solve() -> None:
    """The text of the image is shown."""
    shown: list[str] = []
    async with asyncio.timeout(40):
        await run(example_of(TaskClient.solve), shown)

    (text,) = shown
    assert text


@pytest.mark.usefixtures("_services")
async def test_submit_and_read_results() -> None:
    """The id and the text of the submitted image are shown, and its result is read by its tag."""
    submitted: list[str] = []
    read: list[str] = []
    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        reading = group.create_task(run(example_of(read_results), read))
        await run(example_of(TaskClient.submit), submitted)
        await eventually(lambda: len(read) == 1)
        reading.cancel()

    task_id = submitted[0].removeprefix("submitted as ")
    assert submitted[1]
    assert re.fullmatch(rf"{task_id} is ready; go on after \S+", read[0])


@pytest.mark.usefixtures("_services")
async def test_load_providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of the image is shown, by a provider that only the file names."""
    (tmp_path / "providers.toml").write_text('[myprovider]\nlike = "capsolver"\n')
    monkeypatch.setenv("MYPROVIDER_CLIENT_KEY", "anything")
    monkeypatch.setenv("MYPROVIDER_URL", os.environ["CAPSOLVER_URL"])
    # The receiver does not know the provider.
    monkeypatch.delenv("CALLBACK_RECEIVER_URL")
    shown: list[str] = []
    async with asyncio.timeout(40):
        await run(example_of(load_providers), shown)

    (text,) = shown
    assert text


@pytest.mark.parametrize("function", [create_app, mount])
def test_applications(function: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application has the receiver's routes. Waits end when their peers hang up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECEIVER_API_KEYS", f"tests:{ADMIN}")
    served: list[web.Application] = []

    def run_app(app: web.Application, *, port: int, handler_cancellation: bool) -> None:
        assert port
        assert handler_cancellation
        served.append(app)

    names = {"web": SimpleNamespace(Application=web.Application, run_app=run_app), "Path": Path}
    exec(example_of(function), {**names, "load_settings": load_settings, function.__name__: function})  # noqa: S102

    (app,) = served
    prefix = "" if function is create_app else "/receiver"
    assert f"{prefix}/v1/tasks" in {route.resource.canonical for route in app.router.routes() if route.resource}
