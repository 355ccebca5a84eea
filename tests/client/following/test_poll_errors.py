"""The effect of a provider's statuses and bodies on a polled task: some errors end it, others do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from client import ProviderRefusedError, ProviderUnreachableError, TaskFailedError
from client.providers import KeyLimits, Rate
from tests.client.support import (
    CREATED,
    FAST,
    PENDING,
    JumpingClock,
    Reply,
    fast,
    image_task,
    open_client,
    ready,
    scripted_provider,
)
from tests.support import eventually, running_receiver

ODD = {"errorId": 1, "errorCode": "ERROR_OF_TOMORROW", "errorDescription": "in words"}
SERVER_ERROR = {"errorId": 1, "errorDescription": "Internal server error"}
NOT_DONE = [
    pytest.param(Reply(b"<html>Access denied</html>", 403), id="403, html"),
    pytest.param(Reply(b"", 403), id="403, nothing"),
    pytest.param(Reply(b"<html>Not Found</html>", 404), id="404"),
    pytest.param(Reply({"message": "no Route matched"}, 404), id="404, json"),
    pytest.param(Reply(b"", 405), id="405"),
    pytest.param(Reply(b"<html>Bad Request</html>", 400), id="400"),
    pytest.param(Reply(b"", 401), id="401"),
    pytest.param(Reply(status=301, body=b"", headers={"Location": "https://elsewhere.example/?key=1"}), id="301"),
]
"""Answers that say "not carried out" (league-account-checker#77: 403 with HTML of a firewall)."""


def stepping(clock: JumpingClock, body: Mapping[str, Any], status: int = 200) -> Reply:
    """Return a reply after eight seconds."""

    async def jump(_: dict[str, Any]) -> None:
        clock.jump(8.0)

    return Reply(dict(body), status, first=jump)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(SERVER_ERROR, 500, id="no code (2captcha-javascript#29, capmonster_python#4)"),
        pytest.param(ODD, 502, id="unlisted"),
        pytest.param({"errorId": 0, "status": "failed"}, 500, id="failed without a code"),
        pytest.param({"errorId": 16, "errorCode": "ERROR_NO_SUCH_CAPCHA_ID"}, 500, id="unknown id"),
        pytest.param({"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST"}, 500, id="key"),
        pytest.param(ODD, 429, id="unlisted under 429"),
        pytest.param(SERVER_ERROR, 200, id="no code under 200"),
        pytest.param(ODD, 200, id="unlisted under 200"),
        pytest.param(ODD, 400, id="unlisted under 400"),
    ],
)
async def test_an_error_that_says_nothing_about_the_task_ends_nothing(body: dict[str, Any], status: int) -> None:
    """After one such error the next poll brings the answer, and the task is ready."""
    replies = [Reply(body, status), Reply(PENDING), Reply(ready())]
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=replies) as provider,
        open_client(provider.url) as tasks,
    ):
        solved = await tasks.solve(image_task())

    assert (solved.status, solved.trust, len(provider.calls["getTaskResult"])) == ("ready", None, 3)


async def test_a_listed_failure_under_500_is_an_outcome() -> None:
    """The code is known to be about the task."""
    failed = Reply({"errorId": 12, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE"}, 500)
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=failed) as provider,
        open_client(provider.url) as tasks,
    ):
        with pytest.raises(TaskFailedError, match="ERROR_CAPTCHA_UNSOLVABLE"):
            await tasks.solve(image_task())

    assert len(provider.calls["getTaskResult"]) == 1


async def test_a_failure_without_a_code_is_an_outcome() -> None:
    """`status` "failed" is about the task, even without a code (uCaptcha)."""
    failed = Reply({"errorId": 0, "status": "failed"})
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=failed) as provider,
        open_client(provider.url) as tasks,
    ):
        with pytest.raises(TaskFailedError, match="RECEIVER_REASON_NOT_GIVEN"):
            await tasks.solve(image_task())

    assert len(provider.calls["getTaskResult"]) == 1


