"""`Task.result` returns no answer older than asked for, also of attached tasks, and polls in time."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from client import BadArgumentError, StaleAnswerError
from client.sandbox import Sandbox
from tests.client.support import (
    CREATED,
    FAST,
    PENDING,
    QUICK,
    STORED,
    JumpingClock,
    Reply,
    fast,
    image_task,
    open_client,
    ready,
    reserved_port,
    says,
    scripted_provider,
    scripted_receiver,
)
from tests.support import running_receiver


async def test_callback_gets_old_while_nobody_takes_it(tmp_path: Path) -> None:
    """A callback in time is too old for a late caller. A caller with a weaker demand still gets it."""
    clock = JumpingClock()
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url, timing=clock.timing) as tasks,
    ):
        task = await tasks.submit(image_task())
        young = await task.result(timeout=30, fresh_for=45)
        clock.jump()
        with pytest.raises(StaleAnswerError, match="1 answer was too old") as caught:
            await task.result(fresh_for=45)
        old = await task.result()

    assert 60 <= caught.value.age_seconds < 120
    assert young == old == caught.value.task
    assert task.timeline()[-1].happened == "answer.discarded"
    assert sandbox.stats.create_task_calls == 1


async def test_receiver_that_could_not_be_reached_for_long(tmp_path: Path) -> None:
    """The age of a callback counts from its arrival at the receiver, even if this client learns of it long after."""
    clock = JumpingClock()
    dialects = fast(window_seconds=300.0)
    database = tmp_path / "receiver.db"
    with reserved_port() as port:
        async with (
            scripted_provider(createTask=CREATED) as provider,
            open_client(provider.url, f"http://127.0.0.1:{port}", timing=clock.timing, dialects=dialects) as tasks,
        ):
            async with running_receiver(database, dialects=dialects, port=port):
                task = await tasks.submit(image_task())
            path = urlsplit(provider.calls["createTask"][0]["callbackUrl"]).path
            async with running_receiver(database, dialects=dialects) as elsewhere:
                await elsewhere.call_back(elsewhere.url + path, taskId="task-1")
            clock.jump()
            async with running_receiver(database, dialects=dialects, port=port):
                with pytest.raises(StaleAnswerError) as caught:
                    await task.result(timeout=30, fresh_for=45)

    assert 60 <= caught.value.age_seconds < 120
    assert caught.value.task.source == "callback"


async def test_attached_answer_has_the_age_of_its_record(tmp_path: Path) -> None:
    """A callback from before the attaching is as old as the receiver says, and one second for its clock."""
    clock = JumpingClock()
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
    ):
        async with open_client(sandbox.url, receiver.url) as tasks:
            solved = await tasks.solve(image_task())
        async with open_client(sandbox.url, receiver.url, timing=clock.timing) as tasks:
            assert solved.task_id is not None
            task = await tasks.attach(solved.task_id)
            again = await task.result(fresh_for=60)
            with pytest.raises(StaleAnswerError) as caught:
                await task.result(fresh_for=0.001)

    found = caught.value.task
    assert again == solved
    assert found.finished_at is not None
    assert 1 - (found.finished_at - found.created_at).total_seconds() <= caught.value.age_seconds < 60


async def test_attached_answer_of_unknown_age() -> None:
    """For a task made elsewhere, the first poll's answer has no known age."""
    async with (
        scripted_provider(getTaskResult=ready()) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.attach("task-1")
        with pytest.raises(StaleAnswerError, match="got an unknown age") as caught:
            await task.result(timeout=30, fresh_for=45)

    assert caught.value.age_seconds == math.inf


async def test_attached_answer_that_was_seen_unfinished() -> None:
    """After a poll with "processing", the age of the next poll's answer is known."""
    async with (
        scripted_provider(getTaskResult=[Reply(PENDING), Reply(ready())]) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.attach("task-1")
        solved = await task.result(timeout=30, fresh_for=45)

    assert solved.status == "ready"


async def test_record_without_a_date() -> None:
    """If the receiver does not tell the age of a record, its answer has no age."""
    final = {**STORED, "finishedAt": STORED["createdAt"]}

    async with (
        scripted_receiver(register=says(final, headers={"Date": "nonsense"})) as receiver_url,
        open_client("http://127.0.0.1:1", receiver_url) as tasks,
    ):
        task = await tasks.attach("task-1")
        with pytest.raises(StaleAnswerError) as caught:
            await task.result(timeout=30, fresh_for=45)

    assert caught.value.age_seconds == math.inf


async def test_wait_that_is_over_wants_nothing(tmp_path: Path) -> None:
    """A cancelled wait for a young answer leaves nothing behind: the task is not polled for it any more."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        with pytest.raises(TimeoutError):
            await task.result(timeout=0.5, fresh_for=0.1)
        polls = len(provider.calls["getTaskResult"])
        with pytest.raises(TimeoutError):
            await task.result(timeout=0.4)

    assert polls > 1
    assert len(provider.calls["getTaskResult"]) <= polls + 1


@pytest.mark.parametrize("fresh_for", [-1, 0, True, float("nan"), float("inf")])
async def test_refused_age_of_a_result(fresh_for: float) -> None:
    """`result` refuses a value that is no age."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=ready()) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        with pytest.raises(BadArgumentError, match="fresh_for"):
            await task.result(fresh_for=fresh_for)
