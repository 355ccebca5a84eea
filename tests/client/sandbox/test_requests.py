"""Requests of callers: odd but right, and wrong."""

from __future__ import annotations

from typing import Any

import pytest

from client.sandbox import Sandbox, SandboxSettings, expected_solution
from tests.client.sandbox.support import IMAGE, KEY, NOW, TOKEN, call, create_task, get_task_result

_CALLS = ["/createTask", "/getTaskResult", "/getBalance"]


@pytest.mark.parametrize("as_type", ["application/json", "text/html", "application/x-www-form-urlencoded"])
async def test_json_is_read_whatever_the_content_type(as_type: str) -> None:
    """The content type of a request does not matter."""
    async with Sandbox("capsolver", NOW) as sandbox:
        body = {"clientKey": KEY, "task": TOKEN, "appId": "an-app", "source": "a-library", "callbackUrl": None}
        reply = await call(sandbox, "/createTask", body, as_type=as_type)

    assert reply.json["errorId"] == 0


async def test_a_byte_order_mark_is_skipped() -> None:
    """A body may begin with a byte order mark."""
    async with Sandbox("capsolver") as sandbox:
        reply = await call(sandbox, "/getBalance", b'\xef\xbb\xbf{"clientKey": "a"}')

    assert reply.json["errorId"] == 0


@pytest.mark.parametrize("path", _CALLS)
@pytest.mark.parametrize("body", [b"", b"{", b"clientKey=a", b"[1]", b'"a"', b"\xff\xfe", b"[" * 5000, b'{"a": 1e999}'])
async def test_garbage_is_an_error_in_json(path: str, body: bytes) -> None:
    """Bytes without a JSON object get an error of the family."""
    async with Sandbox("capsolver") as sandbox:
        reply = await call(sandbox, path, body)

    assert (reply.status, reply.json["errorId"], reply.json["errorCode"]) == (400, 1, "ERROR_BAD_REQUEST")


