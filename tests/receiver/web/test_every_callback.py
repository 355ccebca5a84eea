"""Every known callback of every provider, over the real server: the outcome, the duplicate, and garbage.

The messages and their meanings come from `tests.client.providers.wire_facts`, each with its source.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from client.providers import DIALECTS
from client.providers.readings import Bare, Failed, Pending, Ready
from receiver.app import new_ref
from receiver.domain.tokens import Kind, make_token
from tests.client.providers.wire_facts import CALLBACKS, Delivered
from tests.support import Answer, Api, RunningReceiver, running_receiver

_SECRETS = {"hardcaptcha": "the key of the account", "capsolution": "the signing secret"}
_TYPES = {"twocaptcha": "ImageToTextTask", "rucaptcha": "ImageToTextTask"}
_SOLUTIONS = {"twocaptcha": "text", "rucaptcha": "text"}
_CALLING = sorted(name for name, dialect in DIALECTS.items() if dialect.callback is not None)
_OUTCOMES = [message for message in CALLBACKS if isinstance(message.means.reading, Ready | Bare | Failed)]
_TYPES_OF_CONTENT = ("application/json", "application/x-www-form-urlencoded", "text/plain", "application/octet-stream")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """Yield a receiver of the shipped providers, with the secrets of two of them."""
    async with running_receiver(tmp_path / "receiver.db", callback_secrets=_SECRETS) as running:
        yield running


async def deliver(
    api: Api, url: str, provider: str, *, query: bytes = b"", body: bytes = b"", content_type: str | None = None
) -> Answer:
    """Deliver as the provider does: with its method, its signature, and its content type or the given one."""
    rule = DIALECTS[provider].callback
    assert rule is not None
    headers = {} if content_type is None else {"Content-Type": content_type}
    if rule.signature is not None:
        headers[rule.signature.headers[0]] = hmac.digest(_SECRETS[provider].encode(), body, "sha256").hex()
    if "GET" in rule.methods:
        return await api.send("GET", f"{url}?{query.decode()}", key=None)
    return await api.send("POST", url, key=None, data=body, headers=headers)


async def registered(api: Api, provider: str) -> Any:
    """Return a task of this provider."""
    return await api.register(provider=provider, type=_TYPES.get(provider))


@pytest.mark.parametrize("sent", _OUTCOMES, ids=lambda message: f"{message.provider} {message.kind} {message.source}")
async def test_a_callback_becomes_the_outcome_once(api: RunningReceiver, sent: Delivered) -> None:
    """The first callback is the outcome and the second a duplicate. Both get 200, and the log has one result."""
    if sent.provider == "ucaptcha" and isinstance(sent.means.reading, Bare):
        # Of a task whose type is known nobody knows the solution by the code alone: see the next test.
        task = await api.register(provider=sent.provider)
    else:
        task = await registered(api, sent.provider)
    content_types = _TYPES_OF_CONTENT if sent.body else (None,)

    answers = [
        await deliver(
            api, task["callbackUrl"], sent.provider, query=sent.query, body=sent.body, content_type=content_type
        )
        for content_type in content_types
    ]

    assert {answer.status for answer in answers} == {200}
    ended = await api.task(task["ref"])
    means = sent.means.reading
    if isinstance(means, Failed):
        assert (ended["status"], ended["errorCode"], ended["errorDescription"]) == (
            "failed",
            means.error_code,
            means.error_description,
        )
    else:
        name = _SOLUTIONS.get(sent.provider, "code")
        solution = {name: means.code} if isinstance(means, Bare) else getattr(means, "solution", None)
        if sent.provider == "scrapeless" and isinstance(means, Bare):
            solution = json.loads(means.code)
        assert (ended["status"], ended["solution"]) == ("ready", solution)
    assert ended["trust"] == ("signed" if sent.provider in _SECRETS else "token")
    assert (ended["taskId"], type(ended["taskId"])) == (sent.means.task_id, type(sent.means.task_id))
    assert len((await api.log())["results"]) == 1


@pytest.mark.parametrize(
    ("provider", "type_"),
    [("ucaptcha", "ImageToTextTask"), ("twocaptcha", "TurnstileTask"), ("scrapeless", "captcha.recaptcha")],
)
async def test_a_bare_answer_of_which_a_poll_tells_more_is_a_hint(api: Api, provider: str, type_: str) -> None:
    """A bare answer that a poll completes is acknowledged and kept. The task goes on, with a hint to poll now."""
    sent = next(message for message in CALLBACKS if (message.provider, message.kind) == (provider, "success"))
    task = await api.register(provider=provider, type=type_)

    answer = await deliver(api, task["callbackUrl"], provider, query=sent.query, body=sent.body)

    now = await api.task(task["ref"])
    log = await api.log(hints="true")
    assert (answer.status, now["status"], now["taskId"]) == (200, "processing", sent.means.task_id)
    assert [entry.get("hint") for entry in log["results"]] == [True]


@pytest.mark.parametrize(
    "sent",
    [message for message in CALLBACKS if isinstance(message.means.reading, Pending)],
    ids=lambda message: message.provider,
)
async def test_what_is_not_final_ends_nothing(api: Api, sent: Delivered) -> None:
    """An error with the meaning "still working" is acknowledged, and the task goes on."""
    task = await registered(api, sent.provider)

    answer = await deliver(api, task["callbackUrl"], sent.provider, body=sent.body)

    assert (answer.status, (await api.task(task["ref"]))["status"]) == (200, "processing")


async def test_an_event_without_a_task_is_acknowledged(api: Api) -> None:
    """`balance.low` of capsolution ends nothing, though it comes on the URL of a task."""
    task = await registered(api, "capsolution")

    answer = await deliver(api, task["callbackUrl"], "capsolution", body=b'{"event":"balance.low"}')

    assert (answer.status, (await api.task(task["ref"]))["status"]) == (200, "processing")


@pytest.mark.parametrize("provider", _CALLING)
async def test_garbage_is_refused_and_is_a_hint(api: Api, provider: str) -> None:
    """An unknown message gets 422. The task goes on, and its next poll is due now."""
    task = await registered(api, provider)

    answer = await deliver(api, task["callbackUrl"], provider, query=b"garbage=1", body=b"garbage=1")

    log = await api.log(hints="true")
    assert (answer.status, (await api.task(task["ref"]))["status"]) == (422, "processing")
    assert [entry.get("hint") for entry in log["results"]] == [True]


@pytest.mark.parametrize("provider", sorted(_SECRETS))
async def test_what_is_not_signed_is_refused(api: Api, provider: str) -> None:
    """With a secret, an outcome without its signature is 401 and a hint."""
    sent = next(message for message in CALLBACKS if (message.provider, message.kind) == (provider, "success"))
    task = await registered(api, provider)

    answer = await api.send("POST", task["callbackUrl"], key=None, data=sent.body)

    assert (answer.status, (await api.task(task["ref"]))["status"]) == (401, "processing")


@pytest.mark.parametrize("provider", _CALLING)
async def test_other_methods_are_refused(api: Api, provider: str) -> None:
    """POST where the provider calls by GET, GET with a query where it calls by POST: 405, with the right one."""
    rule = DIALECTS[provider].callback
    assert rule is not None
    task = await registered(api, provider)
    other = "POST" if "GET" in rule.methods else "GET"

    answer = await api.send(other, f"{task['callbackUrl']}?id=1&code=abc", key=None, data=b"id=1&code=abc")

    assert (answer.status, answer.headers["Allow"]) == (405, ", ".join(sorted(rule.methods)))


async def test_a_bare_answer_to_a_task_of_no_type_is_what_was_said(api: Api) -> None:
    """For a task without a type, a bare answer is the solution as it is."""
    task = await api.register(provider="twocaptcha")

    await deliver(api, task["callbackUrl"], "twocaptcha", body=b"id=73043008354&code=44795sds")

    assert (await api.task(task["ref"]))["solution"] == {"code": "44795sds"}


async def test_another_bare_answer_disagrees_and_one_behind_a_poll_is_late(api: Api) -> None:
    """Another bare answer `disagreed`, and one behind a poll is `late`. Both are acknowledged and change nothing."""
    called, polled = [await registered(api, "twocaptcha") for _ in range(2)]
    answer = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}
    report = {"source": "poll", "taskId": 2, "answer": answer}
    await api.send("PUT", f"/v1/tasks/{polled['ref']}/outcome", json=report)

    statuses = [
        (await deliver(api, task["callbackUrl"], "twocaptcha", body=body)).status
        for task, body in (
            (called, b"id=1&code=44795sds"),
            (called, b"id=1&code=other"),
            (polled, b"id=2&code=44795sds"),
        )
    ]

    assert statuses == [200, 200, 200]
    assert (await api.task(called["ref"]))["solution"] == {"text": "44795sds"}
    assert (await api.task(polled["ref"]))["source"] == "poll"
    timeline = (await api.send("GET", f"/v1/tasks/{polled['ref']}/timeline")).body
    assert b'"late"' in timeline


async def test_a_bare_answer_on_a_standing_url(tmp_path: Path) -> None:
    """An unknown id makes a task with the bare answer. An attached task has its type."""
    key = "a key that signs the tokens of these tests"
    token = make_token(Kind.STANDING, new_ref(), "twocaptcha", key.encode())
    async with running_receiver(tmp_path / "receiver.db", signing_keys=key) as api:
        url = f"{api.url}/callback/twocaptcha/{token}"
        await api.register(provider="twocaptcha", taskId=7, type="ImageToTextTask")
        statuses = [
            (await deliver(api, url, "twocaptcha", body=body)).status
            for body in (b"id=7&code=44795sds", b"id=8&code=44795sds&rate=0.00299")
        ]
        attached, unknown = await api.task("7"), await api.task("8")

    assert statuses == [200, 200]
    assert (attached["solution"], attached["taskId"]) == ({"text": "44795sds"}, 7)
    assert (unknown["solution"], unknown["taskId"]) == ({"code": "44795sds"}, 8)


async def test_a_form_without_content_type_and_user_agent(api: Api) -> None:
    """As 2captcha was once seen to send it (providers/README.md, "Form callbacks")."""
    task = await registered(api, "twocaptcha")
    address = urlsplit(task["callbackUrl"])
    body = b"id=73043008354&code=44795sds&rate=0.00299"
    head = (
        f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: */*\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(head.encode() + body)
    async with asyncio.timeout(30):
        answer = await reader.readline()
    writer.transport.abort()

    assert answer.split()[1] == b"200"
    assert (await api.task(task["ref"]))["solution"] == {"text": "44795sds"}
