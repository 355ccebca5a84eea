"""The quota of bodies on a standing URL: all of them count, and removing one frees exactly its bytes."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from client.providers import DIALECTS
from client.providers.readings import CallbackReading, Pending, Ready
from receiver.app import new_ref
from receiver.domain.deliveries import DeliveryRules, Quotas
from receiver.domain.records import SECOND
from receiver.domain.registrations import Bind
from receiver.domain.tokens import Kind, make_token
from receiver.domain.transaction import Forget
from receiver.domain.verdicts import UnreadVerdict
from receiver.storage.sqlite.store import SqliteStore
from tests.receiver.storage.stores import (
    NOW,
    a_ref,
    a_registration,
    delivery_to_standing,
    delivery_to_task,
    kept_deliveries,
    running_store,
)
from tests.receiver.upkeep.pruning import pruned
from tests.support import Api, running_receiver

SIGNING_KEY = "a key that signs the tokens of these tests"
STANDING = (a_ref(1001), a_ref(1002))
QUOTAS = Quotas(standing_rows=1000, standing_bytes=40_000, unreadable_bytes=20_000)
RULES = DeliveryRules(dialect=DIALECTS["capsolver"], quotas=QUOTAS, confirm="never")


def standing_path() -> str:
    """Return a standing URL for CapSolver, signed by the receiver."""
    return f"/callback/capsolver/{make_token(Kind.STANDING, new_ref(), 'capsolver', SIGNING_KEY.encode())}"


def kept_bytes(database: Path) -> int:
    """Return the number of bytes of bodies in the database."""
    (row,) = kept_deliveries(database, "SELECT coalesce(sum(length(body)), 0) FROM kept_delivery")
    return int(row[0])


def verdicts(database: Path) -> list[str]:
    """Return the verdicts of all kept deliveries of the first task."""
    rows = kept_deliveries(database, "SELECT verdict FROM kept_delivery WHERE id < 32 ORDER BY id")
    return [verdict for (verdict,) in rows]


async def deliver(api: Api, path: str) -> list[int]:
    """Send answers for one task, all with different bytes: its outcome, repetitions, others. Return the statuses."""
    statuses = []
    for number in range(12):
        fields = {"taskId": "T", "solution": {"text": "a" if number % 2 else "b"}, "noise": f"{number}" + "x" * 5000}
        statuses.append((await api.call_back(path, **fields)).status)
    return statuses


@pytest.mark.sqlite
@pytest.mark.parametrize("registered", [False, True], ids=["made by it", "attached"])
async def test_every_body_counts(tmp_path: Path, registered: bool) -> None:
    """Beyond the quota of the URL, deliveries are kept without bodies. The verdicts stay the same."""
    results = []
    for most in (12_000, 2**20):
        database = tmp_path / f"{most}.db"
        async with running_receiver(database, signing_keys=SIGNING_KEY, standing_max_bytes=most) as api:
            if registered:
                await api.register(taskId="T")
            path = standing_path()
            statuses = await deliver(api, path)
            task = await api.task("T")
            results.append((statuses, task["solution"], verdicts(database)))
            assert kept_bytes(database) <= most
            other = await api.call_back(path, taskId="U")
            await api.send("DELETE", f"/v1/tasks/{task['ref']}")
            assert (other.status, (await api.task("U"))["status"]) == (200, "ready")

    assert results[0] == results[1]
    assert results[0][0] == [200] * 12


async def test_a_held_callback_keeps_its_bytes(tmp_path: Path) -> None:
    """The quota of the URL is used up. A callback in need of confirmation still becomes the outcome."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1, task_id="T", bound_by="create", open_to_standing=True, is_polled_here=True))
        none_left = Quotas(standing_rows=0, standing_bytes=0, unreadable_bytes=0)
        strict = replace(RULES, quotas=none_left, confirm="always")
        ready = CallbackReading("T", Ready({"text": "a"}))
        command = delivery_to_standing(STANDING[0], ready, b"answer", ref=a_ref(0), rules=strict)
        delivered = [(await store.write(command)).verdict for _ in range(2)]
        task = await store.task(a_ref(1))
        assert task is not None
        bodies = [delivery.body for delivery in await store.deliveries(task)]

    assert (delivered, bodies) == (["held", "held"], [b"answer", None])


