"""The queues of a key's rate limiter: served in order, and safe to cancel."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from client.errors import ProviderRefusedError
from client.provider_api.limits import KeyLimiter
from client.provider_api.timing import Timing
from client.providers import KeyLimits, Rate
from tests.client.support import CREATED, FAST, PENDING, JumpingClock, Reply, image_task, open_client, scripted_provider
from tests.support import eventually

_QUICK = KeyLimits(requests_per_second=200.0, submits=Rate(200, 0.5))


def _limiter(limits: KeyLimits = _QUICK) -> tuple[KeyLimiter, float]:
    """Return a limiter and a time in the far future."""
    timing = Timing()
    return KeyLimiter(limits, timing, "capsolver"), timing.clock() + 600.0


async def test_turns_come_in_order() -> None:
    """The first caller gets the first turn, also after a pause that all have waited for."""
    limiter, by = _limiter()
    limiter.pause(0.1)
    order: list[int] = []

    async def wants(number: int) -> None:
        assert await limiter.submit_turn(by)
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(wants(number))

    assert order == list(range(20))


async def test_cancelled_in_line() -> None:
    """A cancelled caller blocks nobody behind it, not even from the head of the queue."""
    limiter, by = _limiter()
    limiter.pause(0.1)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(limiter.poll_turn(by, is_first=True)) for _ in range(4)]
        await asyncio.sleep(0.02)
        waiting[0].cancel()
        waiting[2].cancel()

    assert [task.cancelled() for task in waiting] == [True, False, True, False]
    assert await limiter.poll_turn(by, is_first=True)


async def test_pause_that_is_longer_than_anyone_waits() -> None:
    """A caller without a turn before its limit learns it at once, not at the limit."""
    limiter, by = _limiter()
    limiter.pause(3600.0)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        waiting = [group.create_task(limiter.submit_turn(by)) for _ in range(3)]

    assert [task.result() for task in waiting] == [False, False, False]


async def test_time_that_runs_out_in_line() -> None:
    """A caller behind others waits no longer than its limit."""
    limiter, by = _limiter(KeyLimits(submits=Rate(2, 20.0)))
    assert await limiter.submit_turn(by)
    now = Timing().clock()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(limiter.submit_turn(now + 0.3))
        short = group.create_task(limiter.submit_turn(now + 0.1))

    assert short.result() is False


async def test_polls_that_are_used_up() -> None:
    """An ordinary poll is refused at once. A hinted one and the first of a task are sent."""
    limiter, by = _limiter(KeyLimits(requests_per_second=500.0, polls_for_each=3, polls_for_all=4))
    assert await limiter.poll_turn(by, is_first=True)
    while await limiter.poll_turn(by, is_first=False):
        pass

    assert await limiter.poll_turn(by, is_first=False, is_hinted=True)
    assert await limiter.poll_turn(by, is_first=True)


async def test_errors_brake_the_key() -> None:
    """Requests stop at half the provider's error limit. The log has the start and the end of it."""
    limits = replace(_QUICK, errors=Rate(6, 100.0))
    clock = JumpingClock()
    dialects = {"capsolver": replace(FAST["capsolver"], key_limits=limits)}
    refused = Reply({"errorId": 1, "errorCode": "ERROR_IP_NOT_ALLOWED"})
    async with (
        scripted_provider(createTask=[refused] * 3 + [Reply(CREATED)], getTaskResult=PENDING) as provider,
        open_client(provider.url, dialects=dialects, requests_per_second=50.0, timing=clock.timing) as tasks,
        asyncio.TaskGroup() as group,
    ):
        with capture_logs() as lines:
            for _ in range(3):
                with pytest.raises(ProviderRefusedError):
                    await tasks.submit(image_task())
            waits = clock.waits
            submitting = group.create_task(tasks.submit(image_task()))
            await eventually(lambda: clock.waits > waits)
            clock.jump(100.0)
            task = await submitting

    events = [line["event"] for line in lines]
    assert (events.count("key.braked"), events.count("key.released")) == (1, 1)
    assert events.index("key.braked") < events.index("key.released") < events.index("task.submitted")
    postponed = next(step for step in task.timeline() if step.happened == "submit.postponed")
    assert postponed.facts["reason"].startswith("half of the errors")


async def test_a_crowd_keeps_the_rate_of_submits() -> None:
    """A hundred tasks at once are submitted one by one, at half of the provider's allowed rate."""
    dialects = {"capsolver": replace(FAST["capsolver"], key_limits=_QUICK)}
    clock = asyncio.get_running_loop().time
    times: list[float] = []

    async def noted(_: object) -> None:
        times.append(clock())

    async with (
        scripted_provider(createTask=Reply({**CREATED, "status": "ready", "solution": {"text": "a"}}, first=noted)) as (
            provider
        ),
        open_client(provider.url, dialects=dialects) as tasks,
        asyncio.TaskGroup() as group,
    ):
        began_at = clock()
        for number in range(100):
            group.create_task(tasks.solve(image_task(number)))

    assert len(times) == 100
    # Not from the first that came: it may have been late, and the last one not.
    assert times[-1] - began_at >= 99 * 0.005 * 0.9
