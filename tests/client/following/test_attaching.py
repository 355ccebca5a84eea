"""Attaching to existing tasks: finished, waiting, old, made elsewhere; with a receiver and without."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from client import (
    BadArgumentError,
)
from client.sandbox import Sandbox
from tests.client.support import (
    CREATED,
    FAST,
    PENDING,
    QUICK,
    STORED,
    Reply,
    fast,
    image_task,
    open_client,
    ready,
    reserved_port,
    says,
    scripted_provider,
    scripted_receiver,
    solution_of,
)
from tests.support import ADMIN, running_receiver

_KILLED = """
import asyncio, os, signal
from client import TaskClient

async def main():
    async with TaskClient("capsolver") as tasks:
        task = await tasks.submit({"type": "AntiTurnstileTaskProxyLess"})
        print(task.task_id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""

_PROCESSING = {**STORED, "status": "processing", "solution": None, "source": None}


async def test_attach_to_a_finished_task(tmp_path: Path) -> None:
    """Attaching to a task with an answer at the receiver gives it at once."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
    ):
        async with open_client(sandbox.url, receiver.url) as tasks:
            first = await tasks.solve(image_task())
        async with open_client(sandbox.url, receiver.url) as tasks:
            assert first.task_id is not None
            again = await (await tasks.attach(first.task_id)).result(timeout=30)

    assert again == first
    assert sandbox.stats.get_task_result_calls == 0


async def test_attach_to_a_waiting_task(tmp_path: Path) -> None:
    """After a crash another client attaches to the task by its id, and gets the callback."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED) as provider,
    ):
        async with open_client(provider.url, receiver.url) as tasks:
            first = await tasks.submit(image_task())
        async with open_client(provider.url, receiver.url) as tasks:
            task = await tasks.attach("task-1")
            await receiver.call_back(provider.calls["createTask"][0]["callbackUrl"], taskId="task-1")
            solved = await task.result(timeout=30)

    assert (task.ref, solved.source, provider.calls["getTaskResult"]) == (first.ref, "callback", [])


async def test_attach_misses_no_answer_in_between() -> None:
    """An answer stored between the registration and the reader's first frame is seen: the task is read again."""
    async with (
        scripted_receiver(register=says(_PROCESSING), task=says(STORED)) as receiver_url,
        open_client("http://127.0.0.1:1", receiver_url) as tasks,
    ):
        solved = await (await tasks.attach("task-1")).result(timeout=30)

    assert (solved.ref, solved.solution) == ("ref-1", {"text": "44795sds"})


async def test_attach_to_an_old_task() -> None:
    """A task older than the provider's window is not polled any more, even if another client made it."""
    old = {**_PROCESSING, "pollAfter": STORED["createdAt"]}
    async with (
        scripted_receiver(register=says(old), task=says(old)) as receiver_url,
        scripted_provider(getTaskResult=ready()) as provider,
        open_client(provider.url, receiver_url) as tasks,
    ):
        task = await tasks.attach("task-1")
        with pytest.raises(TimeoutError):
            await task.result(timeout=0.3)

    assert provider.calls["getTaskResult"] == []


async def test_attach_to_a_task_of_this_client(tmp_path: Path) -> None:
    """Two handles of one task in one client both get its answer."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        handles = [await tasks.submit(image_task()), await tasks.attach("task-1")]
        await receiver.call_back(provider.calls["createTask"][0]["callbackUrl"], taskId="task-1")
        solved = [await task.result(timeout=30) for task in handles]

    assert solved[0] == solved[1]


async def test_attach_to_a_task_made_elsewhere(tmp_path: Path) -> None:
    """A task submitted without the receiver is polled by the plan, and its answer is stored."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
    ):
        async with open_client(sandbox.url) as tasks:
            made = await tasks.submit(image_task())
        async with open_client(sandbox.url, receiver.url) as tasks:
            assert made.task_id is not None
            task = await tasks.attach(made.task_id)
            solved = await task.result(timeout=30)
        stored = await receiver.task(made.task_id)

    assert (solved.solution, stored["source"], stored["ref"]) == (solution_of(image_task()), "poll", task.ref)


