"""The relatives of the family, field by field (PROVIDERS.md 3, 4, 8)."""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from client.sandbox import Sandbox, Settings, expected_solution
from tests.client.sandbox.support import NOW, TOKEN, Catcher, call, create_task, get_task_result, ordered

_CAPMONSTER_LIKE = ["capkill", "capmonster", "captcha69"]


@pytest.mark.parametrize("dialect", _CAPMONSTER_LIKE)
async def test_capmonster_answers(dialect: str) -> None:
    """CapMonster: an integer id, nulls while pending, and `taskId` 0 in an error."""
    async with Sandbox(dialect, Settings(latency_seconds=(60.0, 60.0))) as sandbox:
        created = await create_task(sandbox, TOKEN)
        pending = await get_task_result(sandbox, created)
        refused = await call(sandbox, "/createTask", {"clientKey": "", "task": TOKEN})

    assert created.json == {"errorId": 0, "taskId": 1_000_000_001}
    assert pending.json == {"errorId": 0, "errorCode": None, "errorDescription": None, "status": "processing"}
    assert refused.json == {
        "errorId": 1,
        "errorCode": "ERROR_KEY_DOES_NOT_EXIST",
        "errorDescription": ANY,
        "taskId": 0,
    }


async def test_nextcaptcha_failure() -> None:
    """NextCaptcha: the id has 13 digits, and a failure is errorId 12 without a status."""
    async with Sandbox("nextcaptcha", NOW) as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, fails=True))
        failed = await get_task_result(sandbox, created)

    assert len(str(created.json["taskId"])) == 13
    assert failed.json == {"errorId": 12, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE", "errorDescription": ANY}


async def test_yescaptcha_ready() -> None:
    """YesCaptcha: nulls stand for no error where the solution is."""
    async with Sandbox("yescaptcha", NOW) as sandbox:
        created = await create_task(sandbox, TOKEN)
        ready = await get_task_result(sandbox, created)

    assert ready.json == {
        "errorId": 0,
        "errorCode": None,
        "errorDescription": None,
        "status": "ready",
        "solution": expected_solution("yescaptcha", TOKEN),
    }


@pytest.mark.parametrize(("has_id", "ids"), [(None, []), (True, [1_000_000_001])])
async def test_capmonster_callback(has_id: bool | None, ids: list[int]) -> None:
    """CapMonster: a callback is the getTaskResult answer, with an id only where the settings ask for one."""
    settings = Settings(latency_seconds=(0.0, 0.0), callback_has_task_id=has_id)
    async with Catcher() as catcher, Sandbox("capmonster", settings) as sandbox:
        await create_task(sandbox, TOKEN, callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    body = catcher.caught[0].json
    assert [body[name] for name in body if name == "taskId"] == ids
    assert body["solution"] == expected_solution("capmonster", TOKEN)