@pytest.mark.parametrize("path", _CALLS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_wrong_method(path: str, method: str) -> None:
    """A method other than POST is answered by 405, in JSON, with the allowed method."""
    async with Sandbox("onecaptcha") as sandbox:
        reply = await call(sandbox, path, method=method)

    assert (reply.status, reply.headers["Allow"], reply.json["errorId"]) == (405, "POST", 1)


async def test_wrong_path() -> None:
    """An unknown path is answered by 404, in JSON."""
    async with Sandbox("capsolver") as sandbox:
        reply = await call(sandbox, "/getToken", {"clientKey": KEY})

    assert (reply.status, reply.json["errorCode"]) == (404, "ERROR_BAD_REQUEST")


async def test_a_body_that_is_too_large() -> None:
    """A body of more than 16 MB is answered by 413, in JSON."""
    async with Sandbox("capsolver") as sandbox:
        reply = await call(sandbox, "/createTask", bytes(16 * 1024 * 1024 + 1))

    assert (reply.status, reply.json["errorCode"]) == (413, "ERROR_BAD_REQUEST")


@pytest.mark.parametrize("path", _CALLS)
@pytest.mark.parametrize("key", [{}, {"clientKey": ""}, {"clientKey": None}, {"clientKey": 5}])
async def test_a_key_is_needed(path: str, key: dict[str, Any]) -> None:
    """Any key is right by default, but not an empty or a missing one."""
    async with Sandbox("capsolver") as sandbox:
        reply = await call(sandbox, path, {"task": TOKEN, "taskId": "1", **key})

    assert (reply.status, reply.json["errorCode"]) == (401, "ERROR_KEY_DOES_NOT_EXIST")


@pytest.mark.parametrize("path", _CALLS)
async def test_only_the_keys_named_are_right(path: str) -> None:
    """If keys are named, another key is wrong in every call."""
    async with Sandbox("capsolver", SandboxSettings(client_keys=frozenset({KEY, "b"}))) as sandbox:
        wrong = await call(sandbox, path, {"clientKey": "c", "task": TOKEN, "taskId": "1"})
        right = await call(sandbox, path, {"clientKey": "b", "task": TOKEN, "taskId": "1"})

    assert wrong.json["errorCode"] == "ERROR_KEY_DOES_NOT_EXIST"
    assert right.json.get("errorCode") != "ERROR_KEY_DOES_NOT_EXIST"


@pytest.mark.parametrize(
    ("task", "named"),
    [
        (None, "task: "),
        ([], "task: "),
        ({}, "task.type: "),
        ({"type": 5}, "task.type: "),
        ({"type": "ImageToTextTask"}, "task.body: "),
        ({"type": "ImageToTextTask", "body": ""}, "task.body: "),
        ({**TOKEN, "sandbox": {"callback": "gone"}}, "task.sandbox.callback: "),
        ({**TOKEN, "sandbox": 5}, "task.sandbox: "),
    ],
)
@pytest.mark.parametrize("provider", ["capsolver", "onecaptcha"])
async def test_wrong_tasks_are_named(provider: str, task: Any, named: str) -> None:
    """A wrong task is ERROR_INVALID_TASK_DATA with the field in its text, and no task is made."""
    async with Sandbox(provider) as sandbox:
        reply = await call(sandbox, "/createTask", {"clientKey": KEY, "task": task})
        tasks_made = sandbox.stats.tasks_made

    assert tasks_made == 0
    assert reply.json["errorCode"] == "ERROR_INVALID_TASK_DATA"
    assert reply.json["errorDescription"].startswith(f"invalid task data: {named}")


@pytest.mark.parametrize(
    ("field", "named"), [({"imageType": None}, "task.imageType: "), ({"body": "iVBO\nRw0K"}, "task.body: ")]
)
async def test_onecaptcha_wants_an_image_type_and_no_line_breaks(field: dict[str, Any], named: str) -> None:
    """1captcha.vip: `imageType` is required and `body` has no line breaks (seed: 1captcha, lines 18 and 19)."""
    async with Sandbox("onecaptcha") as sandbox:
        reply = await create_task(sandbox, {**IMAGE, **field})

    assert reply.json["errorDescription"].startswith(f"invalid task data: {named}")


@pytest.mark.parametrize(
    "url", ["ftp://example.com/", "/callback", "http://", "http://[", "http://a:99999/", 5, "x" * 3000]
)
async def test_a_callback_url_that_is_none(url: Any) -> None:
    """A wrong address is an error with the name of the field, and no task is made."""
    async with Sandbox("capsolver") as sandbox:
        reply = await create_task(sandbox, TOKEN, callback_url=url)
        tasks_made = sandbox.stats.tasks_made

    assert (reply.json["errorCode"], tasks_made) == ("ERROR_INVALID_TASK_DATA", 0)
    assert "callbackUrl: " in reply.json["errorDescription"]


@pytest.mark.parametrize("task_id", [None, "", 0, 5, True, [], "37223a89-06ed-442c-a0b8-22067b79c5b4"])
@pytest.mark.parametrize("provider", ["capsolver", "onecaptcha"])
async def test_an_id_that_is_not_known(provider: str, task_id: Any) -> None:
    """An id never given out is ERROR_TASKID_INVALID."""
    async with Sandbox(provider) as sandbox:
        reply = await call(sandbox, "/getTaskResult", {"clientKey": KEY, "taskId": task_id})

    assert reply.json["errorCode"] == "ERROR_TASKID_INVALID"


async def test_a_task_of_another_key() -> None:
    """A task is known only to its own key."""
    async with Sandbox("capsolver", NOW) as sandbox:
        reply = await get_task_result(sandbox, await create_task(sandbox, TOKEN, key="one"), key="other")

    assert reply.json["errorCode"] == "ERROR_TASKID_INVALID"


async def test_the_field_sandbox_is_no_content() -> None:
    """Ordered faults do not change the answer."""
    async with Sandbox("capsolver") as sandbox:
        created = await create_task(sandbox, {**TOKEN, "sandbox": {"latencySeconds": 0}})
        reply = await get_task_result(sandbox, created)

    assert reply.json["solution"] == expected_solution("capsolver", TOKEN)


async def test_a_task_costs_and_no_balance_is_an_error() -> None:
    """Each task takes its price. A smaller rest makes no task."""
    async with Sandbox("capsolver", SandboxSettings(balance=0.25, cost=0.1, latency_seconds=(0.0, 0.0))) as sandbox:
        replies = [await create_task(sandbox, TOKEN) for _ in range(3)]
        balance = await call(sandbox, "/getBalance", {"clientKey": KEY})
        other = await create_task(sandbox, TOKEN, key="another")

    assert [reply.json["errorCode"] for reply in replies] == ["", "", "ERROR_ZERO_BALANCE"]
    assert (replies[2].status, balance.json["balance"], other.json["errorId"]) == (400, 0.05, 0)


async def test_a_failed_task_costs_nothing() -> None:
    """The price of a failed task is given back."""
    async with Sandbox("capsolver", SandboxSettings(balance=1.0, cost=0.1)) as sandbox:
        await create_task(sandbox, {**TOKEN, "sandbox": {"fails": True}})
        balance = await call(sandbox, "/getBalance", {"clientKey": KEY})

    assert balance.json["balance"] == 1.0


async def test_no_balance_from_the_start() -> None:
    """An empty account makes no task, even where tasks are free."""
    async with Sandbox("onecaptcha", SandboxSettings(balance=0.0, cost=0.0)) as sandbox:
        reply = await create_task(sandbox, IMAGE)

    assert (reply.status, reply.json["errorCode"]) == (200, "ERROR_ZERO_BALANCE")
