"""Backups of PostgreSQL's own tools, restored as deploy/OPERATING.md says: a dump, and a copy with its archive."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.faults.commands import run_command
from tests.postgres import Cluster, execute, running_cluster
from tests.support import API_KEYS, RunningReceiver, running_receiver

PUBLIC_URL = "https://callbacks.example.org"


def at(receiver: RunningReceiver, callback_url: str) -> str:
    """Return a callback URL as it leads to this receiver."""
    return receiver.url + callback_url.removeprefix(PUBLIC_URL)


async def finished(receiver: RunningReceiver) -> Any:
    """Return a task that a callback has ended."""
    task = await receiver.register()
    assert (await receiver.call_back(at(receiver, task["callbackUrl"]))).status == 200
    return await receiver.task(task["ref"])


def told(task: Any) -> Any:
    """Return a task without its cursor, which belongs to a log."""
    return {name: value for name, value in task.items() if name != "cursor"}


async def new_log(folder: Path, url: str) -> None:
    """Run the command that a restored copy needs."""
    ended = await run_command(folder, "new-log", DATABASE=url, API_KEYS=API_KEYS)
    assert ended.code == 0, ended


async def test_a_dump_is_restored(postgres: Cluster, postgres_url: str, tmp_path: Path) -> None:
    """The copy has all of the dump. Its callback URLs are valid, and a newer cursor is told of the gap."""
    async with running_receiver(postgres_url, public_url=PUBLIC_URL) as receiver:
        before, waiting = await finished(receiver), await receiver.register()
        dump = str(postgres.folder / "receiver.dump")
        await asyncio.to_thread(postgres.run, "pg_dump", "--format=custom", f"--file={dump}", postgres_url)
        after = await finished(receiver)
        cursor = (await receiver.log())["cursor"]
    restored = postgres.new_database()
    postgres.run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={restored}", dump)
    await new_log(tmp_path, restored)

    async with running_receiver(restored, public_url=PUBLIC_URL) as receiver:
        kept = await receiver.task(before["ref"])
        missing = await receiver.send("GET", f"/v1/tasks/{after['ref']}")
        stored = await receiver.call_back(at(receiver, waiting["callbackUrl"]))
        gone = await receiver.send("GET", "/v1/results", params={"after": cursor})
        log = await receiver.log()
    postgres.drop_database(restored)

    assert told(kept) == told(before)
    assert (missing.status, stored.status, gone.status) == (404, 200, 410)
    assert [entry["task"]["ref"] for entry in log["results"]] == [before["ref"], waiting["ref"]]


@pytest.mark.postgres
async def test_a_copy_and_its_archive_are_restored(tmp_path: Path) -> None:
    """All that was acknowledged is there, as long as its part of the write-ahead log was archived."""
    with running_cluster(
        {"archive_mode": "on", "archive_command": "test ! -f ../%f.kept && cp %p ../%f.kept"}
    ) as cluster:
        url = cluster.new_database()
        async with running_receiver(url, public_url=PUBLIC_URL) as receiver:
            tasks = [await finished(receiver)]
            copy = str(cluster.folder / "copy")
            await asyncio.to_thread(
                cluster.run, "pg_basebackup", f"--pgdata={copy}", "--checkpoint=fast", f"--dbname={url}"
            )
            tasks.append(await finished(receiver))
        await archived(url)
        cluster.stop()
        cluster.data = "copy"
        (cluster.folder / "copy" / "recovery.signal").touch()
        cluster.options["restore_command"] = "cp ../%f.kept %p"
        cluster.start()
        while execute(url, "SELECT pg_is_in_recovery()") == [(True,)]:
            await asyncio.sleep(0.1)
        await new_log(tmp_path, url)
        async with running_receiver(url, public_url=PUBLIC_URL) as receiver:
            kept = [await receiver.task(task["ref"]) for task in tasks]

    assert list(map(told, kept)) == list(map(told, tasks))


async def archived(url: str) -> None:
    """Wait until the write-ahead log up to now is in the archive."""
    ((name,),) = execute(url, "SELECT pg_walfile_name(pg_switch_wal())")
    async with asyncio.timeout(60):
        while execute(url, f"SELECT 1 FROM pg_stat_archiver WHERE last_archived_wal >= '{name}'") == []:  # noqa: S608
            await asyncio.sleep(0.1)
