"""A failing PostgreSQL under a running receiver: nothing unstored is acknowledged, and no restart is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver.errors import CannotStartError, CursorGoneError
from receiver.storage.postgres.follower import LogReplacedError
from receiver.storage.postgres.store import open_postgres_store
from tests.postgres import Cluster, execute, running_cluster
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, running_store
from tests.support import RunningReceiver, eventually, running_receiver

CONNECTED = "SELECT count(DISTINCT pid) FROM pg_stat_activity WHERE query LIKE '%log_id%' AND state = 'idle'"
DISCONNECT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid()"
)


@pytest.fixture
def own_cluster(postgres: Cluster) -> Iterator[Cluster]:
    """Run a server that the test may stop."""
    with running_cluster() as cluster:
        yield cluster


async def is_ready(receiver: RunningReceiver) -> bool:
    """Return True if the receiver says that it can store."""
    return (await receiver.send("GET", "/readyz", key=None)).status == 200


async def ready_again(receiver: RunningReceiver) -> None:
    """Wait until the receiver can store."""
    async with asyncio.timeout(30):
        while not await is_ready(receiver):
            await asyncio.sleep(0.1)


async def test_a_restart_of_the_server_needs_none_of_the_receiver(own_cluster: Cluster) -> None:
    """While the server is down callbacks get 503 with Retry-After. Afterwards they are stored, and nothing is lost."""
    async with running_receiver(own_cluster.new_database()) as receiver:
        tasks = [await receiver.register() for _ in range(3)]
        before = await receiver.call_back(tasks[0]["callbackUrl"])
        await asyncio.to_thread(own_cluster.stop)
        during = [await receiver.call_back(tasks[1]["callbackUrl"]) for _ in range(2)]
        read = await receiver.send("GET", f"/v1/tasks/{tasks[0]['ref']}")
        was_ready = await is_ready(receiver)
        await asyncio.to_thread(own_cluster.start)
        await ready_again(receiver)
        after = await receiver.call_back(tasks[1]["callbackUrl"])
        statuses = [(await receiver.task(task["ref"]))["status"] for task in tasks]

    assert (before.status, [answer.status for answer in during], read.status, after.status) == (
        200,
        [503, 503],
        503,
        200,
    )
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in (*during, read))
    assert not was_ready
    assert statuses == ["ready", "ready", "processing"]


async def test_a_broken_connection_costs_no_callback(postgres_url: str) -> None:
    """If the server ends all connections, then the next callback is stored over a new one."""
    async with running_receiver(postgres_url) as receiver:
        tasks = [await receiver.register() for _ in range(5)]
        answers = []
        for task in tasks:
            execute(postgres_url, DISCONNECT)
            answers.append(await receiver.call_back(task["callbackUrl"]))
        statuses = [(await receiver.task(task["ref"]))["status"] for task in tasks]

    assert [answer.status for answer in answers] == [200] * 5
    assert statuses == ["ready"] * 5


async def test_a_database_that_became_read_only_stores_nothing(postgres: Cluster, postgres_url: str) -> None:
    """After a failover to a standby callbacks get 503, until the database can be written again."""
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    async with running_receiver(postgres_url) as receiver:
        task = await receiver.register()
        postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        execute(postgres_url, DISCONNECT)
        refused = await receiver.call_back(task["callbackUrl"])
        was_ready = await is_ready(receiver)
        postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
        execute(postgres_url, DISCONNECT)
        await ready_again(receiver)
        stored = await receiver.call_back(task["callbackUrl"])

    assert (refused.status, was_ready, stored.status) == (503, False, 200)


@asynccontextmanager
async def locked_task(url: str, ref: str) -> AsyncIterator[None]:
    """Hold the lock on a task, as a receiver that hangs in a transaction."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT id FROM task WHERE ref = $1 FOR UPDATE", ref)
            yield
    finally:
        await connection.close()


async def test_a_lock_that_is_held_too_long_is_no_acknowledgement(postgres_url: str) -> None:
    """The callback gets 503 in time. It is stored once the lock is gone, and its repetition is a duplicate."""
    async with running_receiver(postgres_url) as receiver:
        task = await receiver.register()
        async with locked_task(postgres_url, task["ref"]):
            refused = await receiver.call_back(task["callbackUrl"])
            during = execute(postgres_url, "SELECT status FROM task")
        stored = await receiver.call_back(task["callbackUrl"])

    assert (refused.status, stored.status) == (503, 200)
    assert (during, execute(postgres_url, "SELECT status FROM task")) == ([("processing",)], [("ready",)])


async def test_a_batch_that_ran_into_a_deadlock_is_repeated(postgres_url: str) -> None:
    """Two stores that lock two tasks in turns both store their commands."""
    async with running_store(postgres_url) as one, running_store(postgres_url) as other:
        for number in range(1, 31):
            await one.write(a_registration(number))
        async with asyncio.TaskGroup() as group:
            for number in range(1, 31):
                group.create_task(one.write(a_delivery(number, task_id=f"a{number}")))
                group.create_task(other.write(a_delivery(31 - number, task_id=f"a{31 - number}")))
        tasks = [await one.task(a_ref(number)) for number in range(1, 31)]

    assert [task and task.deliveries for task in tasks] == [2] * 30


