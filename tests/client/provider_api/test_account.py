"""The balance, and reports of right and wrong answers, in Python and on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from client.errors import BadArgumentError, ProviderRefusedError, ProviderUnreachableError, WrongKeyError
from client.protocol.models import Task
from tests.client.commands.test_command import run_command
from tests.client.support import CREATED, PENDING, Reply, image_task, open_client, ready, scripted_provider

_TAKEN = Reply({"errorId": 0})
_WRONG_KEY = Reply({"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST"})


async def test_report_of_a_task() -> None:
    """A task of this client is reported once, by its id, with the key and the provider's own word."""
    async with (
        scripted_provider(createTask=Reply(ready(taskId="t-1")), feedbackTask=_TAKEN) as provider,
        open_client(provider.url) as tasks,
    ):
        solved = await tasks.submit(image_task())
        await tasks.report_good(solved)
        await tasks.report_bad(await solved.result())

    assert [(call["taskId"], call["result"]) for call in provider.calls["feedbackTask"]] == [
        ("t-1", {"invalid": False}),
        ("t-1", {"invalid": True}),
    ]


async def test_type_of_the_task_chooses_the_request() -> None:
    """A provider with reports by type gets the task's type, or the type given with an id."""
    async with (
        scripted_provider(
            createTask=Reply({**CREATED, "taskId": 2**70}),
            getTaskResult=Reply(ready()),
            reportIncorrectImageCaptcha=_TAKEN,
            reportIncorrectHcaptcha=_TAKEN,
        ) as provider,
        open_client(provider.url, provider="anticaptcha") as tasks,
    ):
        await tasks.report_bad(await tasks.submit(image_task()))
        await tasks.report_bad(7, type="HCaptchaTaskProxyless")

    (image,), (other,) = provider.calls["reportIncorrectImageCaptcha"], provider.calls["reportIncorrectHcaptcha"]
    assert (image["taskId"], other["taskId"]) == (2**70, 7)


@pytest.mark.parametrize(
    ("provider_name", "task_id", "text"),
    [
        ("onecaptcha", "t-1", "no way to report"),
        ("anticaptcha", 7, "takes reports of wrong answers for"),
        ("capsolver", "", "task_id"),
        ("capsolver", True, "task_id"),
    ],
)
async def test_report_that_cannot_be_sent(provider_name: str, task_id: Any, text: str) -> None:
    """A report without an id, or without a request for it in the dialect, is refused before anything is sent."""
    async with scripted_provider() as provider, open_client(provider.url, provider=provider_name) as tasks:
        with pytest.raises(BadArgumentError, match=text):
            await tasks.report_bad(task_id)

    assert not provider.calls


@pytest.mark.parametrize(("change", "text"), [({"provider": "rucaptcha"}, "rucaptcha"), ({"task_id": None}, "taskId")])
async def test_report_of_another_task(change: dict[str, Any], text: str) -> None:
    """A finished task of another provider, or without an id, is not reported."""
    async with scripted_provider(createTask=Reply(ready(taskId="t-1"))) as provider, open_client(provider.url) as tasks:
        solved: Task = await tasks.solve(image_task())
        with pytest.raises(BadArgumentError, match=text):
            await tasks.report_good(solved.model_copy(update=change))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (_WRONG_KEY, WrongKeyError),
        (Reply({"errorId": 1, "errorCode": "ERROR_TASKID_INVALID"}), ProviderRefusedError),
        (Reply({"errorId": 1, "errorCode": "ERROR_OF_TOMORROW"}), ProviderRefusedError),
        (Reply(b"<html>", status=502), ProviderUnreachableError),
    ],
)
async def test_refused_report(reply: Reply, error: type[Exception]) -> None:
    """The refusal of a report is raised, and the report is not repeated."""
    async with scripted_provider(feedbackTask=reply) as provider, open_client(provider.url) as tasks:
        with pytest.raises(error):
            await tasks.report_good("t-1")

    assert len(provider.calls["feedbackTask"]) == 1


async def test_balance_that_is_none() -> None:
    """An answer without an amount is no balance."""
    async with scripted_provider(getBalance=Reply(PENDING)) as provider, open_client(provider.url) as tasks:
        with pytest.raises(ProviderUnreachableError, match="getBalance"):
            await tasks.balance()


async def test_balance_command() -> None:
    """The command prints only the balance."""
    async with scripted_provider(getBalance=Reply({"errorId": 0, "balance": 0.00001})) as provider:
        ran = await run_command(
            *("balance", "--provider", "capsolver", "--provider-url", provider.url), environ=_key("capsolver")
        )

    assert ran == (0, "0.00001\n", "")


async def test_report_command() -> None:
    """The id has the JSON type of the provider's ids. The command prints nothing."""
    async with scripted_provider(reportCorrect=_TAKEN) as provider:
        ran = await run_command(
            *("report", "good", "71234567890", "--provider", "twocaptcha"),
            environ={**_key("twocaptcha"), "TWOCAPTCHA_URL": provider.url},
        )

    assert ran == (0, "", "")
    assert provider.calls["reportCorrect"][0]["taskId"] == 71234567890


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "text"),
    [
        (("balance", "--provider", "capsolver"), {}, 2, "CAPSOLVER_CLIENT_KEY"),
        (
            ("balance", "--provider", "capsolver"),
            None,
            1,
            "HTTP 404 without an answer of this provider, from http://127",
        ),
        (("report", "bad", "t", "--provider", "onecaptcha"), None, 2, "no way to report"),
        (("report", "fine", "t", "--provider", "capsolver"), None, 2, "good"),
        (("report", "good", "t", "--provider", "capsolver"), None, 1, "check the client key"),
    ],
)
async def test_commands_that_fail(
    arguments: tuple[str, ...], environ: dict[str, str] | None, code: int, text: str
) -> None:
    """An error is one line with the documented exit code, without the key."""
    async with scripted_provider(feedbackTask=_WRONG_KEY) as provider:
        keys = {**_key("capsolver"), **_key("onecaptcha")} if environ is None else environ
        ran = await run_command(*arguments, "--provider-url", provider.url, environ=keys)

    assert (ran[0], ran[1], len(ran[2].splitlines())) == (code, "", 1)
    assert text in ran[2]
    assert "tests-only" not in ran[2]


def _key(provider: str) -> dict[str, str]:
    return {f"{provider.upper()}_CLIENT_KEY": "tests-only-client-key"}
