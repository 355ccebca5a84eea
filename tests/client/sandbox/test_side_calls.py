"""Reports of answers (providers/README.md, "Balance and reports"), bans of EZ-Captcha, and the error for processing."""

from __future__ import annotations

from typing import Any

import pytest

from client.sandbox import Sandbox
from tests.client.sandbox.support import (
    KEY,
    NOW,
    TOKEN,
    SettableClock,
    ask,
    call,
    create_task,
    get_task_result,
    ordered,
)

_IMAGE = {"type": "ImageToTextTask", "body": "iVBORw0KGgo="}
_RECAPTCHA = {"type": "RecaptchaV2TaskProxyless", "websiteURL": "https://example.com", "websiteKey": "6Le"}


@pytest.mark.parametrize(
    ("dialect", "name", "task", "answer"),
    [
        ("anticaptcha", "reportIncorrectImageCaptcha", _IMAGE, {"errorId": 0, "status": "success"}),
        ("anticaptcha", "reportCorrectRecaptcha", _RECAPTCHA, {"errorId": 0, "status": "success"}),
        ("capmonster", "reportIncorrectTokenCaptcha", _RECAPTCHA, {"errorId": 0}),
        ("capsolver", "feedbackTask", _RECAPTCHA, {"errorId": 0}),
        ("twocaptcha", "reportCorrect", _RECAPTCHA, {"errorId": 0}),
        ("ucaptcha", "feedbackTask", _RECAPTCHA, {"errorId": 0}),
    ],
)
async def test_a_report(dialect: str, name: str, task: dict[str, Any], answer: dict[str, Any]) -> None:
    """A report of an ended task is taken and counted."""
    async with Sandbox(dialect, NOW) as sandbox:
        created = await create_task(sandbox, task)
        reported = await call(sandbox, f"/{name}", {"clientKey": KEY, "taskId": created.json["taskId"]})
        counted = sandbox.stats.reports

    assert (reported.json, counted) == (answer, {name: 1})


async def test_reports_that_are_refused() -> None:
    """An unknown task, a task of another kind and a task ended more than 60 s ago cannot be reported."""
    clock = SettableClock()
    async with Sandbox("anticaptcha", NOW, clock=clock) as sandbox:
        fields = {"clientKey": KEY, "taskId": (await create_task(sandbox, _IMAGE)).json["taskId"]}
        unknown = await call(sandbox, "/reportIncorrectImageCaptcha", {**fields, "taskId": 5})
        other_kind = await call(sandbox, "/reportIncorrectRecaptcha", fields)
        clock.lead_seconds = 61.0
        late = await call(sandbox, "/reportIncorrectImageCaptcha", fields)
        counted = sandbox.stats.reports

    assert [reply.json["errorId"] for reply in (unknown, other_kind, late)] == [16, 22, 16]
    assert counted == {}


async def test_reports_by_res_php() -> None:
    """A good report is recorded once; a second one is a duplicate.

    Source: providers/README.md, "Error codes", "Balance and reports".
    """
    async with Sandbox("twocaptchav1", NOW) as sandbox:
        submitted = await ask(sandbox, "/in.php", {"key": KEY, "method": "hcaptcha"})
        asked = {"key": KEY, "id": submitted.body.decode().removeprefix("OK|")}
        good = await ask(sandbox, "/res.php", {"action": "reportgood", **asked})
        again = await ask(sandbox, "/res.php", {"action": "reportbad", **asked})
        counted = sandbox.stats.reports

    assert (good.body, again.body, counted) == (b"OK_REPORT_RECORDED", b"ERROR_DUPLICATE_REPORT", {"reportgood": 1})


async def test_ezcaptcha_bans() -> None:
    """After 30 errors about the key within a minute, createTask is refused for 3 minutes and getTaskResult for one.

    Source: providers/README.md, "Both hosts of EZ-Captcha".
    """
    clock = SettableClock()
    async with Sandbox("ezcaptcha", NOW, clock=clock) as sandbox:
        created = await create_task(sandbox, TOKEN)
        for _ in range(30):
            await create_task(sandbox, TOKEN, key="")
        submitted = [await create_task(sandbox, TOKEN)]
        polled = [await get_task_result(sandbox, created)]
        clock.lead_seconds = 61.0
        submitted.append(await create_task(sandbox, TOKEN))
        polled.append(await get_task_result(sandbox, created))
        clock.lead_seconds = 181.0
        submitted.append(await create_task(sandbox, TOKEN))

    assert [reply.status for reply in submitted] == [429, 429, 200]
    assert [reply.status for reply in polled] == [429, 200]
    assert submitted[0].json["errorCode"] == "ERROR_REQUEST_BANNED"


async def test_an_error_that_means_processing() -> None:
    """CapMonster: CAPTCHA_NOT_READY comes as an error, if ordered (providers/README.md, "CapMonster Cloud")."""
    async with Sandbox("capmonster") as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, latencySeconds=60, isNotReadyAnError=True))
        polled = await get_task_result(sandbox, created)
        faults = sandbox.stats.faults

    assert (polled.json["errorId"], polled.json["errorCode"]) == (1, "CAPTCHA_NOT_READY")
    assert faults == {"getTaskResult.notReady": 1}
