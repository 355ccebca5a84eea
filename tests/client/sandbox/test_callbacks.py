"""Callbacks: their content, their time, and the effect of the answer to them."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import ANY

import aiohttp
import pytest

from client.providers import dialect_named
from client.providers.readings import CallbackReading, Failed, Ready
from client.sandbox import Faults, Sandbox, SandboxSettings, expected_solution
from tests.client.sandbox.support import IMAGE, KEY, NOW, TOKEN, Catcher, create_task, get_task_result, ordered
from tests.support import free_port

_CAPSOLVER = dialect_named("capsolver")


async def test_a_callback_is_the_result_with_its_id() -> None:
    """CapSolver POSTs the getTaskResult answer as JSON, with the `taskId`.

    Inferred: providers/README.md, "Result callbacks".
    """
    async with Catcher() as catcher, Sandbox("capsolver", NOW) as sandbox:
        created = await create_task(sandbox, TOKEN, callback_url=catcher.url)
        sent = await sandbox.sent_callbacks(1)
        polled = await get_task_result(sandbox, created)
        stats = sandbox.stats

    (caught,) = catcher.caught
    solution = expected_solution("capsolver", TOKEN)
    assert caught.path == "/callback/capsolver/a-token"
    assert caught.headers["Content-Type"] == "application/json"
    assert caught.json == {"errorId": 0, "taskId": created.json["taskId"], "status": "ready", "solution": solution}
    assert caught.json == polled.json
    assert [(callback.task_id, callback.status) for callback in sent] == [(created.json["taskId"], 200)]
    assert (stats.callbacks_sent, stats.callbacks_answered, stats.callback_answers) == (1, 1, {200: 1})


async def test_our_dialect_reads_a_callback() -> None:
    """The dialect of the same name reads the POST."""
    async with Catcher() as catcher, Sandbox("capsolver", NOW) as sandbox:
        created = await create_task(sandbox, TOKEN, callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    reading = _CAPSOLVER.read_callback(query=b"", body=catcher.caught[0].body)
    assert reading == CallbackReading(created.json["taskId"], Ready(expected_solution("capsolver", TOKEN)))


async def test_a_failure_is_called_back_too() -> None:
    """A failed task is called back with its error."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, fails=True), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)
        faults = sandbox.stats.faults

    reading = _CAPSOLVER.read_callback(query=b"", body=catcher.caught[0].body)
    assert isinstance(reading.reading, Failed)
    assert (reading.task_id, reading.reading.error_code) == (created.json["taskId"], "ERROR_CAPTCHA_UNSOLVABLE")
    assert faults == {"task.fails": 1}


