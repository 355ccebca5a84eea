"""Tasks registered over HTTP and bound to their ids, as clients do it, and the callbacks to end them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from yarl import URL

from receiver.domain.tokens import Kind, make_token
from tests.benchmarks.load import Target
from tests.benchmarks.tasks import PROVIDER, READ_KEY, callback_body, task_id_of

__all__ = ["Connection", "OpenTask", "connected", "register_tasks"]

_CONNECTIONS = 32
_LASTS_SECONDS = 24 * 3600.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A registered task with its id, and the path of its callback URL."""

    ref: str
    task_id: str
    callback_path: str

    def callback(self) -> Target:
        """Return the callback that ends the task."""
        return Target(self.callback_path, callback_body(self.ref, self.task_id))

    def signed_with(self, signing_key: bytes) -> OpenTask:
        """Return the same task with the callback URL of another receiver."""
        token = make_token(Kind.TASK, UUID(self.ref), PROVIDER, signing_key)
        return OpenTask(self.ref, self.task_id, f"/callback/{PROVIDER}/{token}")

    def fetch(self) -> Target:
        """Return a GET for the task."""
        return Target(f"/v1/tasks/{self.ref}", key=READ_KEY)


async def register_tasks(port: int, count: int, *, first: int = 0) -> Sequence[OpenTask]:
    """Register tasks at the receiver over keep-alive connections, and bind each one to its id.

    The ids are numbered from `first` on. The tasks come back in the order of these numbers.
    """
    registered: dict[int, OpenTask] = {}
    numbers = iter(range(first, first + count))
    async with asyncio.TaskGroup() as connections:
        for _ in range(min(_CONNECTIONS, count)):
            connections.create_task(_register_each(port, numbers, registered))
    return [registered[number] for number in sorted(registered)]


async def _register_each(port: int, numbers: Iterator[int], registered: dict[int, OpenTask]) -> None:
    body = {"provider": PROVIDER, "type": "AntiTurnstileTaskProxyLess", "timeoutSeconds": _LASTS_SECONDS}
    registration = json.dumps(body)
    async with connected(port) as connection:
        for number in numbers:
            answer = await connection.ask(Target("/v1/tasks", registration, key=READ_KEY))
            ref, task_id = answer["ref"], task_id_of(number)
            binding = json.dumps({"taskId": task_id})
            await connection.ask(Target(f"/v1/tasks/{ref}", binding, key=READ_KEY, method="PATCH"))
            registered[number] = OpenTask(ref, task_id, URL(answer["callbackUrl"]).raw_path)


@dataclass(frozen=True, slots=True)
class Connection:
    """A keep-alive connection. It costs a third of one of aiohttp's client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, target: Target) -> Mapping[str, Any]:
        """Return the JSON of the answer.

        Raises:
            RuntimeError: its status is not one of success.
        """
        self.writer.write(target.request())
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await self.reader.readexactly(int(length[1]) if length else 0)
        if head[9:10] != b"2":
            raise RuntimeError(f"{target.path}: {head[9:12].decode()} {body.decode(errors='replace')}")
        answer: Mapping[str, Any] = json.loads(body)
        return answer


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """Yield a connection to the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()
