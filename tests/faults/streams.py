"""Commands of both halves with standard streams that are closed, full, not read, or of another encoding."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

__all__ = ["BROKEN", "broken_stream", "started"]

BROKEN = ("no reader", "closed", "full disk", "not read")
"""Defects of a stream; the last one blocks the writer."""


@contextmanager
def broken_stream(kind: str) -> Iterator[int | None]:
    """Yield the number of a broken stream, or None for a closed one."""
    if kind == "closed":
        yield None
        return
    if kind == "full disk":
        with Path("/dev/full").open("wb", buffering=0) as full:
            yield full.fileno()
        return
    reading, writing = os.pipe()
    if kind == "no reader":
        os.close(reading)
    else:
        # Filled to the last byte before the command begins.
        os.set_blocking(writing, False)
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"." * 4096)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b".")
        os.set_blocking(writing, True)
    try:
        yield writing
    finally:
        os.close(writing)
        if kind != "no reader":
            os.close(reading)


@asynccontextmanager
async def started(
    folder: Path, module: str, *arguments: str, environ: Mapping[str, str], streams: Mapping[int, int | None]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Yield `python -m MODULE` with these streams by their numbers (None: closed), and kill it on leaving.

    Streams that are not named are pipes.
    """
    closing = " ".join(f"{number}>&-" for number, stream in streams.items() if stream is None)
    script = f'exec "$@" {closing}'
    others = {name: value for name, value in os.environ.items() if not name.startswith(("RECEIVER_", "CALLBACK_"))}

    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", script, "sh", sys.executable, "-m", module, *arguments),
        cwd=folder,
        env={**others, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=streams.get(1) or asyncio.subprocess.PIPE,
        stderr=streams.get(2) or asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
