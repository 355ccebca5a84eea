"""`solve` returns no answer older than asked for. It submits a bounded number of tasks instead, and logs each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from client import BadArgumentError, StaleAnswerError, UnsolvableError
from client.sandbox import Sandbox
from tests.client.support import (
    CREATED,
    FAST,
    PENDING,
    QUICK,
    REGISTERED,
    STORED,
    JumpingClock,
    Reply,
    fast,
    image_task,
    open_client,
    ready,
    says,
    scripted_provider,
    scripted_receiver,
    solution_of,
)
from tests.support import running_receiver

_FAILED = {"errorId": 1, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE", "status": "failed"}


async def test_young_answer() -> None:
    """A young answer is returned, and nothing is discarded."""
    async with Sandbox("capsolver", QUICK) as sandbox, open_client(sandbox.url) as tasks:
        solved = await tasks.solve(image_task(), fresh_for=5)

    assert (solved.solution, solved.discarded) == (solution_of(image_task()), ())
    assert sandbox.stats.create_task_calls == 1


async def test_lost_callback_is_noticed_in_time(tmp_path: Path) -> None:
    """If a young answer is wanted, the fallback poll behind a callback comes early enough to bring one."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        solved = await tasks.solve(image_task(sandbox={"callback": "lost"}), fresh_for=1.0, timeout=30)

    assert (solved.source, solved.discarded) == ("poll", ())
    assert (sandbox.stats.create_task_calls, sandbox.stats.get_task_result_calls) == (1, 1)


