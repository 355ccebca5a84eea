"""Each fault of a callback."""

from __future__ import annotations

from client.sandbox import Sandbox, SandboxLimits, SandboxSettings, expected_solution
from tests.client.sandbox.support import TOKEN, Catcher, create_task, get_task_result, ordered


async def test_lost() -> None:
    """A lost callback is never sent, and the result can be polled."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        lost = await create_task(sandbox, ordered(TOKEN, callback="lost"), callback_url=catcher.url)
        other = await create_task(sandbox, ordered(TOKEN, 1), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)
        polled = await get_task_result(sandbox, lost)
        stats = sandbox.stats

    assert catcher.ids == [other.json["taskId"]]
    assert polled.json["status"] == "ready"
    assert (stats.faults, stats.callbacks_sent) == ({"callback.lost": 1}, 1)


async def test_late() -> None:
    """A late callback waits until a poll has fetched the outcome."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        late = await create_task(sandbox, ordered(TOKEN, callback="late"), callback_url=catcher.url)
        other = await create_task(sandbox, ordered(TOKEN, 1), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)
        ids_before = list(catcher.ids)
        await get_task_result(sandbox, late)
        await sandbox.sent_callbacks(2)

    assert ids_before == [other.json["taskId"]]
    assert catcher.ids == [other.json["taskId"], late.json["taskId"]]


async def test_late_without_a_poll() -> None:
    """Without a poll, a late callback comes once the result can be read no longer."""
    async with (
        Catcher() as catcher,
        Sandbox("capsolver", SandboxSettings(limits=SandboxLimits(window_seconds=0.2))) as sandbox,
    ):
        late = await create_task(sandbox, ordered(TOKEN, callback="late"), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    assert catcher.ids == [late.json["taskId"]]


async def test_late_after_a_poll_that_came_first() -> None:
    """If the outcome was fetched before a late callback is due, it is sent at its time."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        task = ordered(TOKEN, callback="late", callbackDelaySeconds=0.2)
        late = await create_task(sandbox, task, callback_url=catcher.url)
        await get_task_result(sandbox, late)
        await sandbox.sent_callbacks(1)

    assert catcher.ids == [late.json["taskId"]]


async def test_twice() -> None:
    """A doubled callback comes two times, with the same body."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        await create_task(sandbox, ordered(TOKEN, callback="twice"), callback_url=catcher.url)
        await sandbox.sent_callbacks(2)

    assert len(catcher.caught) == 2
    assert catcher.caught[0].body == catcher.caught[1].body


async def test_early() -> None:
    """An early callback has been answered before createTask answers."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, callback="early"), callback_url=catcher.url)
        ids = list(catcher.ids)
        polled = await get_task_result(sandbox, created)
        stats = sandbox.stats

    assert ids == [created.json["taskId"]]
    assert polled.json["status"] == "ready"
    assert (stats.faults, stats.callbacks_sent) == ({"callback.early": 1}, 1)


async def test_reordered() -> None:
    """A reordered callback comes after the callback of a task finished later."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        first = await create_task(sandbox, ordered(TOKEN, callback="reordered"), callback_url=catcher.url)
        second = await create_task(sandbox, ordered(TOKEN, 1, latencySeconds=0.1), callback_url=catcher.url)
        await sandbox.sent_callbacks(2)

    assert catcher.ids == [second.json["taskId"], first.json["taskId"]]


async def test_two_reordered_change_places() -> None:
    """Two reordered callbacks do not wait for each other for ever."""
    async with Catcher() as catcher, Sandbox("capsolver", SandboxSettings(reorder_seconds=60.0)) as sandbox:
        first = await create_task(sandbox, ordered(TOKEN, callback="reordered"), callback_url=catcher.url)
        second = await create_task(
            sandbox, ordered(TOKEN, 1, callback="reordered", latencySeconds=0.1), callback_url=catcher.url
        )
        await sandbox.sent_callbacks(2)

    assert catcher.ids == [second.json["taskId"], first.json["taskId"]]


async def test_reordered_alone() -> None:
    """A reordered callback without a follower comes after a while."""
    async with Catcher() as catcher, Sandbox("capsolver", SandboxSettings(reorder_seconds=0.1)) as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, callback="reordered"), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    assert catcher.ids == [created.json["taskId"]]


async def test_truncated() -> None:
    """A truncated callback is half a body, and no JSON."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        await create_task(sandbox, ordered(TOKEN, callback="truncated"), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    body = catcher.caught[0].body
    assert body.startswith(b'{"errorId":0')
    assert not body.endswith(b"}")


async def test_other_task_id() -> None:
    """A callback can carry the id of somebody else's task, with the solution of its own."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        somebody = await create_task(sandbox, TOKEN, key="somebody-else")
        task = ordered(TOKEN, callback="otherTaskId")
        await create_task(sandbox, task, callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    assert catcher.caught[0].json["taskId"] == somebody.json["taskId"]
    assert catcher.caught[0].json["solution"] == expected_solution("capsolver", task)


async def test_other_task_id_where_there_is_no_other() -> None:
    """Without another task, the callback carries an id never given out."""
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        created = await create_task(sandbox, ordered(TOKEN, callback="otherTaskId"), callback_url=catcher.url)
        await sandbox.sent_callbacks(1)

    assert catcher.ids != [created.json["taskId"]]
