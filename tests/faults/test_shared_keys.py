"""One provider key of several receivers on one database: together they keep the limits of one."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from client.protocol.models import client_key_id
from client.providers import Dialect, KeyLimits
from client.providers.rules import Rate
from client.sandbox import Sandbox, SandboxSettings
from client.sandbox.serving import serving
from client.sandbox.settings import SandboxLimits
from receiver.service import submissions
from tests.client.support import fast
from tests.postgres import Cluster, running_cluster
from tests.receiver.service.test_submissions import submit
from tests.receiver.storage.stores import change
from tests.receiver.upstream.test_reconciler import KEY, QUICK, Provider, reconciling, running_provider, submitted
from tests.support import Answer, RunningReceiver, eventually, running_receiver

RATE = 20.0
PAUSE_HALF_A_MINUTE = {"errorId": 1, "errorCode": "ERROR: 1003"}
WRONG_KEY = {"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST"}


def limited(limits: KeyLimits, dialects: Mapping[str, Dialect] = QUICK) -> Mapping[str, Dialect]:
    """Return providers with these limits of a key."""
    return {name: replace(dialect, key_limits=limits) for name, dialect in dialects.items()}


@asynccontextmanager
async def three_receivers(
    database: Path | str, provider: Provider, limits: KeyLimits
) -> AsyncIterator[Sequence[RunningReceiver]]:
    """Yield three receivers with the key of the provider."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(reconciling(database, provider, limited(limits))) for _ in range(3)]


async def test_three_receivers_poll_at_the_rate_of_one(database: Path | str) -> None:
    """All have more due tasks than turns. Each polls, and all together keep the rate."""
    async with running_provider() as provider, three_receivers(database, provider, KeyLimits()) as receivers:
        for number in range(60):
            await submitted(receivers[number % 3], f"a{number}")
        await eventually(lambda: len(provider.asked) >= 20)
        before, began = len(provider.asked), time.monotonic()
        await asyncio.sleep(3.0)
        sent, seconds = len(provider.asked) - before, time.monotonic() - began
        # On a busy machine one may get its first turn late.
        async with asyncio.timeout(30):
            while not all([await polls_sent(receiver) for receiver in receivers]):
                await asyncio.sleep(0.1)

    # A turn may be used a second late, and not more than once.
    assert sent <= RATE * (seconds + 1.0) + 3


async def test_three_receivers_submit_at_the_rate_of_one(database: Path | str) -> None:
    """The provider refuses more than twenty createTask requests in a second, and refuses none."""
    limits = KeyLimits(requests_per_second=500.0, submits=Rate(20, 1.0))
    settings = SandboxSettings(
        latency_seconds=(0.05, 0.1),
        async_images=True,
        limits=SandboxLimits(submit_count=20, submit_seconds=1.0, submit_ban_seconds=60.0),
    )
    async with Sandbox("capsolver", settings) as sandbox, AsyncExitStack() as stack:
        accounts: dict[str, Any] = {"provider_keys": {"capsolver": KEY}, "provider_urls": {"capsolver": sandbox.url}}
        quick = limited(limits, fast(first_after_callback_seconds=60.0))
        receivers = [
            await stack.enter_async_context(running_receiver(database, dialects=quick, **accounts)) for _ in range(3)
        ]
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(submit(receiver)) for receiver in receivers * 11]
        made, broken = sandbox.stats.tasks_made, dict(sandbox.stats.limits_broken)

    assert [answer.result().status for answer in answers] == [201] * 33
    assert (made, broken) == (33, {})


async def test_one_idempotency_key_submits_once(database: Path | str) -> None:
    """Of requests with one key at three receivers at once, one calls createTask. Later all get its task."""
    settings = SandboxSettings(latency_seconds=(0.05, 0.1), async_images=True)
    async with Sandbox("capsolver", settings) as sandbox, AsyncExitStack() as stack:
        accounts: dict[str, Any] = {"provider_keys": {"capsolver": KEY}, "provider_urls": {"capsolver": sandbox.url}}
        receivers = [
            await stack.enter_async_context(running_receiver(database, dialects=QUICK, **accounts)) for _ in range(3)
        ]
        async with asyncio.TaskGroup() as group:
            first = [group.create_task(submit(receiver, key=key)) for key in "abcdefgh" for receiver in receivers]
        later = [await submit(receiver, key=key) for key in "abcdefgh" for receiver in receivers]
        made = sandbox.stats.tasks_made

    assert made == 8
    assert {answer.result().status for answer in first} <= {201, 409}
    assert sum(answer.result().status == 201 for answer in first) >= 8
    assert all(answer.json["taskId"] is not None for answer in later)
    assert len({answer.json["ref"] for answer in later}) == 8


