"""Receivers of two versions on one database: made-up next schemas that the older one fits, or does not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from receiver.errors import CannotStartError
from receiver.storage.postgres.connection import Server, close
from receiver.storage.postgres.errors import OutdatedError
from receiver.storage.postgres.schema import MIGRATIONS, Migration, migrate
from receiver.storage.postgres.store import open_postgres_store
from tests.postgres import execute
from tests.receiver.storage.stores import NOW, a_delivery, a_registration, running_store, whole_log
from tests.receiver.upkeep.pruning import horizon
from tests.receiver.web.sockets import subscribed
from tests.support import Api, eventually, free_port, receiver_process, running_receiver

NEXT = len(MIGRATIONS) + 1
DISCONNECT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
WAITING = (
    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() "
    "AND query = 'SELECT value FROM meta WHERE name = $1'"
)
LOCKED = (
    "SELECT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation JOIN pg_database ON datname = "
    "current_database() AND pg_database.oid = pg_locks.database WHERE pid <> $1 AND relname IN ('task', 'log', 'meta')"
)
WIDER = Migration(
    "ALTER TABLE task ADD COLUMN later text; ALTER TABLE log ADD COLUMN later bigint NOT NULL DEFAULT 7; "
    "CREATE TABLE later (id bigint PRIMARY KEY, note text NOT NULL);",
    oldest=NEXT - 1,
)
"""A step that adds, so that programs of this version go on."""
NARROWER = Migration("ALTER TABLE task DROP COLUMN traceparent; UPDATE log SET source = upper(source);", oldest=NEXT)
"""A step with which programs of this version would fail, and write what newer ones misread."""


async def update(url: str, *steps: Migration) -> None:
    """Start as a newer program does, up to its migration."""
    connection = await Server(url).connect(is_hurried=False)
    try:
        async with connection.transaction():
            await migrate(connection, "the database", (*MIGRATIONS, *steps))
    finally:
        await close(connection)


async def update_in_a_gap(url: str, step: Migration) -> None:
    """Update while an older program has lost its connections, before it makes new ones."""
    while True:
        execute(url, DISCONNECT)
        with suppress(CannotStartError):
            await update(url, step)
            return


def schema(url: str) -> list[tuple[str]]:
    """Return the version of the schema, and the oldest program for it."""
    return execute(url, "SELECT value FROM meta WHERE name IN ('schema', 'oldest_program') ORDER BY name DESC")


@pytest.fixture
def _unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a newer program not see that an older one is connected, as if it had lost its connections just then."""
    name = {"application_name": "lost"}
    monkeypatch.setattr("receiver.storage.postgres.connection._NAME", name)


async def test_an_older_receiver_goes_on_with_a_wider_schema(postgres_url: str) -> None:
    """It stores, reads and wakes over its prepared statements, and it can start again."""
    async with running_receiver(postgres_url) as receiver, subscribed(receiver, cursor="start") as socket:
        tasks = [await receiver.register() for _ in range(4)]
        before = await receiver.call_back(tasks[0]["callbackUrl"])
        await update(postgres_url, WIDER)
        answers = [await receiver.call_back(task["callbackUrl"]) for task in tasks[1:]]
        frames = [await socket.next() for _ in tasks]
        statuses = {(await receiver.task(task["ref"]))["status"] for task in tasks}
    async with running_store(postgres_url) as store:
        log = await whole_log(store)

    assert [answer.status for answer in (before, *answers)] == [200] * 4
    assert {frame["task"]["ref"] for frame in frames} == {task["ref"] for task in tasks}
    assert (statuses, len(log)) == ({"ready"}, 4)
    assert execute(postgres_url, "SELECT DISTINCT later FROM log") == [(7,)]
    assert schema(postgres_url) == [(str(NEXT),), (str(NEXT - 1),)]


async def test_a_narrower_schema_waits_until_older_receivers_are_gone(postgres_url: str) -> None:
    """The newer program is refused for now. Once it has updated the tables, the older one is refused for good."""
    async with running_store(postgres_url) as store:
        await store.write(a_registration(1))
        with pytest.raises(CannotStartError) as refused:
            await update(postgres_url, WIDER, NARROWER)
        unchanged = schema(postgres_url)
        await store.write(a_delivery(1))
    await update(postgres_url, NARROWER)
    with pytest.raises(CannotStartError, match="the database is newer") as too_old:
        async with open_postgres_store(postgres_url, now=NOW):
            pass

    assert str(refused.value).startswith(f"the database: a receiver of schema {NEXT - 1} is connected, and this update")
    assert (refused.value.passes, too_old.value.passes) == (True, False)
    assert unchanged == [(str(NEXT - 1),), (str(MIGRATIONS[-1].oldest),)]
    assert execute(postgres_url, "SELECT source FROM log") == [("CALLBACK",)]


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_a_receiver_that_has_become_too_old_ends(postgres_url: str, tmp_path: Path, log_format: str) -> None:
    """It stores nothing any more, and lets waiters and subscribers go. One line says why, without a trace."""
    port = free_port()
    started = receiver_process(
        tmp_path / "unused.db", port=port, variables={"RECEIVER_DATABASE": postgres_url}, log_format=log_format
    )
    async with started as receiver, aiohttp.ClientSession() as session:
        api = Api(receiver.url, session)
        task = await api.register()
        async with subscribed(api, cursor="start") as socket:
            await update_in_a_gap(postgres_url, NARROWER)
            with suppress(aiohttp.ClientError):
                assert (await api.call_back(task["callbackUrl"])).status == 503
            assert await socket.close_code() is not None
        async with asyncio.timeout(30):
            code = await receiver.process.wait()
        await eventually(lambda: b"so this one ends" in receiver.lines[-1])

    assert code == 2
    assert receiver.lines[-1] == (
        b"callback-receiver: the database was updated for newer receivers, so this one ends; start the newer version\n"
    )
    assert not [line for line in receiver.lines if b"Traceback" in line or b"exception" in line]
    assert execute(postgres_url, "SELECT count(*) FROM log") == [(0,)]


