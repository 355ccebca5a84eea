"""The two places of a delivery: its table, and the log entry of the outcome that it became."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from client.providers.readings import CallbackReading, Failed, Pending
from receiver.domain.deliveries import DeliverToTask
from receiver.domain.records import DELIVERIES_KEPT, Removed
from receiver.domain.registrations import Bind
from receiver.domain.transaction import Forget
from receiver.settings import Settings
from receiver.storage.sqlite.retention import BODIES_FLOOR, read_floor
from receiver.storage.sqlite.store import SqliteStore
from receiver.storage.survey import survey
from tests.receiver.storage.stores import (
    NOW,
    a_delivery,
    a_ref,
    a_registration,
    a_standing_delivery,
    delivery_to_task,
    kept_deliveries,
    running_store,
)
from tests.receiver.upkeep.pruning import found, horizon, pruned

pytestmark = pytest.mark.sqlite


def a_pending(number: int) -> DeliverToTask:
    """Return a delivery without an answer."""
    return delivery_to_task(a_ref(number), CallbackReading(None, Pending("processing")))


async def kept(store: SqliteStore, number: int) -> list[tuple[str, bytes | None]]:
    """Return the verdicts and bodies of a task's deliveries."""
    return [(delivery.verdict, delivery.body) for delivery in await store.deliveries(await found(store, number))]


def places(database: Path) -> tuple[list[int], list[int]]:
    """Return the slots of the first task: those in the table, and those in the log."""
    with closing(sqlite3.connect(database)) as connection:
        table = connection.execute("SELECT id - 16 FROM delivery WHERE id < 32 ORDER BY id").fetchall()
        log = connection.execute("SELECT slot FROM log WHERE slot IS NOT NULL AND task = 1").fetchall()
    return [slot for (slot,) in table], [slot for (slot,) in log]


@pytest.mark.parametrize("earlier", [0, 3, 7])
async def test_the_one_that_became_the_outcome_is_in_its_entry(tmp_path: Path, earlier: int) -> None:
    """All deliveries come in their order. One with a reused slot stays in the table."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        for command in (*[a_pending(1)] * earlier, a_delivery(1), a_pending(1)):
            await store.write(command)
        slots = places(tmp_path / "receiver.db")
        deliveries = await kept(store, 1)

    assert slots == ([*range(1, earlier + 1), earlier + 2], [earlier + 1])
    assert deliveries == [*[("notFinal", b"body")] * earlier, ("accepted", b"answer"), ("notFinal", b"body")]


@pytest.mark.parametrize("later", [0, 2])
async def test_the_newest_one_is_replaced(tmp_path: Path, later: int) -> None:
    """Behind the first eight, the outcome's delivery has the slot that the next delivery takes."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        for command in (*[a_pending(1)] * DELIVERIES_KEPT, a_delivery(1), *[a_delivery(1, "again")] * later):
            await store.write(command)
        slots = places(tmp_path / "receiver.db")
        deliveries = await kept(store, 1)

    assert slots == ([*range(1, DELIVERIES_KEPT + 2)], [])
    newest = ("disagreed", b"again") if later else ("accepted", b"answer")
    assert deliveries == [*[("notFinal", b"body")] * DELIVERIES_KEPT, newest]


async def test_a_joined_task_keeps_its_own(tmp_path: Path) -> None:
    """The outcome gets a second entry without the delivery. The task that lost its id has the delivery."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(2))
        await store.write(a_standing_delivery(1, "T"))
        await store.write(Bind(ref=a_ref(2), task_id="T", now=NOW))
        joined = await found(store, 2)
        deliveries = await store.deliveries(joined)
        everywhere = kept_deliveries(tmp_path / "receiver.db", "SELECT id, verdict FROM kept_delivery")
        await store.write(Forget(ref=a_ref(2), now=NOW))
        left = kept_deliveries(tmp_path / "receiver.db", "SELECT id FROM kept_delivery")

    assert joined.outcome is not None
    assert (deliveries, everywhere, left) == ((), [(33, "accepted")], [])


async def test_bodies_go_with_their_solutions_or_by_age(tmp_path: Path) -> None:
    """Retention goes through the log once, and removes what the survey foretold."""
    failed = CallbackReading(None, Failed(1, "ERROR_CAPTCHA_UNSOLVABLE"))
    database = tmp_path / "receiver.db"
    settings = Settings(database=database, _env_file=None)
    async with running_store(database) as store:
        for number in range(1, 5):
            await store.write(a_registration(number))
        await store.write(a_delivery(1))
        await store.write(delivery_to_task(a_ref(2), failed, at=NOW))
        await store.write(a_pending(3))
        await store.write(delivery_to_task(a_ref(4), failed, at=NOW + 1))
        steps = [
            (
                survey(settings, horizon(**fields)).removed,
                await pruned(store, **fields),
            )
            for fields in ({"solutions": NOW}, {"deliveries": NOW}, {"deliveries": NOW}, {"results": NOW})
        ]
        bodies = [await kept(store, number) for number in (3, 4)]
        with closing(sqlite3.connect(database)) as connection:
            floor = read_floor(connection, BODIES_FLOOR)

    assert [removed for removed, _ in steps] == [removed for _, removed in steps]
    assert [removed for removed, _ in steps] == [
        Removed(solutions=1, bodies=1),
        Removed(bodies=1),
        Removed(),
        Removed(tasks=2, entries=2),
    ]
    assert bodies == [[("notFinal", b"body")], [("accepted", b"body")]]
    assert floor == 2
