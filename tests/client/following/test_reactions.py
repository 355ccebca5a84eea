"""The client's reaction to each class of error code, at submit and while polling.

Source: providers/README.md, "Error codes".
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from client import (
    NoBalanceError,
    ProviderRefusedError,
    SlowDownError,
    TaskFailedError,
    TaskParametersError,
    UnsolvableError,
    WrongKeyError,
)
from client.following.follower import Follower
from client.following.record import ReceiverRecord
from client.protocol.models import FirstOutcome, Task
from client.provider_api.timing import Timing
from client.providers.codes import FAMILY_CODES, Code
from client.providers.readings import Reaction
from tests.client.support import CREATED, FAST, Reply, fast, image_task, open_client, ready, scripted_provider
from tests.support import running_receiver


def _error(code: str) -> dict[str, Any]:
    return {"errorId": 1, "errorCode": code, "errorDescription": "in words"}


def _with_codes(**codes: Code) -> Any:
    """Return quick providers with the codes of the family, some of them replaced."""
    return {"capsolver": replace(FAST["capsolver"], codes={**FAMILY_CODES, **codes})}


@pytest.mark.parametrize("code", ["CAPCHA_NOT_READY", "ERROR_REQUEST_LIMIT"])
async def test_wait_while_polling(code: str) -> None:
    """The task goes on: it is asked for again after the interval."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[Reply(_error(code)), Reply(ready())]) as provider,
        open_client(provider.url) as tasks,
    ):
        solved = await tasks.solve(image_task())

    assert (solved.status, len(provider.calls["getTaskResult"])) == ("ready", 2)


async def test_slow_while_polling() -> None:
    """The whole key pauses, and then the same request is sent again."""
    dialects = _with_codes(ERROR_BUSY=Code(Reaction.SLOW, "request", 0.3))
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[Reply(_error("ERROR_BUSY")), Reply(ready())]) as provider,
        open_client(provider.url, dialects=dialects) as tasks,
    ):
        started = time.monotonic()
        await tasks.solve(image_task())

    assert time.monotonic() - started >= 0.3
    assert len(provider.calls["getTaskResult"]) == 2


@pytest.mark.parametrize("at", ["createTask", "getTaskResult"])
@pytest.mark.parametrize(
    ("code", "error", "advice"),
    [
        ("ERROR_CAPTCHA_UNSOLVABLE", UnsolvableError, "submit it again"),
        ("ERROR_PROXY_BANNED", TaskParametersError, "change the parameters"),
        ("ERROR_TASK_NOT_SUPPORTED", TaskFailedError, "will fail again"),
    ],
)
async def test_task_that_failed(at: str, code: str, error: type[TaskFailedError], advice: str) -> None:
    """A failed task is raised with advice for its caller, wherever it failed; the provider's words are kept."""
    script: dict[str, Any] = {"createTask": Reply(CREATED), at: Reply(_error(code))}
    async with scripted_provider(**script) as provider, open_client(provider.url) as tasks:
        with pytest.raises(TaskFailedError, match=advice) as caught:
            await tasks.solve(image_task())

    assert type(caught.value) is error
    assert (caught.value.task.error_code, caught.value.task.error_description) == (code, "in words")
    assert len(provider.calls[at]) == 1


async def test_a_failed_submit_is_raised_although_the_log_was_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame about the client's own report may arrive before the answer to that report."""
    offered = asyncio.Event()
    offer, report = Follower.offer, ReceiverRecord.report

    def offer_and_tell(follower: Follower, task: Task, *heard_by: Any) -> None:
        offer(follower, task, *heard_by)
        if task.is_final:
            offered.set()

    async def report_slowly(record: ReceiverRecord, outcome: FirstOutcome) -> Task | None:
        task = await report(record, outcome)
        async with asyncio.timeout(20):
            await offered.wait()
        return task

    monkeypatch.setattr(Follower, "offer", offer_and_tell)
    monkeypatch.setattr(ReceiverRecord, "report", report_slowly)
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=Reply(_error("ERROR_CAPTCHA_UNSOLVABLE"))) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        with pytest.raises(UnsolvableError) as caught:
            await tasks.submit(image_task())

    assert caught.value.task.source == "submit"


@pytest.mark.parametrize("at", ["createTask", "getTaskResult"])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ERROR_KEY_DOES_NOT_EXIST", WrongKeyError),
        ("ERROR_ZERO_BALANCE", NoBalanceError),
        ("ERROR_IP_NOT_ALLOWED", ProviderRefusedError),
    ],
)
async def test_request_that_was_refused(at: str, code: str, error: type[ProviderRefusedError]) -> None:
    """If a person has to act, nothing is sent again."""
    script: dict[str, Any] = {"createTask": Reply(CREATED), at: Reply(_error(code))}
    async with scripted_provider(**script) as provider, open_client(provider.url) as tasks:
        with pytest.raises(error, match=code):
            await tasks.solve(image_task())

    assert len(provider.calls[at]) == 1


@pytest.mark.parametrize("at", ["createTask", "getTaskResult"])
async def test_ban_is_final_after_a_repeat(at: str) -> None:
    """A banned address is used once more after the pause, and then no more."""
    dialects = _with_codes(ERROR_IP_BANNED=Code(Reaction.SLOW, "request", 0.05, is_ban=True))
    script: dict[str, Any] = {"createTask": Reply(CREATED), at: Reply(_error("ERROR_IP_BANNED"))}
    async with scripted_provider(**script) as provider, open_client(provider.url, dialects=dialects) as tasks:
        with pytest.raises(SlowDownError, match="ERROR_IP_BANNED"):
            await tasks.solve(image_task())

    assert len(provider.calls[at]) == 2


async def test_first_ban_is_not_final() -> None:
    """A ban after another refusal is still repeated once."""
    dialects = _with_codes(
        ERROR_IP_BANNED=Code(Reaction.SLOW, "request", 0.05, is_ban=True),
        ERROR_BUSY=Code(Reaction.SLOW, "request", 0.05),
    )
    replies = [Reply(_error("ERROR_BUSY")), Reply(_error("ERROR_IP_BANNED")), Reply({**CREATED, **ready()})]
    async with scripted_provider(createTask=replies) as provider, open_client(provider.url, dialects=dialects) as tasks:
        solved = await tasks.solve(image_task())

    assert (solved.status, len(provider.calls["createTask"])) == ("ready", 3)


async def test_polls_that_bring_nothing_get_rarer() -> None:
    """HTML and 5xx are no outcome: it is asked again, each time later, and less so after a real answer."""
    times: list[float] = []
    waits: list[float] = []

    class NotingTiming(Timing):
        async def wait(self, woken: asyncio.Event, until: float) -> bool:
            waits.append(until - self.clock())
            return await Timing.wait(self, woken, until)

    async def noted(_: object) -> None:
        times.append(time.monotonic())

    async def noted_anew(_: object) -> None:
        times.append(time.monotonic())
        waits.clear()

    broken = Reply(b"<html>Bad gateway", 502, first=noted)
    replies = [broken, broken, broken, broken, Reply({"errorId": 0, "status": "processing"}, first=noted_anew)]
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[*replies, Reply(ready(), first=noted)]) as provider,
        open_client(provider.url, dialects=fast(), timing=NotingTiming(random=lambda: 0.0)) as tasks,
    ):
        solved = await tasks.solve(image_task())

    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert solved.status == "ready"
    assert all(gap >= least for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.4, 0.05), strict=True))
    assert max(waits) < 0.06
