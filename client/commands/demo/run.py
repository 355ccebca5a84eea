"""Starts everything the demo needs, lets the clients await their answers, checks each, and stops everything."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from rich.console import Console

from client.commands.demo.pictures import draw_picture
from client.commands.demo.scenario import Case, all_cases
from client.commands.demo.table import Board, Row
from client.errors import CallbackReceiverError
from client.images import with_encoded_body
from client.sandbox import Sandbox, Settings, expected_solution
from client.tasks import TaskClient

__all__ = ["run_demo"]

_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_ALL_SECONDS = 55.0
_FIRST_POLL_SECONDS = 5.0
_LATENCY_SECONDS = (0.5, 2.5)


@dataclass(frozen=True, slots=True)
class _Receiver:
    url: str
    key: str


async def run_demo(console: Console) -> bool:
    """Whether every answer came and was right. Everything that was started is stopped, also when it is cancelled."""
    rows = [Row(case) for case in all_cases()]
    with tempfile.TemporaryDirectory(prefix="callback-receiver-demo-") as folder:
        async with _running_receiver(Path(folder)) as receiver, AsyncExitStack() as stack:
            clients = {}
            for provider in ("capsolver", "onecaptcha"):
                settings = Settings(latency_seconds=_LATENCY_SECONDS)
                sandbox = await stack.enter_async_context(Sandbox(dialect=provider, settings=settings))
                console.print(f"{provider} sandbox on {sandbox.url}", highlight=False)
                clients[provider] = await stack.enter_async_context(_client(provider, sandbox.url, receiver))
            console.print(f"receiver on {receiver.url}, its database and log in a folder of its own\n", highlight=False)
            await _solve_all(rows, clients, Path(folder), Board(rows, console))
    return Board(rows, console).summarize()


def _client(provider: str, provider_url: str, receiver: _Receiver) -> TaskClient:
    return TaskClient(
        provider,
        client_key="demo-client-key",
        provider_url=provider_url,
        receiver_url=receiver.url,
        receiver_key=receiver.key,
        # The documented 30 s would be a dull demo; where no callback is expected, the provider's own times hold.
        first_poll_seconds=_FIRST_POLL_SECONDS,
    )


async def _solve_all(rows: Sequence[Row], clients: Mapping[str, TaskClient], folder: Path, board: Board) -> None:
    with board:
        try:
            async with asyncio.timeout(_ALL_SECONDS), asyncio.TaskGroup() as group:
                for row in rows:
                    group.create_task(_solve(row, clients[row.case.provider], folder, board))
        except TimeoutError:
            pass  # the rows without an answer tell


async def _solve(row: Row, client: TaskClient, folder: Path, board: Board) -> None:
    case = row.case
    image = folder / f"{case.number}.png"
    await asyncio.to_thread(draw_picture, image, case.number)
    task = _task(case, image)
    started = time.monotonic()
    try:
        result = await client.solve(task, tags=("demo",))
        expected = expected_solution(case.provider, await with_encoded_body(task))
        row.road = result.source or ""
        row.answer = " ".join(str(value) for value in result.solution.values())
        row.problem = "" if result.solution == expected else f"expected {expected}"
    except CallbackReceiverError as error:
        row.problem = str(error)
    row.seconds = time.monotonic() - started
    board.tell(row)


def _task(case: Case, image: Path) -> dict[str, object]:
    task: dict[str, object] = {"type": "ImageToTextTask", "body": image}
    if case.provider == "onecaptcha":
        task["imageType"] = "demo"
    if case.sandbox:
        task["sandbox"] = case.sandbox
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
            await _until_ready(receiver, process, folder / "receiver.log")
            yield receiver
        finally:
            await _stop(process)


@contextmanager
def _kept_port() -> Iterator[int]:
    """Yield a port that no other program takes before the receiver listens on it.

    On POSIX it is kept by a socket that is bound and does not listen; on Windows that would keep the receiver out, too.
    """
    with socket.socket() as holder:
        if os.name == "posix":
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        if os.name != "posix":
            holder.close()
        yield port


async def _until_ready(receiver: _Receiver, process: asyncio.subprocess.Process, log: Path) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(_START_SECONDS):
        while process.returncode is None:
            try:
                async with session.get(f"{receiver.url}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # not listening yet
            await asyncio.sleep(0.05)
    said = await asyncio.to_thread(log.read_text, errors="replace")
    raise CallbackReceiverError(f"the receiver did not start: {said.strip()[-500:]}")


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
