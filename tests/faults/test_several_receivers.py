"""Several receivers over one PostgreSQL database: wake-ups, cursors, and what only one of them may do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from receiver.domain.records import SECOND
from receiver.domain.transaction import Transaction
from tests.receiver.storage.stores import NOW, a_ref, a_registration, a_standing_delivery, running_store, whole_log
from tests.receiver.web.sockets import subscribed
from tests.support import RunningReceiver, running_receiver

LIMIT_SECONDS = 20


@asynccontextmanager
async def two_receivers(url: str, **settings: Any) -> AsyncIterator[tuple[RunningReceiver, RunningReceiver]]:
    """Yield two receivers over one database."""
    async with running_receiver(url, **settings) as one, running_receiver(url, **settings) as other:
        yield one, other


def at(receiver: RunningReceiver, callback_url: str) -> str:
    """Return a callback URL as a load balancer would lead it to this receiver."""
    return receiver.url + callback_url[callback_url.index("/callback/") :]


@pytest.mark.parametrize("named", ["ref", "taskId"])
async def test_a_waiter_gets_the_callback_that_another_receiver_took(postgres_url: str, named: str) -> None:
    """It is woken by the hint, far earlier than at the end of its wait."""
    async with two_receivers(postgres_url) as (one, other), asyncio.TaskGroup() as group:
        registered = await one.register()
        await one.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "a1"})
        name = {"ref": registered["ref"], "taskId": "a1"}[named]
        waiter = group.create_task(one.send("GET", f"/v1/tasks/{name}", params={"wait": LIMIT_SECONDS}))
        while not one.waiting:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(LIMIT_SECONDS / 2):
            answer = await other.call_back(at(other, registered["callbackUrl"]), taskId="a1")
            task = (await waiter).json

    assert (answer.status, task["status"], task["solution"]) == (200, "ready", {"text": "44795sds"})


async def test_a_waiter_by_an_id_hears_of_a_late_binding_elsewhere(postgres_url: str) -> None:
    """The outcome came first, and another receiver learns the id. No log entry follows, but the waiter is woken."""
    async with two_receivers(postgres_url) as (one, other), asyncio.TaskGroup() as group:
        registered = await other.register()
        await other.call_back(registered["callbackUrl"])
        waiter = group.create_task(
            one.send("GET", "/v1/tasks/a1", params={"wait": LIMIT_SECONDS, "provider": "capsolver"})
        )
        while not one.waiting:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(LIMIT_SECONDS / 2):
            await other.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "a1"})
            task = (await waiter).json

    assert (task["ref"], task["status"]) == (registered["ref"], "ready")


async def test_a_cursor_is_good_at_every_receiver(postgres_url: str) -> None:
    """A websocket sees the callbacks of both in one order, and a page of the other receiver goes on from its cursor."""
    async with two_receivers(postgres_url) as (one, other), subscribed(one, cursor="start") as socket:
        tasks = [await receiver.register() for receiver in (one, other) * 10]
        async with asyncio.TaskGroup() as group:
            for number, task in enumerate(tasks):
                receiver = (one, other)[number % 2]
                group.create_task(receiver.call_back(at(receiver, task["callbackUrl"])))
        frames = [await socket.next() for _ in tasks]
        rest = await other.log(after=frames[11]["cursor"])

    assert {frame["task"]["ref"] for frame in frames} == {task["ref"] for task in tasks}
    assert [entry["cursor"] for entry in rest["results"]] == [frame["cursor"] for frame in frames[12:]]


async def test_one_idempotency_key_makes_one_task_at_two_receivers(postgres_url: str) -> None:
    """Requests with one key at the same time get the same task, wherever they arrive."""
    body = {"provider": "capsolver"}
    async with two_receivers(postgres_url) as (one, other), asyncio.TaskGroup() as group:
        requests = [
            [
                group.create_task(receiver.send("POST", "/v1/tasks", json=body, headers={"Idempotency-Key": key}))
                for receiver in (one, other)
            ]
            for key in "abcdefghij"
        ]

    for one_answer, other_answer in ((first.result(), second.result()) for first, second in requests):
        assert {one_answer.status, other_answer.status} <= {200, 201}
        assert one_answer.json["ref"] == other_answer.json["ref"]


async def test_deliveries_of_one_id_to_two_receivers_make_one_task(postgres_url: str) -> None:
    """Deliveries of a new id on a standing URL, at both receivers at once, make one task with one outcome."""
    async with running_store(postgres_url) as one, running_store(postgres_url) as other:
        async with asyncio.TaskGroup() as group:
            deliveries = [
                group.create_task(store.write(a_standing_delivery(2 * number + place, f"a{number % 4}")))
                for number in range(1, 21)
                for place, store in enumerate((one, other))
            ]
        log = await whole_log(other)

    verdicts = Counter(delivery.result().verdict for delivery in deliveries)
    assert verdicts == {"accepted": 4, "duplicate": 36}
    assert sorted(entry.task.id_text or "" for entry in log if entry.task is not None) == ["a0", "a1", "a2", "a3"]


async def test_due_tasks_go_to_one_receiver_each(postgres_url: str) -> None:
    """Pollers of several receivers take different tasks, and wait for none that another one has locked."""
    async with running_store(postgres_url) as one, running_store(postgres_url) as other:
        for number in range(1, 41):
            await one.write(a_registration(number, task_id=f"a{number}", bound_by="create", is_polled_here=True))
        async with asyncio.TaskGroup() as group:
            takes = [
                group.create_task(store.write(TakeDue("capsolver", NOW + 60 * SECOND, limit=5)))
                for store in (one, other) * 8
            ]

    taken = [ref for take in takes for ref in take.result()]
    assert sorted(taken) == [a_ref(number) for number in range(1, 41)]


@dataclass(frozen=True)
class TakeDue:
    """Takes due tasks under a lease of a minute, and plans no further poll."""

    provider: str
    now: int
    limit: int
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> Sequence[str]:
        """Return the refs."""
        due = transaction.due(self.provider, self.now, self.limit, reach=3600 * SECOND, lease=60 * SECOND)
        for task in due:
            transaction.change(task.evolve(lease=task.lease + 1, leased_until=self.now + 60 * SECOND))
        return [task.ref for task in due]
