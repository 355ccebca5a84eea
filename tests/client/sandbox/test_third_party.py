"""The official client library `capsolver` against the sandbox, unchanged."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

from client.sandbox import FaultRates, Sandbox, SandboxLimits, SandboxSettings, expected_solution
from tests.client.sandbox.support import IMAGE, KEY, TOKEN

_SCRIPT = """
import json, sys
import capsolver

def result_of(call, *arguments):
    try:
        answer = call(*arguments)
    except capsolver.error.CapsolverError as error:
        answer = error
    if isinstance(answer, capsolver.error.CapsolverError):
        return [type(answer).__name__, answer.http_status, answer.json_body and answer.json_body["errorCode"]]
    return answer

tasks = json.load(sys.stdin)
print(json.dumps([*[result_of(capsolver.solve, task) for task in tasks], result_of(capsolver.balance)]))
"""


async def _library_results(sandbox: Sandbox, tasks: list[dict[str, Any]], *, key: str = KEY) -> list[Any]:
    """Return the library's answers for each task and for the balance. Errors are [class, HTTP status, code]."""
    environment = {**os.environ, "CAPSOLVER_API_BASE": sandbox.url, "CAPSOLVER_API_KEY": key, "NO_PROXY": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _SCRIPT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(30):
            output, _ = await process.communicate(json.dumps(tasks).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    answers: list[Any] = json.loads(output)
    return answers


async def test_it_solves_and_asks_for_the_balance() -> None:
    """It gets a synchronous answer, a polled answer, a failure and the balance."""
    failing = {**TOKEN, "number": 1, "sandbox": {"fails": True, "latencySeconds": 0}}
    async with Sandbox("capsolver", SandboxSettings(latency_seconds=(0.0, 1.5), balance=1.0, cost=0.1)) as sandbox:
        results = await _library_results(sandbox, [IMAGE, TOKEN, failing])
        stats = sandbox.stats

    assert results == [
        expected_solution("capsolver", IMAGE),
        expected_solution("capsolver", TOKEN),
        ["InvalidRequestError", 400, "ERROR_CAPTCHA_UNSOLVABLE"],
        {"errorId": 0, "balance": 0.8, "packages": []},
    ]
    assert (stats.create_task_calls, stats.get_balance_calls) == (3, 1)


async def test_it_sees_a_wrong_key() -> None:
    """A wrong key is the library's AuthenticationError."""
    async with Sandbox("capsolver", SandboxSettings(client_keys=frozenset({KEY}))) as sandbox:
        results = await _library_results(sandbox, [TOKEN], key="wrong")

    assert results[0] == ["AuthenticationError", 401, "ERROR_KEY_DOES_NOT_EXIST"]


async def test_it_sees_a_lost_result() -> None:
    """A forgotten id is the library's InvalidRequestError."""
    async with Sandbox("capsolver", SandboxSettings(limits=SandboxLimits(window_seconds=0.0))) as sandbox:
        results = await _library_results(sandbox, [TOKEN])

    assert results[0] == ["InvalidRequestError", 400, "ERROR_TASKID_INVALID"]


@pytest.mark.parametrize(
    ("rates", "error"),
    [
        (FaultRates(http_429=1.0), ["RateLimitError", 429, "ERROR_RATE_LIMIT"]),
        (FaultRates(http_500=1.0), ["APIError", 500, None]),
        (FaultRates(html=1.0), ["APIError", 200, None]),
    ],
)
async def test_it_sees_http_faults(rates: FaultRates, error: list[Any]) -> None:
    """A fault in place of an answer is the library's error for it."""
    async with Sandbox("capsolver", SandboxSettings(rates=rates)) as sandbox:
        results = await _library_results(sandbox, [TOKEN])

    assert results[0] == error
