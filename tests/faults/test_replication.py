"""A program with the locks of Litestream beside a running receiver."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import running_receiver

pytestmark = pytest.mark.sqlite

ROUNDS = 20


def replicate(database: str) -> None:
    """Follow the log as Litestream does, in rounds.

    A read transaction is always open. In each round a checkpoint is made under a lock for writing, and a table of its
    own is written.
    """
    with (
        closing(sqlite3.connect(database, isolation_level=None, timeout=1)) as reader,
        closing(sqlite3.connect(database, isolation_level=None, timeout=1)) as writer,
    ):
        writer.execute("CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
        for number in range(ROUNDS):
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM task").fetchall()
            time.sleep(0.05)
            reader.execute("ROLLBACK")
            writer.execute(f"PRAGMA wal_checkpoint({('PASSIVE', 'RESTART', 'TRUNCATE')[number % 3]})").fetchall()
            writer.execute("INSERT OR REPLACE INTO _litestream_seq VALUES (1, ?)", (number,))


async def test_a_program_like_litestream_disturbs_nothing(tmp_path: Path) -> None:
    """Every callback is acknowledged, none of the files counts as lost, and the log does not grow."""
    database = tmp_path / "receiver.db"
    async with running_receiver(database) as api:
        follower = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, str(database))
        statuses: list[int] = []
        refs: list[str] = []
        while follower.returncode is None or len(statuses) < ROUNDS:
            task = await api.register()
            refs.append(task["ref"])
            statuses.append((await api.call_back(task["callbackUrl"])).status)
        ready = await api.send("GET", "/readyz")
        stored = [(await api.task(ref))["status"] for ref in refs]

    assert follower.returncode == 0
    assert set(statuses) == {200}
    assert ready.status == 200
    assert set(stored) == {"ready"}


if __name__ == "__main__":
    replicate(sys.argv[1])