async def test_a_submission_under_way_elsewhere_is_in_flight(database: Path | str) -> None:
    """A second receiver refuses the key as the first one would, and gives out the task after the provider's answer."""
    called, created = asyncio.Event(), asyncio.Event()

    async def create_task(_request: web.Request) -> web.Response:
        called.set()
        await created.wait()
        return web.json_response({"errorId": 0, "taskId": "a1"})

    async with scripted(create_task) as url, AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        accounts: dict[str, Any] = {"provider_keys": {"capsolver": KEY}, "provider_urls": {"capsolver": url}}
        one, other = [
            await stack.enter_async_context(running_receiver(database, dialects=QUICK, **accounts)) for _ in range(2)
        ]
        submitting = group.create_task(submit(one, key="a"))
        await called.wait()
        during = await submit(other, key="a")
        created.set()
        after = await submit(other, key="a") if (await submitting).status == 201 else None

    assert (during.status, during.json["type"].rpartition(":")[2]) == (409, "idempotency-in-flight")
    assert int(during.headers["Retry-After"]) == 1
    assert after is not None
    assert (after.status, after.json["taskId"]) == (201, "a1")


async def test_a_receiver_that_died_while_submitting_does_not_block_the_key(database: Path | str) -> None:
    """Its lease ends. Then the task is given out as it is, and createTask is not called again."""
    made = 0

    async def create_task(_request: web.Request) -> web.Response:
        nonlocal made
        made += 1
        return web.json_response({"errorId": 0, "taskId": f"a{made}"})

    async with scripted(create_task) as url:
        accounts: dict[str, Any] = {"provider_keys": {"capsolver": KEY}, "provider_urls": {"capsolver": url}}
        async with running_receiver(database, dialects=QUICK, **accounts) as api:
            first = await submit(api, key="a")
            # As a process leaves it that was killed before the provider's answer.
            change(database, "UPDATE task SET task_id = NULL")
            change(database, "UPDATE lease SET holder = 'killed'")
            during = await submit(api, key="a")
            change(database, "UPDATE lease SET ends_at = ends_at - 120000000")
            after = await submit(api, key="a")

    assert (first.status, during.status, after.status, made) == (201, 409, 201, 1)
    assert (after.json["ref"], after.json["taskId"]) == (first.json["ref"], None)


