"""Runs `callback-receiver` as a user does, in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support import PLACES

__all__ = ["KEY", "SECRET", "Finished", "run_command"]

SECRET = "hunter2-hunter2-hunter2-hunter2"
KEY = f"tests:{SECRET}"
"""A valid setting of RECEIVER_API_KEYS."""


@dataclass(frozen=True)
class Finished:
    """The exit code of a command and its output."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line of its refusal. Any other result or a secret in it fails the test."""
        assert (self.code, self.out, self.err.count("\n")) == (2, "", 1), self
        assert SECRET[:7] not in self.err
        return self.err.removeprefix("callback-receiver: ").rstrip("\n")


async def run_command(folder: Path, *arguments: str, **environment: str) -> Finished:
    """Run the command to its end; `environment` holds RECEIVER_ variables without their prefix."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RECEIVER_")}
    named = environment.get("DATABASE", "receiver.db")
    if PLACES.new_url is not None and "://" not in named:
        environment["DATABASE"] = str(PLACES[folder / named])
    variables |= {f"RECEIVER_{name}": value for name, value in environment.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "receiver", *arguments),
        cwd=folder,
        env=variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())
