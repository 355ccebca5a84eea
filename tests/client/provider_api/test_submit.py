"""createTask without a receiver: a task is submitted once, and each failure is raised as its own error."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from client import (
    ClientClosedError,
    NoBalanceError,
    ProviderRefusedError,
    ProviderUnreachableError,
    SubmitUnknownError,
    TaskClient,
    UnsolvableError,
    WrongKeyError,
)
from client.sandbox import Faults, Sandbox, SandboxSettings
from tests.client.support import (
    AT_ONCE,
    PNG,
    QUICK,
    Reply,
    image_task,
    open_client,
    ready,
    reserved_port,
    scripted_provider,
    solution_of,
)


async def test_synchronous_answer() -> None:
    """A solution in the createTask answer is the result, without a poll."""
    async with Sandbox("capsolver", AT_ONCE) as sandbox, open_client(sandbox.url) as tasks:
        solved = await tasks.solve(image_task())

    assert solved.solution == solution_of(image_task())
    assert (solved.source, sandbox.stats.get_task_result_calls) == ("submit", 0)


async def test_image_file(tmp_path: Path) -> None:
    """A path as `body` is sent as the base64 of the file."""
    path = tmp_path / "image.png"
    path.write_bytes(PNG + (5).to_bytes(4))

    async with Sandbox("capsolver", AT_ONCE) as sandbox, open_client(sandbox.url) as tasks:
        solved = await tasks.solve({"type": "ImageToTextTask", "body": path})

    assert solved.solution == solution_of(image_task(5))


async def test_app_id_is_sent() -> None:
    """Each createTask has the client's appId, and no callbackUrl without a receiver."""
    async with (
        scripted_provider(createTask=Reply({**ready(), "taskId": "t"})) as provider,
        open_client(provider.url, app_id="app") as tasks,
    ):
        await tasks.solve(image_task())

    assert {*provider.calls["createTask"][0]} == {"clientKey", "appId", "task"}


async def test_wrong_key() -> None:
    """An unknown key raises at submit, after one request."""
    settings = SandboxSettings(client_keys=frozenset({"another"}))
    async with Sandbox("capsolver", settings) as sandbox, open_client(sandbox.url) as tasks:
        with pytest.raises(WrongKeyError, match="ERROR_KEY_DOES_NOT_EXIST"):
            await tasks.submit(image_task())

    assert sandbox.stats.create_task_calls == 1


async def test_no_balance() -> None:
    """An empty account raises at submit."""
    async with Sandbox("capsolver", SandboxSettings(balance=0.0)) as sandbox, open_client(sandbox.url) as tasks:
        with pytest.raises(NoBalanceError, match="add funds"):
            await tasks.submit(image_task())


async def test_refused_at_submit() -> None:
    """Any other refusal raises at submit, with the provider's code."""
    refusal = {"errorId": 1, "errorCode": "ERROR_IP_NOT_ALLOWED", "errorDescription": "not from here"}
    async with scripted_provider(createTask=Reply(refusal, 400)) as provider, open_client(provider.url) as tasks:
        with pytest.raises(ProviderRefusedError, match=r"ERROR_IP_NOT_ALLOWED \(not from here\)"):
            await tasks.submit(image_task())


@pytest.mark.parametrize("first", ["C", "\\u0043", "\\\\u0043", "%43", "&#67;"], ids=repr)
async def test_an_error_that_quotes_the_key_does_not_carry_it_on(first: str) -> None:
    """Errors are logged, raised and stored. Their text is kept except for the key, in any spelling."""
    key = "CAP-0123456789ABCDEF0123456789ABCDEF"
    refusal = b'{"errorId":1,"errorCode":"ERROR_IP_NOT_ALLOWED","errorDescription":"%s: not from here"}'
    refusal %= (first + key[1:]).encode()
    async with (
        scripted_provider(createTask=Reply(refusal, 400)) as provider,
        open_client(provider.url, client_key=key) as tasks,
    ):
        with pytest.raises(ProviderRefusedError) as caught:
            await tasks.submit(image_task())

    assert provider.calls["createTask"][0]["clientKey"] == key
    assert key[1:] not in str(caught.value)
    assert "the client key): not from here" in str(caught.value)


async def test_failed_at_submit() -> None:
    """A failure in the createTask answer raises at submit."""
    task = image_task(sandbox={"fails": True})
    async with Sandbox("capsolver", AT_ONCE) as sandbox, open_client(sandbox.url) as tasks:
        with pytest.raises(UnsolvableError, match="ERROR_CAPTCHA_UNSOLVABLE") as caught:
            await tasks.submit(task)

    assert (caught.value.task.status, caught.value.task.source) == ("failed", "submit")


