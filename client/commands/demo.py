"""The command `demo`: two sandboxes, a receiver and clients on this machine, with every answer checked."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import signal
import socket
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from client.errors import CallbackReceiverError
from client.images import with_encoded_body
from client.logs import log_to_terminal
from client.output import CannotShowError
from client.sandbox import Sandbox, SandboxSettings, expected_solution
from client.tasks import TaskClient

__all__ = ["Board", "demo", "draw_picture", "run_demo"]

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_ALL_SECONDS = 55.0
_FIRST_POLL_SECONDS = 5.0
_LATENCY_SECONDS = (0.5, 2.5)
_CELLS_WIDE, _CELLS_HIGH, _CELL = 24, 8, 5

_BY_HAND = """
The same by hand. In one terminal:  make serve
In a second one:
  .venv/bin/callback-client sandbox --dialect capsolver --port 8081 \\
    --async-images
In a third one:
  export CALLBACK_RECEIVER_URL=http://127.0.0.1:8080
  export CAPSOLVER_CLIENT_KEY=anything CAPSOLVER_URL=http://127.0.0.1:8081
  .venv/bin/callback-client solve IMAGE --provider capsolver --json"""


@dataclass(frozen=True, slots=True)
class _Case:
    """Tasks with one `story`, shown in the table. The sandbox gives them these `faults`."""

    provider: str
    story: str
    count: int
    faults: Mapping[str, Any] = field(default_factory=dict)


# At most 32 characters for each story, or the table is wider than 80 columns.
_CASES = (
    _Case("capsolver", "answered by createTask itself", 4, {"sync": True}),
    _Case("capsolver", "called back", 8, {"sync": False}),
    _Case("capsolver", "callback overtakes createTask", 3, {"sync": False, "callback": "early"}),
    _Case("capsolver", "called back twice", 3, {"sync": False, "callback": "twice"}),
    _Case("capsolver", "callback lost", 4, {"sync": False, "callback": "lost"}),
    _Case("capsolver", "callback right behind the poll", 2, {"sync": False, "callback": "late"}),
    _Case("capsolver", "half a callback: a hint to poll", 1, {"sync": False, "callback": "truncated"}),
    _Case("capsolver", "callback of another task: a hint", 1, {"sync": False, "callback": "otherTaskId"}),
    _Case("onecaptcha", "no callbacks there: polled", 8),
)


@dataclass(slots=True)
class _Row:
    """One task. `source` is how its answer came; `seconds` is None until then; `problem` is "" for a right answer."""

    number: int
    case: _Case
    source: str = ""
    seconds: float | None = None
    problem: str = ""

    @property
    def is_right(self) -> bool:
        return self.seconds is not None and not self.problem


class Board:
    """The tasks of the demo on a console: a live table, or without a terminal one line for each finished task."""

    def __init__(self, console: Console) -> None:
        cases = [case for case in _CASES for _ in range(case.count)]
        # Steps of seven through all cases mix them, and each run is the same.
        mixed = [cases[index * 7 % len(cases)] for index in range(len(cases))]
        self.rows = [_Row(number, case) for number, case in enumerate(mixed, 1)]
        self.console = console
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=8)

    def __enter__(self) -> Board:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    @property
    def is_right(self) -> bool:
        """True once every answer is there and right."""
        return all(row.is_right for row in self.rows)

    def finish(self, row: _Row) -> None:
        """Show a finished row, unless a table shows it."""
        if not self.console.is_terminal:
            verdict = f"wrong: {row.problem}" if row.problem else "right"
            self.write(
                f"{row.number:>3} {row.case.provider:<10} {row.seconds or 0:5.1f} s by {row.source or '-':<8} "
                f"{verdict}  ({row.case.story})"
            )

    def table(self) -> Table:
        """Return a table with one line for each story."""
        table = Table(box=None, pad_edge=False)
        table.add_column("service", no_wrap=True)
        table.add_column("what happens on the way")
        table.add_column("right", justify="right", no_wrap=True)
        table.add_column("came by", min_width=8, no_wrap=True)
        table.add_column("seconds", justify="right", no_wrap=True)
        for case in _CASES:
            rows = [row for row in self.rows if row.case == case]
            seconds = sorted(row.seconds for row in rows if row.seconds is not None)
            right = f"{sum(row.is_right for row in rows)}/{len(rows)}"
            table.add_row(
                case.provider,
                case.story,
                f"[red]{right}[/red]" if any(row.problem for row in rows) else right,
                ", ".join(sorted({row.source for row in rows if row.source})) or "[dim]waiting[/dim]",
                "-".join(dict.fromkeys(f"{limit:.1f}" for limit in (*seconds[:1], *seconds[-1:]))),
            )
        return table

    def summary(self) -> str:
        """Return the counts of sources and of right answers, and the problems of the others."""
        sources = Counter(row.source for row in self.rows if row.source)
        right = sum(row.is_right for row in self.rows)
        slowest = max(row.seconds or 0.0 for row in self.rows)
        lines = [
            ", ".join(f"{count} by {source}" for source, count in sorted(sources.items())),
            f"{right} of {len(self.rows)} answers are right; the slowest took {slowest:.1f} s",
        ]
        lines += [
            f"task {row.number} ({row.case.story}): {row.problem or 'no answer'}"
            for row in self.rows
            if not row.is_right
        ]
        return "\n".join(lines)

    def write(self, text: str) -> None:
        """Print a text as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@click.command(
    epilog="Exit codes: 0 every answer came and was right, 1 otherwise.",
    short_help="See it all at work on this machine, without a key.",
)
def demo() -> None:
    """Run two sandboxes, a receiver and clients on this machine, and watch tasks being answered. Under a minute."""
    log_to_terminal(logging.ERROR)
    # Ended by a signal, it stops what it started all the same.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    board = Board(Console())
    cannot_show: Exception | None = None
    try:
        asyncio.run(run_demo(board))
    except* CannotShowError as group:
        cannot_show = group
    if cannot_show is not None:
        raise _first_of(cannot_show) from None
    board.write(f"\n{board.summary()}\n{_BY_HAND}")
    sys.exit(0 if board.is_right else 1)


