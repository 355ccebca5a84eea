"""The timeline of a task: its events in order, named as in the log, bounded, without secrets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from client import Step, Task, WrongKeyError
from client.provider_api.timeline import MAX_STEPS, Timeline
from client.sandbox import Sandbox
from tests.client.support import (
    CREATED,
    FAST,
    PENDING,
    QUICK,
    REGISTERED,
    STORED,
    Reply,
    fast,
    image_task,
    open_client,
    ready,
    reserved_port,
    says,
    scripted_provider,
    scripted_receiver,
)
from tests.support import eventually, running_receiver

_START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _timeline() -> Timeline:
    times = (_START + timedelta(seconds=number) for number in range(10_000))
    return Timeline(lambda: next(times), lambda: {"provider": "capsolver", "ref": "ref-1", "taskId": None})


def _names(steps: tuple[Step, ...]) -> list[str]:
    return [step.happened for step in steps]


def _facts(task: Task, happened: str) -> dict[str, Any]:
    return dict(next(step.facts for step in task.timeline() if step.happened == happened))


def test_one_call_writes_both() -> None:
    """A logged event is in the timeline under the same name. The log line has the task's ids as well."""
    timeline = _timeline()

    with capture_logs() as lines:
        timeline.info("task.bound", taskId=7)
        timeline.warning("poll.failed", reason="no answer")
        timeline.note("hint.received")

    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("task.bound", "info"),
        ("poll.failed", "warning"),
    ]
    assert {"provider": "capsolver", "ref": "ref-1", "taskId": 7}.items() <= lines[0].items()
    assert timeline.steps() == (
        Step(_START, "task.bound", {"taskId": 7}),
        Step(_START + timedelta(seconds=1), "poll.failed", {"reason": "no answer"}),
        Step(_START + timedelta(seconds=2), "hint.received", {}),
    )


def test_steps_cannot_be_changed() -> None:
    """A caller gets the timeline's own steps, so they are read-only."""
    timeline = _timeline()
    timeline.note("task.bound", taskId=7)

    with pytest.raises(TypeError):
        timeline.steps()[0].facts["taskId"] = 8  # type: ignore[index]  # that it fails is what is tested


def test_oldest_polls_become_a_count() -> None:
    """Beyond the bound the oldest polls become a count, at the place of the first of them."""
    timeline = _timeline()
    timeline.note("task.registered")
    for number in range(200):
        timeline.note("task.polled", polls=number)
    timeline.note("task.finished")

    steps = timeline.steps()
    collapsed = 200 - (MAX_STEPS - 3)
    assert len(steps) == MAX_STEPS
    assert _names(steps[:3]) == ["task.registered", "polls.collapsed", "task.polled"]
    assert (steps[1].at, steps[1].facts["count"]) == (_START + timedelta(seconds=1), collapsed)
    assert steps[1].facts["until"] == _START + timedelta(seconds=collapsed)
    assert (steps[2].facts["polls"], steps[-1].happened) == (collapsed, "task.finished")


def test_without_polls_later_steps_become_a_count() -> None:
    """Without polls the oldest steps after the first few become a count."""
    timeline = _timeline()
    for number in range(500):
        timeline.note("reader.broken", number=number)

    steps = timeline.steps()
    assert len(steps) == MAX_STEPS
    assert [step.facts.get("number") for step in steps[:8]] == list(range(8))
    assert (steps[8].happened, steps[8].facts["count"]) == ("steps.collapsed", 500 - (MAX_STEPS - 1))
    assert steps[-1].facts["number"] == 499


async def test_by_callback(tmp_path: Path) -> None:
    """A task with a callback is registered, submitted, bound, and finished by the log."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        scripted_provider(createTask=CREATED) as provider,
        open_client(provider.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        await eventually(lambda: "reader.connected" in _names(task.timeline()))
        await receiver.call_back(provider.calls["createTask"][0]["callbackUrl"], taskId="task-1")
        await task.result(timeout=30)

    names = _names(task.timeline())
    assert set(names) == {"task.registered", "reader.connected", "task.submitted", "task.bound", "task.finished"}
    assert (names[0], names[-1]) == ("task.registered", "task.finished")
    assert _facts(task, "task.registered") == {"ref": task.ref, "hasCallbackUrl": True}
    assert _facts(task, "task.submitted") == {"taskId": "task-1", "hasCallback": True, "state": "idle"}
    finished = {"status": "ready", "errorCode": None, "source": "callback", "heardBy": "log", "polls": 0}
    assert _facts(task, "task.finished") == finished


async def test_by_polls() -> None:
    """The timeline says that there is no receiver, and has the answer to each poll."""
    refused = Reply({"errorId": 1, "errorCode": "ERROR_RATE_LIMIT"}, 400, {"Retry-After": "0.1"})
    unknown = Reply({"errorId": 1, "errorCode": "ERROR_TASKID_INVALID"}, 400)
    replies = [Reply(PENDING), Reply(cuts=True), unknown, refused, Reply(ready())]
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=replies) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        await task.result(timeout=30)

    steps = task.timeline()
    polls = [step.facts for step in steps if step.happened == "task.polled"]
    assert _names(steps[:3]) == ["registration.skipped", "task.submitted", "task.polled"]
    assert steps[0].facts == {"reason": "there is no receiver"}
    assert polls == [
        {"polls": 1, "said": "Pending", "state": "processing"},
        {"polls": 3, "said": "Unknown", "errorCode": "ERROR_TASKID_INVALID"},
        {"polls": 4, "said": "Refused", "errorCode": "ERROR_RATE_LIMIT"},
        {"polls": 5, "said": "Ready"},
    ]
    assert _facts(task, "poll.failed")["reason"].startswith("capsolver: getTaskResult")
    assert _facts(task, "provider.paused") == {"errorCode": "ERROR_RATE_LIMIT", "seconds": 0.1}
    assert _facts(task, "poll.postponed")["reason"] == "the key is paused"
    assert (_facts(task, "task.finished")["source"], _facts(task, "task.finished")["heardBy"]) == ("poll", "poll")


async def test_pauses_before_it_was_submitted() -> None:
    """A repeated createTask is in the timeline with its pause, with or without a code of the provider."""
    busy = [Reply({"errorId": 1, "errorCode": "ERROR_RATE_LIMIT"}, 429, {"Retry-After": "0.05"}), Reply(b"", 503)]
    async with (
        scripted_provider(createTask=[*busy, Reply(CREATED)], getTaskResult=ready()) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.submit(image_task())

    pauses = [step.facts.get("errorCode") for step in task.timeline() if step.happened == "provider.paused"]
    assert pauses == ["ERROR_RATE_LIMIT", None]


async def test_hint_and_report(tmp_path: Path) -> None:
    """An unreadable callback is a hint, followed by a poll and a report."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        task = await tasks.submit(image_task(sandbox={"callback": "truncated"}))
        await task.result(timeout=30)

    names = _names(task.timeline())
    assert names.index("hint.received") < names.index("task.polled") < names.index("outcome.reported")
    assert _facts(task, "outcome.reported") == {"source": "poll"}