async def test_the_same_unlisted_code_three_times_ends_the_task_provisionally() -> None:
    """The three polls take at least fifteen seconds. The error names the code."""
    clock = JumpingClock()
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=stepping(clock, ODD)) as provider,
        open_client(provider.url, timing=clock.timing, dialects=fast(window_seconds=300.0)) as tasks,
    ):
        with pytest.raises(TaskFailedError, match=r"ERROR_OF_TOMORROW \(in words\): this code is on no list") as caught:
            await tasks.solve(image_task(), timeout_seconds=600)

    task = caught.value.task
    assert (task.source, task.trust, task.error_description, task.is_provisional) == (
        "poll",
        "provisional",
        "in words",
        True,
    )
    assert len(provider.calls["getTaskResult"]) == 3


async def test_an_unlisted_code_waits_longer_each_time_and_not_beyond_the_window() -> None:
    """Many codes within a moment end nothing. The wait never goes beyond the window."""
    polls = {"max_polls": None, "window_seconds": 2.0, "interval_seconds": 0.15}
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[*[Reply(ODD)] * 4, Reply(ready())]) as provider,
        open_client(provider.url, dialects=fast(**polls)) as tasks,
    ):
        solved = await tasks.solve(image_task())

    assert (solved.status, len(provider.calls["getTaskResult"])) == ("ready", 5)


@pytest.mark.parametrize(
    "between", [pytest.param(PENDING, id="processing"), pytest.param({**ODD, "errorCode": "ERROR_2"}, id="another")]
)
async def test_what_comes_in_between_begins_the_row_anew(between: dict[str, Any]) -> None:
    """A listed answer or another code in between starts the count of the row again."""
    clock = JumpingClock()
    odd = stepping(clock, ODD)
    replies = [odd, odd, stepping(clock, between), odd, odd, stepping(clock, ready())]
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=replies) as provider,
        open_client(provider.url, timing=clock.timing, dialects=fast(window_seconds=300.0)) as tasks,
    ):
        solved = await tasks.solve(image_task(), timeout_seconds=600)

    assert (solved.status, len(provider.calls["getTaskResult"])) == ("ready", 6)


async def test_what_comes_under_5xx_does_not_count() -> None:
    """An unlisted code under 5xx neither lengthens the row nor ends it."""
    clock = JumpingClock()
    odd, under_500 = stepping(clock, ODD), stepping(clock, ODD, 500)
    replies = [odd, under_500, under_500, under_500, odd, under_500, stepping(clock, ready())]
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=replies) as provider,
        open_client(provider.url, timing=clock.timing, dialects=fast(window_seconds=600.0)) as tasks,
    ):
        solved = await tasks.solve(image_task(), timeout_seconds=900)
        assert solved.status == "ready"
        provider.answers("getTaskResult", odd, under_500, odd, under_500, odd)
        with pytest.raises(TaskFailedError, match="ERROR_OF_TOMORROW"):
            await tasks.solve(image_task(1), timeout_seconds=900)


@pytest.mark.parametrize("body", [ODD, SERVER_ERROR])
async def test_at_create_task_an_unlisted_error_is_a_refusal(body: dict[str, Any]) -> None:
    """The caller gets it at once, with its code. Under 500 a task may have been made."""
    code = body.get("errorCode", "RECEIVER_REASON_NOT_GIVEN")
    async with scripted_provider(createTask=Reply(body)) as provider, open_client(provider.url) as tasks:
        with pytest.raises(ProviderRefusedError, match=code):
            await tasks.submit(image_task())
        provider.answers("createTask", Reply(body, 500))
        with pytest.raises(ProviderUnreachableError, match="a task may have been made"):
            await tasks.submit(image_task())

    assert len(provider.calls["createTask"]) == 2


@pytest.mark.parametrize("reply", NOT_DONE)
async def test_a_create_task_that_was_not_carried_out_is_told_at_once(tmp_path: Path, reply: Reply) -> None:
    """The error names status and URL at once. A task not made is never called back (league-account-checker#77)."""
    async with (
        running_receiver(tmp_path / "receiver.db") as api,
        scripted_provider(createTask=reply) as provider,
        open_client(provider.url, api.url) as tasks,
    ):
        with pytest.raises(ProviderUnreachableError, match="not carried out") as caught:
            await tasks.submit(image_task())

    assert f"HTTP {reply.status} without an answer of this provider, from {provider.url}/createTask:" in str(
        caught.value
    )
    assert caught.value.status == reply.status
    assert len(provider.calls["createTask"]) == 1


