"""Reports that the receiver did not take at once are queued, bounded, and delivered in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.protocol.models import FirstOutcome, Registration
from client.provider_api.timing import Timing
from client.providers.readings import TaskId
from client.receiver_api.http import Attached, ReceiverApi, open_receiver_session
from client.receiver_api.reports import LateBinding, LateOutcome, Reports
from client.receiver_api.resilience import ResilientReceiver
from tests.client.support import ready
from tests.support import ADMIN, RunningReceiver, running_receiver

_DOWN = "http://127.0.0.1:1"
_OUTCOME = FirstOutcome(source="poll", answer=ready(), polls=3)
_REGISTRATION = Registration(provider="capsolver", type="ImageToTextTask", tags=("checkout",))


def _late(ref: str | None, task_id: TaskId | None = "task-1") -> LateOutcome:
    return LateOutcome(
        ref=ref, task_id=task_id, registration=_REGISTRATION, outcome=_OUTCOME, idempotency_key="tests-only-key"
    )


@asynccontextmanager
async def _api(url: str) -> AsyncIterator[ReceiverApi]:
    async with open_receiver_session() as session:
        yield ReceiverApi(session, url, ADMIN)


@asynccontextmanager
async def _resilient(url: str) -> AsyncIterator[ResilientReceiver]:
    async with _api(url) as api, asyncio.TaskGroup() as owner:
        receiver = ResilientReceiver(api, owner, Timing())
        yield receiver
        await receiver.close(0.1)


async def test_outcome_of_a_registered_task(tmp_path: Path) -> None:
    """A late outcome goes to its record, with its id."""
    async with running_receiver(tmp_path / "receiver.db") as receiver, _api(receiver.url) as api:
        task = await receiver.register()
        await _late(task["ref"]).deliver(api)
        stored = await receiver.task("task-1")

    assert (stored["ref"], stored["status"], stored["source"]) == (task["ref"], "ready", "poll")


@pytest.mark.parametrize("ref", [None, "0199aaaa-0000-7000-8000-000000000000"])
async def test_outcome_without_a_record(tmp_path: Path, ref: str | None) -> None:
    """An outcome of an unregistered or lost task is registered with it; twice is once."""
    async with running_receiver(tmp_path / "receiver.db") as receiver, _api(receiver.url) as api:
        for _ in range(2):
            await _late(ref).deliver(api)
        log = await receiver.log()

    (entry,) = log["results"]
    assert (entry["task"]["taskId"], entry["task"]["tags"]) == ("task-1", ["checkout"])


async def test_binding(tmp_path: Path) -> None:
    """A late binding lets the task be found by its id."""
    async with running_receiver(tmp_path / "receiver.db") as receiver, _api(receiver.url) as api:
        task = await receiver.register()
        await LateBinding(task["ref"], 12345678901).deliver(api)
        stored = await receiver.task(12345678901)

    assert stored["ref"] == task["ref"]


async def test_refused_report_does_not_block_the_rest(tmp_path: Path) -> None:
    """A report refused for good is dropped, with a warning, and the next one is delivered."""
    async with running_receiver(tmp_path / "receiver.db") as receiver, _api(receiver.url) as api:
        reports = Reports(api, Timing())
        reports.add(LateBinding("no-such-ref", "task-9"))
        reports.add(_late(None))
        with capture_logs() as lines:
            await reports.close(5)
        stored = await receiver.task("task-1")

    assert stored["status"] == "ready"
    events = [line["event"] for line in lines if line["event"].startswith("report.")]
    assert events == ["report.refused", "report.delivered"]


async def test_an_id_that_is_taken_names_the_task_that_has_it(tmp_path: Path) -> None:
    """The error, its text and the log line of a queued report name the other task."""
    async with running_receiver(tmp_path / "receiver.db") as receiver, _api(receiver.url) as api:
        owner, other = await receiver.register(), await receiver.register()
        await LateBinding(owner["ref"], "task-1").deliver(api)
        reports = Reports(api, Timing())
        reports.add(LateBinding(other["ref"], "task-1"))
        with capture_logs() as lines:
            await reports.close(5)
        with pytest.raises(ReceiverRefusedError, match=owner["ref"]) as error:
            await api.bind(other["ref"], "task-1")

    assert (error.value.slug, error.value.ref) == ("task-id-taken", owner["ref"])
    assert [line["otherRef"] for line in lines if line["event"] == "report.refused"] == [owner["ref"]]


async def test_full_queue() -> None:
    """The queue is bounded: further reports are lost, counted and logged."""
    async with _api(_DOWN) as api:
        reports = Reports(api, Timing(), limit=2)
        with capture_logs() as lines:
            for number in range(3):
                reports.add(_late(None, f"task-{number}"))
            await reports.close(0.1)

    assert [line["lost"] for line in lines if line["event"] == "report.lost"] == [1, 3]


async def test_cancelled_calls_are_left_for_later() -> None:
    """A cancelled binding and a cancelled report are queued: the answer was paid for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with _resilient(f"http://127.0.0.1:{silent.getsockname()[1]}") as receiver:
            for call in (receiver.report("ref-1", "task-1", _REGISTRATION, _OUTCOME), receiver.bind("ref-1", "task-1")):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await call
            assert len(receiver.reports) == 2


async def test_refused_calls() -> None:
    """Calls that may succeed later are queued; a report without any id can't be sent at all."""
    async with _resilient(_DOWN) as receiver:
        assert await receiver.report(None, None, _REGISTRATION, _OUTCOME) is None
        assert len(receiver.reports) == 0
        assert await receiver.report("ref-1", None, _REGISTRATION, _OUTCOME) is None
        assert await receiver.bind("ref-1", "task-1") is None
        assert len(receiver.reports) == 2


async def test_problems_of_the_receiver(tmp_path: Path) -> None:
    """Permanent and temporary failures raise different errors."""
    async with running_receiver(tmp_path / "receiver.db") as receiver, _api(receiver.url) as api:
        with pytest.raises(ReceiverRefusedError, match="404 unknown-task") as caught:
            await api.task("no-such-ref")
        await receiver.stop()
        with pytest.raises(ReceiverUnavailableError, match="cannot be reached"):
            await api.task("no-such-ref")

    assert (caught.value.status, caught.value.slug) == (404, "unknown-task")


async def test_age_of_an_attached_task(tmp_path: Path) -> None:
    """The age of a known task comes from the receiver's clock, to the second."""
    async with running_receiver(tmp_path / "receiver.db") as receiver, _api(receiver.url) as api:
        await _registered(receiver, timeoutSeconds=100)
        attached = await api.register(Registration(provider="capsolver", task_id="task-1"))

    assert isinstance(attached, Attached)
    assert 0 <= attached.age_seconds <= 60
    assert 40 <= attached.seconds_left <= 101


async def _registered(receiver: RunningReceiver, **fields: Any) -> None:
    task = await receiver.register(**fields)
    await receiver.send("PATCH", f"/v1/tasks/{task['ref']}", json={"taskId": "task-1"})
