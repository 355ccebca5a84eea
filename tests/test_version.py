"""The version: one place in the code, and every place for users."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.version import VERSION
from tests.faults.commands import run_command
from tests.readme import ASYNCAPI, OPENAPI
from tests.support import receiver_process, running_receiver


async def test_the_command_prints_it(tmp_path: Path) -> None:
    """`--version` needs no settings and no database."""
    finished = await run_command(tmp_path, "--version")

    assert (finished.code, finished.out, finished.err) == (0, f"callback-receiver {VERSION}\n", "")


async def test_the_first_line_of_the_log_holds_it(tmp_path: Path) -> None:
    """The first line of a log names the program behind the rest."""
    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver:
        assert receiver.first_line["version"] == VERSION


async def test_the_metrics_hold_it(tmp_path: Path) -> None:
    """A collector can show the version of each receiver."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        metrics = (await api.send("GET", "/metrics")).body.decode()

    assert f'callback_receiver_build_info{{version="{VERSION}"}} 1.0\n' in metrics


@pytest.mark.parametrize("path", [ASYNCAPI, OPENAPI], ids=["streams", "HTTP"])
def test_the_contracts_hold_it(path: Path) -> None:
    """Each contract belongs to one version. `make docs` renews it."""
    assert json.loads(path.read_text())["info"]["version"] == VERSION
