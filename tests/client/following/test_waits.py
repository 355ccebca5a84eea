"""Waits: limits, cancellation, several waiters, the order of endings, attaching, closing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from client import (
    CallbackReceiverError,
    ClientClosedError,
    Task,
    TaskClient,
    TaskTimedOutError,
    UnsolvableError,
)
from client.sandbox import Sandbox
from tests.client.support import (
    CREATED,
    FAST,
    PENDING,
    QUICK,
    REGISTERED,
    STORED,
    Reply,
    image_task,
    open_client,
    ready,
    says,
    scripted_provider,
    scripted_receiver,
    solution_of,
    until,
)
from tests.support import eventually, running_receiver

_PROCESSING = {**STORED, "status": "processing", "solution": None, "source": None}


async def test_limit_of_a_wait() -> None:
    """After its time a wait raises TimeoutError; the task goes on and can be awaited again."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        with pytest.raises(TimeoutError):
            await task.result(timeout=0.1)
        provider.answers("getTaskResult", ready())
        solved = await task.result(timeout=30)

    assert solved.status == "ready"


async def test_several_waiters() -> None:
    """Any number may await one task; a cancelled wait takes nothing from the others."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(task.result(timeout=30)) for _ in range(3)]
            await eventually(lambda: len(provider.calls["getTaskResult"]) > 0)
            waits[0].cancel()
            provider.answers("getTaskResult", ready())

    assert [wait.cancelled() for wait in waits] == [True, False, False]
    assert [wait.result().solution for wait in waits[1:]] == [{"text": "44795sds"}] * 2


async def test_cancelled_solve_without_a_receiver() -> None:
    """Without a receiver nobody can get the answer of a cancelled `solve`, so it is not polled any more."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url) as tasks,
    ):
        with pytest.raises(TimeoutError):
            await tasks.solve(image_task(), timeout=0.2)
        # One poll may have been on its way.
        await asyncio.sleep(0.2)
        polls = len(provider.calls["getTaskResult"])
        await asyncio.sleep(0.3)

    assert polls > 0
    assert len(provider.calls["getTaskResult"]) == polls


async def test_cancelled_solve_with_a_receiver(tmp_path: Path) -> None:
    """With a receiver a cancelled `solve` is followed to its end: the answer was paid for, and is stored."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED) as provider,
        open_client(provider.url, receiver.url, first_poll_seconds=0.3) as tasks,
    ):
        provider.answers("getTaskResult", ready())
        with pytest.raises(TimeoutError):
            await tasks.solve(image_task(), timeout=0.1)

        async def is_stored() -> bool:
            return len((await receiver.log())["results"]) == 1

        await until(is_stored)
        stored = await receiver.task("task-1")

    assert (stored["status"], stored["source"]) == ("ready", "poll")


async def test_cancelled_submit_with_a_receiver(tmp_path: Path) -> None:
    """A `submit` cancelled during createTask is carried through: its id is bound."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def answers_late(_: dict[str, Any]) -> None:
        asked.set()
        await may_answer.wait()

    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=Reply(CREATED, first=answers_late)) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        async with asyncio.TaskGroup() as group:
            submitting = group.create_task(tasks.submit(image_task()))
            await asked.wait()
            submitting.cancel()
        may_answer.set()

        async def is_bound() -> bool:
            return (await receiver.send("GET", "/v1/tasks/task-1")).status == 202

        await until(is_bound)

    assert submitting.cancelled()


async def test_as_completed(tmp_path: Path) -> None:
    """Tasks come in the order of their ends, failed ones too, each once."""
    made = [Reply({**CREATED, "taskId": f"task-{number}"}) for number in range(3)]
    failed = {"errorId": 1, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE", "status": "failed"}
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=made) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        handles = [await tasks.submit(image_task(number)) for number in range(3)]
        urls = [call["callbackUrl"] for call in provider.calls["createTask"]]
        ends = aiter(tasks.as_completed([*handles, *handles]))
        order = []
        for number, fields in ((2, {}), (1, failed), (0, {})):
            await receiver.call_back(urls[number], taskId=f"task-{number}", **fields)
            order.append(await anext(ends))
        rest = [task async for task in ends]
        with pytest.raises(UnsolvableError):
            await handles[1].result()

    assert (order, rest) == ([handles[2], handles[1], handles[0]], [])


async def test_as_completed_cancelled() -> None:
    """Cancelling the loop leaves the tasks alone, and nothing behind."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(aiter(tasks.as_completed([task])))
        provider.answers("getTaskResult", ready())
        solved = await task.result(timeout=30)

    assert solved.status == "ready"


async def test_closing_ends_all_waits() -> None:
    """Closing the client ends every wait with a clear error, and `as_completed` by yielding the task."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        asyncio.TaskGroup() as group,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        waits = [
            group.create_task(_error_of(task.result())),
            group.create_task(_error_of(tasks.solve(image_task(1)))),
            group.create_task(_error_of(_first_result(tasks, task))),
        ]
        await eventually(lambda: len(provider.calls["getTaskResult"]) > 2)

    assert [type(wait.result()) for wait in waits] == [ClientClosedError] * 3
    with pytest.raises(ClientClosedError):
        await task.result()


