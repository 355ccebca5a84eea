"""A receiver outage costs speed, not the answer; outcomes are reported afterwards."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
from structlog.testing import capture_logs

from client.provider_api.timing import Timing
from client.sandbox import Sandbox
from tests.client.sandbox.support import StoppedClock
from tests.client.support import (
    AT_ONCE,
    CREATED,
    FAST,
    QUICK,
    Reply,
    fast,
    image_task,
    open_client,
    ready,
    reserved_port,
    scripted_provider,
    solution_of,
    until,
)
from tests.support import RunningReceiver, eventually, receiver_process, running_receiver


async def test_down_at_submit(tmp_path: Path) -> None:
    """A task submitted while the receiver is down is polled. Once it is back, it gets the outcome in one request."""
    with reserved_port() as port:
        async with (
            Sandbox("capsolver", QUICK) as sandbox,
            open_client(sandbox.url, f"http://127.0.0.1:{port}") as tasks,
        ):
            solved = await tasks.solve(image_task(), tags=["checkout"], metadata={"order": 7})
            async with running_receiver(tmp_path / "receiver.db", dialects=FAST, port=port) as receiver:
                await until(lambda: _is_logged(receiver, 1))
                (entry,) = (await receiver.log())["results"]

    assert (solved.solution, solved.source, solved.ref) == (solution_of(image_task()), "poll", "")
    stored = entry["task"]
    assert (stored["taskId"], stored["solution"], stored["source"]) == (solved.task_id, solved.solution, "poll")
    assert (stored["tags"], stored["metadata"]) == (["checkout"], {"order": 7})


async def test_large_answer_of_a_task_that_was_never_registered(tmp_path: Path) -> None:
    """An answer of nearly 1 MB, polled during an outage, is reported afterwards, like any other."""
    text = "x" * 1_000_000
    with reserved_port() as port:
        async with (
            scripted_provider(createTask=CREATED, getTaskResult=ready(text)) as provider,
            open_client(provider.url, f"http://127.0.0.1:{port}") as tasks,
        ):
            solved = await tasks.solve(image_task())
            async with running_receiver(tmp_path / "receiver.db", dialects=FAST, port=port) as receiver:
                await until(lambda: _is_logged(receiver, 1))
                stored = await receiver.task("task-1")

    assert (solved.solution, stored["status"], stored["solution"]) == ({"text": text}, "ready", {"text": text})


async def test_hanging_at_submit() -> None:
    """A receiver that hangs costs two seconds once, and nothing after that."""
    clock = StoppedClock()
    with socket.create_server(("127.0.0.1", 0)) as listener, capture_logs() as lines:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with (
            asyncio.timeout(60),
            Sandbox("capsolver", AT_ONCE) as sandbox,
            open_client(sandbox.url, url, timing=Timing(clock=clock.now)) as tasks,
        ):
            for number in range(3):
                await tasks.submit(image_task(number))

    reasons = [line["reason"] for line in lines if line["event"] == "receiver.skipped"]
    assert reasons == ["the receiver did not answer within 2 s", *["it did not answer a moment ago"] * 2]


async def test_gone_while_waiting(tmp_path: Path) -> None:
    """If the receiver is killed, its tasks are polled after a few seconds. Once it is back, it gets the outcome."""
    with reserved_port() as port:
        async with (
            Sandbox("capsolver", QUICK) as sandbox,
            open_client(sandbox.url, f"http://127.0.0.1:{port}") as tasks,
        ):
            # The loss may be noticed before the receiver has stopped altogether.
            with capture_logs() as lines:
                async with running_receiver(tmp_path / "receiver.db", dialects=FAST, port=port) as receiver:
                    task = await tasks.submit(image_task(sandbox={"callback": "lost"}))
                    await eventually(lambda: receiver.streams == 1)
                solved = await task.result(timeout=30)
            async with running_receiver(tmp_path / "receiver.db", dialects=FAST, port=port) as receiver:
                await until(lambda: _is_logged(receiver, 1))
                stored = await receiver.task(task.ref)

    assert (solved.solution, solved.source) == (solution_of(image_task()), "poll")
    assert (stored["status"], stored["solution"], stored["taskId"]) == ("ready", solved.solution, task.task_id)
    assert [line["event"] for line in lines].count("receiver.lost") == 1


async def test_restarted_while_waiting(tmp_path: Path) -> None:
    """After a quick restart the reader goes on at its cursor: the next callback is not missed."""
    with reserved_port() as port:
        async with (
            scripted_provider(createTask=CREATED) as provider,
            open_client(provider.url, f"http://127.0.0.1:{port}") as tasks,
        ):
            async with running_receiver(tmp_path / "receiver.db", dialects=FAST, port=port):
                task = await tasks.submit(image_task())
            async with running_receiver(tmp_path / "receiver.db", dialects=FAST, port=port) as receiver:
                url = provider.calls["createTask"][0]["callbackUrl"]
                await receiver.call_back(url, taskId="task-1")
                solved = await task.result(timeout=30)

    assert (solved.ref, solved.source, provider.calls["getTaskResult"]) == (task.ref, "callback", [])


async def test_killed_while_waiting(tmp_path: Path) -> None:
    """A receiver killed and started again loses no waiter: the answer still arrives."""
    with reserved_port() as port:
        async with (
            scripted_provider(createTask=CREATED) as provider,
            open_client(provider.url, f"http://127.0.0.1:{port}") as tasks,
        ):
            async with receiver_process(tmp_path / "receiver.db", port=port):
                task = await tasks.submit(image_task())
            async with receiver_process(tmp_path / "receiver.db", port=port):
                url = provider.calls["createTask"][0]["callbackUrl"]
                async with aiohttp.ClientSession() as session:
                    await session.post(url, json=ready(taskId="task-1"))
                solved = await task.result(timeout=30)

    assert (solved.ref, solved.source) == (task.ref, "callback")


async def test_database_replaced_while_waiting(tmp_path: Path) -> None:
    """A receiver back without the task is noticed by the gap in its log; the task is polled and reported."""
    with reserved_port() as port:
        async with (
            scripted_provider(createTask=CREATED, getTaskResult=ready()) as provider,
            open_client(provider.url, f"http://127.0.0.1:{port}") as tasks,
        ):
            async with running_receiver(tmp_path / "old.db", dialects=FAST, port=port):
                task = await tasks.submit(image_task())
            async with running_receiver(tmp_path / "new.db", dialects=FAST, port=port) as receiver:
                solved = await task.result(timeout=30)
                await until(lambda: _is_logged(receiver, 1))
                stored = await receiver.task("task-1")

    assert (solved.source, stored["status"], stored["source"]) == ("poll", "ready", "poll")


async def test_deleted_while_waiting(tmp_path: Path) -> None:
    """A task deleted at the receiver is polled, because no callback can reach it any more."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED, getTaskResult=ready()) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        await receiver.send("DELETE", f"/v1/tasks/{task.ref}")
        solved = await task.result(timeout=30)

    assert solved.source == "poll"


