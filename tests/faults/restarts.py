"""`python -m tests.faults.restarts`: 200 callbacks a second while the receiver is restarted again and again.

It prints the answers with one socket for all receivers, as a service manager passes it on. Then it prints those with
sockets that each receiver opens itself. Half of the callbacks come over new connections, half over kept ones.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click

from tests.faults.commands import run_command
from tests.support import API_KEYS, Api, ReceiverProcess, free_port, receiver_process, release_ports

__all__ = ["PER_SECOND", "Callbacks", "restart_under_load", "sending"]

PER_SECOND = 200
_PAUSE_SECONDS = 1.0
_ANSWER_SECONDS = 60.0
_AGAIN_SECONDS = 0.5
# As many idle connections as Caddy keeps by default. With hundreds, some of them have no request within a second.
_KEPT = 32


@dataclass
class Callbacks:
    """The answers by kind: an HTTP status, `refused` without a connection, `broken` or `unanswered` without an answer.

    `missing` are the acknowledged callbacks that are not in the log, and `doubled` those that are there twice.
    With `sends_again` a callback with a 503 is repeated, as providers do.
    """

    sends_again: bool = False
    answers: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)

    async def send(self, session: aiohttp.ClientSession, url: str, task_id: str) -> None:
        """Deliver the answer of a new task and count what comes back."""
        body = {"errorId": 0, "status": "ready", "taskId": task_id, "solution": {"text": task_id}}
        while await self._status(session, url, body) == 503 and self.sends_again:
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _status(self, session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> int | None:
        try:
            async with session.post(url, json=body) as response:
                is_honest = response.status != 503 or int(response.headers.get("Retry-After", "0")) > 0
                self.answers[str(response.status) if is_honest else "503 without Retry-After"] += 1
                if response.status == 200:
                    self.acknowledged.add(str(body["taskId"]))
                return response.status
        except aiohttp.ClientConnectorError:
            self.answers["refused"] += 1
        except aiohttp.ClientError:
            self.answers["broken"] += 1
        except TimeoutError:
            self.answers["unanswered"] += 1
        return None

    async def compare(self, api: Api) -> None:
        """Compare the acknowledged callbacks with the log."""
        stored: Counter[str] = Counter()
        cursor, is_more = "start", True
        while is_more:
            page = (await api.send("GET", "/v1/results", params={"after": cursor, "limit": "1000"})).json
            stored.update(str(entry["task"]["taskId"]) for entry in page["results"])
            cursor, is_more = page["cursor"], page["more"]
        self.missing = self.acknowledged - set(stored)
        self.doubled = {task_id for task_id, count in stored.items() if count > 1}


async def restart_under_load(folder: Path, *, restarts: int, is_passed: bool) -> Callbacks:
    """Send callbacks from before the first restart until after the last one. Return what became of them.

    `is_passed`: the listening socket is ours, and each receiver gets it. Otherwise each opens its own.
    """
    callbacks = Callbacks(sends_again=True)
    async with AsyncExitStack() as stack:
        passed = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096)) if is_passed else None
        port = free_port() if passed is None else passed.getsockname()[1]

        async def start() -> ReceiverProcess:
            return await stack.enter_async_context(receiver_process(folder / "receiver.db", port=port, listener=passed))

        receiver = await start()
        made = await run_command(folder, "callback-url", "capsolver", API_KEYS=API_KEYS, PUBLIC_URL=receiver.url)
        async with sending(callbacks, made.out.strip()):
            for _ in range(restarts):
                await asyncio.sleep(_PAUSE_SECONDS)
                await receiver.stop()
                receiver = await start()
            await asyncio.sleep(_PAUSE_SECONDS)
        async with aiohttp.ClientSession() as session:
            await callbacks.compare(Api(receiver.url, session))
    return callbacks


@asynccontextmanager
async def sending(callbacks: Callbacks, url: str, *, per_second: int = PER_SECOND) -> AsyncIterator[None]:
    """Send callbacks at a steady rate inside the block. On leaving, wait for all answers."""
    timeout = aiohttp.ClientTimeout(_ANSWER_SECONDS)
    is_over = asyncio.Event()

    async def send_at_rate(sends: asyncio.TaskGroup, sessions: Iterable[aiohttp.ClientSession]) -> None:
        due = time.monotonic()
        for number, session in enumerate(itertools.cycle(sessions)):
            if is_over.is_set():
                return
            sends.create_task(callbacks.send(session, url, f"task-{number}"))
            due += 1 / per_second
            await asyncio.sleep(due - time.monotonic())

    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0, force_close=True)) as fresh,
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=_KEPT)) as kept,
        asyncio.TaskGroup() as sends,
    ):
        sends.create_task(send_at_rate(sends, (fresh, kept)))
        yield
        is_over.set()


@click.command()
@click.option("--restarts", default=5, show_default=True)
def main(restarts: int) -> None:
    """Restart the receiver under load and print the answers."""
    for is_passed in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            callbacks = asyncio.run(restart_under_load(Path(folder), restarts=restarts, is_passed=is_passed))
        release_ports()
        print("passed socket" if is_passed else "own sockets", dict(callbacks.answers))  # noqa: T201
        print(f"  acknowledged and not stored: {len(callbacks.missing)}, twice: {len(callbacks.doubled)}")  # noqa: T201


if __name__ == "__main__":
    main()