async def test_closing_ends_a_submit() -> None:
    """A `submit` during the closing of the client ends with a clear error."""
    hanging = asyncio.Event()

    async def hangs(_: dict[str, Any]) -> None:
        hanging.set()
        await asyncio.sleep(0.5)

    async with (
        scripted_provider(createTask=Reply(CREATED, first=hangs)) as provider,
        asyncio.TaskGroup() as group,
        open_client(provider.url) as tasks,
    ):
        submitting = group.create_task(_error_of(tasks.submit(image_task())))
        await hanging.wait()

    assert isinstance(submitting.result(), ClientClosedError)


async def test_closing_delivers_the_answer_in_hand() -> None:
    """An answer in the middle of its report is reported before the client has closed."""
    reporting = asyncio.Event()
    reports: list[str] = []

    async def hangs_once(request: web.Request) -> web.Response:
        reports.append(request.match_info["ref"])
        if not reporting.is_set():
            reporting.set()
            await asyncio.sleep(60)
        return web.json_response({"verdict": "accepted", "task": STORED})

    async with (
        scripted_receiver(register=says(REGISTERED, 201), report=hangs_once) as receiver_url,
        scripted_provider(createTask={**ready(), "taskId": "task-1"}) as provider,
        asyncio.TaskGroup() as group,
        open_client(provider.url, receiver_url) as tasks,
    ):
        group.create_task(_error_of(tasks.solve(image_task())))
        await reporting.wait()

    assert reports == ["ref-1", "ref-1"]


async def test_answer_in_hand_beats_the_receivers_deadline() -> None:
    """While the provider's answer is on its way to the receiver, the receiver's own deadline does not end the task."""
    reporting, was_read = asyncio.Event(), asyncio.Event()
    given_up = {**STORED, "status": "failed", "errorId": 1, "errorCode": "RECEIVER_NO_ANSWER", "source": "deadline"}

    async def tells_of_the_deadline(request: web.Request) -> web.Response:
        if request.query["after"] != "c0":
            was_read.set()
            await asyncio.sleep(60)
        await reporting.wait()
        return web.json_response({"results": [{"cursor": "c1", "task": given_up}], "cursor": "c1"})

    async def takes_it_after_that(_: web.Request) -> web.Response:
        reporting.set()
        await was_read.wait()
        return web.json_response({"verdict": "accepted", "task": {**STORED, "source": "submit"}})

    routes = {"register": says(REGISTERED, 201), "report": takes_it_after_that, "results": tells_of_the_deadline}
    async with (
        scripted_receiver(**routes) as receiver_url,
        scripted_provider(createTask={**ready(), "taskId": "task-1"}) as provider,
        open_client(provider.url, receiver_url) as tasks,
    ):
        solved = await tasks.solve(image_task())

    assert (solved.status, solved.source) == ("ready", "submit")


async def test_id_that_only_a_callback_told() -> None:
    """After a lost createTask answer, a task is polled as soon as the receiver knows its id."""
    gone = {"type": "urn:callback-receiver:problem:cursor-gone", "reason": "pruned", "resumesAt": "c50"}
    hinted = {**_PROCESSING, "nextPollAt": STORED["createdAt"]}
    routes = {
        "register": says(REGISTERED, 201),
        "results": says(gone, 410),
        "task": says(hinted),
        "report": says({"verdict": "accepted", "task": {**STORED, "source": "poll"}}),
    }
    async with (
        scripted_receiver(**routes) as receiver_url,
        scripted_provider(createTask=Reply(cuts=True), getTaskResult=ready()) as provider,
        open_client(provider.url, receiver_url) as tasks,
    ):
        solved = await tasks.solve(image_task(), timeout=30)

    assert solved.source == "poll"
    assert provider.calls["getTaskResult"][0]["taskId"] == "task-1"


async def test_late_answer_after_our_deadline(tmp_path: Path) -> None:
    """A task given up is over for its waiters; the receiver still takes a later answer."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task(), timeout_seconds=0.3)
        with pytest.raises(TaskTimedOutError):
            await task.result()
        await receiver.call_back(provider.calls["createTask"][0]["callbackUrl"], taskId="task-1")
        stored = await receiver.task(task.ref)

    assert (stored["status"], stored["source"]) == ("ready", "callback")


async def test_hundreds_of_tasks_on_one_connection(tmp_path: Path) -> None:
    """All waits of a client share one reader: hundreds of tasks, one websocket, every answer right."""
    with capture_logs():
        async with (
            running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
            Sandbox("capsolver", QUICK) as sandbox,
            open_client(sandbox.url, receiver.url) as tasks,
        ):
            await tasks.submit(image_task(200, sandbox={"callback": "lost"}))
            numbers = {await tasks.submit(image_task(number)): number for number in range(200)}
            connections = [(receiver.streams, receiver.waiting) async for _ in tasks.as_completed(numbers)]
            solutions = {number: (await task.result()).solution for task, number in numbers.items()}
            polls = sandbox.stats.get_task_result_calls

    assert set(connections) == {(1, 0)}
    assert [number for number, solution in solutions.items() if solution != solution_of(image_task(number))] == []
    assert polls == 0


async def _error_of(work: Any) -> CallbackReceiverError | None:
    try:
        await work
    except CallbackReceiverError as error:
        return error
    return None


async def _first_result(tasks: TaskClient, task: Task) -> None:
    async for ended in tasks.as_completed([task]):
        await ended.result()
