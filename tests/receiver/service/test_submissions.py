"""Tasks that the receiver submits: one request and one wait for its caller, and never a second submission."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from client.protocol.models import client_key_id
from client.sandbox import FaultRates, Sandbox, SandboxSettings, expected_solution
from receiver.service import submissions
from tests.client.support import Reply, fast, scripted_provider
from tests.support import Answer, RunningReceiver, eventually, running_receiver

KEY = "the-client-key-of-the-operator"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n one").decode()
IMAGE: dict[str, Any] = {"type": "ImageToTextTask", "body": PNG}
ASYNC = SandboxSettings(latency_seconds=(0.05, 0.1), async_images=True)
QUICK = fast(first_after_callback_seconds=0.5, first_after_seconds=0.1, interval_seconds=0.1)


@asynccontextmanager
async def submitting(
    database: Path, settings: SandboxSettings = ASYNC, *, key: str = KEY, url: str | None = None
) -> AsyncIterator[tuple[RunningReceiver, Sandbox]]:
    """Yield a receiver with a key, and the provider of that key."""
    async with Sandbox("capsolver", settings) as sandbox:
        accounts: dict[str, Any] = {
            "provider_keys": {"capsolver": key},
            "provider_urls": {"capsolver": url or sandbox.url},
        }
        async with running_receiver(database, dialects=QUICK, **accounts) as api:
            yield api, sandbox


async def submit(api: RunningReceiver, *, key: str | None = None, task: Any = None, **fields: Any) -> Answer:
    """`POST /v1/tasks` with a task in it."""
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"provider": "capsolver", "task": IMAGE if task is None else task, **fields}
    return await api.send("POST", "/v1/tasks", json=body, headers=headers)


async def ended(api: RunningReceiver, ref: str) -> Any:
    """Return the task once it has an outcome."""
    return (await api.send("GET", f"/v1/tasks/{ref}", params={"wait": "50"})).json


@pytest.mark.parametrize("lost", [0.0, 1.0], ids=["called back", "callback lost"])
async def test_one_request_and_one_wait(tmp_path: Path, lost: float) -> None:
    """The answer has ref and taskId; the outcome comes by the callback, or by the receiver's own poll."""
    settings = SandboxSettings(latency_seconds=(0.05, 0.1), async_images=True, rates=FaultRates(callback_lost=lost))
    async with submitting(tmp_path / "receiver.db", settings) as (api, sandbox):
        answer = await submit(api, tags=["checkout"])
        task = await ended(api, answer.json["ref"])
        made = sandbox.stats.tasks_made

    assert (answer.status, answer.json["fallback"], made) == (201, "receiver", 1)
    assert (task["status"], task["solution"]) == ("ready", expected_solution("capsolver", IMAGE))
    assert (task["taskId"], task["type"], task["tags"]) == (answer.json["taskId"], "ImageToTextTask", ["checkout"])
    assert task["source"] == ("poll" if lost else "callback")


async def test_a_synchronous_answer_is_the_outcome(tmp_path: Path) -> None:
    """The provider may answer in createTask: then the task is finished at once."""
    async with submitting(tmp_path / "receiver.db", SandboxSettings(latency_seconds=(0.0, 0.0))) as (api, _):
        answer = await submit(api)
        task = await api.task(answer.json["ref"])

    assert (answer.status, task["status"], task["source"]) == (201, "ready", "submit")


async def test_the_same_idempotency_key_submits_once(tmp_path: Path) -> None:
    """The same body gets the same answer, and another one is refused, also after a restart."""
    database = tmp_path / "receiver.db"
    async with submitting(database) as (api, sandbox):
        first = await submit(api, key="order-7")
        again = await submit(api, key="order-7")
        other = await submit(api, key="order-7", task={**IMAGE, "module": "common"})
        made = sandbox.stats.tasks_made
    async with submitting(database) as (api, sandbox):
        later = await submit(api, key="order-7")
        made += sandbox.stats.tasks_made

    refs = {answer.json["ref"] for answer in (first, again, later)}
    assert (len(refs), made) == (1, 1)
    assert {answer.json["taskId"] for answer in (first, again, later)} == {first.json["taskId"]}
    assert (other.status, other.json["type"].rpartition(":")[2]) == (422, "idempotency-key-reused")


async def test_what_the_provider_refuses_is_told(tmp_path: Path) -> None:
    """A refusal has the provider's code and the ref of the record. A repetition gets the same without a request."""
    settings = SandboxSettings(client_keys=frozenset({"another"}))
    async with submitting(tmp_path / "receiver.db", settings) as (api, sandbox):
        answer = await submit(api, key="order-7")
        again = await submit(api, key="order-7")
        task = await api.task(answer.json["ref"])
        calls = sandbox.stats.create_task_calls

    assert (answer.status, answer.json["type"].rpartition(":")[2]) == (502, "provider-refused")
    assert answer.json["providerErrorCode"] == "ERROR_KEY_DOES_NOT_EXIST"
    assert (again.status, again.json["ref"], calls) == (502, answer.json["ref"], 1)
    assert (task["status"], task["errorCode"], task["source"]) == ("failed", "ERROR_KEY_DOES_NOT_EXIST", "submit")
    assert KEY not in answer.body.decode()