async def test_callback_in_time_saves_the_poll(tmp_path: Path) -> None:
    """A fast callback is returned without a poll: its age is known by itself."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        solved = await tasks.solve(image_task(), fresh_for=2.0, timeout=30)

    assert (solved.source, solved.discarded, sandbox.stats.get_task_result_calls) == ("callback", (), 0)


async def test_callback_counts_from_its_arrival(tmp_path: Path) -> None:
    """A task may take longer than its answer may be old: a callback counts from when the receiver got it."""
    dialects = fast(first_after_seconds=20.0)
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url, dialects=dialects) as tasks,
    ):
        solved = await tasks.solve(image_task(sandbox={"latencySeconds": 0.8}), fresh_for=0.6, timeout=30)

    assert (solved.source, solved.discarded) == ("callback", ())


async def test_old_answer_is_thrown_away() -> None:
    """An old answer is discarded and logged, and the task is submitted again; the next answer is returned."""
    clock = JumpingClock()
    second = {**CREATED, "taskId": "task-2"}
    replies = [Reply(ready("old"), first=clock.jump_first), Reply(ready("new"))]
    async with (
        scripted_provider(createTask=[CREATED, second], getTaskResult=replies) as provider,
        open_client(provider.url, timing=clock.timing) as tasks,
    ):
        with capture_logs() as lines:
            solved = await tasks.solve(image_task(), fresh_for=45)

    (line,) = [line for line in lines if line["event"] == "answer.discarded"]
    assert (solved.task_id, solved.solution, solved.discarded) == ("task-2", {"text": "new"}, ("task-1",))
    assert (line["taskId"], line["freshFor"], line["log_level"]) == ("task-1", 45, "warning")
    assert 60 <= line["ageSeconds"] < 120
    assert len(provider.calls["createTask"]) == 2
    assert "discarded" not in solved.model_dump_json()


async def test_every_answer_is_old() -> None:
    """If all answers were too old, the error tells the number of tasks and the age of each answer."""
    clock = JumpingClock()
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=Reply(ready(), first=clock.jump_first)) as provider,
        open_client(provider.url, timing=clock.timing) as tasks,
    ):
        with pytest.raises(StaleAnswerError, match="2 answers were too old") as caught:
            await tasks.solve(image_task(), fresh_for=45, fresh_tries=2)

    assert len(provider.calls["createTask"]) == 2
    assert all(60 <= age < 120 for age in caught.value.ages_seconds)
    assert (len(caught.value.ages_seconds), caught.value.fresh_for) == (2, 45)
    assert caught.value.task.solution == {"text": "44795sds"}


async def test_three_tasks_at_most() -> None:
    """Unless something else is asked for, three tasks are submitted at most."""
    clock = JumpingClock()
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=Reply(ready(), first=clock.jump_first)) as provider,
        open_client(provider.url, timing=clock.timing) as tasks,
    ):
        with pytest.raises(StaleAnswerError):
            await tasks.solve(image_task(), fresh_for=45)

    assert len(provider.calls["createTask"]) == 3


async def test_old_failure_is_no_reason() -> None:
    """A failed task is never submitted again, however long ago it failed."""
    clock = JumpingClock()
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=Reply(_FAILED, first=clock.jump_first)) as provider,
        open_client(provider.url, timing=clock.timing) as tasks,
    ):
        with pytest.raises(UnsolvableError):
            await tasks.solve(image_task(), fresh_for=45)

    assert len(provider.calls["createTask"]) == 1


async def test_pause_before_the_task_was_made_does_not_count() -> None:
    """The time before createTask was accepted is no age: answers of a busy provider are young."""
    clock = JumpingClock()
    busy = Reply(b"", 503, {"Retry-After": "0.05"}, first=clock.jump_first)
    dialects = fast(window_seconds=300.0)
    async with (
        scripted_provider(createTask=[busy, Reply({**ready(), "taskId": "task-1"})]) as provider,
        open_client(provider.url, timing=clock.timing, dialects=dialects) as tasks,
    ):
        solved = await tasks.solve(image_task(), fresh_for=45)

    assert (solved.source, solved.discarded) == ("submit", ())


async def test_poll_that_said_unfinished_makes_it_younger() -> None:
    """An answer cannot be older than the last poll with "processing", however long the task took."""
    clock = JumpingClock()
    replies = [Reply(PENDING), Reply(PENDING, first=clock.jump_first), Reply(PENDING), Reply(ready())]
    dialects = fast(window_seconds=300.0)
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=replies) as provider,
        open_client(provider.url, timing=clock.timing, dialects=dialects) as tasks,
    ):
        solved = await tasks.solve(image_task(), fresh_for=45)

    assert (solved.discarded, len(provider.calls["getTaskResult"])) == ((), 4)


async def test_poll_without_a_word_proves_nothing() -> None:
    """An answer without a state does not prove an unfinished task."""
    clock = JumpingClock()
    replies = [Reply({"errorId": 0}, first=clock.jump_first), Reply({"errorId": 0}), Reply(ready())]
    dialects = fast(window_seconds=300.0)
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=replies) as provider,
        open_client(provider.url, timing=clock.timing, dialects=dialects) as tasks,
    ):
        with pytest.raises(StaleAnswerError):
            await tasks.solve(image_task(), fresh_for=45, fresh_tries=1)

    assert len(provider.calls["getTaskResult"]) == 3


async def test_what_was_thrown_away_is_called_by_its_ref(tmp_path: Path) -> None:
    """With a receiver, a discarded answer is named by its ref there."""
    clock = JumpingClock()
    dialects = fast(first_after_callback_seconds=0.05)
    created = [Reply({**CREATED, "taskId": f"task-{number}"}) for number in range(2)]
    replies = [Reply(ready("old"), first=clock.jump_first), Reply(ready("new"))]
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        scripted_provider(createTask=created, getTaskResult=replies) as provider,
        open_client(provider.url, receiver.url, timing=clock.timing, dialects=dialects) as tasks,
    ):
        solved = await tasks.solve(image_task(), fresh_for=45)
        (ref,) = solved.discarded
        thrown_away = await receiver.task(ref)

    assert solved.solution == {"text": "new"}
    assert (thrown_away["taskId"], thrown_away["solution"]) == ("task-0", {"text": "old"})


async def test_receiver_whose_clock_is_wrong() -> None:
    """Only the time between two moments of the receiver counts: a clock years behind changes nothing."""
    bound = {**STORED, "finishedAt": STORED["createdAt"]}
    routes = {"register": says(REGISTERED, 201), "bind": says(bound)}
    async with (
        scripted_receiver(**routes) as receiver_url,
        scripted_provider(createTask=CREATED) as provider,
        open_client(provider.url, receiver_url) as tasks,
    ):
        solved = await tasks.solve(image_task(), fresh_for=2)

    assert (solved.source, solved.discarded) == ("callback", ())


async def test_limit_of_all_tries() -> None:
    """`timeout` bounds all tries together."""
    clock = JumpingClock()
    replies = [Reply(ready(), first=clock.jump_first), Reply(PENDING)]
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=replies) as provider,
        open_client(provider.url, timing=clock.timing) as tasks,
    ):
        with pytest.raises(TimeoutError):
            await tasks.solve(image_task(), fresh_for=45, timeout=0.5)

    assert len(provider.calls["createTask"]) == 2


@pytest.mark.parametrize(
    "arguments", [{"fresh_for": 0}, {"fresh_for": math.nan}, {"fresh_for": 45, "fresh_tries": 0}, {"fresh_for": 0.01}]
)
async def test_refused_arguments(arguments: dict[str, Any]) -> None:
    """A rule that cannot be kept is refused before anything is sent, even an age too short for polls alone."""
    async with scripted_provider(createTask=CREATED) as provider, open_client(provider.url) as tasks:
        with pytest.raises(BadArgumentError, match="fresh_"):
            await tasks.solve(image_task(), **arguments)

    assert provider.calls["createTask"] == []
