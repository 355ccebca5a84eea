"""A receiver, and a provider with faults: it refuses, lies, forgets or answers twice. Every task still ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from client import (
    ProviderUnreachableError,
    SubmitUnknownError,
    TaskParametersError,
)
from client.protocol.models import MAX_ANSWER_BYTES
from client.sandbox import Sandbox
from tests.client.sandbox.support import NOW
from tests.client.support import (
    CREATED,
    FAST,
    QUICK,
    HeldClock,
    Reply,
    fast,
    image_task,
    open_client,
    ready,
    scripted_provider,
    solution_of,
    until_bound,
)
from tests.support import RunningReceiver, running_receiver


async def test_lost_callback(tmp_path: Path) -> None:
    """A lost callback costs time: the fallback poll brings the answer, and the receiver gets it."""
    dialects = fast(first_after_callback_seconds=0.2)
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url, dialects=dialects) as tasks,
    ):
        solved = await tasks.solve(image_task(sandbox={"callback": "lost"}))
        log = await receiver.log()

    assert solved.solution == solution_of(image_task())
    assert (solved.source, log["results"][0]["task"]["source"]) == ("poll", "poll")


@pytest.mark.parametrize("fault", ["truncated", "otherTaskId"])
async def test_callback_that_cannot_be_taken_is_a_hint(tmp_path: Path, fault: str) -> None:
    """An unreadable callback, or one with another's id, brings the poll to now, once."""
    clock = HeldClock()
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", NOW, clock=clock) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task(sandbox={"callback": fault}))
        # Before the id is bound, another's id would be taken for the task's.
        await until_bound(receiver, task)
        clock.released.set()
        solved = await task.result(timeout=30)

    assert (solved.solution, solved.source) == (solution_of(image_task()), "poll")
    assert sandbox.stats.get_task_result_calls == 1