async def test_down_at_the_report(tmp_path: Path) -> None:
    """If only the report fails, the polled answer is the result, and the report follows."""
    dialects = fast(first_after_callback_seconds=0.05)
    with reserved_port() as port:
        async with (
            scripted_provider(createTask=CREATED) as provider,
            open_client(provider.url, f"http://127.0.0.1:{port}", dialects=dialects) as tasks,
        ):
            async with running_receiver(tmp_path / "receiver.db", dialects=dialects, port=port) as receiver:
                provider.answers("getTaskResult", Reply(ready(), first=lambda _: receiver.stop()))
                solved = await tasks.solve(image_task())
            async with running_receiver(tmp_path / "receiver.db", dialects=dialects, port=port) as receiver:
                await until(lambda: _is_logged(receiver, 1))
                stored = await receiver.task(solved.ref)

    assert (solved.source, stored["source"], stored["solution"]) == ("poll", "poll", solved.solution)


async def test_reports_that_cannot_be_delivered() -> None:
    """Closing the client says how many reports the receiver never got, after a last try, and does not hang."""
    with reserved_port() as port, capture_logs() as lines:
        async with (
            asyncio.timeout(60),
            Sandbox("capsolver", AT_ONCE) as sandbox,
            open_client(sandbox.url, f"http://127.0.0.1:{port}") as tasks,
        ):
            for number in range(3):
                await tasks.solve(image_task(number))

    assert [line["lost"] for line in lines if line["event"] == "report.lost"] == [3]


async def _is_logged(receiver: RunningReceiver, count: int) -> bool:
    return len((await receiver.log())["results"]) == count
