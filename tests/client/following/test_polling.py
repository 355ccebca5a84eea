"""Without a receiver: tasks are submitted once, polled within the limits, and end with an answer or a clear error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from client import (
    TaskTimedOutError,
    UnsolvableError,
    WrongKeyError,
)
from client.provider_api.limits import KeyLimiter
from client.provider_api.timing import Timing
from client.providers import KeyLimits
from client.sandbox import Sandbox, SandboxSettings
from tests.client.support import (
    CREATED,
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
from tests.support import eventually


async def test_polled_answer() -> None:
    """A later answer is polled."""
    async with Sandbox("capsolver", QUICK) as sandbox, open_client(sandbox.url) as tasks:
        solved = await tasks.solve(image_task(), tags=["checkout"], metadata={"order": 7})

    assert (solved.status, solved.solution) == ("ready", solution_of(image_task()))
    assert (solved.source, solved.ref, solved.tags, solved.metadata) == ("poll", "", ("checkout",), {"order": 7})


async def test_onecaptcha() -> None:
    """The second service works in the same way, and its answer has the time until which it is valid."""
    async with Sandbox("onecaptcha", QUICK) as sandbox, open_client(sandbox.url, provider="onecaptcha") as tasks:
        solved = await tasks.solve(image_task(imageType="Yandex2025"))

    assert solved.solution == solution_of(image_task(imageType="Yandex2025"), "onecaptcha")
    assert solved.valid_until is not None
    assert solved.finished_at is not None
    assert (solved.valid_until - solved.finished_at).total_seconds() == 120


async def test_failed_later() -> None:
    """A failure found by a poll is raised by `result`, for each waiter."""
    async with Sandbox("capsolver", QUICK) as sandbox, open_client(sandbox.url) as tasks:
        task = await tasks.submit(image_task(sandbox={"fails": True}))
        for _ in range(2):
            with pytest.raises(UnsolvableError):
                await task.result()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"", 500),
        Reply(b"<html>"),
        Reply(cuts=True),
        Reply(b"", 429),
        pytest.param(Reply({"errorId": 1, "errorDescription": "too many requests"}, 429), id="an-error-without-a-code"),
    ],
)
async def test_poll_that_says_nothing(reply: Reply) -> None:
    """A poll without an answer of the provider is made again at the next interval."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[reply, Reply(PENDING), Reply(ready())]) as provider,
        open_client(provider.url) as tasks,
    ):
        solved = await tasks.solve(image_task())

    assert solved.status == "ready"
    assert len(provider.calls["getTaskResult"]) == 3


async def test_wrong_key_at_the_poll() -> None:
    """A key refused at a poll is no outcome of the task. Without callbacks it is raised at once."""
    refusal = {"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST"}
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=Reply(refusal, 401)) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        with pytest.raises(WrongKeyError):
            await task.result()

    assert len(provider.calls["getTaskResult"]) == 1


async def test_refusal_pauses_the_key() -> None:
    """If the provider asks to slow down at one task's poll, all tasks of the key pause."""
    slow = Reply({"errorId": 1, "errorCode": "ERROR_RATE_LIMIT"}, 400, {"Retry-After": "0.4"})
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[slow, Reply(ready())]) as provider,
        open_client(provider.url) as tasks,
    ):
        started = time.monotonic()
        handles = [await tasks.submit(image_task(number)) for number in range(3)]
        for handle in handles:
            await handle.result()
        seconds = time.monotonic() - started

    assert len(provider.calls["getTaskResult"]) == 4
    assert seconds >= 0.4


async def test_pause_holds_for_those_in_line() -> None:
    """A task in the queue for its poll waits for the end of a pause of the key."""
    clock = JumpingClock()
    slow = Reply({"errorId": 1, "errorCode": "ERROR_RATE_LIMIT"}, 400, {"Retry-After": "100"})
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[slow, Reply(ready())]) as provider,
        # All are due after 60 s, and by its rate the key is free again 40 s after the first.
        open_client(
            provider.url,
            dialects=fast(first_after_seconds=60.0),
            requests_per_second=1 / 40,
            timing=clock.timing,
        ) as tasks,
    ):
        with capture_logs() as lines:
            handles = [await tasks.submit(image_task(number)) for number in range(3)]
            clock.jump(60.0)
            await eventually(lambda: "provider.paused" in [line["event"] for line in lines])
        polls = provider.calls["getTaskResult"]
        clock.jump(50.0)
        await asyncio.sleep(0.1)
        polls_in_the_pause = len(polls)
        for number in (2, 3, 4):
            clock.jump(60.0)
            await eventually(partial(has_come_to, polls, number))
        for handle in handles:
            await handle.result()

    assert polls_in_the_pause == 1
    assert len(polls) == 4


