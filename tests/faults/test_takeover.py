"""Work of a receiver that died goes on in another one, and work of several at once is done once."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from client.providers import DIALECTS
from client.providers.readings import CallbackReading, Ready
from receiver.app import microseconds_now
from receiver.domain import deliveries
from receiver.domain.access.api_keys import AddKey, RevokeKeys
from receiver.domain.deliveries import DeliverToStanding, DeliveryRules
from receiver.domain.records import SECOND, Removed, UnlistedCode
from receiver.domain.shapes import Shape, ShapeRecord
from receiver.domain.sharing.leases import TakeLease
from receiver.errors import ReceiverError
from receiver.storage.store import Store
from receiver.upkeep import retention
from receiver.upkeep.retention import RetentionTimes, keep_pruning
from receiver.upkeep.shapes import AddShapes, AddUnlisted
from receiver.upstream.schedules import Schedules
from tests.client.support import fast
from tests.receiver.keys import a_key
from tests.receiver.storage.stores import (
    NOW,
    QUOTAS,
    a_delivery,
    a_ref,
    a_registration,
    change,
    delivery_to_standing,
    query,
    running_store,
)
from tests.receiver.upstream.test_reconciler import (
    KEY,
    READY,
    Provider,
    ended,
    provider,
    reconciling,
    submitted,
)
from tests.support import Api, eventually, receiver_process, running_receiver

__all__ = ["provider"]

OVERDUE = "UPDATE task SET deadline_at = 1"
HELD_LONG_ENOUGH = "UPDATE task SET held_until = 1"
SLOW = fast(first_after_callback_seconds=200.0, first_after_seconds=200.0)


async def test_a_killed_receiver_is_replaced(database: Path | str, provider: Provider) -> None:
    """Another one polls its task once the lease has run out, and ends the one whose deadline has come."""
    provider.gate.clear()
    keys, urls = json.dumps({"capsolver": KEY}), json.dumps({"capsolver": provider.url})
    async with (
        receiver_process(database, port=0, provider_keys=keys, provider_urls=urls) as process,
        aiohttp.ClientSession() as session,
    ):
        api = Api(process.url, session)
        polled = await submitted(api, "a1")
        change(database, "UPDATE task SET next_poll_at = 1")
        await eventually(lambda: provider.under_way == 1)
        mortal = await api.register(timeoutSeconds=3)
        async with reconciling(database, provider) as other:
            assert await process.stop(signal.SIGKILL) == -signal.SIGKILL
            before = list(provider.asked)
            provider.answers["a1"] = READY
            provider.gate.set()
            expired = await ended(other, mortal["ref"])
            task = await ended(other, polled["ref"])
            steps = (await other.send("GET", f"/v1/tasks/{polled['ref']}/timeline")).json["steps"]

    assert (expired["status"], expired["source"]) == ("failed", "deadline")
    assert (before, task["status"], task["source"]) == (["a1"], "ready", "poll")
    assert provider.asked == ["a1", "a1"]
    assert [step["happened"] for step in steps if step["happened"].startswith("poll")] == [
        "poll.cutOff",
        "poll.completed",
    ]


@pytest.mark.parametrize("overdue", [OVERDUE, HELD_LONG_ENOUGH], ids=["deadlines", "held callbacks"])
async def test_several_receivers_end_each_task_once(
    database: Path | str, provider: Provider, monkeypatch: pytest.MonkeyPatch, overdue: str
) -> None:
    """All look for overdue tasks and held callbacks at once. Each task has one outcome, and one entry in the log."""
    monkeypatch.setattr(deliveries, "HOLD", 600 * SECOND)
    settings = {"confirm_callbacks": "always"} if overdue is HELD_LONG_ENOUGH else {}
    async with AsyncExitStack() as stack:
        receivers = [
            await stack.enter_async_context(reconciling(database, provider, SLOW, **settings)) for _ in range(3)
        ]
        for number in range(60):
            registered = await receivers[number % 3].register()
            if overdue is HELD_LONG_ENOUGH:
                await receivers[number % 3].call_back(registered["callbackUrl"])
        change(database, overdue)
        async with asyncio.timeout(30):
            while query(database, "SELECT count(*) FROM task WHERE status = 'processing'") != [(0,)]:
                await asyncio.sleep(0.05)
        log = await receivers[0].log(limit="1000", hints="false")

    entries = Counter(entry["task"]["ref"] for entry in log["results"])
    assert sorted(entries.values()) == [1] * 60


async def test_retention_is_taken_over_from_a_receiver_that_died(
    database: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another one holds the lease nothing is removed. After its end the next round removes everything old."""
    monkeypatch.setattr(retention, "_ROUND_SECONDS", 0.05)
    times = RetentionTimes(results_seconds=60, solutions_seconds=60, deliveries_seconds=60, most_finished=1000)
    forgotten: list[int] = []
    async with running_store(database) as store, asyncio.TaskGroup() as group:
        await store.write(a_registration(1))
        await store.write(a_delivery(1))
        assert await store.write(TakeLease(name="retention", holder="killed", seconds=60.0))
        later = NOW + 120 * SECOND
        pruning = group.create_task(keep_pruning(store, times, lambda: later, forgotten.append, holder="next"))
        await eventually(lambda: len(forgotten) >= 4)
        kept = await store.task(a_ref(1))
        change(database, "UPDATE lease SET ends_at = ends_at - 60000000")
        async with asyncio.timeout(30):
            while await store.task(a_ref(1)) is not None:
                await asyncio.sleep(0.02)
        pruning.cancel()

    assert kept is not None