async def test_a_hint_that_is_lost_costs_a_second(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hints, a waiter at another receiver is woken by the look of each second."""
    monkeypatch.setattr("receiver.storage.postgres.hints.Hints.send", lambda _: None)
    grown: list[object] = []
    async with running_store(postgres_url) as one, running_store(postgres_url) as other:
        other.listen(grown.append)
        await one.write(a_registration(1))
        await one.write(a_delivery(1))
        await eventually(lambda: bool(grown))


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("synchronous_commit = off", "synchronous_commit is off, so an acknowledged callback could be lost"),
        ("default_transaction_read_only = on", "cannot execute"),
    ],
)
async def test_a_database_that_would_lose_callbacks_is_refused(
    postgres: Cluster, postgres_url: str, setting: str, text: str
) -> None:
    """The line names the database and the reason, without the password."""
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET {setting}")
    with pytest.raises(CannotStartError) as refused:
        async with open_postgres_store(postgres_url, now=NOW):
            pass

    assert text in str(refused.value)
    assert f"postgresql:///{name}: " in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("CREATE TABLE task (id bigint)", "it has a table `task` of another program"),
        ("CREATE TABLE meta (name text, value text, more text)", "it has a table `meta` of another program"),
    ],
)
async def test_a_database_of_another_program_is_refused(postgres_url: str, statement: str, text: str) -> None:
    """Nothing is changed in it."""
    execute(postgres_url, statement)
    with pytest.raises(CannotStartError, match=text):
        async with open_postgres_store(postgres_url, now=NOW):
            pass

    assert len(execute(postgres_url, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'")) == 1


async def test_a_server_that_is_away_is_refused_for_now(postgres_url: str) -> None:
    """It may be there later, so the exit code says that another start may succeed."""
    with pytest.raises(CannotStartError) as refused:
        async with open_postgres_store("postgresql://me:hush@127.0.0.1:1/receiver", now=NOW):
            pass

    assert refused.value.passes
    assert "hush" not in str(refused.value)


async def test_programs_of_two_versions_share_a_database_as_long_as_it_says_so(postgres_url: str) -> None:
    """A newer schema is accepted if it names this version as old enough, and refused otherwise."""
    async with running_store(postgres_url) as store:
        await store.write(a_registration(1))
    execute(postgres_url, "UPDATE meta SET value = '7' WHERE name = 'schema'")
    async with running_store(postgres_url) as store:
        assert await store.task(a_ref(1)) is not None
    execute(postgres_url, "UPDATE meta SET value = '7' WHERE name = 'oldest_program'")
    with pytest.raises(CannotStartError, match="newer \\(schema 7, for programs from schema 7 on\\)"):
        async with open_postgres_store(postgres_url, now=NOW):
            pass


async def test_programs_that_start_together_make_one_schema(postgres_url: str) -> None:
    """They migrate one after another, and agree on the log and on the signing key."""
    async with asyncio.TaskGroup() as group:
        starts = [group.create_task(started(postgres_url)) for _ in range(4)]

    assert len({start.result() for start in starts}) == 1


async def started(url: str) -> tuple[str, bytes]:
    """Return the cursor of an empty log and the signing key."""
    async with running_store(url) as store:
        return await store.head(), store.signing_keys[0]


async def test_a_log_that_has_lost_entries_gets_another_id(postgres_url: str) -> None:
    """After a failover that lost entries all receivers end, and then readers with a cursor are told of a gap."""
    with capture_logs() as lines:
        async with running_store(postgres_url) as store:
            for number in (1, 2):
                await store.write(a_registration(number))
                await store.write(a_delivery(number))
            cursor = await store.head()
        async with asyncio.TaskGroup() as group:
            ends = [group.create_task(ended(postgres_url)) for _ in range(2)]
            await eventually(lambda: execute(postgres_url, CONNECTED) == [(2,)])
            execute(postgres_url, "DELETE FROM log WHERE position = 2 RETURNING 1")
            execute(postgres_url, "UPDATE head SET position = 1")
        async with running_store(postgres_url) as store:
            with pytest.raises(CursorGoneError) as gone:
                await store.position(cursor)

    assert all("this receiver has to start again" in str(end.result()) for end in ends)
    assert gone.value.reason == "other-log"
    shrunk = [line for line in lines if line["event"] == "log.shrunk"]
    assert 1 <= len(shrunk) <= 2
    assert "has lost 1 entries" in shrunk[0]["reason"]


async def ended(url: str) -> LogReplacedError:
    """Return the error of a store that ends by itself."""
    async with asyncio.timeout(30):
        try:
            async with running_store(url):
                await asyncio.Event().wait()
        except* LogReplacedError as errors:
            found: BaseException = errors
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, LogReplacedError)
    return found