async def test_a_callback_comes_when_the_task_is_finished() -> None:
    """A slow task is called back after a fast one."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        slow = await create_task(sandbox, ordered(TOKEN, 1, latencySeconds=0.2), callback_url=catcher.url)
        late = await create_task(sandbox, ordered(TOKEN, 2, callbackDelaySeconds=0.1), callback_url=catcher.url)
        fast = await create_task(sandbox, ordered(TOKEN, 3), callback_url=catcher.url)
        await sandbox.sent_callbacks(3)

    assert catcher.ids == [created.json["taskId"] for created in (fast, late, slow)]


@pytest.mark.parametrize(
    ("settings", "body"),
    [
        (SandboxSettings(callback_has_task_id=False), {"errorId": 0, "status": "ready", "solution": ANY}),
        (SandboxSettings(callback_body="solution"), {"taskId": ANY, "solution": ANY}),
        (SandboxSettings(callback_body="solution", callback_has_task_id=False), {"solution": ANY}),
    ],
)
async def test_what_is_not_documented_can_be_chosen(settings: SandboxSettings, body: dict[str, Any]) -> None:
    """The body of a callback, and whether the id is in it, are settings."""
    async with Catcher() as catcher, Sandbox("capsolver", settings) as sandbox:
        await create_task(sandbox, ordered(TOKEN), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    assert catcher.caught[0].json == body


async def test_a_synchronous_task_is_not_called_back() -> None:
    """A task answered by createTask itself has no callback, unless asked for."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        await create_task(sandbox, ordered(IMAGE), callback_url=catcher.url)
        other = await create_task(sandbox, ordered(TOKEN), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    assert catcher.ids == [other.json["taskId"]]


async def test_a_synchronous_task_can_be_called_back() -> None:
    """Callbacks of synchronous tasks are unknown, and a setting."""
    async with Catcher() as catcher, Sandbox("capsolver", SandboxSettings(is_sync_called_back=True)) as sandbox:
        created = await create_task(sandbox, ordered(IMAGE), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    assert catcher.ids == [created.json["taskId"]]


async def test_onecaptcha_never_calls_back() -> None:
    """1captcha.vip knows no callbacks, so the address and ordered faults are ignored."""
    async with Catcher() as catcher, Sandbox("onecaptcha") as sandbox:
        for number, fault in enumerate(("early", "twice", None)):
            created = await create_task(sandbox, ordered(IMAGE, number, callback=fault), callback_url=catcher.url)
            await get_task_result(sandbox, created)
        sent = sandbox.stats.callbacks_sent

    assert (sent, catcher.caught) == (0, [])


@pytest.mark.parametrize("url", [None, ""])
async def test_no_address_no_callback(url: str | None) -> None:
    """Libraries send null or "" where nobody asked for a callback; then there is none."""
    async with Sandbox("capsolver") as sandbox:
        await get_task_result(sandbox, await create_task(sandbox, ordered(TOKEN), callback_url=url))
        sent = sandbox.stats.callbacks_sent

    assert sent == 0


async def test_a_redirect_is_not_followed() -> None:
    """A redirect is an answer like any other; nothing is sent to where it points."""
    async with Catcher(status=307) as catcher, Sandbox("capsolver") as sandbox:
        await create_task(sandbox, ordered(TOKEN), callback_url=catcher.url)
        sent = await sandbox.sent_callbacks(1)

    assert [callback.status for callback in sent] == [307]
    assert [caught.path for caught in catcher.caught] == ["/callback/capsolver/a-token"]


async def test_a_refused_callback_is_not_sent_again() -> None:
    """An error in answer is counted, and nothing is sent again: no retry is documented."""
    async with Catcher(status=503) as catcher, Sandbox("capsolver") as sandbox:
        await create_task(sandbox, ordered(TOKEN), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)
        stats = sandbox.stats

    assert (len(catcher.caught), stats.callback_answers) == (1, {503: 1})


async def test_an_address_that_does_not_answer() -> None:
    """A callback without an answer in time counts as sent, not as answered."""
    async with (
        Catcher(is_silent=True) as catcher,
        Sandbox("capsolver", SandboxSettings(callback_timeout_seconds=0.2)) as sandbox,
    ):
        await create_task(sandbox, ordered(TOKEN), callback_url=catcher.url)
        sent = await sandbox.sent_callbacks(1)
        stats = sandbox.stats

    assert [callback.status for callback in sent] == [None]
    assert (stats.callbacks_sent, stats.callbacks_answered) == (1, 0)


async def test_an_address_where_nobody_listens() -> None:
    """A callback to a closed port harms nothing."""
    async with Sandbox("capsolver") as sandbox:
        created = await create_task(sandbox, ordered(TOKEN), callback_url=f"http://127.0.0.1:{free_port()}/")
        sent = await sandbox.sent_callbacks(1)
        polled = await get_task_result(sandbox, created)

    assert [callback.status for callback in sent] == [None]
    assert polled.json["status"] == "ready"


async def test_a_caller_who_goes_away_is_called_back() -> None:
    """A callback comes also where nobody waited for the createTask answer."""
    settings = SandboxSettings(is_sync_called_back=True)
    async with Catcher() as catcher, Sandbox("capsolver", settings) as sandbox:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.1)) as session:
            task = ordered(IMAGE, latencySeconds=0.3)
            body = {"clientKey": KEY, "task": task, "callbackUrl": catcher.url}
            with pytest.raises(TimeoutError):
                await session.post(f"{sandbox.url}/createTask", json=body)
        await sandbox.sent_callbacks(1)

    assert catcher.caught[0].json["solution"] == expected_solution("capsolver", task)


async def test_waiting_for_callbacks_has_a_limit() -> None:
    """Waiting for missing callbacks ends with TimeoutError."""
    async with Sandbox("capsolver") as sandbox:
        with pytest.raises(TimeoutError):
            await sandbox.sent_callbacks(1, timeout=0.05)


async def test_a_callback_shows_no_secrets() -> None:
    """The text of a sent callback shows neither its address nor its body."""
    async with Catcher() as catcher, Sandbox("capsolver", NOW) as sandbox:
        await create_task(sandbox, TOKEN, callback_url=catcher.url)
        sent = await sandbox.sent_callbacks(1)

    assert "a-token" not in repr(sent)
    assert expected_solution("capsolver", TOKEN)["gRecaptchaResponse"] not in repr(sent)


async def test_many_tasks_at_once_get_their_own_answers() -> None:
    """Of 200 tasks made at once each is called back once, with its own solution."""
    tasks = [{**TOKEN, "number": number} for number in range(200)]
    async with Catcher() as catcher, Sandbox("capsolver", NOW) as sandbox:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(create_task(sandbox, task, callback_url=catcher.url)) for task in tasks]
        await sandbox.sent_callbacks(200)

    expected = {
        made.result().json["taskId"]: expected_solution("capsolver", task)
        for made, task in zip(calls, tasks, strict=True)
    }
    assert {caught.json["taskId"]: caught.json["solution"] for caught in catcher.caught} == expected
    assert len(catcher.caught) == 200


async def test_a_callable_gives_the_faults() -> None:
    """In the same process faults come from a callable, given the task's content."""
    seen: list[dict[str, Any]] = []

    def faults_for(task: dict[str, Any]) -> Faults:
        seen.append(task)
        return Faults(latency_seconds=0.0, callback="twice")

    async with Catcher() as catcher, Sandbox("capsolver", faults_for=faults_for) as sandbox:
        await create_task(sandbox, TOKEN, callback_url=catcher.url)
        await sandbox.sent_callbacks(2)

    assert (seen, len(catcher.caught)) == ([TOKEN], 2)
