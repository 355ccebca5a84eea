"""The callback of each family, in its own shape, right and with every fault (providers/README.md, "Callbacks")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from client.sandbox import Sandbox, expected_solution
from tests.client.sandbox.support import TOKEN, Catcher, Caught, create_task, get_task_result, ordered

_Read = Callable[[Caught], tuple[Any, Any]]


def _result(caught: Caught) -> tuple[Any, Any]:
    fields = caught.json
    return fields.get("taskId"), fields["errorCode"] if fields["errorId"] else next(iter(fields["solution"].values()))


def _form(caught: Caught) -> tuple[Any, Any]:
    return caught.form["id"], caught.form["code"]


def _ucaptcha(caught: Caught) -> tuple[Any, Any]:
    return caught.form["captcha_id"], caught.form.get("code")


def _hardcaptcha(caught: Caught) -> tuple[Any, Any]:
    return caught.json["id"], caught.json["result"]["token"]


FAMILIES: dict[str, tuple[_Read, str, str | None]] = {
    # Who: how it is read, its method, what stands for a failure.
    "anticaptcha": (_result, "POST", "ERROR_CAPTCHA_UNSOLVABLE"),
    "hardcaptcha": (_hardcaptcha, "POST", None),
    "nextcaptcha": (_result, "POST", "ERROR_CAPTCHA_UNSOLVABLE"),
    "rucaptcha": (_form, "POST", "ERROR_CAPTCHA_UNSOLVABLE"),
    "twocaptcha": (_form, "POST", "ERROR_CAPTCHA_UNSOLVABLE"),
    "ucaptcha": (_ucaptcha, "GET", None),
}
TASK = {**TOKEN, "type": "AntiTurnstileTask"}


def _answer(dialect: str, task: dict[str, Any]) -> str:
    """Return the text in a callback of this family."""
    solution = expected_solution(dialect, task)
    return next(iter(solution.values())) if dialect in _RESULTS else str(solution["token"])


_RESULTS = {"anticaptcha", "nextcaptcha"}


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_a_success(dialect: str) -> None:
    """The callback names the task and has its answer, by the method of the family."""
    read, method, _ = FAMILIES[dialect]
    async with Catcher() as catcher, Sandbox(dialect) as sandbox:
        created = await create_task(sandbox, ordered(TASK), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    (caught,) = catcher.caught
    task_id, answer = read(caught)
    assert (caught.method, caught.path) == (method, "/callback/capsolver/a-token")
    assert str(task_id) == str(created.json["taskId"])
    assert answer == _answer(dialect, ordered(TASK))


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_a_failure(dialect: str) -> None:
    """A failure is called back in the way of the family."""
    read, _, code = FAMILIES[dialect]
    async with Catcher() as catcher, Sandbox(dialect) as sandbox:
        await create_task(sandbox, ordered(TASK, fails=True), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    assert read(catcher.caught[0])[1] == code


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_faults_keep_the_shape(dialect: str) -> None:
    """A doubled callback comes twice alike, a truncated one is half, and a mixed-up one names another task."""
    read, method, _ = FAMILIES[dialect]
    async with Catcher() as catcher, Sandbox(dialect) as sandbox:
        doubled = await create_task(sandbox, ordered(TASK, 1, callback="twice"), callback_url=catcher.url)
        await sandbox.sent_callbacks(2)
        mixed_up = await create_task(sandbox, ordered(TASK, 2, callback="otherTaskId"), callback_url=catcher.url)
        await sandbox.sent_callbacks(3)
        await create_task(sandbox, ordered(TASK, 1, callback="truncated"), callback_url=catcher.url)
        await sandbox.sent_callbacks(4)
        await create_task(sandbox, ordered(TASK, 4, callback="lost"), callback_url=catcher.url)
        early = await create_task(sandbox, ordered(TASK, 5, callback="early"), callback_url=catcher.url)

    first, second, other, half, last = catcher.caught
    texts = [caught.query or caught.body.decode() for caught in (first, second, half)]
    assert texts[0] == texts[1]
    assert len(texts[2]) == len(texts[0]) // 2
    assert str(read(other)[0]) == str(doubled.json["taskId"])
    assert mixed_up.json["taskId"] != doubled.json["taskId"]
    assert (str(read(last)[0]), last.method) == (str(early.json["taskId"]), method)


async def test_a_form_has_a_rate_and_no_user_agent() -> None:
    """2captcha: id, code and rate, in this order, and no User-Agent (providers/README.md, "Form callbacks")."""
    async with Catcher() as catcher, Sandbox("twocaptcha") as sandbox:
        await create_task(sandbox, ordered(TASK), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    (caught,) = catcher.caught
    assert list(caught.form) == ["id", "code", "rate"]
    assert "User-Agent" not in caught.headers
    assert caught.headers["Content-Type"] == "application/x-www-form-urlencoded"


async def test_a_query_is_added_to_that_of_the_address() -> None:
    """uCaptcha: the query of the address stays, and a failure has status 0 and no code.

    Source: providers/README.md, "Query callbacks".
    """
    async with Catcher() as catcher, Sandbox("ucaptcha") as sandbox:
        await create_task(sandbox, ordered(TASK, fails=True), callback_url=catcher.url + "?mine=1")
        await sandbox.sent_callbacks(1)

    (caught,) = catcher.caught
    assert (list(caught.form), caught.form["mine"], caught.form["status"]) == (
        ["mine", "captcha_id", "status"],
        "1",
        "0",
    )


async def test_a_mixed_up_callback_names_a_task_where_none_is_named() -> None:
    """CapMonster's callback has no id, unless the id of somebody else's task was ordered."""
    async with Catcher() as catcher, Sandbox("capmonster") as sandbox:
        other = await create_task(sandbox, ordered(TASK, 1))
        await create_task(sandbox, ordered(TASK, 2, callback="otherTaskId"), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    assert catcher.caught[0].json["taskId"] == other.json["taskId"]


async def test_a_callback_that_is_late_or_reordered() -> None:
    """A form waits for the poll, and changes places, as JSON does."""
    async with Catcher() as catcher, Sandbox("twocaptcha") as sandbox:
        late = await create_task(sandbox, ordered(TASK, 1, callback="late"), callback_url=catcher.url)
        held = await create_task(sandbox, ordered(TASK, 2, callback="reordered"), callback_url=catcher.url)
        soon = await create_task(sandbox, ordered(TASK, 3, latencySeconds=0.1), callback_url=catcher.url)
        await sandbox.sent_callbacks(2)
        await get_task_result(sandbox, late)
        await sandbox.sent_callbacks(3)

    assert [caught.form["id"] for caught in catcher.caught] == [
        str(reply.json["taskId"]) for reply in (soon, held, late)
    ]