@pytest.mark.parametrize(
    "busy",
    [
        pytest.param(Reply(b"<html>", 429, {"Retry-After": "0.05"}), id="429"),
        pytest.param(Reply(b"", 503, {"Retry-After": "0.05"}), id="503"),
        pytest.param(Reply({"detail": "slow down"}, 429, {"Retry-After": "0.05"}), id="json-of-a-proxy"),
        pytest.param(
            Reply({"errorId": 1, "errorCode": "ERROR_RATE_LIMIT"}, 400, {"Retry-After": "0.05"}), id="in-its-words"
        ),
    ],
)
async def test_busy_provider_is_asked_again(busy: Reply) -> None:
    """If the provider certainly did not take createTask, it is repeated after the provider's pause."""
    replies = [busy, busy, Reply({**ready(), "taskId": "t"})]
    async with scripted_provider(createTask=replies) as provider, open_client(provider.url) as tasks:
        solved = await tasks.solve(image_task())

    assert solved.solution == {"text": "44795sds"}
    assert len(provider.calls["createTask"]) == 3


async def test_busy_for_good() -> None:
    """The refusal is raised after a few repetitions."""
    busy = Reply({"errorId": 1, "errorCode": "ERROR_RATE_LIMIT"}, 400, {"Retry-After": "0.02"})
    async with scripted_provider(createTask=busy) as provider, open_client(provider.url) as tasks:
        with pytest.raises(ProviderRefusedError, match="ERROR_RATE_LIMIT"):
            await tasks.submit(image_task())

    assert len(provider.calls["createTask"]) == 5


async def test_pause_beyond_the_deadline() -> None:
    """A pause beyond the deadline raises at once, for the next task of the key as well."""
    banned = {"errorId": 1, "errorCode": "ERROR_IP_BANNED"}
    async with scripted_provider(createTask=banned) as provider, open_client(provider.url) as tasks:
        with pytest.raises(ProviderRefusedError, match="ERROR_IP_BANNED"):
            await tasks.submit(image_task())
        with pytest.raises(ProviderUnreachableError, match="pause"):
            await tasks.submit(image_task())

    assert len(provider.calls["createTask"]) == 1


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(b"Internal Server Error", 500), id="500"),
        pytest.param(Reply(b"<html>Bad gateway", 502), id="502"),
        pytest.param(Reply(b"<html>Just a moment"), id="html-under-200"),
        pytest.param(Reply({"errorId": 0}), id="neither-an-id-nor-an-error"),
        pytest.param(Reply({"message": "gone"}), id="json-of-something-else"),
        pytest.param(Reply(b" " * (1024 * 1024 + 1)), id="larger-than-any-answer"),
        pytest.param(Reply(cuts=True), id="cut-connection"),
    ],
)
async def test_unclear_submission_is_never_repeated(reply: Reply) -> None:
    """If a task may have been made, the error says so, and nothing is submitted again."""
    async with scripted_provider(createTask=reply) as provider, open_client(provider.url) as tasks:
        with pytest.raises(ProviderUnreachableError, match="a task may have been made"):
            await tasks.submit(image_task())

    assert len(provider.calls["createTask"]) == 1


async def test_provider_that_comes_up() -> None:
    """A refused connection carried no request, so the task is submitted once the provider listens."""
    with reserved_port() as port:
        async with open_client(f"http://127.0.0.1:{port}") as tasks, asyncio.TaskGroup() as group:
            solving = group.create_task(tasks.solve(image_task()))
            await asyncio.sleep(0)
            async with scripted_provider(port, createTask=Reply({**ready(), "taskId": "t"})):
                solved = await solving

    assert solved.status == "ready"


async def test_provider_that_is_not_there() -> None:
    """A provider without a connection raises after a few tries, within seconds."""
    with reserved_port() as port:
        async with open_client(f"http://127.0.0.1:{port}") as tasks:
            with pytest.raises(ProviderUnreachableError, match="no connection"):
                await tasks.submit(image_task())


async def test_client_that_is_not_open() -> None:
    """A client works only inside its block, and only once."""
    async with Sandbox("capsolver", AT_ONCE) as sandbox:
        client = TaskClient("capsolver", client_key="key", provider_url=sandbox.url)
        with pytest.raises(ClientClosedError, match="async with"):
            await client.submit(image_task())
        async with client:
            pass
        with pytest.raises(ClientClosedError):
            await client.solve(image_task())
        with pytest.raises(ClientClosedError, match="once"):
            await client.__aenter__()


async def test_errors_of_the_block_stay_as_they_are() -> None:
    """An error inside the block is raised as itself, not in a group."""
    async with Sandbox("capsolver", SandboxSettings(balance=0.0)) as sandbox:
        with pytest.raises(NoBalanceError):
            async with open_client(sandbox.url) as tasks:
                await tasks.solve(image_task())


async def test_lost_answer_is_told_as_such() -> None:
    """A createTask with a cut connection may have made a task, as in the sandbox here, and is not repeated."""
    faults = Faults(create_task="cut")
    async with Sandbox("capsolver", QUICK, faults_for=lambda _: faults) as sandbox, open_client(sandbox.url) as tasks:
        with pytest.raises(ProviderUnreachableError) as caught:
            await tasks.solve(image_task())

    assert not isinstance(caught.value, SubmitUnknownError)
    assert (sandbox.stats.create_task_calls, sandbox.stats.tasks_made) == (1, 1)
