"""The first of many tasks to end, and the log of results through a client."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from client import BadArgumentError, ClientClosedError, ResultsGapError
from client.receiver_api.http import ReceiverApi, open_receiver_session
from client.sandbox import Sandbox
from tests.client.sandbox.support import NOW
from tests.client.support import (
    CREATED,
    FAST,
    PENDING,
    QUICK,
    HeldClock,
    image_task,
    open_client,
    ready,
    scripted_provider,
    solution_of,
)
from tests.support import ADMIN, eventually, running_receiver


async def test_first(tmp_path: Path) -> None:
    """The first task to end is given out; the others live on."""
    clock = HeldClock()
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", NOW, clock=clock) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        slow = await tasks.submit(image_task())
        # Its callback is sent before createTask is answered; all others are held.
        quick = await tasks.submit(image_task(1, sandbox={"callback": "early"}))
        first = await tasks.first([slow, quick], timeout=30)
        clock.released.set()
        second = await tasks.first([slow], timeout=30)

    assert (first, second) == (quick, slow)


async def test_first_to_fail() -> None:
    """A failed task has ended, too. If several have ended already, it is the one named first."""
    failed = {"errorId": 1, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE", "status": "failed"}
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[failed, ready()]) as provider,
        open_client(provider.url) as tasks,
    ):
        handles = [await tasks.submit(image_task()), await tasks.submit(image_task(1))]
        ended = [task async for task in tasks.as_completed(handles)]
        firsts = [await tasks.first(handles), await tasks.first(reversed(handles))]

    assert len(ended) == 2
    assert firsts == handles


async def test_first_in_time() -> None:
    """After a timeout or a cancellation, a wait for the first task leaves nothing behind, and the tasks go on."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url) as tasks,
    ):
        handles = [await tasks.submit(image_task(number)) for number in range(2)]
        with pytest.raises(TimeoutError):
            await tasks.first(handles, timeout=0.05)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(tasks.first(handles))
            await asyncio.sleep(0)
            waiting.cancel()
        listeners = [handle._follower.outcome._listeners for handle in handles]
        provider.answers("getTaskResult", ready())
        solved = [await handle.result(timeout=30) for handle in handles]

    assert waiting.cancelled()
    assert listeners == [set(), set()]
    assert [result.status for result in solved] == ["ready", "ready"]


async def test_first_of_none() -> None:
    """Without any task there is nothing to wait for, so the call is refused."""
    async with open_client("http://127.0.0.1:1") as tasks:
        with pytest.raises(BadArgumentError, match="tasks"):
            await tasks.first([])


async def test_results_of_all(tmp_path: Path) -> None:
    """The log gives each result of the client's provider once, from the given cursor on, of all clients."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as submitter,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        foreign = await receiver.register(provider="onecaptcha", taskId="foreign")
        answer = {"errorId": 0, "status": "ready", "solution": {"text": "1"}}
        await receiver.send("PUT", f"/v1/tasks/{foreign['ref']}/outcome", json={"source": "poll", "answer": answer})
        before = await submitter.solve(image_task())
        async with aclosing(tasks.results(after="start")) as results:
            read = [await anext(results)]
            after = await submitter.solve(image_task(1))
            read.append(await anext(results))
        await eventually(lambda: receiver.streams == 0)

    assert [result.ref for result in read] == [before.ref, after.ref]


async def test_results_of_named_tasks(tmp_path: Path) -> None:
    """Only the named tasks are yielded, as handles or by their names. Finished ones come at once."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        await tasks.solve(image_task())
        wanted = [await tasks.submit(image_task(number)) for number in range(1, 4)]
        async for task in tasks.as_completed(wanted):
            await task.result()
        assert wanted[1].ref is not None
        assert wanted[2].task_id is not None
        names: list[Any] = [wanted[0], wanted[1].ref, ("capsolver", wanted[2].task_id)]
        async with aclosing(tasks.results(tasks=names, after="start")) as results:
            read = {(await anext(results)).ref for _ in wanted}

    assert read == {task.ref for task in wanted}


async def test_results_with_a_tag(tmp_path: Path) -> None:
    """Tags are looked for among the results of the client's own provider."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        await tasks.solve(image_task())
        tagged = await tasks.solve(image_task(1), tags=["checkout"])
        async with aclosing(tasks.results(tags=["checkout"], after="start")) as results:
            read = await anext(results)

    assert read.ref == tagged.ref


async def test_results_behind_a_gap(tmp_path: Path) -> None:
    """A useless cursor raises an error with the next cursor."""
    async with (
        running_receiver(tmp_path / "old.db", dialects=FAST) as old,
        running_receiver(tmp_path / "new.db", dialects=FAST) as new,
        open_client("http://127.0.0.1:1", new.url) as tasks,
    ):
        cursor = (await old.register())["cursor"]
        with pytest.raises(ResultsGapError):
            await anext(tasks.results(after=cursor))


async def test_results_of_a_client_that_closes(tmp_path: Path) -> None:
    """Closing the client ends the readers of results with a clear error, and leaves nothing behind."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        asyncio.TaskGroup() as group,
    ):
        async with open_client("http://127.0.0.1:1", receiver.url) as tasks:
            results = tasks.results()
            waiting = group.create_task(_error_of(anext(results)))
            await eventually(lambda: receiver.streams == 1)
        await waiting
        await eventually(lambda: receiver.streams == 0)

    assert isinstance(waiting.result(), ClientClosedError)
    with pytest.raises(ClientClosedError):
        tasks.results()


async def test_cancelled_results(tmp_path: Path) -> None:
    """Cancelling a reader of results closes its connection."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        open_client("http://127.0.0.1:1", receiver.url) as tasks,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(tasks.results())
        await eventually(lambda: receiver.streams == 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"tags": "checkout"}, "expected several"), ({"tasks": "ref-1"}, "expected several"), ({"after": ""}, "after")],
)
async def test_refused_results(arguments: dict[str, Any], text: str) -> None:
    """A wrong argument is refused at once, by name."""
    async with open_client("http://127.0.0.1:1", "http://127.0.0.1:1") as tasks:
        with pytest.raises(BadArgumentError, match=text):
            tasks.results(**arguments)


async def test_results_without_a_receiver() -> None:
    """A client without a receiver has no log to read."""
    async with open_client("http://127.0.0.1:1") as tasks:
        with pytest.raises(BadArgumentError, match="receiver"):
            tasks.results()


async def test_receiver_that_is_given(tmp_path: Path) -> None:
    """A client may be given a receiver instead of an address. Its tasks are registered there and get their outcomes."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_receiver_session() as session,
        open_client(sandbox.url, receiver=ReceiverApi(session, receiver.url, ADMIN), receiver_key=None) as tasks,
    ):
        task = await tasks.submit(image_task())
        solved = await task.result(timeout=30)
        with pytest.raises(TimeoutError):
            await tasks.solve(image_task(1, sandbox={"latencySeconds": 0.3}), timeout=0.1)
        async with aclosing(tasks.results(after="start")) as results:
            read = [await anext(results) for _ in range(2)]

    assert (solved.source, read[0].ref) == ("callback", task.ref)
    assert read[1].solution == solution_of(image_task(1))


async def _error_of(work: Any) -> BaseException | None:
    try:
        await work
    except ClientClosedError as error:
        return error
    return None
