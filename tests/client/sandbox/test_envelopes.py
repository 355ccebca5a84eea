"""Providers with an envelope of their own: signatures, retries, events, other paths.

Source: providers/README.md, "Envelope callbacks", "HardCaptcha", "capsolution", "Scrapeless".
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from client.sandbox import Sandbox, SandboxSettings, expected_solution
from tests.client.sandbox.support import KEY, NOW, TOKEN, Catcher, Reply, create_task, get_task_result, ordered

_SECRET = b"signing-secret"
_TASK: dict[str, Any] = {"type": "captcha.recaptcha", "input": {"siteKey": "6Le"}}


@dataclass
class _HastyClock:
    """The real time with sleeps of no length, which are recorded."""

    slept: list[float]

    def now(self) -> float:
        """Return the real time in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return at once."""
        self.slept.append(seconds)
        await asyncio.sleep(0)


def _signature(secret: bytes, body: bytes) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


async def _scrapeless(sandbox: Sandbox, path: str, fields: Any = None, *, key: str = KEY) -> Reply:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            "GET" if fields is None else "POST", sandbox.url + path, headers={"x-api-token": key}, json=fields
        ) as response,
    ):
        return Reply(response.status, dict(response.headers), await response.read())


async def test_hardcaptcha_signs_with_the_key() -> None:
    """HardCaptcha: `{id, status, result}`, signed over the raw body with the client key."""
    async with Catcher() as catcher, Sandbox("hardcaptcha", NOW) as sandbox:
        created = await create_task(sandbox, TOKEN, callback_url=catcher.url)
        await create_task(sandbox, ordered(TOKEN, fails=True), callback_url=catcher.url)
        await sandbox.sent_callbacks(2)

    solved, failed = sorted(catcher.caught, key=lambda caught: caught.json["status"], reverse=True)
    assert solved.json == {
        "id": created.json["taskId"],
        "status": "SUCCESS",
        "result": expected_solution("hardcaptcha", TOKEN),
    }
    assert (failed.json["status"], failed.json["result"]) == ("FAILED", {"token": None})
    assert solved.headers["X-HardCaptcha-Hmac-SHA256"] == _signature(KEY.encode(), solved.body)


async def test_hardcaptcha_tries_again() -> None:
    """HardCaptcha: without a 20x answer, a callback is sent three times more, 5 s apart."""
    clock = _HastyClock([])
    async with Catcher(status=301) as catcher, Sandbox("hardcaptcha", NOW, clock=clock) as sandbox:
        await create_task(sandbox, TOKEN, callback_url=catcher.url)
        await sandbox.sent_callbacks(4)

    assert len({caught.body for caught in catcher.caught}) == 1
    assert (len(catcher.caught), clock.slept.count(5.0)) == (4, 3)


async def test_capsolution_events() -> None:
    """capsolution: events at the address of the account, signed; one about the balance names no task."""
    async with Catcher() as catcher:
        settings = SandboxSettings(latency_seconds=(0.0, 0.0), account_webhook_url=catcher.url, webhook_secret=_SECRET)
        async with Sandbox("capsolution", settings) as sandbox:
            created = await create_task(sandbox, ordered(TOKEN, isBalanceLow=True))
            await sandbox.sent_callbacks(2)
            await create_task(sandbox, ordered(TOKEN, fails=True))
            await sandbox.sent_callbacks(3)

    low, done, failed = (caught.json for caught in catcher.caught)
    assert created.json["taskId"].startswith("task_")
    assert (low["event"], "taskId" in low) == ("balance.low", False)
    assert (done["event"], done["taskId"]) == ("task.completed", created.json["taskId"])
    assert done["solution"] == expected_solution("capsolution", ordered(TOKEN))
    assert (failed["event"], failed["errorCode"]) == ("task.failed", "ERROR_CAPTCHA_UNSOLVABLE")
    assert [caught.headers["X-Webhook-Signature"] for caught in catcher.caught] == [
        _signature(_SECRET, caught.body) for caught in catcher.caught
    ]


async def test_capsolution_waits_with_an_error() -> None:
    """capsolution: error 21 means not ready; without an address for the account nothing is sent."""
    async with Catcher() as catcher, Sandbox("capsolution") as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, latencySeconds=60), callback_url=catcher.url)
        pending = await get_task_result(sandbox, created)
        await create_task(sandbox, ordered(TOKEN), callback_url=catcher.url)

    assert pending.json["errorId"] == 21
    assert catcher.caught == []


async def test_scrapeless() -> None:
    """Scrapeless: the key in a header, the id in the path, and `success` in place of errorId."""
    async with Sandbox("scrapeless", NOW) as sandbox:
        fields = {"actor": _TASK["type"], "input": _TASK["input"]}
        created = await _scrapeless(sandbox, "/api/v1/createTask", fields)
        ready = await _scrapeless(sandbox, f"/api/v1/getTaskResult/{created.json['taskId']}")
        unknown = await _scrapeless(sandbox, "/api/v1/getTaskResult/nobody")
        refused = await _scrapeless(sandbox, "/api/v1/createTask", fields, key="")

    assert created.json == {"state": "idle", "success": True, "taskId": created.json["taskId"]}
    assert (ready.json["success"], ready.json["solution"]) == (True, expected_solution("scrapeless", _TASK))
    assert [set(reply.json) for reply in (unknown, refused)] == [{"success", "message"}] * 2


async def test_scrapeless_calls_back() -> None:
    """Scrapeless: `state` completed for both ends; the answer is base64, a failure has a `status` object."""
    async with Catcher() as catcher, Sandbox("scrapeless", NOW) as sandbox:
        webhook = {"actor": _TASK["type"], "input": _TASK["input"], "webhook": {"url": catcher.url}}
        created = await _scrapeless(sandbox, "/api/v1/createTask", webhook)
        await sandbox.sent_callbacks(1)
        await _scrapeless(sandbox, "/api/v1/createTask", {**webhook, "sandbox": {"fails": True, "latencySeconds": 0}})
        await sandbox.sent_callbacks(2)

    done, failed = (caught.json for caught in catcher.caught)
    assert (done["taskId"], done["state"], done["success"]) == (created.json["taskId"], "completed", True)
    solution = json.loads(base64.b64decode(done["response"]["data"]))
    assert solution == expected_solution("scrapeless", _TASK)
    assert (failed["success"], failed["status"]["message"]) == (False, "ERROR_CAPTCHA_UNSOLVABLE")
