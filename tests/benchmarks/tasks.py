"""Tasks in a database, registered and with their ids, and the callbacks to end them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from client.protocol.models import Registration
from client.providers import DIALECTS
from receiver.app import microseconds_now, new_ref
from receiver.domain.records import TaskRecord
from receiver.domain.registrations import Register, task_of_registration
from receiver.domain.tokens import Kind, make_token
from receiver.storage.sqlite.store import SqliteStore, open_sqlite_store
from receiver.web.views import task_view
from tests.benchmarks.load import Target

__all__ = [
    "PROVIDER",
    "READ_KEY",
    "Prepared",
    "callback_body",
    "in_any_order",
    "prepare_tasks",
    "running",
    "task_id_of",
    "task_record",
    "task_view_example",
]

Item = TypeVar("Item")

READ_KEY = "benchmarks-only-read-key-0123456789"
PROVIDER = "capsolver"
_BODY_BYTES = 750
_REGISTERED_AT_ONCE = 1000
_LASTS_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A database with tasks in it, and the signing key of its callback URLs."""

    tasks: Sequence[TaskRecord]
    signing_key: bytes

    def callbacks(self) -> Iterator[Target]:
        """Yield one callback for each task, with its own URL and its own body."""
        for task in self.tasks:
            token = make_token(Kind.TASK, UUID(task.ref), task.provider, self.signing_key)
            yield Target(f"/callback/{task.provider}/{token}", callback_body(task.ref, task.task_id))


def in_any_order(items: Iterable[Item], *, window: int, seed: int) -> Iterator[Item]:
    """Yield all items in the order in which tasks end: each one is any of the `window` oldest open ones.

    An item taken makes room for the next one of `items`. The same seed gives the same order.
    """
    random = Random(seed)
    pending: list[Item] = []
    for item in items:
        if len(pending) < window:
            pending.append(item)
            continue
        place = random.randrange(window)
        taken, pending[place] = pending[place], item
        yield taken
    random.shuffle(pending)
    yield from pending


@asynccontextmanager
async def running(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    """Yield the store while its writer runs."""
    async with asyncio.TaskGroup() as owner:
        owner.create_task(store.run())
        try:
            yield store
        finally:
            store.stop()


async def prepare_tasks(database: Path, count: int) -> Prepared:
    """Register tasks as if clients had submitted them and createTask had returned their ids."""
    tasks = [task_record(number) for number in range(count)]
    async with (
        open_sqlite_store(database, now=microseconds_now(), clock=time.monotonic) as store,
        running(store),
    ):
        for start in range(0, count, _REGISTERED_AT_ONCE):
            await register(store, tasks[start : start + _REGISTERED_AT_ONCE])
        return Prepared(tasks, store.signing_keys[0])


async def register(store: SqliteStore, tasks: Sequence[TaskRecord]) -> None:
    """Write new tasks, all at once."""
    async with asyncio.TaskGroup() as writes:
        for task in tasks:
            writes.create_task(store.write(Register(task=task, answer=None, idempotency=None)))


def task_record(number: int) -> TaskRecord:
    """Return a pending task with an id; the same number gives the same id."""
    task = task_of_registration(
        Registration(provider=PROVIDER, type="AntiTurnstileTaskProxyLess", timeout_seconds=_LASTS_SECONDS),
        DIALECTS[PROVIDER],
        ref=str(new_ref()),
        owner="bench",
        now=microseconds_now(),
        is_reachable=True,
    )
    return task.evolve(task_id=task_id_of(number), bound_by="create")


def callback_body(ref: str, task_id: object) -> str:
    """Return the body of a callback to end the task: 750 bytes, different for each task."""
    solution = {"token": "", "type": "turnstile", "userAgent": "Mozilla/5.0 (X11; Linux x86_64)"}
    answer = {
        "errorId": 0,
        "errorCode": "",
        "errorDescription": "",
        "taskId": task_id,
        "status": "ready",
        "solution": solution,
    }
    solution["token"] = f"0.{ref}{'kJ3x_Zq-' * 99}"[: _BODY_BYTES - len(json.dumps(answer))]
    return json.dumps(answer)


def task_view_example() -> dict[str, Any]:
    """Return the JSON of a finished task, as the answer of the bare server."""
    task = task_record(0)
    view = task_view(task, lambda position: f"0123456789ab-{position}").model_dump(mode="json", by_alias=True)
    return {
        **view,
        "status": "ready",
        "solution": json.loads(callback_body(task.ref, task.task_id))["solution"],
        "source": "callback",
    }


def task_id_of(number: int) -> str:
    """Return the id that the provider gave to the task of this number."""
    return str(UUID(int=0x37223A89_06ED_442C_A0B8_220000000000 + number))
