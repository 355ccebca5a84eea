"""The longest taskId: the same limit on every way in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.receiver.web.sockets import open_events, problem_of, subscribed
from tests.support import RunningReceiver, running_receiver

LONGEST = "a" * 256
TOO_LONG = "a" * 257
_ANSWER = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


def _requests(task_id: str | int, ref: str) -> list[tuple[str, str, dict[str, Any]]]:
    report = {"source": "poll", "answer": _ANSWER}
    return [
        ("POST", "/v1/tasks", {"json": {"provider": "capsolver", "taskId": task_id}}),
        ("POST", "/v1/tasks", {"json": {"provider": "capsolver", "taskId": task_id, "outcome": report}}),
        ("PATCH", f"/v1/tasks/{ref}", {"json": {"taskId": task_id}}),
        ("PUT", f"/v1/tasks/{ref}/outcome", {"json": {**report, "taskId": task_id}}),
        ("PUT", f"/v1/tasks/{ref}/outcome", {"json": {"source": "submit", "answer": {**_ANSWER, "taskId": task_id}}}),
        ("GET", f"/v1/tasks/{task_id}", {}),
        ("GET", f"/v1/tasks/{task_id}?wait=20", {}),
        ("GET", f"/v1/tasks/{task_id}/timeline", {}),
        ("GET", "/v1/results", {"params": {"tasks": f"capsolver:{task_id}"}}),
        ("GET", "/v1/results/stream", {"params": {"tasks": f"capsolver:{task_id}"}}),
    ]


@pytest.mark.parametrize("task_id", [TOO_LONG, 10**256], ids=["text", "integer"])
async def test_requests_that_name_a_longer_one_are_refused(api: RunningReceiver, task_id: str | int) -> None:
    """The problem names the limit and not the id, and nothing is changed."""
    registered = await api.register()

    answers = [
        await api.send(method, path, **options) for method, path, options in _requests(task_id, registered["ref"])
    ]

    assert [answer.status for answer in answers] == [422] * 5 + [404] * 3 + [422] * 2
    assert all("at most 256 characters" in answer.json["detail"] for answer in answers)
    assert not any(str(task_id) in answer.json["detail"] for answer in answers)
    assert (await api.task(registered["ref"]))["taskId"] is None
    assert len((await api.send("GET", "/v1/tasks")).json["tasks"]) == 1


async def test_the_longest_is_taken_on_every_way_in(api: RunningReceiver) -> None:
    """The longest id is accepted by request, by callback, in a query and in a frame."""
    registered = await api.register()
    assert (await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": LONGEST})).status == 200

    async with (
        subscribed(api, tasks=[{"provider": "capsolver", "taskId": LONGEST}]) as socket,
        open_events(api, tasks=f"capsolver:{LONGEST}") as events,
    ):
        await events.next()
        assert (await api.call_back(registered["callbackUrl"], taskId=LONGEST)).status == 200
        frames = [await socket.next(), (await events.next())[2]]

    assert [frame["task"]["taskId"] for frame in frames] == [LONGEST] * 2
    assert (await api.task(LONGEST))["ref"] == registered["ref"]


@pytest.mark.parametrize("frame", ["add", "remove"])
async def test_a_frame_that_names_a_longer_one_is_a_problem(api: RunningReceiver, frame: str) -> None:
    """The frame gets a problem, and the socket goes on."""
    async with subscribed(api, tasks=[]) as socket:
        await socket.ws.send_json({"type": frame, "id": 1, "tasks": [{"provider": "capsolver", "taskId": TOO_LONG}]})

        assert problem_of(problem := await socket.next()) == (1, "wrong-field")
        assert "at most 256 characters" in problem["problem"]["detail"]
        assert (await socket.ask(type="add", id=2, tasks=[]))["id"] == 2


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("capsolver", {"json": {**_ANSWER, "taskId": TOO_LONG}}),
        ("anticaptcha", {"json": {**_ANSWER, "taskId": 10**256}}),
        ("twocaptcha", {"data": {"id": "7" * 257, "code": "x"}}),
        ("hardcaptcha", {"json": {"id": TOO_LONG, "status": "SUCCESS", "result": {"token": "x"}}}),
        ("capsolution", {"json": {"event": "task.completed", "taskId": TOO_LONG, "solution": {"a": 1}}}),
        ("scrapeless", {"json": {"task_id": TOO_LONG, "status": "success", "task_result": "x"}}),
    ],
)
async def test_a_callback_with_a_longer_one_is_unreadable(
    api: RunningReceiver, provider: str, options: dict[str, Any]
) -> None:
    """The callback gets 422 and is a hint: the task goes on, and the next poll brings its outcome."""
    registered = await api.register(provider=provider)

    answer = await api.send("POST", registered["callbackUrl"], key=None, **options)

    assert answer.status == 422
    assert (await api.task(registered["ref"]))["status"] == "processing"
    assert [entry.get("hint") for entry in (await api.log())["results"]] == [True]


async def test_many_wrong_fields_leave_the_loop_free(api: RunningReceiver) -> None:
    """A megabyte of errors gets one problem with the first of them, and does not hold up another request."""
    async with subscribed(api, tasks=[]) as socket:
        async with asyncio.TaskGroup() as group:
            group.create_task(socket.ws.send_json({"type": "add", "id": 1, "tasks": [7] * 300_000}))
            callback = group.create_task(api.call_back((await api.register())["callbackUrl"]))
        assert problem_of(problem := await socket.next()) == (1, "wrong-field")

    assert callback.result().status == 200
    assert problem["problem"]["detail"].startswith("tasks.0")