async def test_attach_without_a_receiver() -> None:
    """Without a receiver an existing task is polled until it has an answer."""
    async with (
        scripted_provider(getTaskResult=[Reply(PENDING), Reply(ready())]) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.attach(12345678901)
        solved = await task.result(timeout=30)

    assert (solved.task_id, solved.status) == (12345678901, "ready")
    assert provider.calls["getTaskResult"][0]["taskId"] == 12345678901


@pytest.mark.parametrize("task_id", [0, "", None, True, 1.5, "a" * 257, 10**256], ids=count())
async def test_attach_to_no_id(task_id: Any) -> None:
    """A value that cannot be an id is refused before anything is sent."""
    async with open_client("http://127.0.0.1:1") as tasks:
        with pytest.raises(BadArgumentError, match="task_id"):
            await tasks.attach(task_id)


async def test_both_sides_restarted_in_between(tmp_path: Path) -> None:
    """With nothing but the taskId, a new client gets the callback from a restarted receiver, too."""
    database = tmp_path / "receiver.db"
    async with scripted_provider(createTask=CREATED) as provider:
        async with (
            running_receiver(database, dialects=FAST) as receiver,
            open_client(provider.url, receiver.url) as tasks,
        ):
            first = await tasks.submit(image_task())
        path = urlsplit(provider.calls["createTask"][0]["callbackUrl"]).path
        async with (
            running_receiver(database, dialects=FAST) as receiver,
            open_client(provider.url, receiver.url) as tasks,
        ):
            task = await tasks.attach("task-1")
            await receiver.call_back(receiver.url + path, taskId="task-1")
            solved = await task.result(timeout=30)

    assert (task.ref, solved.source, provider.calls["getTaskResult"]) == (first.ref, "callback", [])


async def test_answer_came_while_nobody_was_there(tmp_path: Path) -> None:
    """An answer received without a client is still there after a restart of the receiver."""
    database = tmp_path / "receiver.db"
    async with scripted_provider(createTask=CREATED) as provider:
        async with running_receiver(database, dialects=FAST) as receiver:
            async with open_client(provider.url, receiver.url) as tasks:
                first = await tasks.submit(image_task())
            await receiver.call_back(provider.calls["createTask"][0]["callbackUrl"], taskId="task-1")
        async with (
            running_receiver(database, dialects=FAST) as receiver,
            open_client(provider.url, receiver.url) as tasks,
        ):
            task = await tasks.attach("task-1")
            solved = await task.result(timeout=30)

    assert (task.ref, solved.source, solved.solution) == (first.ref, "callback", {"text": "44795sds"})


async def test_receiver_restarted_after_attaching(tmp_path: Path) -> None:
    """An attached task outlives a restart of the receiver, like a submitted one."""
    database = tmp_path / "receiver.db"
    with reserved_port() as port:
        url = f"http://127.0.0.1:{port}"
        async with scripted_provider(createTask=CREATED) as provider, open_client(provider.url, url) as tasks:
            async with (
                running_receiver(database, dialects=FAST, port=port) as receiver,
                open_client(provider.url, url) as submitter,
            ):
                await submitter.submit(image_task())
                task = await tasks.attach("task-1")
            async with running_receiver(database, dialects=FAST, port=port) as receiver:
                await receiver.call_back(provider.calls["createTask"][0]["callbackUrl"], taskId="task-1")
                solved = await task.result(timeout=30)

    assert (solved.source, provider.calls["getTaskResult"]) == ("callback", [])


async def test_lost_callback_after_attaching(tmp_path: Path) -> None:
    """If its callback is lost, an attached task is polled by the plan, counted from its making."""
    dialects = fast(first_after_callback_seconds=0.5)
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
    ):
        async with open_client(sandbox.url, receiver.url, dialects=dialects) as tasks:
            first = await tasks.submit(image_task(sandbox={"callback": "lost"}))
        async with open_client(sandbox.url, receiver.url, dialects=dialects) as tasks:
            assert first.task_id is not None
            solved = await (await tasks.attach(first.task_id)).result(timeout=30)

    assert (solved.ref, solved.source, solved.solution) == (first.ref, "poll", solution_of(image_task()))


async def test_killed_client(tmp_path: Path) -> None:
    """If a process is killed right after its submit, another one needs only the taskId to go on."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        environment = {
            "CAPSOLVER_CLIENT_KEY": "tests-only-client-key",
            "CAPSOLVER_URL": provider.url,
            "CALLBACK_RECEIVER_URL": receiver.url,
            "CALLBACK_RECEIVER_KEY": ADMIN,
        }
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KILLED, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await killed.communicate()
        task = await tasks.attach(output.decode().strip())
        await receiver.call_back(provider.calls["createTask"][0]["callbackUrl"], taskId="task-1")
        solved = await task.result(timeout=30)

    assert killed.returncode == -signal.SIGKILL
    assert (solved.task_id, solved.source) == ("task-1", "callback")
