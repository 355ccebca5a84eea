"""Checkpoints beside the writer: they are made, they keep the log small, and they end before files are saved."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from receiver.storage.sqlite import checkpoints
from receiver.storage.sqlite.checkpoints import Checkpoints
from receiver.storage.sqlite.database import connect_writer
from receiver.storage.sqlite.files import MOST_LOG_BYTES
from tests.receiver.storage.stores import a_registration, running_store
from tests.support import eventually

pytestmark = pytest.mark.sqlite


def copied_tasks(database: Path) -> int:
    """Return the number of tasks in the database without its log; 0 while a checkpoint writes into it."""
    with closing(sqlite3.connect(f"{database.as_uri()}?immutable=1", uri=True)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM task").fetchone()[0])
        except sqlite3.DatabaseError:
            return 0


async def test_commits_are_copied_into_the_database(tmp_path: Path) -> None:
    """A thousand pages are enough, and no COMMIT does it."""
    database = tmp_path / "receiver.db"
    async with running_store(database) as store:
        for number in range(1, 251):
            await store.write(a_registration(number))
        await eventually(lambda: copied_tasks(database) > 100)


async def test_the_log_stays_small(tmp_path: Path) -> None:
    """It begins anew after a checkpoint, also between commits that follow each other."""
    database = tmp_path / "receiver.db"
    async with running_store(database) as store:
        for number in range(1, 1501):
            await store.write(a_registration(number))
        assert (tmp_path / "receiver.db-wal").stat().st_size < 1.5 * MOST_LOG_BYTES


async def test_a_failed_one_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits go on meanwhile. The log names the reason once, however often it fails."""
    database = tmp_path / "receiver.db"
    make = checkpoints._make
    failures: list[str | None] = []

    def fail_twice(connection: sqlite3.Connection) -> str | None:
        if len(failures) == 2:
            return make(connection)
        with closing(sqlite3.connect(database)) as closed:
            pass
        failures.append(make(closed))
        return failures[-1]

    monkeypatch.setattr(checkpoints, "_make", fail_twice)
    with capture_logs() as lines:
        async with running_store(database) as store:
            for number in range(1, 751):
                await store.write(a_registration(number))
            await eventually(lambda: copied_tasks(database) > 450)
    assert failures == ["Cannot operate on a closed database."] * 2
    assert [line["reason"] for line in lines if line["event"] == "checkpoint.failed"] == failures[:1]


async def test_stop_waits_for_the_running_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied once the files are being saved."""
    made: list[str] = []
    goes_on = threading.Event()

    def make(_: sqlite3.Connection) -> None:
        made.append("checkpoint")
        goes_on.wait(20)

    monkeypatch.setattr(checkpoints, "_make", make)
    (tmp_path / "receiver.db").touch()
    async with connect_writer(tmp_path / "receiver.db") as connection, asyncio.TaskGroup() as owner:
        copying = Checkpoints(connection)
        running = owner.create_task(copying.run())
        copying.committed(1000)
        await eventually(lambda: made == ["checkpoint"])
        stopping = owner.create_task(copying.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        goes_on.set()
        await stopping
        copying.committed(1000)
        await asyncio.sleep(0.05)
        running.cancel()
    assert made == ["checkpoint"]
