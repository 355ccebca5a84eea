"""Requests with a wrong API key or none are delayed, longer with each one of their address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.errors import ReceiverError
from receiver.web.edge.attempts import FailedAttempts
from tests.receiver.web.sockets import open_events, open_socket
from tests.support import ADMIN, SUBMIT_ONLY, RunningReceiver, eventually, running_receiver

WRONG = "tests-only-wrong-key-0123456789"


class Times:
    """A clock that is moved by hand, and the sleeps asked of it, which end at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Note the sleep."""
        self.slept.append(seconds)


def ignore(_answer: str) -> None:
    """Count nothing."""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


async def test_the_delay_grows_to_a_limit_by_address() -> None:
    """It doubles after four attempts, up to 1 s. Another address begins anew."""
    times = Times()
    attempts = FailedAttempts(ignore, clock=times, sleep=times.sleep)
    for _ in range(24):
        await attempts.delay("one")
    await attempts.delay("two")

    delays = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert times.slept == [delay for delay in delays for _ in range(4)] + [0.1]


@pytest.mark.parametrize(("seconds", "delay"), [(599.0, 0.2), (600.0, 0.1)])
async def test_a_quiet_address_begins_anew(seconds: float, delay: float) -> None:
    """After ten minutes the attempts before are forgotten."""
    times = Times()
    attempts = FailedAttempts(ignore, clock=times, sleep=times.sleep)
    for _ in range(4):
        await attempts.delay("one")
    times.now += seconds
    await attempts.delay("one")

    assert times.slept[-1] == delay


async def test_the_memory_is_bounded() -> None:
    """Of too many addresses, the one with the oldest attempt is forgotten."""
    times = Times()
    attempts = FailedAttempts(ignore, clock=times, sleep=times.sleep)
    for owner in (0, 0, 0, 0, *range(1, 10_000), 0, 10_000, 1):
        await attempts.delay(owner)

    assert len(attempts) == 10_000
    assert times.slept[-3:] == [0.2, 0.1, 0.1]


async def test_few_requests_wait_at_once() -> None:
    """Beyond 8 of one address and 64 in all, they are refused at once. A cancelled one gives its place back."""
    counted: list[str] = []
    release = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        await release.wait()

    attempts = FailedAttempts(counted.append, sleep=sleep)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(attempts.delay(number // 8)) for number in range(64)]
        await eventually(lambda: attempts.waiting == 64)
        for owner in (0, "new"):
            with pytest.raises(ReceiverError) as refused:
                await attempts.delay(owner)
            assert (refused.value.slug, refused.value.retry_after_seconds) == ("too-many-requests", 1)
        waiting[0].cancel()
        await eventually(lambda: attempts.waiting < 64)
        release.set()
        await attempts.delay(0)

    assert attempts.waiting == 0
    assert (counted.count("delayed"), counted.count("refused")) == (65, 2)


async def test_every_way_to_a_key_is_delayed_and_counted(api: RunningReceiver) -> None:
    """Wrong keys, missing ones and tickets wait for their 401. A key without the scope does not."""
    statuses = [
        (await api.send("GET", path, key=key)).status for path in ("/v1/tasks/x", "/metrics") for key in (WRONG, None)
    ]
    async with open_events(api, key=None, ticket="wrong") as events:
        statuses.append(events.response.status)
    statuses.append((await api.send("GET", "/metrics", key=SUBMIT_ONLY)).status)
    text = (await api.send("GET", "/metrics")).body.decode()

    assert statuses == [401, 401, 401, 401, 401, 403]
    assert 'callback_receiver_failed_attempts_total{answer="delayed"} 5.0' in text


async def test_a_flood_of_attempts_delays_nobody_else(api: RunningReceiver) -> None:
    """A valid key of the same address and a callback are answered while attempts wait, and 429 needs no place."""
    url = (await api.register())["callbackUrl"]
    async with asyncio.TaskGroup() as group:
        flood = [group.create_task(api.send("GET", "/v1/tasks", key=WRONG)) for _ in range(200)]
        await eventually(lambda: api.delayed > 0)
        async with open_socket(api, key=ADMIN) as socket:
            subscribed = await socket.ask(type="subscribe", id=1)
        answers = [await api.send("GET", "/v1/tasks"), await api.call_back(url)]

    statuses = [sent.result().status for sent in flood]
    assert (subscribed["type"], [answer.status for answer in answers]) == ("subscribed", [200, 200])
    # To wait for 200 refusals, eight at a time, would take 25 s.
    assert set(statuses) == {401, 429}
    assert api.delayed == 0
