"""Faults of a PostgreSQL server under two running receivers, and what their callers and readers notice."""

from __future__ import annotations

import asyncio
import errno
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
from structlog.testing import capture_logs

from receiver.errors import StoreFailedError
from tests.faults.machine import Machine
from tests.faults.test_postgres_faults import is_ready, ready_again
from tests.faults.test_several_receivers import at
from tests.postgres import Cluster, execute, running_cluster
from tests.receiver.storage.stores import ALL, a_registration, running_store
from tests.receiver.web.sockets import subscribed
from tests.support import RunningReceiver, eventually, running_receiver
from tests.tools import tool

PASSWORD = "hush-9f3a"
LIMITS = {"statement_timeout": "'1s'", "lock_timeout": "'500ms'"}
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
FAILING = ("commit.failed", "log.not_read", "hints.failed")


@dataclass(frozen=True)
class Database:
    """A database of a role that is no superuser, and asks for its password."""

    cluster: Cluster
    name: str

    @property
    def url(self) -> str:
        """The URL of the receivers."""
        return f"postgresql://{self.name}:{PASSWORD}@/{self.name}?host={self.cluster.folder}"

    def run(self, statement: str) -> None:
        """Run a statement on the server, as its administrator."""
        self.cluster.execute(re.sub(r"\bNAME", self.name, statement))

    def disconnect(self) -> None:
        """End all sessions."""
        self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'NAME'")

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Return rows of the database."""
        return execute(self.cluster.url(self.name), statement)


@pytest.fixture(scope="module")
def own_cluster(postgres: Cluster) -> Iterator[Cluster]:
    """Run a server that tests may stop."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def database(own_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Make a database."""
    name = f"d{abs(hash(request.node.name))}"
    made = Database(own_cluster, name)
    made.run(f"CREATE ROLE NAME LOGIN PASSWORD '{PASSWORD}'")
    made.run("CREATE DATABASE NAME OWNER NAME")
    own_cluster.set_rule(f"local {name} {name} scram-sha-256")
    yield made
    made.run("DROP DATABASE NAME WITH (FORCE)")
    made.run("DROP ROLE NAME")


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let locks and statements of the receivers have a short time."""
    monkeypatch.setattr("receiver.storage.postgres.connection._SESSION", LIMITS)


@asynccontextmanager
async def stopped(database: Database, number: signal.Signals) -> AsyncIterator[None]:
    """Stop the server."""
    await asyncio.to_thread(database.cluster.stop, number)
    yield
    # It ends with the thread that started it.
    database.cluster.start()


@asynccontextmanager
async def crashed(database: Database) -> AsyncIterator[None]:
    """Stop the server at once."""
    async with stopped(database, signal.SIGQUIT):
        yield


@asynccontextmanager
async def shut_down(database: Database) -> AsyncIterator[None]:
    """Stop the server as its administrator does."""
    async with stopped(database, signal.SIGINT):
        yield


@asynccontextmanager
async def changed(database: Database, change: str, undo: str) -> AsyncIterator[None]:
    """Change something that new sessions notice."""
    database.run(change)
    database.disconnect()
    yield
    database.run(undo)
    database.disconnect()


@asynccontextmanager
async def read_only(database: Database) -> AsyncIterator[None]:
    """Let the database take no changes."""
    change = "ALTER DATABASE NAME SET default_transaction_read_only = {}"
    async with changed(database, change.format("on"), change.format("off")):
        yield


@asynccontextmanager
async def other_password(database: Database) -> AsyncIterator[None]:
    """Change the password."""
    change = "ALTER ROLE NAME PASSWORD '{}'"
    async with changed(database, change.format("other"), change.format(PASSWORD)):
        yield


@asynccontextmanager
async def no_connections(database: Database) -> AsyncIterator[None]:
    """Let the server refuse further connections, as if all were in use."""
    change = "ALTER ROLE NAME CONNECTION LIMIT {}"
    async with changed(database, change.format(0), change.format(-1)):
        yield


@asynccontextmanager
async def not_durable(database: Database) -> AsyncIterator[None]:
    """Let the server acknowledge before it has written."""
    change = "ALTER ROLE NAME SET synchronous_commit = {}"
    async with changed(database, change.format("off"), change.format("on")):
        yield


@asynccontextmanager
async def gone(database: Database) -> AsyncIterator[None]:
    """Let there be no database of this name."""
    database.run("ALTER DATABASE NAME ALLOW_CONNECTIONS false")
    async with asyncio.timeout(30):
        while True:
            database.disconnect()
            try:
                database.run("ALTER DATABASE NAME RENAME TO NAME_away")
            except asyncpg.ObjectInUseError:
                await asyncio.sleep(0.05)
            else:
                break
    yield
    database.run("ALTER DATABASE NAME_away RENAME TO NAME")
    database.run("ALTER DATABASE NAME ALLOW_CONNECTIONS true")


@asynccontextmanager
async def triggered(database: Database, action: str) -> AsyncIterator[None]:
    """Carry out a statement for each new entry of the log."""
    database.query(f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {action}; RETURN NEW; END $$")
    database.query("CREATE TRIGGER fault BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION fault()")
    yield
    database.query("DROP TRIGGER fault ON log")
    database.query("DROP FUNCTION fault")


@asynccontextmanager
async def no_room(database: Database) -> AsyncIterator[None]:
    """Let the disk be full."""
    async with triggered(database, "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'"):
        yield


@asynccontextmanager
async def slow_statements(database: Database) -> AsyncIterator[None]:
    """Let statements take longer than they may."""
    async with triggered(database, "PERFORM pg_sleep(60)"):
        yield


@asynccontextmanager
async def killed_sessions(database: Database) -> AsyncIterator[None]:
    """Let the server end a session in the middle of each transaction."""
    async with triggered(database, "PERFORM pg_terminate_backend(pg_backend_pid())"):
        yield


@asynccontextmanager
async def locked(database: Database, statement: str) -> AsyncIterator[None]:
    """Hold a lock, as a receiver that hangs."""
    connection = await asyncpg.connect(database.cluster.url(database.name))
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


@asynccontextmanager
async def locked_head(database: Database) -> AsyncIterator[None]:
    """Hold the row that gives the positions."""
    async with locked(database, "SELECT 1 FROM head FOR UPDATE"):
        yield


@asynccontextmanager
async def locked_table(database: Database) -> AsyncIterator[None]:
    """Hold a whole table, as a change of the schema does. Reads wait, too."""
    async with locked(database, "LOCK TABLE task"):
        yield


Fault = Callable[[Database], AbstractAsyncContextManager[None]]


LONG = (
    shut_down,
    read_only,
    other_password,
    no_connections,
    not_durable,
    gone,
    slow_statements,
    killed_sessions,
    locked_table,
)


@pytest.mark.parametrize(
    "fault", [crashed, no_room, locked_head, *(pytest.param(fault, marks=pytest.mark.postgres) for fault in LONG)]
)
async def test_a_fault_of_the_server_costs_time_only(database: Database, fault: Fault) -> None:
    """Callbacks get 503 with Retry-After until the fault is over. Then all go on, and readers have missed nothing.

    The log has a line for the failure, and the password is nowhere.
    """
    await endured(database, fault)


@pytest.mark.postgres
async def test_a_full_disk_costs_time_only(database: Database) -> None:
    """The server ends, because it cannot write its own log. Once there is room, it is started again."""
    folder = database.cluster.folder / "machine"
    folder.mkdir()
    machine = Machine(folder, compiler=tool("gcc", package="gcc"))
    database.cluster.stop()
    database.cluster.start(machine.variables)

    @asynccontextmanager
    async def full_disk(database: Database) -> AsyncIterator[None]:
        machine.set(write_error=errno.ENOSPC)
        yield
        machine.set()
        database.cluster.stop()
        database.cluster.start()

    await endured(database, full_disk)


async def test_a_locked_row_holds_up_its_own_callback_only(database: Database) -> None:
    """Callbacks of other tasks in the same batch are stored."""
    async with running_receiver(database.url) as receiver:
        tasks = [await receiver.register() for _ in range(20)]
        async with locked(database, "SELECT 1 FROM task WHERE id = 8 FOR UPDATE"):
            async with asyncio.TaskGroup() as group:
                sent = [group.create_task(receiver.call_back(task["callbackUrl"])) for task in tasks]
            answers = [answer.result() for answer in sent]
            stored = database.query("SELECT ref FROM task WHERE status = 'ready'")
        await ready_again(receiver)
        again = await receiver.call_back(tasks[7]["callbackUrl"])

    assert [number for number, answer in enumerate(answers) if answer.status != 200] == [7]
    assert int(answers[7].headers["Retry-After"]) > 0
    assert len(stored) == 19
    assert again.status == 200


async def test_reads_without_a_free_connection_fail_in_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are failed reads, as of a server that is away. So nothing but their callers notices."""
    monkeypatch.setattr("receiver.storage.postgres.connection._READERS", 2)
    monkeypatch.setitem(LIMITS, "lock_timeout", "'60s'")
    monkeypatch.setitem(LIMITS, "statement_timeout", "'60s'")
    async with running_store(database.url) as store, asyncio.TaskGroup() as group:
        await store.write(a_registration(1))
        async with locked(database, "LOCK TABLE shape"):
            for _ in range(2):
                group.create_task(store.shapes("capsolver"))
            await eventually(lambda: database.query(WAITING) == [(2,)])
            monkeypatch.setattr("receiver.storage.postgres.store._POOL_SECONDS", 0.2)
            with pytest.raises(StoreFailedError, match="no connection to the database is free"):
                await store.results(None, limit=1, only=ALL)
        assert (await store.results(None, limit=1, only=ALL)).entries == ()


