"""Answers on the wire, field by field, against the seeds and the documentation."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY
from uuid import UUID

import pytest

from client.providers import dialect_named
from client.providers.readings import Failed, Pending, Ready, Submitted
from client.sandbox import Faults, Sandbox, SandboxSettings, expected_solution
from tests.client.sandbox.support import (
    IMAGE,
    KEY,
    NOW,
    TOKEN,
    SettableClock,
    call,
    create_task,
    get_task_result,
    ordered,
)

_SLOW = SandboxSettings(latency_seconds=(60.0, 60.0))


async def test_capsolver_async_answer() -> None:
    """CapSolver: a token task gets "" for no error, a UUID for an id, and `idle` (seed: CapSolver, line 45)."""
    async with Sandbox("capsolver", _SLOW) as sandbox:
        reply = await create_task(sandbox, TOKEN)

    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == {"errorId": 0, "errorCode": "", "errorDescription": "", "status": "idle", "taskId": ANY}
    assert str(UUID(reply.json["taskId"])) == reply.json["taskId"]


async def test_capsolver_async_answer_without_status() -> None:
    """CapSolver: the status can be left out, as the documentation has it (seed: CapSolver, line 45)."""
    async with Sandbox("capsolver", SandboxSettings(is_status_sent=False)) as sandbox:
        reply = await create_task(sandbox, TOKEN)

    assert reply.json == {"errorId": 0, "errorCode": "", "errorDescription": "", "taskId": ANY}


@pytest.mark.parametrize("task", [IMAGE, {"type": "ReCaptchaV2Classification", "image": "iVBORw0KGgo="}])
async def test_capsolver_sync_answer(task: dict[str, Any]) -> None:
    """CapSolver: recognition types are answered at once, with `status` ready (seed: CapSolver, line 56)."""
    async with Sandbox("capsolver", SandboxSettings(latency_seconds=(0.0, 0.0))) as sandbox:
        reply = await create_task(sandbox, task)

    assert reply.json == {
        "errorId": 0,
        "errorCode": "",
        "errorDescription": "",
        "status": "ready",
        "solution": expected_solution("capsolver", task),
        "taskId": ANY,
    }


async def test_capsolver_sync_task_can_be_read_too() -> None:
    """CapSolver: an id given by a synchronous answer is known to getTaskResult."""
    async with Sandbox("capsolver", SandboxSettings(latency_seconds=(0.0, 0.0))) as sandbox:
        reply = await get_task_result(sandbox, await create_task(sandbox, IMAGE))

    assert reply.json["solution"] == expected_solution("capsolver", IMAGE)


async def test_capsolver_images_can_be_asynchronous() -> None:
    """With `async_images` an image is answered like a token task."""
    async with Sandbox("capsolver", NOW) as sandbox:
        reply = await create_task(sandbox, IMAGE)

    assert reply.json["status"] == "idle"


@pytest.mark.parametrize(
    ("task", "status"), [(ordered(TOKEN, sync=True), "ready"), (ordered(IMAGE, sync=False), "idle")]
)
async def test_a_task_can_order_how_it_is_answered(task: dict[str, Any], status: str) -> None:
    """The order `sync` goes before the type."""
    async with Sandbox("capsolver") as sandbox:
        reply = await create_task(sandbox, task)

    assert reply.json["status"] == status


async def test_capsolver_processing() -> None:
    """CapSolver: an unfinished task is `processing`."""
    async with Sandbox("capsolver", _SLOW) as sandbox:
        created = await create_task(sandbox, TOKEN)
        reply = await get_task_result(sandbox, created)

    assert reply.json == {"errorId": 0, "taskId": created.json["taskId"], "status": "processing"}


async def test_capsolver_ready() -> None:
    """CapSolver: a finished task comes with its solution and its id (providers/README.md, "CapSolver")."""
    async with Sandbox("capsolver", NOW) as sandbox:
        created = await create_task(sandbox, TOKEN)
        reply = await get_task_result(sandbox, created)

    assert reply.status == 200
    assert reply.json == {
        "errorId": 0,
        "taskId": created.json["taskId"],
        "status": "ready",
        "solution": expected_solution("capsolver", TOKEN),
    }


async def test_capsolver_failed() -> None:
    """CapSolver: a failed task is an error under HTTP 400, with a JSON body (providers/README.md, "CapSolver")."""
    async with Sandbox("capsolver") as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, fails=True))
        reply = await get_task_result(sandbox, created)

    assert reply.status == 400
    assert reply.json == {
        "errorId": 1,
        "errorCode": "ERROR_CAPTCHA_UNSOLVABLE",
        "errorDescription": ANY,
        "taskId": created.json["taskId"],
        "status": "failed",
    }


async def test_capsolver_failed_at_once() -> None:
    """CapSolver: a failed synchronous task is an error of createTask, and no task is there."""
    async with Sandbox("capsolver") as sandbox:
        reply = await create_task(sandbox, ordered(IMAGE, fails=True, errorCode="ERROR_INVALID_IMAGE"))
        tasks_made = sandbox.stats.tasks_made

    assert (reply.status, tasks_made) == (400, 0)
    assert reply.json == {"errorId": 1, "errorCode": "ERROR_INVALID_IMAGE", "errorDescription": ANY}


async def test_capsolver_wrong_key() -> None:
    """CapSolver: a wrong key is an error under HTTP 401, with a JSON body (providers/README.md, "CapSolver")."""
    async with Sandbox("capsolver", SandboxSettings(client_keys=frozenset({KEY}))) as sandbox:
        reply = await create_task(sandbox, TOKEN, key="another")

    assert reply.status == 401
    assert reply.json == {"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST", "errorDescription": ANY}


async def test_capsolver_balance() -> None:
    """CapSolver: getBalance has `balance` and `packages` (providers/README.md, "Balance and reports")."""
    async with Sandbox("capsolver", SandboxSettings(balance=2.5)) as sandbox:
        reply = await call(sandbox, "/getBalance", {"clientKey": KEY})

    assert reply.json == {"errorId": 0, "balance": 2.5, "packages": []}


async def test_onecaptcha_created() -> None:
    """1captcha.vip: "" for no error, an id, and nothing else, for images too (seed: 1captcha, line 40)."""
    async with Sandbox("onecaptcha", NOW) as sandbox:
        reply = await create_task(sandbox, IMAGE)

    assert reply.status == 200
    assert reply.json == {"errorId": 0, "errorCode": "", "errorDescription": "", "taskId": ANY}
    assert str(UUID(reply.json["taskId"])) == reply.json["taskId"]


async def test_onecaptcha_processing() -> None:
    """1captcha.vip: null for no error, and `processing` (seed: 1captcha, line 74)."""
    async with Sandbox("onecaptcha", _SLOW) as sandbox:
        reply = await get_task_result(sandbox, await create_task(sandbox, IMAGE))

    assert reply.json == {"errorId": 0, "errorCode": None, "errorDescription": None, "status": "processing"}


async def test_onecaptcha_ready() -> None:
    """1captcha.vip: null for no error, `ready` and the solution, without an id (seed: 1captcha, line 83)."""
    async with Sandbox("onecaptcha", NOW) as sandbox:
        reply = await get_task_result(sandbox, await create_task(sandbox, IMAGE))

    assert reply.json == {
        "errorId": 0,
        "errorCode": None,
        "errorDescription": None,
        "status": "ready",
        "solution": expected_solution("onecaptcha", IMAGE),
    }


async def test_onecaptcha_failed() -> None:
    """1captcha.vip: a failure is `errorId` above 0 under HTTP 200, without `status` (seed: 1captcha, line 99)."""
    async with Sandbox("onecaptcha") as sandbox:
        reply = await get_task_result(sandbox, await create_task(sandbox, ordered(IMAGE, fails=True)))

    assert reply.status == 200
    assert reply.json == {"errorId": 1, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE", "errorDescription": ANY}


async def test_onecaptcha_status_of_errors_can_be_chosen() -> None:
    """1captcha.vip: the unknown HTTP status of errors is a setting."""
    async with Sandbox("onecaptcha", SandboxSettings(error_status=403)) as sandbox:
        reply = await create_task(sandbox, IMAGE, key="")

    assert (reply.status, reply.json["errorCode"]) == (403, "ERROR_KEY_DOES_NOT_EXIST")


async def test_onecaptcha_balance() -> None:
    """1captcha.vip: getBalance has `balance`."""
    async with Sandbox("onecaptcha", SandboxSettings(balance=2.5)) as sandbox:
        reply = await call(sandbox, "/getBalance", {"clientKey": KEY})

    assert reply.json == {"errorId": 0, "errorCode": None, "errorDescription": None, "balance": 2.5}


@pytest.mark.parametrize("provider", ["capsolver", "onecaptcha"])
async def test_our_dialects_read_every_answer(provider: str) -> None:
    """The dialect of the same name reads every answer of the sandbox, from createTask to the end."""
    dialect = dialect_named(provider)
    solution = expected_solution(provider, IMAGE)
    orders = iter([Faults(latency_seconds=60), Faults(latency_seconds=0), Faults(latency_seconds=0, fails=True)])
    async with Sandbox(provider, NOW, faults_for=lambda _task: next(orders)) as sandbox:
        waits, ends, fails = [await create_task(sandbox, IMAGE) for _ in range(3)]
        readings = [
            dialect.read_task_result((await get_task_result(sandbox, created)).json) for created in (waits, ends, fails)
        ]

    assert dialect.read_create_task(waits.json) == Submitted(
        waits.json["taskId"], Pending(waits.json.get("status", ""))
    )
    failed = readings.pop()
    assert readings == [Pending("processing"), Ready(solution)]
    assert isinstance(failed, Failed)
    assert failed.error_code == "ERROR_CAPTCHA_UNSOLVABLE"


@pytest.mark.parametrize(("provider", "seconds"), [("capsolver", 120.0), ("onecaptcha", 300.0)])
async def test_a_task_that_takes_too_long_times_out(provider: str, seconds: float) -> None:
    """A task ends with ERROR_TASK_TIMEOUT where it takes longer than its provider waits.

    Source: providers/README.md, "JSON requests".
    """
    clock = SettableClock()
    async with Sandbox(provider, clock=clock) as sandbox:
        created = await create_task(sandbox, ordered(IMAGE, sync=False, latencySeconds=seconds + 1))
        clock.lead_seconds = seconds - 5
        before = await get_task_result(sandbox, created)
        clock.lead_seconds = seconds + 0.5
        after = await get_task_result(sandbox, created)

    assert (before.json["status"], after.json["errorCode"]) == ("processing", "ERROR_TASK_TIMEOUT")