@pytest.mark.sqlite
@pytest.mark.parametrize("seed", range(8))
async def test_what_goes_is_free_again(tmp_path: Path, seed: int) -> None:
    """Exactly the kept bodies count, in any order of deliveries and deletions. Nothing counts if all are gone."""
    chance = random.Random(seed)
    database = tmp_path / "receiver.db"
    async with running_store(database) as store:
        for number in range(1, 4):
            fields = {"task_id": f"R{number}", "bound_by": "create", "open_to_standing": number > 1}
            await store.write(a_registration(number, **fields))
        for step in range(120):
            await take_step(store, chance, 10 + step)
            assert counted(database) == kept(database), step
        await pruned(store, results=NOW + 2 * SECOND, deliveries=NOW + 2 * SECOND)
        for ref in every_ref(database):
            await store.write(Forget(ref=ref, now=NOW))

    assert set(counted(database).values()) <= {0}
    assert kept(database) == {}


async def take_step(store: SqliteStore, chance: random.Random, number: int) -> None:
    """Write one delivery, or remove something."""
    task_id = chance.choice(["R1", "R2", "R3", "S1", "S2", f"S{number}"])
    readings: list[Ready | Pending | UnreadVerdict] = [
        Ready({"text": "a"}),
        Ready({"text": "b"}),
        Pending("processing"),
        "unreadable",
    ]
    body = b"x" * chance.choice([1, 700, 3000])
    chosen = chance.choice(readings)
    reading = chosen if isinstance(chosen, str) else CallbackReading(task_id, chosen)
    match chance.randrange(12):
        case 0:
            await pruned(store, deliveries=NOW + chance.randrange(2))
        case 1:
            await pruned(store, solutions=NOW)
        case 2 if number % 3 == 0:
            await pruned(store, most_finished=3)
        case 3:
            found = await store.tasks_by_id(task_id, "capsolver")
            if found and task_id.startswith("S"):
                await store.write(Forget(ref=found[0].ref, now=NOW))
        case 4:
            await store.write(a_registration(number + 500, open_to_standing=False))
            found = await store.tasks_by_id("S1", "capsolver")
            if found and found[0].standing_id is not None:
                await store.write(Bind(ref=a_ref(number + 500), task_id="S1", now=NOW))
        case 5:
            await store.write(delivery_to_task(chance.choice([a_ref(1), a_ref(900)]), reading, body, rules=RULES))
        case _:
            url_id = chance.choice(STANDING)
            await store.write(delivery_to_standing(url_id, reading, body, ref=a_ref(number), rules=RULES))


def counted(database: Path) -> dict[str, int]:
    """Return the used bytes of the quotas of bodies."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT name, used_bytes FROM quota WHERE used_bytes > 0 OR used_rows > 0").fetchall()
    return dict(rows)


def kept(database: Path) -> dict[str, int]:
    """Return the same numbers, from the rows in the tables."""
    sums = (
        "SELECT 'unreadable', size FROM delivery WHERE verdict = 'unreadable' AND body IS NOT NULL",
        "SELECT 'unreadable', size FROM stray_delivery",
        "SELECT quota, kept_bytes FROM task WHERE quota IS NOT NULL",
        """
        SELECT coalesce(delivery.standing_id, task.quota) || '/bodies', size
        FROM kept_delivery AS delivery JOIN task ON task.id = delivery.id / 16
        WHERE verdict <> 'unreadable' AND body IS NOT NULL AND coalesce(delivery.standing_id, task.quota) IS NOT NULL
        AND NOT (task.quota IS NOT NULL AND delivery.id % 16 = 1)
        """,
    )
    found: dict[str, int] = {}
    for statement in sums:
        for name, size in kept_deliveries(database, statement):
            found[name] = found.get(name, 0) + max(size, 512)
    return found


def every_ref(database: Path) -> list[str]:
    """Return the refs of all remaining tasks, except for those joined to another one."""
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("SELECT ref FROM task WHERE joined_ref IS NULL")]
