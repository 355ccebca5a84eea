"""The README says what the code does: its example runs, its table of settings is the settings."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from client.demo.pictures import draw_picture
from client.sandbox import Sandbox, Settings
from receiver.app import create_app
from receiver.errors import PROBLEMS
from receiver.settings import Settings as ReceiverSettings
from receiver.settings import settings_table
from tests.support import ADMIN, running_receiver

README = (Path(__file__).parent.parent / "README.md").read_text()


async def test_the_example_runs(tmp_path: Path) -> None:
    """The Python of the README, as it stands there, prints an answer for each image, by callback."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "example.py").write_text(example)
    (tmp_path / "images").mkdir()
    for number in range(3):
        draw_picture(tmp_path / "images" / f"{number}.png", number)
    settings = Settings(async_images=True, latency_seconds=(0.1, 0.3))
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


def test_the_table_of_settings_is_generated() -> None:
    """What `receiver.settings` says is what the README shows; `make docs` renews it."""
    (shown,) = re.findall(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)

    assert shown == settings_table()


def test_every_route_is_told(tmp_path: Path) -> None:
    """Each route of the application stands in the README's table."""
    settings = ReceiverSettings(database=tmp_path / "receiver.db", _env_file=None)
    routes = {resource.canonical for resource in create_app(settings).router.resources()}

    told = README.replace("/tasks/{ref}", "/tasks/{id}")
    assert {route for route in routes if f"{route}`" not in told} == set()


def test_every_problem_status_is_told() -> None:
    """Each HTTP status that a problem can have is named somewhere in the README."""
    assert {problem.status for problem in PROBLEMS.values() if str(problem.status) not in README} == set()