@pytest.mark.usefixtures("_unseen")
async def test_an_idle_receiver_notices_that_it_has_become_too_old(postgres_url: str) -> None:
    """Its readers would misread the rows of newer programs."""

    async def idle() -> None:
        async with running_store(postgres_url):
            await update(postgres_url, NARROWER)
            await asyncio.sleep(30)

    with pytest.raises(ExceptionGroup) as ended:
        await idle()
    assert ended.value.subgroup(OutdatedError)


@pytest.mark.usefixtures("_unseen")
@pytest.mark.parametrize("seed", range(3))
async def test_no_older_row_comes_after_the_update(postgres_url: str, seed: int) -> None:
    """Under load, the update sees every row that an older receiver ever acknowledges, and none follows."""
    stored: list[int] = []
    async with asyncio.TaskGroup() as group:
        for first in (1, 5000):
            group.create_task(store_until_outdated(postgres_url, first, stored))
        await eventually(lambda: len(stored) > 10 * (seed + 1))
        await update(postgres_url, NARROWER)

    assert execute(postgres_url, "SELECT DISTINCT source FROM log WHERE kind = 'result'") == [("CALLBACK",)]
    assert len(execute(postgres_url, "SELECT 1 FROM log")) >= len(stored)


async def test_retention_locks_meta_first(postgres_url: str) -> None:
    """While an update holds `meta`, the look for what is old waits without a lock that the update may need."""
    connection = await Server(postgres_url).connect()
    async with running_store(postgres_url) as store, asyncio.TaskGroup() as group:
        await store.write(a_registration(1))
        async with connection.transaction():
            await connection.execute("LOCK TABLE meta IN ACCESS EXCLUSIVE MODE")
            group.create_task(store.prunable(horizon(results=NOW)))
            async with asyncio.timeout(30):
                while not await connection.fetch(WAITING):
                    await asyncio.sleep(0.01)
                    # In a transaction the server shows the same activity again.
                    await connection.execute("SELECT pg_stat_clear_snapshot()")
            locked = await connection.fetch(LOCKED, connection.get_server_pid())
    await close(connection)

    assert {row[0] for row in locked} <= {"meta"}


async def store_until_outdated(url: str, first: int, stored: list[int]) -> None:
    """Store tasks at a receiver of its own until it has become too old. Note the acknowledged ones."""

    async def store_all() -> None:
        async with running_store(url) as store:
            for number in range(first, first + 4000):
                await store.write(a_registration(number))
                await store.write(a_delivery(number))
                stored.append(number)

    with pytest.raises(ExceptionGroup) as ended:
        await store_all()
    assert ended.value.subgroup(OutdatedError)


@pytest.mark.parametrize(
    "statement", ["ALTER TABLE task ADD COLUMN later text; SELECT 1 / 0;", "CREATE TABLE task (id bigint)"]
)
async def test_an_update_that_fails_leaves_nothing(postgres_url: str, statement: str) -> None:
    """The older receiver goes on, and a corrected update succeeds."""
    async with running_store(postgres_url) as store:
        with pytest.raises(asyncpg.PostgresError):
            await update(postgres_url, WIDER, Migration(statement, oldest=NEXT - 1))
        unchanged = schema(postgres_url)
        await store.write(a_registration(1))
        await update(postgres_url, WIDER)
        await store.write(a_delivery(1))

    assert unchanged == [(str(NEXT - 1),), (str(MIGRATIONS[-1].oldest),)]
    assert schema(postgres_url) == [(str(NEXT),), (str(NEXT - 1),)]


async def test_newer_programs_that_start_together_update_once(postgres_url: str) -> None:
    """All but the first one wait for it, and find nothing to do."""
    async with running_store(postgres_url) as store:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(update(postgres_url, WIDER))
        await store.write(a_registration(1))

    assert schema(postgres_url) == [(str(NEXT),), (str(NEXT - 1),)]


async def test_a_table_in_use_refuses_the_update_for_now(postgres_url: str) -> None:
    """A long dump must not stop all callbacks behind the update."""
    async with running_store(postgres_url) as store:
        dump = await asyncpg.connect(postgres_url)
        try:
            async with dump.transaction():
                await dump.execute("LOCK TABLE task, meta IN ACCESS SHARE MODE")
                with pytest.raises(CannotStartError, match="another session uses one; try again") as refused:
                    await update(postgres_url, WIDER)
                await store.write(a_registration(1))
        finally:
            await dump.close()
        await update(postgres_url, WIDER)

    assert refused.value.passes


async def test_a_program_waits_for_an_update_under_way(postgres_url: str) -> None:
    """However long it takes, nothing is refused."""
    async with running_store(postgres_url):
        pass
    updating = await asyncpg.connect(postgres_url)
    try:
        transaction = updating.transaction()
        await transaction.start()
        await migrate(updating, "the database", (*MIGRATIONS, WIDER))
        async with asyncio.TaskGroup() as group:
            starting = group.create_task(started(postgres_url))
            await asyncio.sleep(0.3)
            was_waiting = not starting.done()
            await transaction.commit()
    finally:
        await updating.close()

    assert was_waiting
    assert schema(postgres_url) == [(str(NEXT),), (str(NEXT - 1),)]


async def started(url: str) -> None:
    """Start as a program of this version, and end."""
    async with running_store(url):
        pass
