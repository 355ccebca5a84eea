"""`callback-receiver prune`, as an operator runs it: a dry run first, and the removal on request."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from pathlib import Path

import pytest

from receiver.domain.deliveries import HintTask
from receiver.domain.transaction import Forget
from tests.faults.commands import KEY, Finished, run_command
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, running_store, whole_log
from tests.support import running_receiver

YEARS = str(90 * 365 * 24 * 3600)
LONG = {
    "RETENTION_RESULTS_SECONDS": YEARS,
    "RETENTION_SOLUTIONS_SECONDS": YEARS,
    "RETENTION_DELIVERIES_SECONDS": YEARS,
}
"""Retention times longer than any age in the tests."""


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """Return a folder with a database: three old finished tasks, an unfinished one with a hint, and a deletion."""
    await fill(tmp_path / "receiver.db")
    return tmp_path


async def fill(database: Path | str) -> None:
    """Store what is above."""
    async with running_store(database) as store:
        for number in (1, 2, 3, 5):
            await store.write(a_registration(number))
            await store.write(a_delivery(number))
        await store.write(Forget(ref=a_ref(5), now=NOW))
        await store.write(a_registration(4))
        await store.write(HintTask(ref=a_ref(4), now=NOW))


def digest(folder: Path) -> str:
    """Return a digest of the database file, to compare every byte of it."""
    return hashlib.sha256((folder / "receiver.db").read_bytes()).hexdigest()


async def prune(folder: Path, *arguments: str, **lives: str) -> Finished:
    """Run the command with these retention times."""
    return await run_command(folder, "prune", *arguments, API_KEYS=KEY, **LONG | lives)


@pytest.mark.sqlite
async def test_it_only_tells_if_nothing_else_is_said(folder: Path) -> None:
    """The dry run shows counts, bytes and times. The file keeps its bytes."""
    before = digest(folder)

    finished = await prune(folder, RETENTION_RESULTS_SECONDS="60")

    assert (finished.code, digest(folder)) == (0, before)
    # The deletion and the hint are as old; the tombstone is older than 90 days.
    assert finished.out == (
        "would be removed: 3 finished tasks, 5 places in the log, 1 tombstones\n"
        "answers and bodies: 69 bytes\n"
        "places in the log: from 2023-11-14T22:13:20+00:00 to 2023-11-14T22:13:20+00:00\n"
    )
    assert finished.err.startswith("nothing was changed")


@pytest.mark.parametrize(
    "lives",
    [
        {"RETENTION_RESULTS_SECONDS": "60"},
        {"RETENTION_SOLUTIONS_SECONDS": "60"},
        {"RETENTION_DELIVERIES_SECONDS": "60"},
        {"MAX_FINISHED_TASKS": "1"},
    ],
)
async def test_it_removes_what_it_told(tmp_path: Path, database: Path | str, lives: dict[str, str]) -> None:
    """The dry run and the removal count the same, and a second dry run counts nothing."""
    await fill(database)
    settings = lives | {"DATABASE": str(database)}
    dry_run = await prune(tmp_path, "--dry-run", **settings)
    done = await prune(tmp_path, "--apply", **settings)
    left = await prune(tmp_path, **settings)

    assert (dry_run.code, done.code) == (0, 0)
    assert re.findall("be removed: (.+)", dry_run.out) == re.findall("removed: (.+)", done.out)
    assert left.out == "would be removed: nothing\n"


async def test_it_leaves_what_is_young(folder: Path) -> None:
    """If only the maximum number is exceeded, the oldest go and the rest stays readable."""
    await prune(folder, "--apply", MAX_FINISHED_TASKS="1")

    async with running_store(folder / "receiver.db") as store:
        assert [entry.ref for entry in await whole_log(store)] == [a_ref(3), a_ref(5), a_ref(4)]


async def test_it_works_beside_a_running_receiver(tmp_path: Path) -> None:
    """The receiver goes on serving, and no longer knows the removed tasks."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        tasks = [await api.register() for _ in range(3)]
        for task in tasks:
            await api.call_back(task["callbackUrl"])
        dry_run = await prune(tmp_path, MAX_FINISHED_TASKS="1")
        done = await prune(tmp_path, "--apply", MAX_FINISHED_TASKS="1")
        late = await api.call_back(tasks[0]["callbackUrl"])
        answers = [(await api.send("GET", f"/v1/tasks/{task['ref']}")).status for task in tasks]

    assert dry_run.out.startswith("would be removed: 2 finished tasks, 2 places in the log")
    assert done.out.startswith("removed: 2 finished tasks, 2 places in the log")
    assert (late.status, answers) == (200, [404, 404, 200])


@pytest.mark.sqlite
async def test_a_database_of_another_version_is_refused(folder: Path) -> None:
    """A dry run changes nothing, so it does not migrate an older file either."""
    connection = sqlite3.connect(folder / "receiver.db")
    connection.execute("PRAGMA user_version = 2")
    connection.close()

    assert "the database has schema 2, this program needs" in (await prune(folder)).refusal


@pytest.mark.sqlite
async def test_without_a_database_it_refuses(tmp_path: Path) -> None:
    """The command makes no database."""
    assert "there is no database" in (await prune(tmp_path)).refusal
    assert not (tmp_path / "receiver.db").exists()