async def test_a_submission_that_a_stop_cut_off_is_given_out_at_once(
    database: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller comes back to another receiver, and need not wait for the end of the lease."""
    monkeypatch.setattr(submissions, "_END_SECONDS", 0.2)
    called = asyncio.Event()

    async def create_task(_request: web.Request) -> web.Response:
        called.set()
        await asyncio.sleep(60)
        raise web.HTTPServiceUnavailable

    async with scripted(create_task) as url, asyncio.TaskGroup() as group:
        accounts: dict[str, Any] = {"provider_keys": {"capsolver": KEY}, "provider_urls": {"capsolver": url}}
        async with running_receiver(database, dialects=QUICK, **accounts) as one:
            submitting = group.create_task(hung_up_on(submit(one, key="a")))
            await called.wait()
            await one.stop()
            await submitting
        async with running_receiver(database, dialects=QUICK, **accounts) as other:
            answer = await submit(other, key="a")

    assert (answer.status, answer.json["taskId"]) == (201, None)


async def hung_up_on(request: Coroutine[Any, Any, Answer]) -> None:
    """Send a request to a receiver that stops."""
    with suppress(aiohttp.ClientError):
        await request


async def test_an_unclear_submission_is_given_out_at_once(database: Path | str) -> None:
    """The provider's answer cannot be read. Every receiver gives out the task, and none submits it again."""
    made = 0

    async def create_task(_request: web.Request) -> web.Response:
        nonlocal made
        made += 1
        return web.Response(text="<html>")

    async with scripted(create_task) as url, AsyncExitStack() as stack:
        accounts: dict[str, Any] = {"provider_keys": {"capsolver": KEY}, "provider_urls": {"capsolver": url}}
        receivers = [
            await stack.enter_async_context(running_receiver(database, dialects=QUICK, **accounts)) for _ in range(2)
        ]
        answers = [await submit(receiver, key="a") for receiver in receivers]

    assert ([answer.status for answer in answers], made) == ([201, 201], 1)
    assert len({answer.json["ref"] for answer in answers}) == 1


async def test_three_receivers_share_the_allowance_of_polls(database: Path | str) -> None:
    """Two polls for each task and four more are allowed. Further ones are refused, and none is sent."""
    limits = KeyLimits(requests_per_second=100.0, polls_for_each=2, polls_for_all=4)
    async with running_provider() as provider, three_receivers(database, provider, limits) as receivers:
        for number in range(6):
            await submitted(receivers[number % 3], f"a{number}")
        await eventually(lambda: len(provider.asked) >= 12)
        await asyncio.sleep(1.0)
        asked = len(provider.asked)

    assert 12 <= asked < 2 * 6 + 4


async def test_a_pause_of_one_receiver_holds_for_all(database: Path | str) -> None:
    """The provider asks one of them to slow down. Within a second no other one polls any more."""
    async with running_provider() as provider, three_receivers(database, provider, KeyLimits()) as receivers:
        for number in range(30):
            await submitted(receivers[number % 3], f"a{number}")
        await eventually(lambda: len(provider.asked) >= 20)
        with capture_logs() as lines:
            provider.answers["a0"] = PAUSE_HALF_A_MINUTE
            await eventually(lambda: len(pauses(lines)) == 3)
        await asyncio.sleep(1.0)
        before = len(provider.asked)
        await asyncio.sleep(1.0)
        after = len(provider.asked)

    assert after == before


async def test_a_pause_during_an_outage_is_shared_afterwards(postgres: Cluster) -> None:
    """A receiver learns of the pause while the database is away. The other one learns of it once it is back."""
    with running_cluster() as cluster:
        database = cluster.new_database()
        async with running_provider() as provider, reconciling(database, provider) as one:
            provider.gate.clear()
            provider.answers["a0"] = PAUSE_HALF_A_MINUTE
            await submitted(one, "a0")
            await eventually(lambda: provider.under_way == 1)
            async with reconciling(database, provider):
                with capture_logs() as lines:
                    await asyncio.to_thread(cluster.stop)
                    provider.gate.set()
                    await eventually(lambda: len(pauses(lines)) == 1)
                    await asyncio.to_thread(cluster.start)
                    await eventually(lambda: len(pauses(lines)) == 2)

    own, others = pauses(lines)
    assert own["reason"] == "ERROR: 1003"
    assert (others["reason"], others["seconds"] <= 30.0) == ("another receiver has paused the key", True)


async def test_halts_grow_over_all_receivers(database: Path | str) -> None:
    """A key that is refused stops all receivers, and the row has the number of refusals for all of them."""
    async with running_provider() as provider, three_receivers(database, provider, KeyLimits()) as receivers:
        provider.answers |= {f"a{number}": WRONG_KEY for number in range(30)}
        with capture_logs() as lines:
            for number in range(30):
                await submitted(receivers[number % 3], f"a{number}")
            await eventually(lambda: len(pauses(lines)) >= 3)
        found = await receivers[0].runtime.store.key_budget(f"capsolver {client_key_id(KEY)}")

    assert found is not None
    assert found[0].halts == 1


@asynccontextmanager
async def scripted(create_task: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """Yield the URL of a provider with this createTask. Its other answers say nothing."""

    async def get_task_result(_request: web.Request) -> web.Response:
        return web.json_response({"errorId": 0, "status": "processing"})

    app = web.Application()
    app.router.add_post("/createTask", create_task)
    app.router.add_post("/getTaskResult", get_task_result)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serving(runner, listener) as url:
            yield url


def pauses(lines: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the lines about pauses of the key."""
    return [line for line in lines if line["event"] in ("provider.paused", "provider.refused")]


async def polls_sent(receiver: RunningReceiver) -> float:
    """Return the number of polls that a receiver has sent."""
    metrics = (await receiver.send("GET", "/metrics")).body.decode()
    sent = re.search(r'own_polls_total\{provider="capsolver",what="sent"\} ([0-9.]+)', metrics)
    return 0.0 if sent is None else float(sent[1])
