"""`callback-receiver backup`: beside a running receiver, on full disks, interrupted and killed."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import stat
import sys
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import pytest

from receiver.errors import CannotStartError
from receiver.storage.sqlite.backups.copies import back_up
from tests.faults.backup_steps import COPY, DATABASE
from tests.faults.commands import KEY, Finished, run_command
from tests.receiver.storage.stores import a_delivery, a_registration, running_store
from tests.support import receiver_process, running_receiver

pytestmark = pytest.mark.sqlite

LARGE_BYTES = 9_000_000
"""Enough for several steps of a copy."""
TASKS = 5


async def make_database(path: Path, *, tasks: int = TASKS, extra_bytes: int = 0) -> None:
    """Make a receiver's database with this many finished tasks."""
    async with running_store(path) as store:
        for number in range(1, tasks + 1):
            await store.write(a_registration(number))
            await store.write(a_delivery(number))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('large', zeroblob(?))", (extra_bytes,))
        connection.commit()


def refs(path: Path) -> set[str]:
    """Return the tasks of an intact database."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {ref for (ref,) in connection.execute("SELECT ref FROM task")}


async def backup(folder: Path, *arguments: str, **environment: str) -> Finished:
    """Run the command on the database of the folder."""
    return await run_command(folder, "backup", *arguments, API_KEYS=KEY, **environment)


def names(folder: Path, start: str) -> list[str]:
    """Return the names of files that begin so."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(start))


def is_left(folder: Path) -> list[str]:
    """Return the unfinished files in the folder."""
    return [path.name for path in folder.iterdir() if path.name.endswith(".unfinished")]


