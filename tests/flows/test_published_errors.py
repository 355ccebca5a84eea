"""Errors about the request, as the providers publish them, end no task: the client's polls and the receiver's go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from client.providers import Dialect
from client.providers.codes import code_named
from client.sandbox.serving import serving
from tests.client.support import fast, open_client
from tests.support import running_receiver

TASK_ID = "70000000010"
KEY = "the-client-key-of-the-operator"
# The pauses of the tables, a thousandth as long.
SCALE = 1000.0
QUICK = fast(first_after_callback_seconds=0.1)
HERE: Mapping[str, Dialect] = MappingProxyType(
    {
        name: replace(
            dialect,
            codes={
                name: replace(code, pause_seconds=code.pause_seconds / SCALE) for name, code in dialect.codes.items()
            },
        )
        for name, dialect in QUICK.items()
    }
)

# (docs.captchaai.com/pages/err_handling, 2captcha.com/2captcha-api, ucaptcha.net/docs/api/error-codes,
# capsolution.xyz/docs/guides/error-handling, SkyAerope/yescaptcha-sdk, EZXLabs/ezcapsolver-rs, anti-captcha.com)
about_the_request = pytest.mark.parametrize(
    ("provider", "code"),
    [
        ("twocaptchav1", "IP_BANNED"),
        ("rucaptchav1", "IP_BANNED"),
        ("captchaai", "IP_BANNED"),
        ("captchaai", "ERROR_SERVER_ERROR"),
        ("twocaptchav1", "ERROR: 1006"),
        ("ucaptcha", "NO_PROVIDERS_AVAILABLE"),
        ("capsolution", "ERROR_INTERNAL"),
        ("yescaptcha", "ERROR_NO_SLOT_AVAILABLE_BLOCK"),
        ("ezcaptcha", "ERROR_SERVICE_TIMEOUT"),
        ("anticaptcha", "ERROR_ALL_WORKERS_FILTERED"),
    ],
)


@dataclass
class Answering:
    """A provider on loopback of both families: its first answer to a poll is an error, the next one the solution."""

    code: str
    url: str = ""
    answers: list[str] = field(default_factory=list)

    async def in_php(self, _: web.Request) -> web.Response:
        """Return the answer to a submission in the older API."""
        return web.json_response({"status": 1, "request": TASK_ID})

    async def res_php(self, _: web.Request) -> web.Response:
        """Return the answer to a poll in the older API."""
        if self._is_first():
            return web.json_response({"status": 0, "request": self.code})
        return web.json_response({"status": 1, "request": "44795sds"})

    async def create_task(self, _: web.Request) -> web.Response:
        """Return the answer to createTask."""
        return web.json_response({"errorId": 0, "taskId": TASK_ID})

    async def get_task_result(self, _: web.Request) -> web.Response:
        """Return the answer to getTaskResult."""
        if self._is_first():
            return web.json_response({"errorId": 1, "errorCode": self.code, "errorDescription": "in words"})
        return web.json_response({"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}})

    def _is_first(self) -> bool:
        self.answers.append("error" if not self.answers else "solution")
        return self.answers[-1] == "error"


@asynccontextmanager
async def _answering(code: str) -> AsyncIterator[Answering]:
    provider = Answering(code)
    app = web.Application()
    app.router.add_post("/in.php", provider.in_php)
    app.router.add_get("/res.php", provider.res_php)
    app.router.add_post("/createTask", provider.create_task)
    app.router.add_post("/getTaskResult", provider.get_task_result)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    async with serving(runner) as provider.url:
        yield provider


def _pause(provider: str, code: str) -> float:
    declared = code_named(HERE[provider].codes, code)
    return declared.pause_seconds if declared is not None else -1.0


def _task(provider: str) -> dict[str, str]:
    if provider in ("twocaptchav1", "rucaptchav1", "captchaai"):
        return {"type": "userrecaptcha", "googlekey": "6Le", "pageurl": "https://example.com"}
    return {"type": "RecaptchaV2TaskProxyless", "websiteURL": "https://example.com", "websiteKey": "6Le"}


@about_the_request
async def test_the_clients_task_goes_on_after_the_pause(provider: str, code: str) -> None:
    """The key pauses for the time in the table, and the next poll brings the answer."""
    async with (
        _answering(code) as answering,
        open_client(answering.url, provider=provider, dialects=HERE) as tasks,
    ):
        task = await tasks.submit(_task(provider))
        solved = await task.result(timeout=10)

    pauses = [step.facts for step in task.timeline() if step.happened == "provider.paused"]
    assert solved.status == "ready"
    assert answering.answers == ["error", "solution"]
    assert pauses == [{"errorCode": code, "seconds": _pause(provider, code)}]


@about_the_request
async def test_the_receivers_own_polls_go_on_after_the_pause(tmp_path: Path, provider: str, code: str) -> None:
    """A task known only to the receiver ends too: the receiver pauses the key and asks again."""
    with capture_logs() as lines:
        async with (
            _answering(code) as answering,
            running_receiver(
                tmp_path / "receiver.db",
                dialects=HERE,
                provider_keys={provider: KEY},
                provider_urls={provider: answering.url},
            ) as api,
        ):
            registered = await api.register(provider=provider)
            await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": TASK_ID})
            task = (await api.send("GET", f"/v1/tasks/{registered['ref']}", params={"wait": "10"})).json

    pauses = [line["reason"] for line in lines if line["event"] == "provider.paused"]
    assert (task["status"], task["source"]) == ("ready", "poll")
    assert answering.answers == ["error", "solution"]
    assert pauses == [code]