@pytest.mark.parametrize("reply", [Reply(b"", 500), Reply(b"", 200), Reply(b"<html>", 502), Reply(b"", 408)])
async def test_a_create_task_that_is_unclear_waits_for_its_callback(tmp_path: Path, reply: Reply) -> None:
    """A task may have been made, so the client waits for its callback."""
    async with (
        running_receiver(tmp_path / "receiver.db") as api,
        scripted_provider(createTask=reply) as provider,
        open_client(provider.url, api.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        await api.call_back(provider.calls["createTask"][0]["callbackUrl"], taskId="t-1")
        solved = await task.result()

    assert (solved.status, solved.source) == ("ready", "callback")


@pytest.mark.parametrize("reply", NOT_DONE)
async def test_polls_that_are_not_carried_out_go_on(reply: Reply) -> None:
    """The reason is logged once for each state, and not at every poll."""
    replies = [*[reply] * 4, Reply(ready())]
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=replies) as provider,
        open_client(provider.url, dialects=fast(interval_seconds=0.01)) as tasks,
    ):
        with capture_logs() as lines:
            solved = await tasks.solve(image_task())

    found = [line for line in lines if line["event"] == "poll.failed"]
    assert (solved.status, len(found), found[0]["log_level"]) == ("ready", 1, "warning")
    assert (
        f"HTTP {reply.status} without an answer of this provider, from {provider.url}/getTaskResult:"
        in found[0]["reason"]
    )


async def test_no_secret_of_the_url_is_told() -> None:
    """The key is in the query of some requests, so error texts leave the query out."""
    key = "tests-only-secret-of-v1"
    async with (
        scripted_provider() as provider,
        open_client(provider.url, provider="twocaptchav1", client_key=key) as tasks,
    ):
        with pytest.raises(
            ProviderUnreachableError, match="HTTP 405 without an answer of this provider, from http://127"
        ) as caught:
            await tasks.balance()

    assert "/res.php:" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in (key, "?"))


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(ODD), id="unlisted"),
        pytest.param(Reply(ODD, 500), id="unlisted under 500"),
        pytest.param(Reply(SERVER_ERROR, 500), id="no code under 500"),
        pytest.param(Reply(b"", 403), id="403"),
    ],
)
async def test_errors_that_end_nothing_count_towards_a_ban(reply: Reply) -> None:
    """At half of the errors before a block of the key, nothing is sent any more."""
    limits = KeyLimits(requests_per_second=500.0, errors=Rate(6, 60.0))
    dialects = {name: replace(dialect, key_limits=limits) for name, dialect in FAST.items()}
    clock = JumpingClock()
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=reply) as provider,
        open_client(provider.url, dialects=dialects, timing=clock.timing) as tasks,
    ):
        with capture_logs() as lines:
            task = await tasks.submit(image_task(), timeout_seconds=50)
            await eventually(lambda: "key.braked" in [line["event"] for line in lines])
            # Its time is over before the errors are older than a minute.
            clock.jump(50.0)
            with pytest.raises(TaskFailedError, match="RECEIVER_NO_ANSWER"):
                await task.result(timeout=30)

    assert [line["provider"] for line in lines if line["event"] == "key.braked"] == ["capsolver"]
    assert len(provider.calls["getTaskResult"]) == 3


async def test_unlisted_codes_are_named_in_the_log() -> None:
    """A code is logged once, under any status, for any number of tasks."""
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=[Reply(ODD), Reply(ODD, 500), Reply(ready())]) as provider,
        open_client(provider.url) as tasks,
    ):
        with capture_logs() as lines:
            await tasks.solve(image_task())

    found = [line for line in lines if line["event"] == "code.unlisted"]
    assert [(line["provider"], line["errorCode"]) for line in found] == [("capsolver", "ERROR_OF_TOMORROW")]
