"""Nothing in a sandbox grows for ever."""

from __future__ import annotations

import pytest

from client.sandbox import Sandbox, SandboxSettings
from client.sandbox.faults import FaultPlanner
from client.sandbox.limits import Accounts
from tests.client.sandbox.support import NOW, TOKEN, Catcher, create_task, get_task_result, ordered


async def test_the_oldest_tasks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest task is not known any more."""
    monkeypatch.setattr("client.sandbox.service._MOST_TASKS", 2)
    async with Sandbox("capsolver", NOW) as sandbox:
        created = [await create_task(sandbox, TOKEN) for _ in range(3)]
        replies = [await get_task_result(sandbox, reply) for reply in created]
        polls = sandbox.stats.polls

    assert [reply.status for reply in replies] == [400, 200, 200]
    assert list(polls) == [reply.json["taskId"] for reply in created[1:]]


async def test_callbacks_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a callback is not sent, but counted."""
    monkeypatch.setattr("client.sandbox.callbacks._MOST_WAITING", 1)
    async with Catcher() as catcher, Sandbox("capsolver") as sandbox:
        waits = await create_task(sandbox, ordered(TOKEN, callback="late"), callback_url=catcher.url)
        await create_task(sandbox, ordered(TOKEN, 1), callback_url=catcher.url)
        await get_task_result(sandbox, waits)
        await sandbox.sent_callbacks(1)
        faults = sandbox.stats.faults

    assert catcher.ids == [waits.json["taskId"]]
    assert faults == {"callback.dropped": 1, "callback.late": 1}


def test_the_oldest_contents_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a content counts as new again."""
    monkeypatch.setattr("client.sandbox.faults._MOST_CONTENTS", 2)
    planner = FaultPlanner(SandboxSettings(), None)
    for content in ("a", "b", "a", "c"):
        planner.plan({"type": content}, None)

    assert [planner.plan({"type": content}, None).times_seen for content in ("a", "b")] == [2, 0]


def test_the_oldest_accounts_are_forgotten() -> None:
    """Of more than 10,000 keys the first one has its first balance again."""
    accounts = Accounts(keys=(), balance=1.0, cost=0.5)
    for number in range(10_001):
        accounts.charge(str(number))

    assert (accounts.balance("0"), accounts.balance("1")) == (1.0, 0.5)