def has_come_to(calls: Sequence[object], number: int) -> bool:
    """Return True if there were at least `number` calls."""
    return len(calls) >= number


async def test_unknown_id_is_not_final_at_once() -> None:
    """An id unknown to the provider is polled again."""
    unknown = Reply({"errorId": 1, "errorCode": "ERROR_TASKID_INVALID"}, 400)
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[unknown, Reply(ready())]) as provider,
        open_client(provider.url) as tasks,
    ):
        solved = await tasks.solve(image_task())

    assert solved.status == "ready"


async def test_unknown_id_after_the_window_is_final() -> None:
    """After the provider's window and the grace, "unknown id" is the final answer."""
    unknown = Reply({"errorId": 1, "errorCode": "ERROR_TASKID_INVALID"}, 400)
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=unknown) as provider,
        open_client(provider.url, dialects=fast(window_seconds=0.2, grace_seconds=0.2), timeout_seconds=60) as tasks,
    ):
        task = await tasks.submit(image_task())
        with pytest.raises(UnsolvableError, match="ERROR_TASKID_INVALID"):
            await task.result()


async def test_deadline() -> None:
    """A task without an answer ends at its deadline, with its last known state; polls keep the interval until then."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url) as tasks,
    ):
        with pytest.raises(TaskTimedOutError) as caught:
            await tasks.solve(image_task(), timeout_seconds=0.5)

    assert (caught.value.task.error_code, caught.value.task.source) == ("RECEIVER_NO_ANSWER", "deadline")
    assert 1 <= len(provider.calls["getTaskResult"]) <= 10


async def test_number_of_polls_is_limited() -> None:
    """A task is asked for as often as the provider allows, and no more."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
        open_client(provider.url, dialects=fast(max_polls=3)) as tasks,
    ):
        with pytest.raises(TaskTimedOutError):
            await tasks.solve(image_task(), timeout_seconds=0.6)

    assert len(provider.calls["getTaskResult"]) == 3


async def test_polls_of_all_tasks_share_one_rate() -> None:
    """Turns of one key are spread evenly, however many tasks wait."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now = time.monotonic()
        return now

    limiter = KeyLimiter(KeyLimits(requests_per_second=50.0), Timing(clock=clock), "capsolver")
    times = []

    for number in range(6):
        assert await limiter.poll_turn(time.monotonic() + 60.0, is_first=number % 2 == 0)
        # The time seen by the limiter. This test may resume later, which is no fault of the limiter.
        times.append(now)

    assert all(later - earlier >= 0.0199 for earlier, later in pairwise(times))


async def test_balance() -> None:
    """The balance is a number, or an error with the reason."""
    settings = SandboxSettings(balance=12.5, client_keys=frozenset({"right"}))
    async with Sandbox("capsolver", settings) as sandbox:
        async with open_client(sandbox.url, client_key="right") as tasks:
            assert await tasks.balance() == 12.5
        async with open_client(sandbox.url, client_key="wrong") as tasks:
            with pytest.raises(WrongKeyError):
                await tasks.balance()


async def test_keys_and_solutions_stay_out_of_the_log() -> None:
    """No log line of a task's life holds the client key or the solution."""
    async with Sandbox("capsolver", QUICK) as sandbox, open_client(sandbox.url) as tasks:
        with capture_logs() as lines:
            solved = await tasks.solve(image_task())

    assert {line["event"] for line in lines} >= {"task.submitted", "task.polled", "task.finished"}
    assert "tests-only-client-key" not in repr(lines)
    assert solved.solution["text"] not in repr(lines)