async def endured(database: Database, fault: Fault) -> None:
    """Check two receivers during a fault and after it."""
    with capture_logs() as lines:
        async with (
            running_receiver(database.url) as one,
            running_receiver(database.url) as other,
            asyncio.TaskGroup() as group,
        ):
            tasks = [await one.register() for _ in range(4)]
            async with subscribed(one, cursor="start") as socket:
                await one.call_back(tasks[0]["callbackUrl"])
                waiters = [
                    group.create_task(receiver.send("GET", f"/v1/tasks/{task['ref']}", params={"wait": 60}))
                    for receiver, task in ((one, tasks[2]), (other, tasks[2]))
                ]
                await eventually(lambda: one.waiting == other.waiting == 1)
                # They have read the store before this read.
                await one.task(tasks[2]["ref"])
                await other.task(tasks[2]["ref"])
                async with fault(database):
                    during = [await one.call_back(tasks[1]["callbackUrl"]) for _ in range(2)]
                    await not_ready(one)
                for receiver in (one, other):
                    await ready_again(receiver)
                again = await one.call_back(tasks[1]["callbackUrl"])
                acknowledged = database.query("SELECT count(*) FROM task WHERE status = 'ready'")
                stored = await other.call_back(at(other, tasks[2]["callbackUrl"]))
                woken = [await waiter for waiter in waiters]
                frames = [await socket.next() for _ in range(3)]

    assert [answer.status for answer in during] == [503, 503]
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in during)
    assert (again.status, acknowledged, stored.status) == (200, [(2,)], 200)
    assert [answer.json["status"] for answer in woken] == ["ready", "ready"], [answer.json for answer in woken]
    assert [frame["task"]["ref"] for frame in frames] == [task["ref"] for task in tasks[:3]]
    counts = Counter(line["event"] for line in lines)
    assert counts["command.failed"] == 0
    # Two receivers. A failure may end for a moment, as one by one sessions are ended.
    assert max(counts[event] for event in FAILING) <= 4, counts
    assert PASSWORD not in str(lines) + str([answer.body for answer in during])


async def not_ready(receiver: RunningReceiver) -> None:
    """Wait until a receiver says that it cannot store."""
    async with asyncio.timeout(30):
        while await is_ready(receiver):
            await asyncio.sleep(0.05)
