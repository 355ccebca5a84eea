"""Faults of the calls themselves, and drawn faults."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from client.sandbox import FaultRates, Sandbox, SandboxSettings, expected_solution
from tests.client.sandbox.support import KEY, TOKEN, Catcher, call, create_task, get_task_result, ordered

_FAULTS = [
    ("429", 429, "application/json"),
    ("500", 500, "text/plain"),
    ("html", 200, "text/html"),
    ("500json", 500, "application/json"),
    ("403", 403, "text/html"),
]


@pytest.mark.parametrize(("fault", "status", "kind"), _FAULTS)
async def test_create_task_is_struck(fault: str, status: int, kind: str) -> None:
    """CreateTask can be struck a number of times for one content; no task is made until then."""
    async with Sandbox("capsolver") as sandbox:
        task = ordered(TOKEN, createTask=fault, createTaskTimes=2)
        replies = [await create_task(sandbox, task) for _ in range(3)]
        stats = sandbox.stats

    assert [(reply.status, reply.headers["Content-Type"].split(";")[0]) for reply in replies[:2]] == [
        (status, kind)
    ] * 2
    assert replies[2].json["errorId"] == 0
    assert (stats.tasks_made, stats.create_task_calls, stats.faults) == (1, 3, {f"createTask.{fault}": 2})


@pytest.mark.parametrize(("fault", "status", "kind"), _FAULTS)
async def test_get_task_result_is_struck(fault: str, status: int, kind: str) -> None:
    """GetTaskResult can be struck a number of times for one task; the answer comes after that."""
    async with Sandbox("onecaptcha") as sandbox:
        task = ordered(TOKEN, getTaskResult=fault, getTaskResultTimes=2)
        created = await create_task(sandbox, task)
        replies = [await get_task_result(sandbox, created) for _ in range(3)]
        stats = sandbox.stats

    assert [(reply.status, reply.headers["Content-Type"].split(";")[0]) for reply in replies[:2]] == [
        (status, kind)
    ] * 2
    assert replies[2].json["solution"] == expected_solution("onecaptcha", task)
    assert stats.faults == {f"getTaskResult.{fault}": 2}


@pytest.mark.parametrize(("provider", "status"), [("capsolver", 400), ("onecaptcha", 200)])
async def test_an_unlisted_code_comes_in_the_providers_envelope(provider: str, status: int) -> None:
    """The code comes in the provider's usual error, under its usual status."""
    async with Sandbox(provider) as sandbox:
        reply = await create_task(sandbox, ordered(TOKEN, createTask="unlisted"))

    assert (reply.status, reply.json["errorCode"]) == (status, "ERROR_SANDBOX_UNLISTED")


async def test_429_is_json_and_tells_when_to_come_back() -> None:
    """HTTP 429 comes with an error of the family and Retry-After."""
    async with Sandbox("capsolver") as sandbox:
        reply = await create_task(sandbox, ordered(TOKEN, createTask="429"))

    assert (reply.headers["Retry-After"], reply.json["errorCode"]) == ("1", "ERROR_RATE_LIMIT")


@pytest.mark.parametrize("fault", ["500", "html"])
async def test_500_and_html_are_no_json(fault: str) -> None:
    """HTTP 500 and the HTML page cannot be read as an answer."""
    async with Sandbox("capsolver") as sandbox:
        reply = await create_task(sandbox, ordered(TOKEN, createTask=fault))

    assert not reply.body.startswith(b"{")


async def test_a_cut_connection_makes_a_task() -> None:
    """A connection cut at createTask gives no answer, but the task is made and called back."""
    task = ordered(TOKEN, createTask="cut")
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await create_task(sandbox, task, callback_url=catcher.url)
        await sandbox.sent_callbacks(1)
        again = await create_task(sandbox, task)
        stats = sandbox.stats

    assert catcher.caught[0].json["solution"] == expected_solution("capsolver", task)
    assert again.json["errorId"] == 0
    assert (stats.tasks_made, stats.faults) == (2, {"createTask.cut": 1})


@pytest.mark.parametrize(
    ("rates", "status"), [(FaultRates(http_429=1.0), 429), (FaultRates(http_500=1.0), 500), (FaultRates(html=1.0), 200)]
)
@pytest.mark.parametrize(("path", "name"), [("/createTask", "createTask"), ("/getBalance", "getBalance")])
async def test_any_call_is_struck_by_rates(rates: FaultRates, status: int, path: str, name: str) -> None:
    """The rates of HTTP faults strike calls of every kind."""
    async with Sandbox("capsolver", SandboxSettings(rates=rates)) as sandbox:
        reply = await call(sandbox, path, {"clientKey": KEY, "task": TOKEN})
        faults = sandbox.stats.faults

    assert (reply.status, reply.body[:1] == b"{") == (status, status == 429)
    assert [fault.split(".")[0] for fault in faults] == [name]


async def _run(tasks: list[dict[str, Any]], *, seed: int) -> dict[str, list[tuple[int, str]]]:
    """Return the answers to each task, by its number: at createTask and at two polls."""
    met: dict[str, list[tuple[int, str]]] = {}
    rates = FaultRates(fails=0.3, http_429=0.1, http_500=0.1, html=0.1)
    async with Sandbox("capsolver", SandboxSettings(seed=seed, rates=rates, latency_seconds=(0.0, 0.0))) as sandbox:
        for task in tasks:
            created = await create_task(sandbox, task)
            replies = [created]
            if b"taskId" in created.body:
                replies += [await get_task_result(sandbox, created) for _ in range(2)]
            met[task["number"]] = [(reply.status, reply.headers["Content-Type"]) for reply in replies]
    return met


async def test_a_seed_repeats_a_run() -> None:
    """With one seed every call meets the same faults, over restarts and in any order of the tasks."""
    tasks = [{**TOKEN, "number": str(number)} for number in range(40)]

    one, other = await _run(tasks, seed=11), await _run(list(reversed(tasks)), seed=11)

    assert other == one
    assert len({str(met) for met in one.values()}) > 3


async def test_another_seed_makes_another_run() -> None:
    """With another seed other calls are struck."""
    tasks = [{**TOKEN, "number": str(number)} for number in range(40)]

    assert await _run(tasks, seed=11) != await _run(tasks, seed=12)