async def test_receivers_that_prune_at_once_remove_each_task_once(database: Path | str) -> None:
    """Even without a lease: the store carries out one step after another, and counts nothing twice."""
    horizon = RetentionTimes(
        results_seconds=60, solutions_seconds=60, deliveries_seconds=60, most_finished=1000
    ).horizon(NOW + 120 * SECOND)
    removed: list[list[Removed]] = []
    async with running_store(database) as one, running_store(database) as other:
        for number in range(1, 81):
            await one.write(a_registration(number))
            await one.write(a_delivery(number))
        async with asyncio.TaskGroup() as group:
            for store in (one, other):
                sums: list[Removed] = []
                group.create_task(retention.prune(store, horizon, sums.append))
                removed.append(sums)
        left = query(database, "SELECT count(*) FROM task")

    assert left == [(0,)]
    assert sum(sums[-1].tasks for sums in removed if sums) == 80


async def test_a_schedule_learned_elsewhere_is_used(database: Path | str) -> None:
    """Another receiver uses the schedule of a dead one a minute later at most, and goes on from it."""
    async with running_store(database) as one, running_store(database) as other:
        dying, living = (Schedules(store, DIALECTS, lambda: NOW + 7 * SECOND) for store in (one, other))
        for schedules in (dying, living):
            await schedules.open()
        before = living.first_poll_seconds("capsolver", None, expects_callback=True)
        for number in range(1, 31):
            task = a_registration(number, created_at=NOW, is_polled_here=True, task_id=f"a{number}")
            await one.write(task)
            dying.delivered(await one.write(a_delivery(number, task_id=f"a{number}")))
        await dying.save()
        await living.save()
        after = living.first_poll_seconds("capsolver", None, expects_callback=True)

    assert before == DIALECTS["capsolver"].polls.first_after_callback_seconds
    assert after == dying.first_poll_seconds("capsolver", None, expects_callback=True) != before


async def test_counts_of_several_receivers_are_added_up(database: Path | str) -> None:
    """Shapes of callbacks and unlisted codes need no lease: each write adds to what is there."""
    shape = ShapeRecord("capsolver", Shape("POST", None, "JSON {taskId: string}"), 1, 1, NOW, NOW)
    code = UnlistedCode("capsolver", "ERROR_NEW", 2, NOW, NOW)
    async with running_store(database) as one, running_store(database) as other:
        async with asyncio.TaskGroup() as group:
            for store in (one, other) * 10:
                group.create_task(store.write(AddShapes(records=[shape])))
                group.create_task(store.write(AddUnlisted(records=[code])))
        (found,) = await one.shapes("capsolver")
        times = query(database, "SELECT code, times FROM unlisted_code")

    assert (found.callbacks, found.readable, times) == (20, 20, [("ERROR_NEW", 40)])


async def test_a_key_is_revoked_at_every_receiver(database: Path | str) -> None:
    """Each of them reads the table of keys once a second."""
    key, secret = a_key(scopes=("read",))
    async with running_receiver(database) as one, running_receiver(database) as other:
        receivers = (one, other)
        await one.runtime.store.write(AddKey(key=key))
        await eventually(lambda: all(receiver.keys.find(secret) for receiver in receivers), seconds=10)
        await one.runtime.store.write(RevokeKeys(ids=(key.id,), now=microseconds_now()))
        await eventually(lambda: not any(receiver.keys.find(secret) for receiver in receivers), seconds=10)
        statuses = [(await receiver.send("GET", "/v1/tasks", key=secret)).status for receiver in receivers]

    assert statuses == [401, 401]


async def test_a_quota_holds_for_all_receivers(database: Path | str) -> None:
    """Unknown ids on a standing URL at two receivers at once make no more tasks than the quota has room for."""
    rules = DeliveryRules(dialect=DIALECTS["capsolver"], quotas=replace(QUOTAS, standing_rows=10))
    async with running_store(database) as one, running_store(database) as other:
        async with asyncio.TaskGroup() as group:
            for number in range(1, 41):
                reading = CallbackReading(f"a{number}", Ready({"text": "answer"}))
                delivery = delivery_to_standing(a_ref(0), reading, ref=a_ref(number), rules=rules)
                group.create_task(refused_at_most((one, other)[number % 2], delivery))
        tasks, used = query(database, "SELECT count(*) FROM task"), query(database, "SELECT max(used_rows) FROM quota")

    assert (tasks, used) == ([(10,)], [(10,)])


async def refused_at_most(store: Store, delivery: DeliverToStanding) -> None:
    """Write a delivery. The quota may refuse it."""
    with suppress(ReceiverError):
        await store.write(delivery)
