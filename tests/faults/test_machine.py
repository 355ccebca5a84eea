"""Faults of the machine under a receiver: nothing acknowledged is lost, and it recovers without a restart."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from receiver.errors import CannotStartError
from receiver.storage.sqlite.database import make_file
from tests.faults.commands import run_command
from tests.faults.disks import locked
from tests.faults.machine import Machine
from tests.faults.restarts import Callbacks, sending
from tests.receiver.storage.stores import running_store
from tests.support import API_KEYS, Answer, Api, ReceiverProcess, eventually, free_port, receiver_process

PER_SECOND = 50
DAY = 24 * 3600


class LoadedReceiver:
    """A running receiver with callbacks on their way to it."""

    def __init__(self, receiver: ReceiverProcess, api: Api, callbacks: Callbacks) -> None:
        self.receiver = receiver
        self.api = api
        self.callbacks = callbacks

    async def until_ready(self) -> None:
        """Wait until it is ready, and has acknowledged more callbacks."""
        async with asyncio.timeout(60):
            while (await self.api.send("GET", "/readyz")).status != 200:
                await asyncio.sleep(0.1)
        goal = len(self.callbacks.acknowledged) + PER_SECOND
        await eventually(lambda: len(self.callbacks.acknowledged) >= goal, seconds=60)

    async def during(self, seconds: float) -> tuple[dict[str, int], Answer]:
        """Return the kinds of answers to callbacks of the next seconds, and the answer of `/readyz` after them."""
        before = self.callbacks.answers.copy()
        async with asyncio.timeout(seconds + 60):
            await asyncio.sleep(seconds)
            ready = await self.api.send("GET", "/readyz")
        return dict(self.callbacks.answers - before), ready


@asynccontextmanager
async def loaded(folder: Path, machine: Machine, **options: Any) -> AsyncIterator[LoadedReceiver]:
    """Yield a receiver under load. At the end it is killed, and what it acknowledged is compared with the database."""
    database, callbacks = folder / "receiver.db", Callbacks()
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(
            receiver_process(database, port=free_port(), variables=machine.variables, **options)
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        made = await run_command(folder, "callback-url", "capsolver", API_KEYS=API_KEYS, PUBLIC_URL=receiver.url)
        running = LoadedReceiver(receiver, Api(receiver.url, session), callbacks)
        async with sending(callbacks, made.out.strip(), per_second=PER_SECOND):
            await running.until_ready()
            yield running
        await receiver.stop(signal.SIGKILL)
    async with receiver_process(database, port=0) as again, aiohttp.ClientSession() as session:
        await callbacks.compare(Api(again.url, session))


def is_calm(answers: dict[str, int]) -> bool:
    """Return True if callbacks were acknowledged, but for one in ten while the machine is busy with other tests."""
    return set(answers) <= {"200", "503"} and answers.get("503", 0) * 10 <= answers["200"]


def failing(machine: Machine, _database: Path, error: int) -> AbstractContextManager[None]:
    """Let each write fail in the block."""

    @contextmanager
    def fail() -> Any:
        machine.set(write_error=error)
        yield
        machine.set()

    block: AbstractContextManager[None] = fail()
    return block


def held(_machine: Machine, database: Path, _error: int) -> AbstractContextManager[None]:
    """Hold the right to write: this process is another one for the receiver."""
    return locked(database)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("fault", "error", "reason"),
    [
        (failing, errno.ENOSPC, "database or disk is full"),
        (failing, errno.EROFS, "disk I/O error"),
        (failing, errno.EIO, "disk I/O error"),
        (held, 0, "database is locked"),
    ],
    ids=["full", "read-only", "broken", "locked"],
)
async def test_a_disk_that_takes_nothing(
    tmp_path: Path,
    machine: Machine,
    fault: Callable[[Machine, Path, int], AbstractContextManager[None]],
    error: int,
    reason: str,
) -> None:
    """Callbacks get 503 and Retry-After, `/readyz` has the reason, and reads go on. Afterwards all is well again."""
    async with loaded(tmp_path, machine) as running:
        with fault(machine, tmp_path / "receiver.db", error):
            await asyncio.sleep(2)
            during, red = await running.during(2)
            read = await running.api.send("GET", "/v1/results")
        await running.until_ready()

    assert set(during) == {"503"}
    assert (red.status, red.json["reason"], read.status) == (503, reason, 200)
    assert set(running.callbacks.answers) == {"200", "503"}
    assert (running.callbacks.missing, running.callbacks.doubled) == (set(), set())


async def test_a_slow_disk(tmp_path: Path, machine: Machine) -> None:
    """With 50 ms for each fsync, callbacks are acknowledged."""
    async with loaded(tmp_path, machine) as running:
        machine.set(sync_seconds=0.05)
        during, _ = await running.during(3)
        machine.set()
        await running.until_ready()

    assert is_calm(during)
    assert (running.callbacks.missing, running.callbacks.doubled) == (set(), set())


async def test_a_very_slow_disk(tmp_path: Path, machine: Machine) -> None:
    """With 0.5 s for each fsync, callbacks are acknowledged. Beside a checkpoint one may get 503."""
    async with loaded(tmp_path, machine) as running:
        machine.set(sync_seconds=0.5)
        during, _ = await running.during(5)
        machine.set()
        await running.until_ready()

    assert set(during) <= {"200", "503"}
    assert during["200"] > PER_SECOND // 2
    assert set(running.callbacks.answers) <= {"200", "503"}
    assert (running.callbacks.missing, running.callbacks.doubled) == (set(), set())


@pytest.mark.sqlite
async def test_a_disk_that_hangs(tmp_path: Path, machine: Machine) -> None:
    """Callbacks get 503 after 1.5 s, then at once when the queue is full. All are honest, and the rest is stored."""
    async with loaded(tmp_path, machine) as running:
        machine.set(sync_seconds=60)
        await asyncio.sleep(3)
        during, red = await running.during(3)
        read = await running.api.send("GET", "/v1/results")
        machine.set()
        await running.until_ready()

    assert set(during) == {"503"}
    assert (red.status, read.status, read.json["type"]) == (503, 503, "urn:callback-receiver:problem:overloaded")
    assert set(running.callbacks.answers) == {"200", "503"}
    assert (running.callbacks.missing, running.callbacks.doubled) == (set(), set())


@pytest.mark.sqlite
@pytest.mark.parametrize("step", [DAY, -DAY])
async def test_a_step_of_the_clock(tmp_path: Path, machine: Machine, step: int) -> None:
    """Callbacks, tokens and the log go on over a step of the wall clock, forward or back, and over its end.

    A step ends tickets, because one from before a step back would be valid for a day. New ones are valid.
    """
    async with loaded(tmp_path, machine) as running:
        before = await running.api.register()
        tickets = [(await running.api.send("POST", "/v1/tickets")).json["ticket"]]
        machine.set(clock_seconds=step)
        during, _ = await running.during(2)
        stepped = await running.api.register()
        answers = [await running.api.call_back(task["callbackUrl"], taskId=task["ref"]) for task in (before, stepped)]
        tickets.append((await running.api.send("POST", "/v1/tickets")).json["ticket"])
        streams = [await opened(running.api, ticket) for ticket in tickets]
        machine.set()
        after = await running.api.register()
        answers.append(await running.api.call_back(after["callbackUrl"], taskId=after["ref"]))
        found = [await running.api.task(task["ref"]) for task in (before, stepped, after)]
        await running.until_ready()

    assert is_calm(during)
    assert streams == [401, 200]
    assert [answer.status for answer in answers] == [200] * 3
    assert [(task["status"], task["source"]) for task in found] == [("ready", "callback")] * 3
    assert running.callbacks.missing == set()
    # The deadline of the first task may have passed: an outcome of ours, which the callback replaced.
    assert running.callbacks.doubled <= {before["ref"]}


async def opened(api: Api, ticket: str) -> int:
    """Return the status of a stream opened with this ticket."""
    async with aiohttp.ClientSession() as session:
        response = await session.get(f"{api.url}/v1/results/stream", params={"ticket": ticket})
        response.close()
        return response.status


async def test_a_deadline_that_a_step_brought(tmp_path: Path, machine: Machine) -> None:
    """A step forward ends waiting tasks at their deadline. The outcome is provisional, so the callback replaces it."""
    async with loaded(tmp_path, machine) as running:
        task = await running.api.register()
        machine.set(clock_seconds=7 * DAY)
        ended = await running.api.send("GET", f"/v1/tasks/{task['ref']}", params={"wait": "50"})
        late = await running.api.call_back(task["callbackUrl"], taskId=task["ref"])
        found = await running.api.task(task["ref"])

    assert (ended.json["status"], ended.json["source"]) == ("failed", "deadline")
    assert (late.status, found["status"], found["source"]) == (200, "ready", "callback")


async def test_used_up_file_descriptors(tmp_path: Path, machine: Machine) -> None:
    """While no connection can be accepted, none is acknowledged and lost. Afterwards it accepts again."""
    async with loaded(tmp_path, machine) as running:
        pid = running.receiver.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        open_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))  # noqa: ASYNC240  (the kernel answers at once)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files - 5, limits[1]))
        await asyncio.sleep(3)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        await running.until_ready()

    assert set(running.callbacks.answers) <= {"200", "503", "broken"}
    assert (running.callbacks.missing, running.callbacks.doubled) == (set(), set())


@pytest.mark.sqlite
@pytest.mark.parametrize("is_new", [True, False])
async def test_a_start_on_a_full_disk(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, *, is_new: bool
) -> None:
    """It ends with 1, so that a service manager tries again, and starts once there is room."""
    if not is_new:
        async with running_store(tmp_path / "receiver.db"):
            pass
    for name, value in machine.variables.items():
        monkeypatch.setenv(name, value)
    machine.set(write_error=errno.ENOSPC)
    refused = await run_command(tmp_path, "serve", API_KEYS=API_KEYS, PORT="0")
    machine.set()
    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver:
        code = await receiver.stop()

    assert (refused.code, code) == (1, 0)
    assert refused.err.startswith("callback-receiver: receiver.db: the database cannot be used: ")
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(("error", "passes"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EACCES, False)])
def test_a_file_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, *, passes: bool
) -> None:
    """A full or read-only disk may be mended while a service manager tries again. A wrong owner is not."""

    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CannotStartError) as refused:
        make_file(tmp_path / "receiver.db")

    assert refused.value.passes is passes