async def test_a_provider_that_is_not_there_made_no_task(tmp_path: Path) -> None:
    """503 with Retry-After: the same may work later, under another Idempotency-Key."""
    async with submitting(tmp_path / "receiver.db", url="http://127.0.0.1:9") as (api, _):
        answer = await submit(api, timeoutSeconds=3)
        task = await api.task(answer.json["ref"])

    assert (answer.status, answer.json["type"].rpartition(":")[2]) == (503, "provider-unreachable")
    assert "Retry-After" in answer.headers
    assert (task["status"], task["errorCode"]) == ("failed", "RECEIVER_NOT_SUBMITTED")


async def test_where_nobody_knows_a_callback_still_saves_the_task(tmp_path: Path) -> None:
    """After a cut createTask the task may exist. So it is not submitted again, and waits for its callback."""
    async with submitting(tmp_path / "receiver.db") as (api, sandbox):
        answer = await submit(api, task={**IMAGE, "sandbox": {"createTask": "cut"}})
        task = await ended(api, answer.json["ref"])
        made = sandbox.stats.tasks_made

    assert (answer.status, answer.json["taskId"], made) == (201, None, 1)
    assert (task["status"], task["source"]) == ("ready", "callback")


async def test_after_a_crash_it_is_not_submitted_again(tmp_path: Path) -> None:
    """After a crash the task ends as RECEIVER_SUBMIT_UNKNOWN, unless a callback comes."""
    database = tmp_path / "receiver.db"
    gone, done = asyncio.Event(), asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        gone.set()
        await done.wait()
        writer.transport.abort()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with submitting(database, url=f"http://127.0.0.1:{port}") as (api, _), asyncio.TaskGroup() as group:

        async def ask() -> None:
            with pytest.raises(aiohttp.ClientError):
                await submit(api, key="order-7", timeoutSeconds=2)

        group.create_task(ask())
        async with asyncio.timeout(30):
            await gone.wait()
        await api.stop()
        done.set()
    server.close()
    await server.wait_closed()
    async with submitting(database) as (api, sandbox):
        again = await submit(api, key="order-7", timeoutSeconds=2)
        task = await ended(api, again.json["ref"])
        calls = sandbox.stats.create_task_calls

    assert (again.status, again.json["taskId"], calls) == (201, None, 0)
    assert (task["status"], task["errorCode"]) == ("failed", "RECEIVER_SUBMIT_UNKNOWN")


async def test_a_shutdown_keeps_what_the_provider_still_answers(tmp_path: Path) -> None:
    """The caller has gone and the receiver shuts down while createTask is under way: its answer is stored."""
    database = tmp_path / "receiver.db"
    async with submitting(database) as (api, sandbox):
        async with asyncio.TaskGroup() as group:
            slow = {**IMAGE, "sandbox": {"sync": True, "latencySeconds": 1.5}}
            asking = group.create_task(submit(api, key="order-7", task=slow))
            await eventually(lambda: sandbox.stats.create_task_calls == 1)
            asking.cancel()
        await api.stop()
    async with submitting(database) as (api, _):
        (task,) = (await api.send("GET", "/v1/tasks")).json["tasks"]

    assert (task["status"], task["source"]) == ("ready", "submit")