async def test_receiver_that_goes_away(tmp_path: Path) -> None:
    """The timeline of a waiting task has the loss of the receiver and its return."""
    with reserved_port() as port:
        async with (
            scripted_provider(createTask=CREATED, getTaskResult=PENDING) as provider,
            open_client(provider.url, f"http://127.0.0.1:{port}") as tasks,
        ):
            async with running_receiver(tmp_path / "receiver.db", dialects=FAST, port=port):
                task = await tasks.submit(image_task())
                await eventually(lambda: "reader.connected" in _names(task.timeline()))
            await eventually(lambda: "receiver.lost" in _names(task.timeline()))
            async with running_receiver(tmp_path / "receiver.db", dialects=FAST, port=port):
                await eventually(lambda: "receiver.found" in _names(task.timeline()))

    assert task.timeline()[-1].happened == "task.abandoned"


async def test_without_websockets() -> None:
    """Without websockets the timeline says that long polls replace them."""
    routes = {
        "register": says(REGISTERED, 201),
        "bind": says({**STORED, "status": "processing"}),
        "results": says({"results": [], "cursor": "c0"}),
    }
    async with (
        scripted_receiver(**routes) as receiver_url,
        scripted_provider(createTask=CREATED) as provider,
        open_client(provider.url, receiver_url) as tasks,
    ):
        task = await tasks.submit(image_task())
        await eventually(lambda: "reader.fell_back" in _names(task.timeline()))

    assert "404" in _facts(task, "reader.fell_back")["reason"]


async def test_receiver_that_is_down(tmp_path: Path) -> None:
    """If the receiver did not answer, the registration is skipped and the report is postponed."""
    with reserved_port() as port:
        async with (
            scripted_provider(createTask=CREATED, getTaskResult=ready()) as provider,
            open_client(provider.url, f"http://127.0.0.1:{port}") as tasks,
        ):
            task = await tasks.submit(image_task())
            await task.result(timeout=30)

    assert _facts(task, "registration.skipped") == {"reason": "the receiver did not answer"}
    assert "report.postponed" in _names(task.timeline())


async def test_attached(tmp_path: Path) -> None:
    """The timeline of an attached task begins there. Earlier events are not known to this client."""
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=FAST) as receiver,
        Sandbox("capsolver", QUICK) as sandbox,
        open_client(sandbox.url, receiver.url) as tasks,
    ):
        solved = await tasks.solve(image_task())
        assert solved.task_id is not None
        task = await tasks.attach(solved.task_id)

    assert _names(task.timeline()) == ["task.attached", "task.finished"]
    assert _facts(task, "task.finished")["heardBy"] == "registration"


async def test_refused_poll() -> None:
    """A refused key at a poll ends the wait but not the task. The timeline says so."""
    refusal = Reply({"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST"}, 401)
    async with (
        scripted_provider(createTask=CREATED, getTaskResult=refusal) as provider,
        open_client(provider.url) as tasks,
    ):
        task = await tasks.submit(image_task())
        with pytest.raises(WrongKeyError):
            await task.result(timeout=30)

    assert _names(task.timeline())[-1] == "poll.refused"
    assert _facts(task, "poll.refused")["errorCode"] == "ERROR_KEY_DOES_NOT_EXIST"


async def test_no_secrets(tmp_path: Path) -> None:
    """No step holds the client key, the callback URL or the solution."""
    dialects = fast(first_after_callback_seconds=0.05)
    async with (
        running_receiver(tmp_path / "receiver.db", dialects=dialects) as receiver,
        scripted_provider(createTask=CREATED, getTaskResult=[Reply(PENDING), Reply(ready())]) as provider,
        open_client(provider.url, receiver.url, dialects=dialects) as tasks,
    ):
        task = await tasks.submit(image_task())
        await task.result(timeout=30)

    text = repr(task.timeline())
    assert "task.polled" in text
    assert [secret for secret in ("tests-only-client-key", "/callback/", "44795sds") if secret in text] == []
