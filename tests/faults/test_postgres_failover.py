"""Two PostgreSQL servers, of which the second one takes over."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from receiver.errors import CannotStartError
from receiver.storage.postgres.connection import Server, close
from receiver.storage.postgres.store import open_postgres_store
from tests.faults.postgres_wire import open_wire
from tests.faults.test_postgres_faults import ready_again
from tests.faults.test_several_receivers import at
from tests.postgres import Cluster, execute, running_cluster
from tests.receiver.storage.stores import NOW
from tests.receiver.web.sockets import subscribed
from tests.support import RunningReceiver, eventually, running_receiver

pytestmark = pytest.mark.postgres

CALLBACKS = 120
IN_STEP = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


@dataclass(frozen=True)
class Pair:
    """A primary that waits for its standby, and the URL of one database on both."""

    primary: Cluster
    standby: Cluster
    primary_url: str

    @property
    def standby_url(self) -> str:
        """The URL of the standby alone."""
        return self.standby.url(urlsplit(self.primary_url).path[1:])

    @property
    def url(self) -> str:
        """The URL that names both."""
        return self.primary_url + f",{self.standby.folder}"


@pytest.fixture
def pair(postgres: Cluster) -> Iterator[Pair]:
    """Run two servers."""
    with running_cluster() as primary:
        primary_url = primary.new_database()
        with running_cluster(primary=primary) as standby:
            yield in_step(primary, standby, primary_url)


def in_step(primary: Cluster, standby: Cluster, primary_url: str) -> Pair:
    """Let the primary wait for the standby."""
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    until_true(primary, IN_STEP)
    return Pair(primary, standby, primary_url)


def until_true(cluster: Cluster, statement: str) -> None:
    """Wait until a statement returns a number that is not 0."""
    for _ in range(300):
        if execute(cluster.url("postgres"), statement) != [(0,)]:
            return
        execute(cluster.url("postgres"), "SELECT pg_sleep(0.1)")
    raise AssertionError(statement)


@pytest.mark.parametrize("options", ["", "&target_session_attrs=read-write"])
async def test_a_failover_costs_no_callback(pair: Pair, options: str) -> None:
    """Under load at two receivers, each callback that was acknowledged is on the new primary, and readers get it once.

    The receivers find the new primary by the other host of their URL.
    """
    url = pair.url + options
    async with running_receiver(url) as one, running_receiver(url) as other:
        tasks = [await one.register() for _ in range(CALLBACKS)]
        async with subscribed(one, cursor="start") as socket_of_reader, asyncio.TaskGroup() as group:
            for number, task in enumerate(tasks):
                receiver = (one, other)[number % 2]
                group.create_task(delivered(receiver, at(receiver, task["callbackUrl"]), number * 0.02))
            await eventually(lambda: bool(execute(pair.primary_url, "SELECT 1 FROM log")))
            await asyncio.to_thread(pair.primary.stop)
            await asyncio.to_thread(pair.standby.promote)
            frames = [await socket_of_reader.next() for _ in tasks]
        for receiver in (one, other):
            await ready_again(receiver)
        rows = execute(pair.standby_url, "SELECT count(*), count(DISTINCT task) FROM log WHERE kind = 'result'")

    assert {frame["task"]["ref"] for frame in frames} == {task["ref"] for task in tasks}
    assert rows == [(CALLBACKS, CALLBACKS)]


async def delivered(receiver: RunningReceiver, url: str, seconds: float) -> None:
    """Send a callback, and again until it is acknowledged, as a provider does."""
    await asyncio.sleep(seconds)
    async with asyncio.timeout(60):
        while (answer := await receiver.call_back(url)).status != 200:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            await asyncio.sleep(0.2)


async def test_a_replica_that_is_away_delays_the_acknowledgement(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the replica that the primary has to wait for, nothing is acknowledged. Its waiters hear of it anyway."""
    monkeypatch.setattr("receiver.storage.postgres.writer._COMMIT_SECONDS", 0.5)
    async with running_receiver(pair.primary_url) as receiver, asyncio.TaskGroup() as group:
        task = await receiver.register()
        waiter = group.create_task(receiver.send("GET", f"/v1/tasks/{task['ref']}", params={"wait": 60}))
        await eventually(lambda: receiver.waiting == 1)
        await asyncio.to_thread(pair.standby.stop)
        refused = await receiver.call_back(task["callbackUrl"])
        woken = await waiter
        pair.standby.start()
        await ready_again(receiver)
        again = await receiver.call_back(task["callbackUrl"])

    assert (refused.status, woken.json["status"], again.status) == (503, "ready", 200)


async def test_a_standby_alone_is_refused_for_now(pair: Pair) -> None:
    """The line says that it is one, and that another start may succeed."""
    with pytest.raises(CannotStartError, match="the server is a standby, which is read-only") as refused:
        async with open_postgres_store(pair.standby_url, now=NOW):
            pass

    assert refused.value.passes
    assert "hush" not in str(refused.value)


async def test_a_host_without_a_word_is_passed_over(
    postgres: Cluster, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its part of the time only. The host that was good is tried first from then on."""
    monkeypatch.setattr("receiver.storage.postgres.connection._CONNECT_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with open_wire(postgres.folder) as wire:
            parts = urlsplit(wire.url(postgres_url))
            hosts = f"127.0.0.1:{silent.getsockname()[1]},{parts.netloc.rpartition('@')[2]}"
            server = Server(parts._replace(netloc=f"tests:hush@{hosts}").geturl())
            await close(await server.connect())
            monkeypatch.setattr("receiver.storage.postgres.connection._CONNECT_SECONDS", 60.0)
            async with asyncio.timeout(30):
                await close(await server.connect())
