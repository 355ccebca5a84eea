"""Helpers for tests of retention: horizons, finished tasks, and counts of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.providers.readings import CallbackReading, Ready
from receiver.domain.deliveries import DeliverToTask
from receiver.domain.records import Entry, Horizon, Removed, TaskRecord
from receiver.domain.transaction import Transaction
from receiver.storage.store import Store
from receiver.upkeep.retention import prune
from tests.receiver.storage.stores import (
    NOW,
    a_ref,
    a_registration,
    delivery_to_task,
    query,
    whole_log,
)

__all__ = ["a_late_delivery", "finished", "found", "horizon", "pruned", "quota", "refs", "rows", "solutions"]

GROWING = ("task", "log", "delivery", "stray_delivery", "poll", "tag", "idempotency")
"""Tables that retention empties, if everything is old."""


def horizon(**fields: Any) -> Horizon:
    """Return a horizon beyond which there is nothing, but for the given fields."""
    times = dict.fromkeys(("results", "solutions", "deliveries", "tombstones"), 0)
    return Horizon(**{"now": NOW, **times, "most_finished": 1000, "most_tombstones": 1000} | fields)


async def pruned(store: Store, **fields: Any) -> Removed:
    """Prune by this horizon, and return the removed counts."""
    counts = [Removed()]
    await prune(store, horizon(**fields), counts.append)
    return counts[-1]


async def finished(store: Store, *numbers: int, at: int = NOW) -> None:
    """Register the tasks of these numbers and end them at this time."""
    for number in numbers:
        await store.write(a_registration(number))
        await store.write(a_late_delivery(number, at))


def a_late_delivery(number: int, at: int, reading: Any = None) -> DeliverToTask:
    """Return a delivery at this time, by default with a ready answer."""
    if reading is None:
        reading = CallbackReading(None, Ready({"text": "answer"}))
    return delivery_to_task(a_ref(number), reading, at=at)


def rows(database: Path | str) -> dict[str, int]:
    """Return the number of rows in each growing table."""
    return {name: query(database, f"SELECT count(*) FROM {name}")[0][0] for name in GROWING}  # noqa: S608  (names of ours)


async def quota(store: Store, name: str) -> tuple[int, int]:
    """Return the used part of a quota, in rows and bytes."""

    class Overview:
        refs = ()
        weight = 0

        def decide(self, transaction: Transaction) -> tuple[int, int]:
            return transaction.quota(name)

    return await store.write(Overview())


async def found(store: Store, number: int) -> TaskRecord:
    """Return the existing task of this number."""
    task = await store.task(a_ref(number))
    assert task is not None
    return task


def solutions(log: Sequence[Entry]) -> list[bool]:
    """Return, for each ready result in the log, True if its solution is there."""
    outcomes = [entry.task.outcome for entry in log if entry.task is not None and entry.kind == "result"]
    return [outcome.solution is not None for outcome in outcomes if outcome is not None and outcome.status == "ready"]


async def refs(store: Store) -> list[str]:
    """Return the refs in the log, in order."""
    return [entry.ref for entry in await whole_log(store)]
