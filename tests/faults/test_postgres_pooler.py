"""Two receivers behind PgBouncer, which gives each transaction any session of the server."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from receiver.settings import Settings
from receiver.storage.opening import open_for_reading
from tests.faults.test_several_receivers import at
from tests.postgres import Cluster
from tests.receiver.storage.stores import a_ref, a_registration, running_store
from tests.receiver.web.sockets import subscribed
from tests.support import eventually, free_port, running_receiver
from tests.tools import tool

pytestmark = pytest.mark.postgres

TASKS = 60
SETTINGS = """
[databases]
* = host={folder} user=tests
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
logfile = {folder}/pgbouncer.log
"""


@pytest.fixture
def pooler_port(postgres: Cluster) -> Iterator[int]:
    """Run PgBouncer before the server. It refuses to be root."""
    program = tool("pgbouncer", package="pgbouncer")
    port = free_port()
    settings = Path(postgres.folder) / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(folder=postgres.folder, port=port))
    owner = pwd.getpwuid(postgres.folder.stat().st_uid).pw_name
    user = ["-u", owner] if os.geteuid() == 0 else []
    process = subprocess.Popen([program, "-q", *user, str(settings)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)


def pooled(port: int, url: str) -> str:
    """Return the URL of the same database over the pooler."""
    name = url.partition("?")[0].rpartition("/")[2]
    return f"postgresql://tests:hush@127.0.0.1:{port}/{name}?sslmode=disable"


async def started(port: int) -> None:
    """Wait until the pooler takes connections."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def test_receivers_work_through_a_pooler(postgres_url: str, pooler_port: int) -> None:
    """With the direct URL for notifications, callbacks, waiters, streams and pages work as without a pooler."""
    await started(pooler_port)
    url = pooled(pooler_port, postgres_url)
    with capture_logs() as lines:
        async with (
            running_receiver(url, database_listen=postgres_url) as one,
            running_receiver(url, database_listen=postgres_url) as other,
            subscribed(one, cursor="start") as socket,
            asyncio.TaskGroup() as group,
        ):
            tasks = [await one.register() for _ in range(TASKS)]
            waiter = group.create_task(one.send("GET", f"/v1/tasks/{tasks[-1]['ref']}", params={"wait": 60}))
            await eventually(lambda: one.waiting == 1)
            async with asyncio.TaskGroup() as callbacks:
                sent = []
                for number, task in enumerate(tasks):
                    receiver = (one, other)[number % 2]
                    sent.append(callbacks.create_task(receiver.call_back(at(receiver, task["callbackUrl"]))))
            frames = [await socket.next() for _ in tasks]
            pages = [await receiver.log(after=frames[9]["cursor"], limit=100) for receiver in (one, other)]
            listed = await other.send("GET", "/v1/tasks", params={"limit": 100})
            woken = (await waiter).json

    assert {answer.result().status for answer in sent} == {200}
    assert {frame["task"]["ref"] for frame in frames} == {task["ref"] for task in tasks}
    assert all(
        [entry["cursor"] for entry in page["results"]] == [frame["cursor"] for frame in frames[10:]] for page in pages
    )
    assert len(listed.json["tasks"]) == TASKS
    assert woken["status"] == "ready"
    assert [line for line in lines if line["log_level"] in ("warning", "error")] == []


async def test_a_pooler_that_swallows_notifications_is_noticed(
    postgres_url: str, pooler_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the URL for notifications leads to the pooler, too, then a warning says so, and waiters are a second late."""
    monkeypatch.setattr("receiver.storage.postgres.hints._RETURN_SECONDS", 1.0)
    await started(pooler_port)
    url = pooled(pooler_port, postgres_url)
    with capture_logs() as lines:
        async with (
            running_receiver(url, database_listen=url) as one,
            running_receiver(url, database_listen=url) as other,
            asyncio.TaskGroup() as group,
        ):
            registered = await one.register()
            waiter = group.create_task(one.send("GET", f"/v1/tasks/{registered['ref']}", params={"wait": 60}))
            await eventually(lambda: one.waiting == 1)
            await other.call_back(at(other, registered["callbackUrl"]))
            woken = (await waiter).json
            # Two receivers, and each warns once.
            await eventually(lambda: "hints.failed" in [line["event"] for line in lines])

    assert woken["status"] == "ready"
    assert "RECEIVER_DATABASE_LISTEN has to name the server itself" in next(
        line["reason"] for line in lines if line["event"] == "hints.failed"
    )


async def test_commands_go_to_the_server_itself(postgres_url: str, pooler_port: int) -> None:
    """They need a session of their own, and no pooler."""
    await started(pooler_port)
    async with running_store(postgres_url) as store:
        await store.write(a_registration(1))
    settings = Settings(database=pooled(pooler_port, postgres_url), database_listen=postgres_url, _env_file=None)
    with open_for_reading(settings) as connection:
        rows = [connection.execute("SELECT ref FROM task").fetchall() for _ in range(3)]
        (number,) = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()

    assert rows == [[(a_ref(1),)]] * 3
    # PgBouncer knows none, and the receiver would keep none behind it.
    assert number > 0
