"""Every provider with an API: client, receiver and sandbox together, within the limits of the sandbox.

The sandbox takes figures and the form of callbacks from the catalogue, and writes messages without our dialects. All
times are a twentieth.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from client import TaskClient
from client.errors import NoBalanceError, ProviderRefusedError, TaskFailedError, UnsolvableError, WrongKeyError
from client.protocol.models import Task
from client.provider_api.timing import Timing
from client.providers import DIALECTS, Dialect
from client.sandbox import Sandbox, SandboxLimits, SandboxSettings, expected_solution
from client.sandbox.wires.profiles import profile_named
from tests.client.sandbox.support import SettableClock
from tests.support import ADMIN, eventually, running_receiver

SCALE = 20.0
# A poll sent in time may arrive a little closer to the one before.
JITTER = 0.7
PROVIDERS = sorted(set(DIALECTS) - {"hardcaptcha"})
CALLED_BACK = sorted(name for name in PROVIDERS if DIALECTS[name].callback is not None and name != "capsolution")
# The way from their callback to a solution is not known, and a failure has no code. They are polled in any case.
HINTED = {"ucaptcha", "scrapeless"}
# Half a form is a form: half an answer looks like a short one.
BARE = {"twocaptcha", "rucaptcha", "twocaptchav1", "rucaptchav1", "captchaai"}
# It has no error codes (providers/README.md, "Scrapeless").
CODELESS = {"scrapeless"}


def _scaled(dialect: Dialect) -> Dialect:
    polls = dialect.polls
    plan = replace(
        polls,
        first_after_seconds=polls.first_after_seconds / SCALE,
        first_after_callback_seconds=0.4,
        interval_seconds=polls.interval_seconds / SCALE,
        window_seconds=polls.window_seconds / SCALE,
        grace_seconds=polls.grace_seconds / SCALE,
    )
    scaled: Dialect = replace(dialect, polls=plan)
    return scaled


DIALECTS_HERE = MappingProxyType({name: _scaled(dialect) for name, dialect in DIALECTS.items()})


def _limits(provider: str) -> SandboxLimits:
    limits = profile_named(provider).limits
    return replace(
        limits,
        window_seconds=limits.window_seconds / SCALE,
        poll_interval_seconds=limits.poll_interval_seconds / SCALE * JITTER,
    )


def _task(provider: str, number: int, **faults: Any) -> dict[str, Any]:
    """Return a task of its own content in the shape of the provider, with faults ordered in it."""
    ordered = {"latencySeconds": 0, **faults}
    if provider in ("twocaptchav1", "rucaptchav1", "captchaai"):
        page = f"https://example.com/{number}"
        return {"type": "userrecaptcha", "googlekey": "6Le", "pageurl": page, "sandbox": json.dumps(ordered)}
    if provider == "scrapeless":
        return {"type": "captcha.recaptcha", "input": {"siteKey": f"6Le{number}"}, "sandbox": ordered}
    page = f"https://example.com/{number}"
    return {"type": "RecaptchaV2TaskProxyless", "websiteURL": page, "websiteKey": "6Le", "sandbox": ordered}


@dataclass
class Running:
    """A sandbox, its client, and a receiver for its callbacks."""

    sandbox: Sandbox
    tasks: TaskClient


@asynccontextmanager
async def _running(
    provider: str, folder: Path, *, timing: Timing | None = None, clock: SettableClock | None = None, **settings: Any
) -> AsyncIterator[Running]:
    given = SandboxSettings(
        **{"latency_seconds": (0.0, 0.0), "async_images": True, "limits": _limits(provider), **settings}
    )
    async with (
        running_receiver(folder / "receiver.db", dialects=DIALECTS_HERE) as receiver,
        Sandbox(provider, given, clock=clock) as sandbox,
        TaskClient(
            provider,
            client_key="the-client-key",
            provider_url=sandbox.url,
            receiver_url=receiver.url,
            receiver_key=ADMIN,
            dialects=DIALECTS_HERE,
            timing=timing,
        ) as tasks,
    ):
        yield Running(sandbox, tasks)


async def _solve_all(running: Running, tasks: list[dict[str, Any]]) -> list[Task]:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        solving = [group.create_task(running.tasks.solve(task)) for task in tasks]
    return [solve.result() for solve in solving]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_tasks_end_right(provider: str, tmp_path: Path) -> None:
    """All tasks end right: with a callback, without one, with a doubled, early or cut one, and slow ones by polls."""
    faults: list[dict[str, Any]] = [
        {},
        {"callback": "lost"},
        {"callback": "twice"},
        {"callback": "early"},
        {"callback": None if provider in BARE else "truncated"},
        {"callback": "lost", "latencySeconds": 1.0},
    ]
    tasks = [_task(provider, number, **fault) for number, fault in enumerate(faults)]
    async with _running(provider, tmp_path) as running:
        results = await _solve_all(running, tasks)
        stats = running.sandbox.stats

    assert [result.solution for result in results] == [expected_solution(provider, task) for task in tasks]
    assert stats.limits_broken == {}
    assert stats.tasks_made == len(tasks)
    assert {results[1].source, results[5].source} <= {"poll", "submit"}


@pytest.mark.parametrize("provider", sorted(set(CALLED_BACK) - HINTED))
async def test_a_callback_is_enough(provider: str, tmp_path: Path) -> None:
    """A task with a callback is not polled, and nothing is refused."""
    task = _task(provider, 1)
    async with _running(provider, tmp_path) as running:
        (result,) = await _solve_all(running, [task])
        stats = running.sandbox.stats

    assert (result.source, result.solution) == ("callback", expected_solution(provider, task))
    assert (stats.get_task_result_calls, stats.callback_answers) == (0, {200: 1})


@pytest.mark.parametrize("callback", [None, "lost"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_failure(provider: str, callback: str | None, tmp_path: Path) -> None:
    """A failed task ends with its error, by callback or by poll."""
    # A provider without error codes cannot report an unsolvable task.
    error = TaskFailedError if provider in CODELESS | HINTED else UnsolvableError
    async with _running(provider, tmp_path) as running:
        async with asyncio.timeout(30):
            with pytest.raises(error):
                await running.tasks.solve(_task(provider, 1, fails=True, callback=callback))
        stats = running.sandbox.stats

    assert stats.limits_broken == {}


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_wrong_key(provider: str, tmp_path: Path) -> None:
    """An unknown key is an error with a clear text."""
    error = ProviderRefusedError if provider in CODELESS else WrongKeyError
    async with _running(provider, tmp_path, client_keys=frozenset({"another-key"})) as running:
        with pytest.raises(error):
            await running.tasks.submit(_task(provider, 1))
        stats = running.sandbox.stats

    assert (stats.create_task_calls, stats.tasks_made) == (1, 0)


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"captchaai"}))
async def test_no_balance(provider: str, tmp_path: Path) -> None:
    """A key without money is an error with a clear text, and it is not tried again."""
    error = ProviderRefusedError if provider in CODELESS else NoBalanceError
    async with _running(provider, tmp_path, balance=0.0) as running:
        with pytest.raises(error):
            await running.tasks.submit(_task(provider, 1))
        stats = running.sandbox.stats

    assert (stats.create_task_calls, stats.tasks_made) == (1, 0)


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - CODELESS))
async def test_the_balance(provider: str, tmp_path: Path) -> None:
    """The balance of the sandbox is returned."""
    async with _running(provider, tmp_path, balance=2.5) as running:
        assert await running.tasks.balance() == 2.5


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"ezcaptchasync"}))
async def test_polls_that_go_wrong(provider: str, tmp_path: Path) -> None:
    """A throttled poll, a failing server, a firewall, a page of HTML and an unlisted code do not end a task."""
    faults = ["429", "500", "500json", "403", "html", "unlisted"]
    tasks = [_task(provider, number, callback="lost", getTaskResult=fault) for number, fault in enumerate(faults)]
    async with _running(provider, tmp_path) as running:
        results = await _solve_all(running, tasks)
        stats = running.sandbox.stats

    assert [result.solution for result in results] == [expected_solution(provider, task) for task in tasks]
    assert stats.limits_broken == {}
    assert [stats.faults[f"getTaskResult.{fault}"] for fault in faults] == [1] * len(faults)


@pytest.mark.parametrize("provider", ["capkill", "capmonster", "captcha69"])
async def test_an_error_that_means_processing(provider: str, tmp_path: Path) -> None:
    """CAPTCHA_NOT_READY means another poll (providers/README.md, "CapMonster Cloud")."""
    task = _task(provider, 1, callback="lost", latencySeconds=40, isNotReadyAnError=True)
    clock = SettableClock()
    # By the clock of the sandbox, the task takes 40 s, and its answer is kept for 40 s.
    limits = replace(_limits(provider), window_seconds=1000.0)
    async with _running(provider, tmp_path, clock=clock, limits=limits) as running, asyncio.TaskGroup() as group:
        solving = group.create_task(_solve_all(running, [task]))
        await eventually(lambda: running.sandbox.stats.faults.get("getTaskResult.notReady", 0) > 0)
        clock.lead_seconds = 40.0
        (result,) = await solving

    assert result.solution == expected_solution(provider, task)
