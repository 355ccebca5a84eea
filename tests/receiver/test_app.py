"""Entry points of the receiver: the examples in their docstrings work."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from client.sandbox.serving import serving
from receiver.app import create_app
from receiver.mounting import mount
from receiver.settings import load_settings


def example_of(function: Callable[..., Any]) -> str:
    """Return the indented block in the docstring of `function`."""
    lines = inspect.getdoc(function).splitlines()  # type: ignore[union-attr]
    block = [line for line in lines[: lines.index("Raises:")] if line.startswith("    ")]
    return textwrap.dedent("\n".join(block))


@pytest.mark.parametrize(("function", "path"), [(create_app, "/healthz"), (mount, "/receiver/healthz")])
async def test_examples_of_entry_points_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], path: str
) -> None:
    """Each runs as it is written, and serves an application that answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECEIVER_ALLOW_ANONYMOUS", "true")
    served: list[web.Application] = []
    server = SimpleNamespace(Application=web.Application, run_app=lambda app, **_: served.append(app))
    names = {"Path": Path, "create_app": create_app, "load_settings": load_settings, "mount": mount, "web": server}
    exec(example_of(function), names)  # noqa: S102  (our own documentation)

    async with (
        serving(web.AppRunner(served[0])) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}{path}") as response,
    ):
        assert (response.status, await response.json()) == (200, {"status": "alive"})
