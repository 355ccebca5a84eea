"""With a receiver: the answer comes by callback, and by a poll where no callback can be trusted or comes at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from client import (
    ReceiverRefusedError,
    TaskTimedOutError,
    UnsolvableError,
    WrongKeyError,
)
from client.sandbox import Sandbox
from tests.client.support import (
    AT_ONCE,
    CREATED,
    FAST,
    PENDING,
    QUICK,
    JumpingClock,
    Reply,
    fast,
    image_task,
    open_client,
    ready,
    scripted_provider,
    solution_of,
)
from tests.support import eventually, running_receiver


async def test_callback_brings_the_answer(tmp_path: Path) -> None:
    """The provider's callback wakes the wait; nothing is polled."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task(), tags=["checkout"], metadata={"order": 7})
        solved = await task.result()
        stored = await receiver.task(task.task_id)

    assert solved.solution == solution_of(image_task())
    assert (solved.source, solved.trust, sandbox.stats.get_task_result_calls) == ("callback", "token", 0)
    assert (stored["ref"], stored["tags"], stored["metadata"]) == (task.ref, ["checkout"], {"order": 7})


@pytest.mark.parametrize("fault", ["early", "twice", "reordered"])
async def test_callback_at_odd_times(tmp_path: Path, fault: str) -> None:
    """A callback before the createTask answer, a second one, or one out of turn, changes nothing."""
    wanted = image_task(sandbox={"callback": fault})
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(wanted)
        other = await tasks.submit(image_task(1))
        solved = await task.result()
        await other.result()
        stored = await receiver.task(task.task_id)

    assert solved.solution == solution_of(wanted)
    assert (stored["ref"], solved.source) == (task.ref, "callback")


async def test_failure_is_called_back(tmp_path: Path) -> None:
    """A callback with a failure is raised as a failed task."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task(sandbox={"fails": True}))
        with pytest.raises(UnsolvableError) as caught:
            await task.result()

    assert caught.value.task.source == "callback"


async def test_synchronous_answer_stands_in_the_log(tmp_path: Path) -> None:
    """An answer in the createTask answer is stored like any other, with its source."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", AT_ONCE) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        solved = await tasks.solve(image_task())
        log = await receiver.log()

    assert [entry["task"]["taskId"] for entry in log["results"]] == [solved.task_id]
    assert (log["results"][0]["task"]["source"], solved.source, solved.trust) == ("submit", "submit", "reported")
    assert sandbox.stats.get_task_result_calls == 0


async def test_refusal_at_submit_is_stored(tmp_path: Path) -> None:
    """A refused createTask ends its record, so nobody waits for it; the caller gets the reason."""
    refusal = {"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST", "errorDescription": "no such key"}
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=Reply(refusal, 401)) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        with pytest.raises(WrongKeyError):
            await tasks.submit(image_task())
        log = await receiver.log()

    (entry,) = log["results"]
    assert (entry["task"]["status"], entry["task"]["source"]) == ("failed", "submit")
    assert entry["task"]["errorCode"] == "ERROR_KEY_DOES_NOT_EXIST"


async def test_provider_without_callbacks(tmp_path: Path) -> None:
    """A provider without callbacks is polled, and its answers are in the log."""
    wanted = image_task(imageType="Yandex2025")
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("onecaptcha", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url, provider="onecaptcha") as tasks,
    ):
        solved = await tasks.solve(wanted)
        stored = await receiver.task(solved.ref)

    assert (solved.solution, solved.source) == (solution_of(wanted, "onecaptcha"), "poll")
    assert (stored["solution"], stored["source"]) == (solved.solution, "poll")


async def test_first_poll_may_be_chosen(tmp_path: Path) -> None:
    """The caller may ask for an earlier first poll behind a callback than the provider's plan has."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url, first_poll_seconds=0.1) as tasks,
    ):
        solved = await tasks.solve(image_task(sandbox={"callback": "lost"}))

    assert solved.source == "poll"


async def test_deadline(tmp_path: Path) -> None:
    """A task without an answer ends at its deadline, in the receiver and here alike."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        with pytest.raises(TaskTimedOutError) as caught:
            await tasks.solve(image_task(), timeout_seconds=0.5)

    assert (caught.value.task.error_code, caught.value.task.source) == ("RECEIVER_NO_ANSWER", "deadline")


async def test_answered_tasks_leave_the_line(tmp_path: Path) -> None:
    """If its callback comes before its turn, a task is not polled, and does not delay the others."""
    dialects = fast(first_after_callback_seconds=0.02)
    clock = JumpingClock()
    made = [Reply({**CREATED, "taskId": f"task-{number}"}) for number in range(6)]
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        scripted_provider(createTask=made, getTaskResult=[Reply(PENDING), Reply(ready())]) as provider,
        # After the first poll the key is free again in a minute and a half.
        open_client(
            provider.url, receiver.url, dialects=dialects, requests_per_second=1 / 90, timing=clock.timing
        ) as tasks,
    ):
        waiting = [await tasks.submit(image_task(number)) for number in range(5)]
        await eventually(lambda: len(provider.calls["getTaskResult"]) == 1)
        for call in provider.calls["createTask"]:
            await receiver.call_back(call["callbackUrl"])
        for task in waiting:
            await task.result()
        another = await tasks.submit(image_task(5))
        clock.jump(90.0)
        last = await another.result(timeout=30)

    assert last.source == "poll"
    assert [call["taskId"] for call in provider.calls["getTaskResult"]][1:] == ["task-5"]


async def test_wrong_receiver_key(tmp_path: Path) -> None:
    """If the receiver does not know the key, the caller learns of it at once, and nothing is sent to the provider."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url, receiver_key="tests-only-wrong-key-0123456789") as tasks,
    ):
        with pytest.raises(ReceiverRefusedError, match="401 no-key"):
            await tasks.submit(image_task())

    assert sandbox.stats.create_task_calls == 0


async def test_callback_urls_stay_out_of_the_log(tmp_path: Path) -> None:
    """No log line of the client holds a callback token or a key of the receiver."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        with capture_logs() as lines:
            task = await tasks.submit(image_task())
            url = provider.calls["createTask"][0]["callbackUrl"]
            await receiver.call_back(url, taskId="task-1")
            await task.result()

    assert url.rpartition("/")[2] not in repr(lines)
    assert receiver.authorization["Authorization"].removeprefix("Bearer ") not in repr(lines)
