"""Commands of one batch see the decisions before them, although nothing was written yet."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from receiver.domain.deliveries import HintTask
from receiver.domain.records import TaskRecord
from receiver.domain.registrations import Bind, Expire
from receiver.domain.transaction import Command, Forget, Key, OneTaskCommand, Operation, Transaction
from receiver.errors import ReceiverError
from receiver.storage.sqlite.fetching import fetch
from receiver.storage.store import Store
from tests.receiver.storage.stores import (
    NOW,
    a_delivery,
    a_ref,
    a_registration,
    a_standing_delivery,
    restarted,
    running_store,
    whole_log,
)

KEY = ("k", b"digest")


def bind(number: int, task_id: str) -> Bind:
    """Return the command to bind an id to the task of this number."""
    return Bind(ref=a_ref(number), task_id=task_id, now=NOW)


def forget(number: int) -> Forget:
    """Return the operation to delete the task of this number."""
    return Forget(ref=a_ref(number), now=NOW)


def attach(number: int, task_id: str) -> Command[Any]:
    """Return the command to register a task already known to the provider."""
    return a_registration(number, task_id=task_id, bound_by="create", has_url=False, open_to_standing=True)


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param([bind(1, "Y"), attach(2, "X")], id="an-id-that-was-given-up"),
        pytest.param([a_standing_delivery(9, "X"), bind(1, "Y"), attach(2, "X")], id="an-id-that-was-looked-up-before"),
        pytest.param([bind(1, "Y"), a_standing_delivery(2, "X"), attach(3, "X")], id="an-id-that-was-taken-again"),
        pytest.param([bind(1, "Y"), a_standing_delivery(2, "Y")], id="an-id-that-was-just-bound"),
        pytest.param([a_standing_delivery(2, "Z"), bind(1, "Z"), attach(3, "Z")], id="a-task-that-was-joined"),
        pytest.param(
            [a_standing_delivery(2, "Z"), a_registration(3), a_delivery(3, task_id="Z"), bind(3, "W"), bind(1, "Z")],
            id="a-task-that-was-joined-by-mistake",
        ),
        pytest.param([attach(2, "Z"), bind(1, "Z"), a_standing_delivery(3, "Z")], id="a-new-task-that-has-the-id"),
        pytest.param([a_registration(2), a_delivery(2), a_delivery(2), forget(2), a_delivery(2)], id="a-whole-life"),
        pytest.param([forget(1), attach(2, "X"), a_standing_delivery(3, "X")], id="an-id-that-was-forgotten"),
        pytest.param([forget(1), a_standing_delivery(2, "X"), bind(1, "X")], id="a-tombstone"),
        pytest.param([a_registration(2, deadline_at=NOW), Expire(now=NOW, limit=9), a_delivery(2)], id="a-deadline"),
        pytest.param([HintTask(ref=a_ref(1), now=NOW), bind(1, "Y"), a_delivery(1, task_id="X")], id="a-hint"),
        pytest.param(
            [*(a_delivery(1, task_id="X") for _ in range(9)), bind(1, "Y"), a_delivery(1, task_id="Y")],
            id="a-replaced-delivery-with-a-new-verdict",
        ),
        pytest.param([a_delivery(1, f"answer {number}", "X") for number in range(12)], id="many-deliveries"),
    ],
)
@pytest.mark.parametrize("is_restarted", [False, True], ids=["once", "restarted"])
async def test_a_batch_comes_to_the_same_as_its_commands_one_by_one(
    databases: Callable[[str], Path | str], commands: Sequence[Command[Any] | Operation[Any]], *, is_restarted: bool
) -> None:
    """The answers, the log and the tasks are the same, even if the commands share a transaction or restart."""
    async with running_store(databases("together")) as store:
        await prepare(store)
        async with asyncio.TaskGroup() as group:
            given = [restarted(command) for command in commands] if is_restarted else commands
            writes = [group.create_task(answer(store, command)) for command in given]
        together = ([write.result() for write in writes], await contents(store))
    async with running_store(databases("apart")) as store:
        await prepare(store)
        apart = ([await answer(store, command) for command in commands], await contents(store))

    assert together == apart


@dataclass(frozen=True, kw_only=True)
class GiveId(OneTaskCommand):
    """A command that gives a task another id, or takes it away."""

    ref: str
    task_id: str | None
    weight: int = 0

    def decide(self, transaction: Transaction) -> None:
        """Change the task."""
        task = transaction.task(self.ref)
        assert task is not None
        transaction.change(task.evolve(task_id=self.task_id))


async def test_an_id_that_comes_back_within_a_batch_is_stored(database: Path | str) -> None:
    """An id is taken away in the database first. The task has it again, and equals the fetched one."""
    async with running_store(database) as store:
        await prepare(store)
        async with asyncio.TaskGroup() as group:
            for task_id in (None, "X"):
                group.create_task(store.write(GiveId(ref=a_ref(1), task_id=task_id)))
        found = await store.tasks_by_id("X", "capsolver")

    assert [task.ref for task in found] == [a_ref(1)]


@pytest.mark.sqlite
async def test_a_batch_finds_ids_with_a_nul(tmp_path: Path) -> None:
    """SQLite cuts texts in JSON at a NUL. A batch that misses a task for that fails with all its commands."""
    keys: list[Key] = [("task_id", "capsolver", text) for text in ("a\0b", "a\0c", "a")]
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(attach(1, "a\0b"))
        await store.write(attach(2, "a"))
    with closing(sqlite3.connect(tmp_path / "receiver.db")) as connection:
        found = {task.task_id for _, task in fetch(connection, keys)}

    assert found == {"a\0b", "a"}


@pytest.mark.sqlite
async def test_decisions_read_no_bodies_of_kept_deliveries(tmp_path: Path) -> None:
    """A new verdict leaves the stored bodies as they are."""
    async with running_store(tmp_path / "receiver.db") as store:
        await prepare(store)
        with closing(sqlite3.connect(tmp_path / "receiver.db")) as connection:
            read = [delivery.body for _, delivery in fetch(connection, [("deliveries", a_ref(1))])]
        await store.write(bind(1, "Y"))
        task = await store.task(a_ref(1))
        kept = () if task is None else (await store.history(task)).deliveries

    assert read == [b""]
    assert [(delivery.verdict, delivery.body) for delivery in kept] == [("mismatched", b"answer")]


async def test_registrations_of_a_batch_start_behind_what_was_there(database: Path | str) -> None:
    """A task is registered at the head before its batch, so all entries of the task come later."""
    async with running_store(database) as store:
        await prepare(store)
        async with asyncio.TaskGroup() as group:
            group.create_task(store.write(HintTask(ref=a_ref(1), now=NOW)))
            group.create_task(store.write(bind(1, "Y")))
            registered = group.create_task(store.write(a_registration(2)))
        task = await store.task(a_ref(2))

    assert (registered.result().task.registered_at, task and task.registered_at) == (1, 1)


async def test_one_idempotency_key_in_a_batch_makes_one_task(database: Path | str) -> None:
    """Two requests with the same key in one transaction get the same task."""
    async with running_store(database) as store, asyncio.TaskGroup() as group:
        twins = [group.create_task(store.write(keyed(number))) for number in (1, 2)]

    first, second = [twin.result() for twin in twins]
    assert (first.task.ref, second.task.ref) == (a_ref(1), a_ref(1))


def keyed(number: int) -> Any:
    """Return a registration with an Idempotency-Key."""
    registration = a_registration(number)
    return type(registration)(task=registration.task, answer=None, idempotency=KEY)


async def prepare(store: Store) -> None:
    """Register task 1 and give it the id X by a callback alone."""
    await store.write(a_registration(1))
    await store.write(a_delivery(1, task_id="X"))


async def answer(store: Store, command: Command[Any] | Operation[Any]) -> object:
    """Return the answer of the command, or the name of its refusal."""
    try:
        given: Any = await store.write(command)
    except ReceiverError as error:
        return error.slug
    if isinstance(given, TaskRecord | int | None):
        return without_head(given)
    return replace(given, task=without_head(given.task))


def without_head(answer: TaskRecord | int | None) -> object:
    """Return a task without the head of the log before its batch, because that depends on the batch."""
    return answer.evolve(registered_at=0) if isinstance(answer, TaskRecord) else answer


async def contents(store: Store) -> object:
    """Return everything a reader can see of tasks 1 to 3, of the ids and of the log."""
    tasks = [await store.task(a_ref(number)) for number in (1, 2, 3)]
    return (
        [without_head(task) for task in tasks],
        [await store.deliveries(task) for task in tasks if task is not None],
        [[task.ref for task in await store.tasks_by_id(task_id, "capsolver")] for task_id in "XYZ"],
        [(entry.kind, entry.ref, without_head(entry.task)) for entry in await whole_log(store)],
    )