async def run_demo(board: Board) -> None:
    """Start everything, solve the tasks of `board`, and stop everything, also when it is cancelled."""
    board.write("Starting a receiver and two sandboxes ...")
    with tempfile.TemporaryDirectory(prefix="callback-receiver-demo-") as folder:
        async with _running_receiver(Path(folder)) as receiver, AsyncExitStack() as stack:
            clients = {}
            for provider in ("capsolver", "onecaptcha"):
                settings = SandboxSettings(latency_seconds=_LATENCY_SECONDS)
                sandbox = await stack.enter_async_context(Sandbox(dialect=provider, settings=settings))
                board.write(f"{provider} sandbox on {sandbox.url}")
                clients[provider] = await stack.enter_async_context(_client(provider, sandbox.url, receiver))
            board.write(f"receiver on {receiver.url}, with its database in a temporary folder")
            board.write(f"Submitting {len(board.rows)} tasks; the last answers come after about 10 s.\n")
            await _solve_all(board, clients, Path(folder))


@dataclass(frozen=True, slots=True)
class _Receiver:
    url: str
    key: str


def _client(provider: str, provider_url: str, receiver: _Receiver) -> TaskClient:
    return TaskClient(
        provider,
        client_key="demo-client-key",
        provider_url=provider_url,
        receiver_url=receiver.url,
        receiver_key=receiver.key,
        # The documented 30 s would be a dull demo. If no callback is expected, the provider's own times hold.
        first_poll_seconds=_FIRST_POLL_SECONDS,
    )


async def _solve_all(board: Board, clients: Mapping[str, TaskClient], folder: Path) -> None:
    with board:
        try:
            async with asyncio.timeout(_ALL_SECONDS), asyncio.TaskGroup() as group:
                for row in board.rows:
                    group.create_task(_solve(row, clients[row.case.provider], folder, board))
        except TimeoutError:
            pass  # the summary names the tasks without an answer


async def _solve(row: _Row, client: TaskClient, folder: Path, board: Board) -> None:
    image = folder / f"{row.number}.png"
    await asyncio.to_thread(draw_picture, image, row.number)
    task = _task(row.case, image)
    started = time.monotonic()
    try:
        result = await client.solve(task, tags=("demo",))
        expected = expected_solution(row.case.provider, await with_encoded_body(task))
        row.source = result.source or ""
        row.problem = "" if result.solution == expected else f"expected {expected}"
    except CallbackReceiverError as error:
        row.problem = str(error)
    row.seconds = time.monotonic() - started
    board.finish(row)


def _task(case: _Case, image: Path) -> dict[str, object]:
    task: dict[str, object] = {"type": "ImageToTextTask", "body": image}
    if case.provider == "onecaptcha":
        task["imageType"] = "demo"
    if case.faults:
        task["sandbox"] = dict(case.faults)
    return task


@asynccontextmanager
async def _running_receiver(folder: Path) -> AsyncIterator[_Receiver]:
    """Yield a receiver as a process of its own, on a fresh database."""
    with _kept_port() as port, (folder / "receiver.log").open("wb") as log:
        receiver = _Receiver(f"http://127.0.0.1:{port}", secrets.token_urlsafe(24))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RECEIVER_")} | {
            "RECEIVER_HOST": "127.0.0.1",
            "RECEIVER_PORT": str(port),
            "RECEIVER_PUBLIC_URL": receiver.url,
            "RECEIVER_DATABASE": str(folder / "receiver.db"),
            "RECEIVER_API_KEYS": f"demo:{receiver.key}",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "receiver", "serve", env=environment, cwd=folder, stderr=log
        )
        try:
            await _wait_until_ready(receiver, process, folder / "receiver.log")
            yield receiver
        finally:
            await _stop(process)


@contextmanager
def _kept_port() -> Iterator[int]:
    """Yield a port, and keep other programs from taking it before the receiver listens on it.

    On POSIX a bound socket keeps it, without listening. On Windows such a socket would keep the receiver out too.
    """
    with socket.socket() as holder:
        if os.name == "posix":
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        if os.name != "posix":
            holder.close()
        yield port


async def _wait_until_ready(receiver: _Receiver, process: asyncio.subprocess.Process, log: Path) -> None:
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(_START_SECONDS):
            while process.returncode is None:
                try:
                    async with session.get(f"{receiver.url}/readyz") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass  # not listening yet
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass  # its log tells why
    text = await asyncio.to_thread(log.read_text, errors="replace")
    raise CallbackReceiverError(f"the receiver did not start within {_START_SECONDS:.0f} s: {text.strip()[-500:]}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def draw_picture(path: Path, seed: int) -> None:
    """Write a grey PNG of 120 by 40 pixels. Its pattern depends on `seed` alone, so no two are alike."""
    dice = random.Random(seed)  # noqa: S311  (a pattern, no secret)
    rows = []
    for _ in range(_CELLS_HIGH):
        row = b"".join(bytes([dice.choice((40, 120, 200, 255))]) * _CELL for _ in range(_CELLS_WIDE))
        # Each line of pixels begins with its filter: none.
        rows += [b"\x00" + row] * _CELL
    header = struct.pack(">IIBBBBB", _CELLS_WIDE * _CELL, _CELLS_HIGH * _CELL, 8, 0, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(b"".join(rows))), _chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _first_of(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