@pytest.mark.parametrize("polled_by", ["client", "receiver"])
async def test_answer_that_is_too_large_for_a_callback(tmp_path: Path, polled_by: str) -> None:
    """The largest readable one comes by the poll, to its caller and to all others (replicate-javascript#346)."""
    text = "жираф " * 90_000
    text += "x" * (MAX_ANSWER_BYTES - len(json.dumps(ready(text), ensure_ascii=False).encode()))
    answer = Reply(json.dumps(ready(text), ensure_ascii=False).encode())
    settings: dict[str, Any] = {"max_body_bytes": 1024}
    if polled_by == "receiver":
        settings["provider_keys"] = {"capsolver": "tests-only-client-key"}
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=answer) as provider,
        running_receiver(
            tmp_path / "receiver.db", dialects=FAST, provider_urls={"capsolver": provider.url}, **settings
        ) as receiver,
        open_client(provider.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        url = provider.calls["createTask"][0]["callbackUrl"]
        callback = await receiver.call_back(url, taskId="task-1", solution={"text": text[:2000]})
        solved = await task.result(timeout=10)
        (entry,) = [entry for entry in (await receiver.log())["results"] if "task" in entry]

    assert len(answer.body) == MAX_ANSWER_BYTES
    assert (callback.status, solved.solution, solved.source) == (413, {"text": text}, "poll")
    assert (entry["task"]["status"], entry["task"]["solution"]) == ("ready", {"text": text})


async def test_lost_create_task_answer(tmp_path: Path) -> None:
    """If the createTask answer is lost, the callback still brings the answer."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task(sandbox={"createTask": "cut"}))
        solved = await task.result()

    assert (solved.solution, solved.source) == (solution_of(image_task()), "callback")
    assert task.task_id == solved.task_id
    assert sandbox.stats.create_task_calls == 1


async def test_lost_create_task_answer_and_no_callback(tmp_path: Path) -> None:
    """If neither the createTask answer nor a callback comes, the task ends as unknown and is not repeated."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=Reply(cuts=True)) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task(), timeout_seconds=0.5)
        with pytest.raises(SubmitUnknownError) as caught:
            await task.result()

    assert (caught.value.task.error_code, caught.value.task.source) == ("RECEIVER_SUBMIT_UNKNOWN", "deadline")
    assert (len(provider.calls["createTask"]), provider.calls["getTaskResult"]) == (1, [])


async def test_no_connection_leaves_no_handle(tmp_path: Path) -> None:
    """If createTask was certainly not taken, there is nothing to wait for, even with a callback address."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        open_client("http://127.0.0.1:1", receiver.url) as tasks,
    ):
        with pytest.raises(ProviderUnreachableError, match="no connection"):
            await tasks.submit(image_task(), timeout_seconds=1.0)


async def test_wrong_key_at_the_poll_leaves_the_callback(tmp_path: Path) -> None:
    """A key refused at a poll is no outcome: the task waits for its callback, and one warning is logged."""
    dialects = fast(first_after_callback_seconds=0.05)
    refusal = Reply({"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST"}, 401)
    made = [Reply({**CREATED, "taskId": "task-1"}), Reply({**CREATED, "taskId": "task-2"})]
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        scripted_provider(createTask=made, getTaskResult=refusal) as provider,
        open_client(provider.url, receiver.url, dialects=dialects) as tasks,
    ):
        with capture_logs() as lines:
            waiting = [await tasks.submit(image_task(number)) for number in range(2)]
            async with asyncio.timeout(30):
                while len(provider.calls["getTaskResult"]) < 2:
                    await asyncio.sleep(0.01)
            for call in provider.calls["createTask"]:
                await receiver.call_back(call["callbackUrl"])
            solved = [await task.result() for task in waiting]

    assert [task.source for task in solved] == ["callback", "callback"]
    assert len(provider.calls["getTaskResult"]) == 2
    assert [line["event"] for line in lines].count("poll.refused") == 1


async def test_refused_address(tmp_path: Path) -> None:
    """If the provider refuses the callback address, tasks are sent without it. One warning is logged."""
    refusal = Reply(
        {"errorId": 1, "errorCode": "ERROR_BAD_REQUEST", "errorDescription": "callbackUrl: not public"}, 400
    )
    made = [refusal, Reply(CREATED), Reply({**CREATED, "taskId": "task-2"})]
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=made, getTaskResult=ready()) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        with capture_logs() as lines:
            solved = [await tasks.solve(image_task(number)) for number in range(2)]
        stored = [await receiver.task(task.ref) for task in solved]

    assert ["callbackUrl" in call for call in provider.calls["createTask"]] == [True, False, False]
    assert [line["log_level"] for line in lines if line["event"] == "callback_url.refused"] == ["warning"]
    assert [task["source"] for task in stored] == ["poll", "poll"]


async def test_refusal_that_only_sounds_like_the_address(tmp_path: Path) -> None:
    """If the task is refused without the address too, the address was not the cause: the next task has it again."""
    refusal = {"errorId": 1, "errorCode": "ERROR_BAD_PARAMETERS", "errorDescription": "data-callback: unknown"}
    made = [Reply(refusal), Reply(refusal), Reply(CREATED)]
    dialects = fast(first_after_callback_seconds=0.05)
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        scripted_provider(createTask=made, getTaskResult=ready()) as provider,
        open_client(provider.url, receiver.url, dialects=dialects) as tasks,
    ):
        with capture_logs() as lines:
            with pytest.raises(TaskParametersError):
                await tasks.solve(image_task(0))
            await tasks.solve(image_task(1))

    assert ["callbackUrl" in call for call in provider.calls["createTask"]] == [True, False, True]
    assert [line for line in lines if line["event"] == "callback_url.refused"] == []


async def test_receiver_says_who_won(tmp_path: Path) -> None:
    """If a callback and a poll bring different answers at once, all waiters get the first stored one."""
    dialects = fast(first_after_callback_seconds=0.05)
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        scripted_provider(createTask=CREATED) as provider,
        open_client(provider.url, receiver.url, dialects=dialects) as tasks,
    ):
        first = _calls_back(receiver, provider.calls, ready("by callback", taskId="task-1"))
        provider.answers("getTaskResult", Reply(ready("by poll"), first=first))
        solved = await tasks.solve(image_task())

    assert (solved.solution, solved.source) == ({"text": "by callback"}, "callback")


async def test_create_task_knows_the_id_best(tmp_path: Path) -> None:
    """If a callback had bound another id, createTask's id is bound, and one poll settles the answer."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(getTaskResult=ready("44795sds")) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        early = _calls_back(receiver, provider.calls, ready("44795sds", taskId="task-of-another"))
        provider.answers("createTask", Reply(CREATED, first=early))
        task = await tasks.submit(image_task())
        await task.result()
        async with asyncio.timeout(30):
            while (stored := await receiver.task(task.ref))["taskId"] != "task-1" or stored.get("disputed"):
                await asyncio.sleep(0.02)

    assert len(provider.calls["getTaskResult"]) == 1


async def test_id_that_belongs_to_another_task(tmp_path: Path) -> None:
    """If the receiver has another task of this id, the answer is stored under the ref of this one."""
    dialects = fast(first_after_callback_seconds=0.05)
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        scripted_provider(createTask=CREATED, getTaskResult=ready()) as provider,
        open_client(provider.url, receiver.url, dialects=dialects) as tasks,
    ):
        await receiver.register(taskId="task-1")
        solved = await tasks.solve(image_task())
        stored = await receiver.task(solved.ref)

    assert (stored["status"], stored["source"], stored["taskId"]) == ("ready", "poll", None)


def _calls_back(receiver: RunningReceiver, calls: dict[str, list[dict[str, Any]]], body: dict[str, Any]) -> Any:
    """Call back on the address of the first task, before the scripted provider answers."""

    async def first(_: dict[str, Any]) -> None:
        answer = await receiver.call_back(calls["createTask"][0]["callbackUrl"], **body)
        assert answer.status == 200

    return first
