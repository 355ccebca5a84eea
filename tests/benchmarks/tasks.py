"""Tasks that stand registered and bound in a database, and the callbacks that will end them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
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

__all__ = ["READ_KEY", "Prepared", "callback_body", "prepare_tasks", "running", "task_record", "task_view_example"]

READ_KEY = "benchmarks-only-read-key-0123456789"
_PROVIDER = "capsolver"
_BODY_BYTES = 750
_REGISTERED_AT_ONCE = 1000
_LASTS_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A database with tasks in it, and the key that signs its callback URLs."""

    tasks: Sequence[TaskRecord]
    signing_key: bytes

    def callbacks(self) -> Iterator[Target]:
        """One for each task, on its own URL, each with another body."""
        for task in self.tasks:
            token = make_token(Kind.TASK, UUID(task.ref), task.provider, self.signing_key)
            yield Target(f"/callback/{task.provider}/{token}", callback_body(task))

    def fetches(self) -> Iterator[Target]:
        """Yield a GET of each task."""
        return (Target(f"/v1/tasks/{task.ref}", key=READ_KEY) for task in self.tasks)


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
    """Register tasks as if their clients had submitted them and bound the ids that createTask gave."""
    tasks = [task_record(number) for number in range(count)]
    async with (
        open_sqlite_store(database, now=microseconds_now(), clock=time.monotonic) as store,
        running(store),
    ):
        for start in range(0, count, _REGISTERED_AT_ONCE):
            await register(store, tasks[start : start + _REGISTERED_AT_ONCE])
        return Prepared(tasks, store.signing_keys[0])


async def register(store: SqliteStore, tasks: Sequence[TaskRecord]) -> None:
    """Write new tasks."""
    async with asyncio.TaskGroup() as writes:
        for task in tasks:
            writes.create_task(store.write(Register(task=task, answer=None, idempotency=None)))


def task_record(number: int) -> TaskRecord:
    """Return a task that waits for its callback."""
    task = task_of_registration(
        Registration(provider=_PROVIDER, type="AntiTurnstileTaskProxyLess", timeout_seconds=_LASTS_SECONDS),
        DIALECTS[_PROVIDER],
        ref=str(new_ref()),
        owner="bench",
        now=microseconds_now(),
        is_reachable=True,
    )
    return task.evolve(task_id=_task_id(number), bound_by="create")


def callback_body(task: TaskRecord) -> str:
    """Return a callback of 750 bytes that ends the task; no two are alike."""
    solution = {"token": "", "type": "turnstile", "userAgent": "Mozilla/5.0 (X11; Linux x86_64)"}
    answer = {
        "errorId": 0,
        "errorCode": "",
        "errorDescription": "",
        "taskId": task.task_id,
        "status": "ready",
        "solution": solution,
    }
    solution["token"] = f"0.{task.ref}{'kJ3x_Zq-' * 99}"[: _BODY_BYTES - len(json.dumps(answer))]
    return json.dumps(answer)


def task_view_example() -> dict[str, Any]:
    """Return a finished task's JSON, for the bare server to answer with."""
    task = task_record(0)
    view = task_view(task, lambda position: f"0123456789ab-{position}").model_dump(mode="json", by_alias=True)
    return {**view, "status": "ready", "solution": json.loads(callback_body(task))["solution"], "source": "callback"}


def _task_id(number: int) -> str:
    return str(UUID(int=0x37223A89_06ED_442C_A0B8_220000000000 + number))
