"""Unusual providers and answers: no taskId, no address, no API, ids of any size."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import BadArgumentError, TaskClient, UnsolvableError
from client.providers.readings import TaskId
from tests.client.support import PENDING, Reply, image_task, open_client, ready, scripted_provider
from tests.support import running_receiver

_FAILED = {"errorId": 1, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE"}


async def test_answer_without_an_id() -> None:
    """A createTask answer with a solution and no id ends the task, without a poll."""
    async with (
        scripted_provider(createTask=Reply(ready())) as provider,
        open_client(provider.url, provider="ezcaptchasync") as tasks,
    ):
        task = await tasks.submit(image_task())
        solved = await task.result()

    assert (task.task_id, solved.task_id, solved.source) == (None, None, "submit")
    assert solved.solution == {"text": "44795sds"}
    assert [*provider.calls] == ["createTask"]


async def test_answer_without_an_id_reaches_the_receiver(tmp_path: Path) -> None:
    """With a receiver the solution is the outcome of the record, for all other readers."""
    async with (
        running_receiver(tmp_path / "receiver.db") as receiver,
        scripted_provider(createTask=Reply(ready())) as provider,
        open_client(provider.url, receiver.url, provider="ezcaptchasync") as tasks,
    ):
        solved = await tasks.solve(image_task())
        stored = await receiver.task(solved.ref)

    assert (solved.source, solved.task_id) == ("submit", None)
    assert (stored["status"], stored["solution"], stored.get("taskId")) == ("ready", {"text": "44795sds"}, None)


async def test_failure_without_an_id_reaches_the_receiver(tmp_path: Path) -> None:
    """A failure in the createTask answer ends the record as well."""
    async with (
        running_receiver(tmp_path / "receiver.db") as receiver,
        scripted_provider(createTask=Reply(_FAILED)) as provider,
        open_client(provider.url, receiver.url, provider="ezcaptchasync") as tasks,
    ):
        with pytest.raises(UnsolvableError) as caught:
            await tasks.submit(image_task())
        stored = await receiver.task(caught.value.task.ref)

    assert (stored["status"], stored["errorCode"]) == ("failed", "ERROR_CAPTCHA_UNSOLVABLE")


@pytest.mark.parametrize("task_id", [1, 2**53 + 1, 2**63, 10**38, "9007199254740993", "t" * 200])
async def test_ids_of_any_size(tmp_path: Path, task_id: TaskId) -> None:
    """The provider gets its id back digit for digit, with and without a receiver."""
    async with (
        running_receiver(tmp_path / "receiver.db") as receiver,
        scripted_provider(
            createTask=Reply({"errorId": 0, "taskId": task_id}), getTaskResult=[Reply(PENDING), Reply(ready())]
        ) as provider,
    ):
        async with open_client(provider.url, provider="onecaptcha") as tasks:
            alone = await tasks.solve(image_task())
        provider.answers("getTaskResult", Reply(PENDING), Reply(ready()))
        async with open_client(provider.url, receiver.url, provider="onecaptcha") as tasks:
            stored = await tasks.solve(image_task())

    assert (alone.task_id, stored.task_id) == (task_id, task_id)
    assert {call["taskId"] for call in provider.calls["getTaskResult"]} == {task_id}


def test_provider_without_an_address() -> None:
    """Without a known endpoint, the error names the variable for one."""
    with pytest.raises(BadArgumentError, match="CAPSOLUTION_URL"):
        TaskClient("capsolution", client_key="key")


def test_provider_without_an_api() -> None:
    """A provider with known callbacks only is refused before an address is required."""
    with pytest.raises(BadArgumentError, match="only its callbacks are"):
        TaskClient("hardcaptcha", client_key="key", provider_url="http://127.0.0.1:1")


async def test_task_that_the_older_api_cannot_take() -> None:
    """A task that does not fit this provider is refused in the provider's terms, before anything is sent."""
    async with scripted_provider() as provider, open_client(provider.url, provider="twocaptchav1") as tasks:
        with pytest.raises(BadArgumentError, match="key: is set by the client"):
            await tasks.submit({"type": "post", "key": "another"})

    assert not provider.calls
