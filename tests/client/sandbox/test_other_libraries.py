"""Third-party client libraries work against the sandbox unchanged: python3-capsolver and yescaptcha-client.

Each takes its address as an argument or a setting. yescaptcha-client uses the dialect of 1captcha.vip.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from python3_capsolver.core.enum import CaptchaTypeEnm
from python3_capsolver.image_to_text import ImageToText
from python3_capsolver.recaptcha import ReCaptcha
from yescaptcha import YesCaptcha, YesCaptchaError

from client.sandbox import Sandbox, SandboxSettings, expected_solution
from tests.client.sandbox.support import IMAGE, KEY, TOKEN


async def test_python3_capsolver_gets_a_synchronous_answer() -> None:
    """Its blocking half takes the solution from createTask."""
    async with Sandbox("capsolver") as sandbox:
        library = ImageToText(api_key=KEY, sleep_time=1, request_url=sandbox.url)
        result = await asyncio.to_thread(library.captcha_handler, {"body": IMAGE["body"]})

    expected = expected_solution("capsolver", {"type": "ImageToTextTask", "body": IMAGE["body"]})
    assert (result["status"], result["solution"]) == ("ready", expected)


async def test_python3_capsolver_polls() -> None:
    """Its asynchronous half polls until the answer is there, `idle` at createTask notwithstanding."""
    task = {"websiteURL": TOKEN["websiteURL"], "websiteKey": TOKEN["websiteKey"]}
    async with Sandbox("capsolver", SandboxSettings(latency_seconds=(0.0, 0.5))) as sandbox:
        library = ReCaptcha(
            api_key=KEY, captcha_type=CaptchaTypeEnm.ReCaptchaV2TaskProxyLess, sleep_time=1, request_url=sandbox.url
        )
        result = await library.aio_captcha_handler(task)

    expected = expected_solution("capsolver", {"type": "ReCaptchaV2TaskProxyLess", **task})
    assert (result["status"], result["solution"]) == ("ready", expected)


async def test_yescaptcha_client_solves_at_the_1captcha_dialect() -> None:
    """The library submits, polls and reads the balance."""
    async with Sandbox("onecaptcha", SandboxSettings(latency_seconds=(0.0, 0.3), balance=2.0, cost=0.5)) as sandbox:
        solution, balance = await asyncio.to_thread(_solve_and_ask, sandbox.url)

    assert solution == expected_solution("onecaptcha", IMAGE)
    assert balance == 1.5


async def test_yescaptcha_client_sees_a_failure() -> None:
    """A failed task is its error, with the code."""
    failing = {**IMAGE, "sandbox": {"fails": True, "latencySeconds": 0}}
    async with Sandbox("onecaptcha") as sandbox:
        with pytest.raises(YesCaptchaError, match="could not be solved"):
            await asyncio.to_thread(_solve, sandbox.url, failing)


def _solve(url: str, task: dict[str, Any]) -> dict[str, Any]:
    with YesCaptcha(KEY, base_url=url) as library:
        return dict(library.solve(task, timeout=20.0, interval=0.2))


def _solve_and_ask(url: str) -> tuple[dict[str, Any], float]:
    with YesCaptcha(KEY, base_url=url) as library:
        return library.solve(IMAGE, timeout=20.0, interval=0.2), library.get_balance()["balance"]
