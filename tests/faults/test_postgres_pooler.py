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

from tests.faults.test_several_receivers import at
from tests.postgres import Cluster
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
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    pooled = f"postgresql://tests:hush@127.0.0.1:{pooler_port}/{name}?sslmode=disable"
    with capture_logs() as lines:
        async with (
            running_receiver(pooled, database_listen=postgres_url) as one,
            running_receiver(pooled, database_listen=postgres_url) as other,
            subscribed(one, cursor="start") as socket,
            asyncio.TaskGroup() as group,
        ):
            tasks = [await one.register() for _ in range(TASKS)]
            waiter = group.create_task(one.send("GET", f"/v1/tasks/{tasks[-1]['ref']}", params={"wait": 60}))
            await eventually(lambda: one.waiting == 1)
            async with asyncio.TaskGroup() as callbacks:
                sent = [
                    callbacks.create_task((one, other)[number % 2].call_back(at((one, other)[number % 2], url)))
                    for number, url in enumerate(task["callbackUrl"] for task in tasks)
                ]
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
    name = postgres_url.partition("?")[0].rpartition("/")[2]
    pooled = f"postgresql://tests:hush@127.0.0.1:{pooler_port}/{name}?sslmode=disable"
    with capture_logs() as lines:
        async with (
            running_receiver(pooled, database_listen=pooled) as one,
            running_receiver(pooled, database_listen=pooled) as other,
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