async def run_steps(name: str, signal_name: str, folder: Path) -> list[int]:
    """Repeat the work with the signal at each step. Return the exit codes of all processes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.backup_steps", name, signal_name, str(folder)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        out, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0
    return [int(line) for line in out.split()]


async def test_a_backup_is_complete_private_and_alone(tmp_path: Path) -> None:
    """The copy has mode 0600 under any umask, and no file beside it. The line tells size, position and time."""
    await make_database(tmp_path / DATABASE)
    before = os.umask(0)
    try:
        finished = await backup(tmp_path, COPY)
    finally:
        os.umask(before)

    size = (tmp_path / COPY).stat().st_size
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith(
        f"saved {COPY}: {size:,} bytes, 5 tasks, log position 5, newest entry of 2023-11-14T"
    )
    assert stat.S_IMODE((tmp_path / COPY).stat().st_mode) == 0o600
    assert names(tmp_path, COPY) == [COPY]
    assert not is_left(tmp_path)
    assert len(refs(tmp_path / COPY)) == TASKS


async def test_the_copy_is_private_from_its_first_byte(tmp_path: Path) -> None:
    """At every part of the copy, all of its files have mode 0600."""
    await make_database(tmp_path / DATABASE, extra_bytes=LARGE_BYTES)
    modes: list[set[int]] = []

    def look(_share: float) -> None:
        files = [path for path in tmp_path.iterdir() if not path.name.startswith(DATABASE)]
        modes.append({stat.S_IMODE(path.stat().st_mode) for path in files})

    before = os.umask(0)
    try:
        back_up(tmp_path / DATABASE, tmp_path / COPY, look)
    finally:
        os.umask(before)

    assert len(modes) > 2
    assert modes == [{0o600}] * len(modes)


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
async def test_it_replaces_nothing(tmp_path: Path, kind: str) -> None:
    """A file, a link to nowhere and a folder under the name stay as they are."""
    await make_database(tmp_path / DATABASE)
    target = tmp_path / COPY
    match kind:
        case "file":
            target.write_text("mine")
        case "link":
            target.symlink_to(tmp_path / "nowhere")
        case _:
            target.mkdir()

    assert "it exists, and a backup replaces no file" in (await backup(tmp_path, COPY)).refusal
    assert not (tmp_path / "nowhere").exists()
    assert kind != "file" or target.read_text() == "mine"


async def test_a_name_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """A file that appears during the copy keeps its content, and the copy is removed."""
    await make_database(tmp_path / DATABASE)

    def take_name() -> None:
        (tmp_path / COPY).write_text("mine")

    with pytest.raises(CannotStartError, match="it exists"):
        back_up(tmp_path / DATABASE, tmp_path / COPY, lambda _share: take_name())

    assert (tmp_path / COPY).read_text() == "mine"
    assert not is_left(tmp_path)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.unlink(), "there is no database"),
        (lambda path: path.write_bytes(b"not a database" * 100), "file is not a database"),
        (lambda path: path.write_bytes(b""), "the database has schema 0"),
    ],
)
async def test_without_a_good_database_there_is_no_backup(tmp_path: Path, damage: object, text: str) -> None:
    """A missing, foreign or empty file is refused in one line."""
    await make_database(tmp_path / DATABASE)
    assert callable(damage)
    damage(tmp_path / DATABASE)

    assert text in (await backup(tmp_path, COPY)).refusal
    assert not (tmp_path / COPY).exists()
    assert not is_left(tmp_path)


async def test_a_damaged_database_gives_no_backup(tmp_path: Path) -> None:
    """Damage behind a good header is found in the copy."""
    await make_database(tmp_path / DATABASE)
    with (tmp_path / DATABASE).open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 8)

    refusal = (await backup(tmp_path, COPY)).refusal

    assert "the cop" in refusal
    assert not (tmp_path / COPY).exists()
    assert not is_left(tmp_path)


async def test_an_older_schema_can_be_saved(tmp_path: Path) -> None:
    """A backup is made before the new version has touched the database."""
    await make_database(tmp_path / DATABASE)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute("PRAGMA user_version = 6")

    finished = await backup(tmp_path, COPY)

    assert finished.code == 0
    assert "schema 6" in finished.out


async def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    """The command ends with one line and code 1, and nothing is left of the copy."""
    await make_database(tmp_path / DATABASE, extra_bytes=LARGE_BYTES)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE_BYTES // 2, before[1]))
    try:
        finished = await backup(tmp_path, COPY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert (finished.code, finished.out, finished.err.count("\n")) == (1, "", 1)
    assert finished.err.startswith(f"callback-receiver: {COPY}: the copy cannot be made: ")
    assert not (tmp_path / COPY).exists()
    assert not is_left(tmp_path)


async def test_an_interrupt_at_any_step_leaves_no_half_file(tmp_path: Path) -> None:
    """After SIGTERM the copy is complete (code 0), or there is none (code 130). Nothing else is left."""
    (tmp_path / "start").mkdir()
    await make_database(tmp_path / "start" / DATABASE, extra_bytes=LARGE_BYTES)

    codes = await run_steps("backup", "SIGTERM", tmp_path)

    assert {0, 130} == set(codes)
    for number, code in enumerate(codes, start=1):
        folder = tmp_path / str(number)
        assert (folder / COPY).exists() == (code == 0), number
        assert code != 0 or len(refs(folder / COPY)) == TASKS
        assert not is_left(folder), number


async def test_a_kill_at_any_step_leaves_no_half_backup(tmp_path: Path) -> None:
    """After SIGKILL the copy is complete or missing, the database is intact, and the next backup tidies up."""
    (tmp_path / "start").mkdir()
    await make_database(tmp_path / "start" / DATABASE, extra_bytes=LARGE_BYTES)

    codes = await run_steps("backup", "SIGKILL", tmp_path)

    assert codes == [-9] * (len(codes) - 1) + [0]
    assert len(codes) > 10
    left = 0
    for number, _code in enumerate(codes, start=1):
        folder = tmp_path / str(number)
        left += len(is_left(folder))
        assert not (folder / COPY).exists() or len(refs(folder / COPY)) == TASKS, number
        back_up(folder / DATABASE, folder / "next.db", lambda _share: None)
        assert not is_left(folder), number
        assert len(refs(folder / DATABASE)) == len(refs(folder / "next.db")) == TASKS
    assert left > 0


async def test_a_copy_under_way_is_not_tidied_up(tmp_path: Path) -> None:
    """A second backup into the folder leaves the unfinished file of the first alone."""
    await make_database(tmp_path / DATABASE)
    copied: list[str] = []

    def copy_again(_share: float) -> None:
        if not copied:
            copied.append("second.db")
            back_up(tmp_path / DATABASE, tmp_path / "second.db", lambda _share: None)

    back_up(tmp_path / DATABASE, tmp_path / COPY, copy_again)

    assert refs(tmp_path / COPY) == refs(tmp_path / "second.db")


async def test_a_backup_under_load_holds_every_earlier_callback(tmp_path: Path) -> None:
    """Callbacks acknowledged before the command started are in the copy, and the receiver goes on meanwhile."""
    acknowledged: list[str] = []
    is_over = asyncio.Event()

    async with running_receiver(tmp_path / DATABASE) as api:

        async def deliver() -> None:
            while not is_over.is_set():
                task = await api.register()
                if (await api.call_back(task["callbackUrl"])).status == 200:
                    acknowledged.append(task["ref"])

        async with asyncio.TaskGroup() as senders:
            for _ in range(4):
                senders.create_task(deliver())
            try:
                for number in range(5):
                    while len(acknowledged) < 20 * (number + 1):
                        await asyncio.sleep(0.01)
                    earlier, before = set(acknowledged), len(acknowledged)
                    finished = await backup(tmp_path, f"copy-{number}.db")
                    assert finished.code == 0, finished
                    assert earlier <= refs(tmp_path / f"copy-{number}.db")
                    assert len(acknowledged) > before
            finally:
                is_over.set()
    assert set(acknowledged) <= refs(tmp_path / DATABASE)


async def test_a_backup_of_a_killed_receiver_holds_its_log(tmp_path: Path) -> None:
    """Commits in the write-ahead log alone are in the copy."""
    async with receiver_process(tmp_path / DATABASE, port=0) as receiver, aiohttp.ClientSession() as session:
        headers = {"Authorization": "Bearer tests-only-admin-key-0123456789"}
        body = {"provider": "capsolver"}
        async with session.post(f"{receiver.url}/v1/tasks", json=body, headers=headers) as response:
            ref = (await response.json())["ref"]
        receiver.process.kill()
        await receiver.process.wait()

    finished = await backup(tmp_path, COPY)

    assert finished.code == 0
    assert ref in refs(tmp_path / COPY)
