"""The relatives of the family, field by field (providers/README.md, "JSON requests")."""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from client.errors import BadArgumentError
from client.sandbox import Sandbox, SandboxSettings, expected_solution
from tests.client.sandbox.support import NOW, TOKEN, Catcher, call, create_task, get_task_result, ordered

_CAPMONSTER_LIKE = ["capkill", "capmonster", "captcha69"]


@pytest.mark.parametrize("dialect", _CAPMONSTER_LIKE)
async def test_capmonster_answers(dialect: str) -> None:
    """CapMonster: an integer id, nulls while pending, and `taskId` 0 in an error."""
    async with Sandbox(dialect, SandboxSettings(latency_seconds=(60.0, 60.0))) as sandbox:
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
    settings = SandboxSettings(latency_seconds=(0.0, 0.0), callback_has_task_id=has_id)
    async with Catcher() as catcher, Sandbox("capmonster", settings) as sandbox:
        await create_task(sandbox, TOKEN, callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    body = catcher.caught[0].json
    assert [body[name] for name in body if name == "taskId"] == ids
    assert body["solution"] == expected_solution("capmonster", TOKEN)


async def test_anticaptcha_ready() -> None:
    """anti-captcha: an id beyond 2^31, a solution with its price in text, and a failure with number 12."""
    async with Sandbox("anticaptcha", NOW) as sandbox:
        created = await create_task(sandbox, TOKEN)
        ready = await get_task_result(sandbox, created)
        failed = await get_task_result(sandbox, await create_task(sandbox, ordered(TOKEN, fails=True)))
        gone = await call(sandbox, "/getTaskResult", {"clientKey": "k", "taskId": 1})

    assert created.json["taskId"] > 2**31
    assert {name: type(ready.json[name]) for name in ready.json} == {
        "errorId": int,
        "status": str,
        "solution": dict,
        "cost": str,
        "ip": str,
        "createTime": int,
        "endTime": int,
        "solveCount": str,
    }
    assert (failed.json["errorId"], "status" in failed.json) == (12, False)
    assert (gone.status, gone.json["errorId"], gone.json["errorCode"]) == (200, 16, "ERROR_NO_SUCH_CAPCHA_ID")


@pytest.mark.parametrize("dialect", ["twocaptcha", "rucaptcha"])
async def test_twocaptcha_answers(dialect: str) -> None:
    """2captcha v2: pending is two fields, a failure has number 12 and no status, and errors come under 200."""
    async with Sandbox(dialect) as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, latencySeconds=60))
        pending = await get_task_result(sandbox, created)
        failed = await get_task_result(sandbox, await create_task(sandbox, ordered(TOKEN, fails=True)))
        refused = await call(sandbox, "/createTask", {"clientKey": "", "task": TOKEN})

    assert len(str(created.json["taskId"])) == 11
    assert pending.json == {"errorId": 0, "status": "processing"}
    assert failed.json == {"errorId": 12, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE", "errorDescription": ANY}
    assert (refused.status, refused.json["errorId"]) == (200, 1)


async def test_ezcaptcha_throttles() -> None:
    """EZ-Captcha: 429 refuses the question, and the task goes on (providers/README.md, "EZ-Captcha")."""
    async with Sandbox("ezcaptcha") as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, getTaskResult="429"))
        throttled = await get_task_result(sandbox, created)
        ready = await get_task_result(sandbox, created)

    assert (throttled.status, throttled.json["errorCode"]) == (429, "ERROR_REQUEST_LIMIT")
    assert ready.json["status"] == "ready"


async def test_ezcaptchasync_answers_at_once() -> None:
    """EZ-Captcha's other host: createTask brings the solution, and no id.

    Source: providers/README.md, "EZ-Captcha, synchronous host".
    """
    async with Sandbox("ezcaptchasync", NOW) as sandbox:
        created = await create_task(sandbox, TOKEN)

    assert created.json == {
        "errorId": 0,
        "status": "ready",
        "solution": expected_solution("ezcaptchasync", TOKEN),
    }


async def test_ucaptcha_failure() -> None:
    """uCaptcha: createTask says processing, and a failure has errorId 0 (providers/README.md, "uCaptcha")."""
    async with Sandbox("ucaptcha", NOW) as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, fails=True))
        failed = await get_task_result(sandbox, created)

    assert created.json == {"errorId": 0, "status": "processing", "taskId": ANY}
    assert failed.json == {"errorId": 0, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE", "status": "failed"}


@pytest.mark.parametrize("dialect", ["anticaptcha", "capsolution", "nextcaptcha", "ucaptcha", "yescaptcha"])
async def test_an_unknown_status_of_errors_is_a_choice(dialect: str) -> None:
    """The settings choose an unknown HTTP status of errors (providers/README.md, "JSON requests")."""
    async with Sandbox(dialect, SandboxSettings(error_status=418)) as sandbox:
        refused = await create_task(sandbox, TOKEN, key="")

    assert (refused.status, refused.json["errorCode"]) == (418, "ERROR_KEY_DOES_NOT_EXIST")


@pytest.mark.parametrize("dialect", ["capmonster", "ezcaptcha", "twocaptcha", "twocaptchav1"])
def test_a_known_status_of_errors_is_none(dialect: str) -> None:
    """For a known status, the setting is refused."""
    with pytest.raises(BadArgumentError, match=rf"^error_status: {dialect} has one that is known"):
        Sandbox(dialect, SandboxSettings(error_status=418))
