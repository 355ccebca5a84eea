"""Joins that createTask undoes: a callback had given the task the id of another one."""

from __future__ import annotations

from pathlib import Path

from receiver.domain.records import TaskRecord
from receiver.domain.registrations import Bind, Expire
from receiver.storage.store import Store
from tests.properties.steps import outcome_view
from tests.receiver.storage.stores import (
    NOW,
    a_delivery,
    a_ref,
    a_registration,
    a_standing_delivery,
    running_store,
    whole_log,
)


async def task_one(store: Store) -> TaskRecord:
    """Return the task number 1."""
    task = await store.task(a_ref(1))
    assert task is not None
    return task


async def test_an_outcome_from_before_the_join_counts_again(tmp_path: Path) -> None:
    """The task had ended at its deadline. The answer under the right id replaces that outcome, with its position."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1, deadline_at=NOW))
        await store.write(Expire(now=NOW, limit=9))
        before = await task_one(store)
        await store.write(a_standing_delivery(2, "wrong"))
        await store.write(a_delivery(1, task_id="wrong"))
        joined = await task_one(store)
        bound = await store.write(Bind(ref=a_ref(1), task_id="right", now=NOW))
        await store.write(a_delivery(1, "its own", task_id="right"))
        answered = await task_one(store)
        entries = await whole_log(store)

    assert outcome_view(joined.outcome) == ("ready", "answer", "callback", before.position)
    assert (bound.outcome, bound.position, bound.is_disputed) == (before.outcome, before.position, False)
    assert outcome_view(answered.outcome) == ("ready", "its own", "callback", before.position)
    results = [entry.task for entry in entries if entry.kind == "result" and entry.task is not None]
    assert [task.ref for task in results] == [a_ref(1), a_ref(2), a_ref(1)]
