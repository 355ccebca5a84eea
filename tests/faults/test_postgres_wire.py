"""A connection to PostgreSQL that breaks at any request of a transaction, or goes silent."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from receiver.domain.records import Growth
from receiver.errors import StoreBusyError, StoreFailedError
from tests.faults.postgres_wire import Side, open_wire
from tests.postgres import Cluster, execute
from tests.receiver.storage.stores import ALL, a_delivery, a_ref, a_registration, running_store
from tests.support import eventually

MOST_REQUESTS = 60


def stored(url: str, number: int) -> list[Any]:
    """Return the status of a task, its deliveries, and the entries of the log for it, as the server has them."""
    rows = execute(url, "SELECT ref, status, deliveries, (SELECT count(*) FROM log WHERE log.task = task.id) FROM task")
    return next(row for ref, *row in rows if ref == a_ref(number))


@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_connection_that_breaks_in_any_statement_loses_nothing(
    postgres: Cluster, postgres_url: str, side: Side
) -> None:
    """Before the COMMIT the callback is stored over another connection, once. During it, its caller is told."""
    woken: list[Growth] = []
    unknown = []
    async with open_wire(postgres.folder) as wire, running_store(wire.url(postgres_url)) as store:
        store.listen(woken.append)
        for number in range(1, MOST_REQUESTS):
            await store.write(a_registration(number))
            wire.cut(number, side)
            try:
                await store.write(a_delivery(number, task_id=f"a{number}"))
            except StoreBusyError:
                unknown.append(number)
                is_stored = stored(postgres_url, number)[0] == "ready"
                assert is_stored == (side == "after")
                if is_stored:
                    await woken_for(woken, a_ref(number))
                again = await store.write(a_delivery(number, task_id=f"a{number}"))
                assert again.verdict == ("duplicate" if is_stored else "accepted")
            else:
                assert stored(postgres_url, number) == ["ready", 1, 1]
            if not wire.is_cut:
                break

    # The last request of a transaction is its COMMIT, and there are some before it.
    assert not wire.is_cut
    assert unknown == [number - 1]
    assert number > 5


async def woken_for(woken: list[Growth], ref: str) -> None:
    """Wait until waiters for this task are woken."""
    await eventually(lambda: any(growth.tasks is None or ref in [key.ref for key in growth.tasks] for growth in woken))


@pytest.mark.postgres
@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_batch_of_many_commands_is_stored_as_a_whole_or_not_at_all(
    postgres: Cluster, postgres_url: str, side: Side
) -> None:
    """Each caller is told the truth about its own command, wherever the connection breaks."""
    async with open_wire(postgres.folder) as wire, running_store(wire.url(postgres_url)) as store:
        for attempt in range(1, MOST_REQUESTS):
            numbers = range(20 * attempt, 20 * attempt + 20)
            await together(*(store.write(a_registration(number)) for number in numbers))
            wire.cut(attempt, side)
            answers = await together(*(store.write(a_delivery(number, task_id=f"a{number}")) for number in numbers))
            refused = [number for number, answer in zip(numbers, answers, strict=True) if isinstance(answer, Exception)]
            assert all(isinstance(answer, StoreBusyError) for answer in answers if isinstance(answer, Exception))
            rows = [stored(postgres_url, number) for number in numbers]
            if side == "after" or not refused:
                assert rows == [["ready", 1, 1]] * 20
            else:
                expected = [["processing", 0, 0] if number in refused else ["ready", 1, 1] for number in numbers]
                assert rows == expected
            if not wire.is_cut:
                break

    assert not wire.is_cut


async def together(*writes: Any) -> list[Any]:
    """Return the answers of all writes, or their errors."""

    async def answered(write: Any) -> Any:
        try:
            return await write
        except (StoreBusyError, StoreFailedError) as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(answered(write)) for write in writes]
    return [task.result() for task in tasks]


async def test_a_server_that_goes_silent_is_left(
    postgres: Cluster, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word of the server, writes and reads fail in time, and go on over new connections afterwards."""
    monkeypatch.setattr("receiver.storage.postgres.connection._COMMAND_SECONDS", 0.5)
    monkeypatch.setattr("receiver.storage.postgres.connection._CONNECT_SECONDS", 0.5)
    monkeypatch.setattr("receiver.storage.postgres.connection._CLOSE_SECONDS", 0.1)
    async with open_wire(postgres.folder) as wire, running_store(wire.url(postgres_url)) as store:
        for number in (1, 2):
            await store.write(a_registration(number))
        assert await store.task(a_ref(1)) is not None
        wire.is_silent = True
        with pytest.raises(StoreFailedError):
            await store.write(a_delivery(1, task_id="a1"))
        with pytest.raises(StoreFailedError):
            await store.task(a_ref(1))
        assert store.failure is not None
        wire.is_silent = False
        await eventually(lambda: store.failure is None)
        await store.write(a_delivery(1, task_id="a1"))
        task = await store.task(a_ref(1))

    assert task is not None
    assert task.status == "ready"


async def test_a_cancelled_read_leaves_a_usable_connection(postgres: Cluster, postgres_url: str) -> None:
    """Reads whose callers go away at any moment cost no later read its answer, and leave no line in the log."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    async with running_store(postgres_url) as store:
        await store.write(a_registration(1))
        for turns in itertools.chain(range(30), range(30)):
            async with asyncio.TaskGroup() as group:
                reads = [group.create_task(store.results(None, limit=10, only=ALL)) for _ in range(10)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for read in reads[:9]:
                    read.cancel()
            assert reads[9].result().entries == ()
        assert execute(
            postgres_url,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'",
        ) == [(0,)]
    assert told == []