async def test_a_shutdown_does_not_wait_for_a_provider_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A createTask without an answer is cancelled after some seconds, and its task waits for a callback."""
    monkeypatch.setattr(submissions, "_END_SECONDS", 0.2)
    async with submitting(tmp_path / "receiver.db") as (api, sandbox), asyncio.timeout(30):
        async with asyncio.TaskGroup() as group:
            slow = {**IMAGE, "sandbox": {"sync": True, "latencySeconds": 300}}
            asking = group.create_task(submit(api, key="order-7", task=slow))
            await eventually(lambda: sandbox.stats.create_task_calls == 1)
            asking.cancel()
        await api.stop()


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"task": {"body": PNG}}, "task"),
        ({"task": []}, "task"),
        ({"taskId": "a1"}, "task"),
        ({"provider": "onecaptcha"}, "task: the receiver submits with its own keys, and has keys of capsolver"),
        ({"clientKeyId": "01234567"}, "clientKeyId"),
    ],
)
async def test_what_cannot_be_submitted_is_named(tmp_path: Path, fields: Any, detail: str) -> None:
    """A wrong field gets 422 with its name, and nothing is registered."""
    async with submitting(tmp_path / "receiver.db") as (api, _):
        answer = await submit(api, **fields)
        listed = (await api.send("GET", "/v1/tasks")).json["tasks"]

    assert (answer.status, listed) == (422, [])
    assert detail in answer.json["detail"]


async def test_the_key_may_be_named(tmp_path: Path) -> None:
    """The log names the key by its first digits, as a client does."""
    async with submitting(tmp_path / "receiver.db") as (api, _):
        assert (await submit(api, clientKeyId=client_key_id(KEY))).status == 201


async def test_a_caller_that_hangs_up_leaves_a_task(tmp_path: Path) -> None:
    """A submission goes on without its caller. Until then its Idempotency-Key is in flight, then it finds the task."""
    slow = {**IMAGE, "sandbox": {"sync": True, "latencySeconds": 1.0}}
    async with submitting(tmp_path / "receiver.db") as (api, sandbox):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(submit(api, key="order-7", task=slow))
            await eventually(lambda: sandbox.stats.create_task_calls == 1)
            asking.cancel()
        early = await submit(api, key="order-7", task=slow)
        async with asyncio.timeout(30):
            while (again := await submit(api, key="order-7", task=slow)).status == 409:
                await asyncio.sleep(0.1)
        task = await ended(api, again.json["ref"])
        made = sandbox.stats.tasks_made

    assert (early.status, early.json["type"].rpartition(":")[2]) == (409, "idempotency-in-flight")
    assert early.headers["Retry-After"] == "1"
    assert (made, task["status"]) == (1, "ready")


async def test_a_key_that_the_provider_quotes_is_not_told(tmp_path: Path) -> None:
    """The key reaches neither the caller nor the log nor the store, not even encoded in JSON or a URL."""
    key = "CAP-0123456789ABCDEF"
    quoted = rf"\u0043{key[1:]} and %43{key[1:]}"
    refusal = b'{"errorId":1,"errorCode":"ERROR_KEY_DOES_NOT_EXIST","errorDescription":"%s"}' % quoted.encode()
    database = tmp_path / "receiver.db"
    async with (
        scripted_provider(createTask=Reply(refusal)) as provider,
        submitting(database, key=key, url=provider.url) as (api, _),
    ):
        with capture_logs() as lines:
            answer = await submit(api)

    assert (answer.status, provider.calls["createTask"][0]["clientKey"]) == (502, key)
    assert "(the client key) and (the client key)" in answer.json["detail"]
    with sqlite3.connect(database) as connection:
        texts = [answer.body.decode(), repr(lines), *connection.iterdump()]
    assert not [text for text in texts if key[1:] in text]


async def test_long_texts_of_the_provider_are_cut(tmp_path: Path) -> None:
    """A refusal with texts of 500 kB is answered, stored and logged in a few kB, with its code cut off."""
    refusal = {"errorId": 1, "errorCode": "E" * 500_000, "errorDescription": "D" * 500_000}
    async with (
        scripted_provider(createTask=refusal) as provider,
        submitting(tmp_path / "receiver.db", url=provider.url) as (api, _),
    ):
        with capture_logs() as lines:
            answer = await submit(api)
        stored = await api.send("GET", f"/v1/tasks/{answer.json['ref']}")

    assert (answer.status, answer.json["providerErrorCode"]) == (502, "E" * 99 + "…")
    assert len(answer.body) < 5_000
    assert len(stored.body) < 5_000
    assert 0 < len(repr(lines)) < 10_000


async def test_long_texts_of_a_callback_are_cut(tmp_path: Path) -> None:
    """The failure is the outcome, cut to a few kB."""
    failure = {"errorId": 1, "errorCode": "E" * 100_000, "errorDescription": "D" * 100_000, "status": "failed"}
    async with running_receiver(tmp_path / "receiver.db") as api:
        task = await api.register()
        answer = await api.send("POST", task["callbackUrl"], key=None, json={**failure, "solution": None})
        stored = await api.send("GET", f"/v1/tasks/{task['ref']}")

    assert (answer.status, stored.json["status"], stored.json["errorCode"]) == (200, "failed", "E" * 99 + "…")
    assert len(stored.body) < 5_000


async def test_an_id_that_is_taken_names_the_task_that_has_it(tmp_path: Path) -> None:
    """If the provider gives an id a second time, the caller gets the ref of the task with that id."""
    created = {"errorId": 0, "taskId": "task-1"}
    async with (
        scripted_provider(createTask=created) as provider,
        submitting(tmp_path / "receiver.db", url=provider.url) as (api, _),
    ):
        first = await submit(api)
        second = await submit(api)

    assert (second.status, second.json["type"].rpartition(":")[2]) == (409, "task-id-taken")
    assert second.json["ref"] == first.json["ref"]
    assert first.json["ref"] in second.json["detail"]
