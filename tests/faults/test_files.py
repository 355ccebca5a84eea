"""Database files removed, moved, replaced or truncated while the receiver runs (better-sqlite3#1237)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from receiver.storage.sqlite.files import FilesLostError, FileWatch
from tests.client.support import until
from tests.faults.commands import KEY, run_command
from tests.support import Api, ReceiverProcess, receiver_process, running_receiver

pytestmark = pytest.mark.sqlite


@asynccontextmanager
async def receiver_at(database: Path) -> AsyncIterator[tuple[ReceiverProcess, Api]]:
    """Yield a receiver as a process of its own, and requests to it."""
    async with receiver_process(database, port=0) as process, aiohttp.ClientSession() as session:
        yield process, Api(process.url, session)


def wal(database: Path) -> Path:
    """Return the write-ahead log of the database."""
    return database.with_name(f"{database.name}-wal")


def shm(database: Path) -> Path:
    """Return the index of the write-ahead log."""
    return database.with_name(f"{database.name}-shm")


def rescued(database: Path) -> Path:
    """Return the copy made after the database has lost its name."""
    return database.with_name(f"{database.name}-rescued")


def remove(*paths: Path) -> None:
    """Remove the files, like `rm`."""
    for path in paths:
        path.unlink()


def replace(path: Path, content: bytes = b"") -> None:
    """Put another file in the place of this one."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def move_folder(database: Path) -> None:
    """Rename the folder of the database."""
    database.parent.rename(database.parent.with_name("elsewhere"))


async def lose_files(api: Api, database: Path, lose: Callable[[Path], object], url: str) -> str:
    """Lose the files and return the reason of `/readyz` after the rescue. A callback in between is refused."""
    lose(database)
    refused = await api.call_back(api.url + url)
    assert (refused.status, int(refused.headers["Retry-After"]) > 0) == (503, True)

    async def has_tried() -> bool:
        answer = await api.send("GET", "/readyz", key=None)
        assert answer.status == 503
        return "; " in str(answer.json["reason"])

    await until(has_tried)
    assert (await api.call_back(api.url + url)).status == 503
    assert (await api.send("GET", "/healthz", key=None)).status == 200
    return str((await api.send("GET", "/readyz", key=None)).json["reason"])


async def registered(api: Api) -> tuple[str, str]:
    """Return the ref and the path of the callback URL of a new task."""
    answer = await api.register()
    return answer["ref"], "/callback/" + answer["callbackUrl"].split("/callback/")[1]


SAVED = {
    "log removed": lambda database: wal(database).unlink(),
    "log moved": lambda database: wal(database).rename(database.with_name("moved")),
    "log replaced by an empty one": lambda database: replace(wal(database)),
    "index removed": lambda database: shm(database).unlink(),
    "index replaced": lambda database: replace(shm(database), bytes(32768)),
    "log and index removed": lambda database: remove(wal(database), shm(database)),
    "database removed": lambda database: database.unlink(),
    "database moved": lambda database: database.rename(database.with_name("moved")),
    "all removed": lambda database: remove(*database.parent.glob(f"{database.name}*")),
}


@pytest.mark.parametrize("lose", SAVED.values(), ids=SAVED)
async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path, lose: Callable[[Path], object]) -> None:
    """The receiver answers 503 and is not ready. After `kill -9` and a restart, it has all acknowledged callbacks."""
    database = tmp_path / "receiver.db"
    async with receiver_at(database) as (process, api):
        stored, waiting = await registered(api), await registered(api)
        assert (await api.call_back(api.url + stored[1])).status == 200
        reason = await lose_files(api, database, lose, waiting[1])
        await process.stop(signal.SIGKILL)

    async with receiver_at(database) as (_, api):
        task = await api.task(stored[0])
        accepted = await api.call_back(api.url + waiting[1])
        log = (await api.log())["results"]

    assert reason.endswith("; all acknowledged data is in the database: restart the receiver")
    assert (task["status"], accepted.status) == ("ready", 200)
    # The refused callback may have been stored, too.
    assert sorted(entry["task"]["ref"] for entry in log) == sorted([stored[0], waiting[0]])
    assert is_sound(database)


async def test_an_earlier_copy_stays(tmp_path: Path) -> None:
    """It may be the only one of what was acknowledged then. The next one has another name, which the reason tells."""
    database = tmp_path / "receiver.db"
    rescued(database).write_bytes(b"the first one")
    async with receiver_at(database) as (process, api):
        reason = await lose_files(api, database, replace, (await registered(api))[1])
        await process.stop()

    assert rescued(database).read_bytes() == b"the first one"
    assert "all acknowledged data is in receiver.db-rescued-2: stop the receiver" in reason
    assert is_sound(tmp_path / "receiver.db-rescued-2")


@pytest.mark.parametrize("content", [b"", b"another program's file, longer than a header of SQLite is. " * 100])
async def test_a_replaced_database_leaves_a_copy(tmp_path: Path, content: bytes) -> None:
    """The new file stays as it is. The copy beside it has everything. The old log is not applied to the new file."""
    database = tmp_path / "receiver.db"
    async with receiver_at(database) as (process, api):
        stored, waiting = await registered(api), await registered(api)
        assert (await api.call_back(api.url + stored[1])).status == 200
        reason = await lose_files(api, database, lambda path: replace(path, content), waiting[1])
        await process.stop()

    assert (database.read_bytes(), wal(database).stat().st_size) == (content, 0)
    assert "all acknowledged data is in receiver.db-rescued: stop the receiver" in reason
    assert oct(rescued(database).stat().st_mode)[-3:] == "600"
    rescued(database).replace(database)
    async with receiver_at(database) as (_, api):
        assert (await api.task(stored[0]))["status"] == "ready"
    assert is_sound(database)


async def test_a_folder_that_comes_back_has_everything(tmp_path: Path) -> None:
    """Without the folder nothing can be saved. Once the folder is back, nothing has to be saved."""
    folder = tmp_path / "data"
    folder.mkdir()
    database = folder / "receiver.db"
    async with receiver_at(database) as (process, api):
        stored, waiting = await registered(api), await registered(api)
        assert (await api.call_back(api.url + stored[1])).status == 200
        reason = await lose_files(api, database, move_folder, waiting[1])
        (tmp_path / "elsewhere").rename(folder)
        await process.stop(signal.SIGKILL)

    async with receiver_at(database) as (_, api):
        assert (await api.task(stored[0]))["status"] == "ready"
    assert (
        reason == "the database file is gone: No such file or directory; the acknowledged data is not saved yet: "
        "No such file or directory"
    )


@pytest.mark.parametrize("name", [wal, lambda database: database], ids=["log", "database"])
async def test_a_truncated_file_is_noticed(tmp_path: Path, name: Callable[[Path], Path]) -> None:
    """The end of the file is lost, and the reason says so. Nothing more is acknowledged into the rest."""
    database = tmp_path / "receiver.db"
    async with receiver_at(database) as (process, api):
        waiting = await registered(api)
        with closing(sqlite3.connect(database)) as other:
            # The database file must not be empty.
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        await api.register()
        reason = await lose_files(api, database, lambda path: os.truncate(name(path), 0), waiting[1])
        await process.stop(signal.SIGKILL)

    assert "truncated; the last acknowledged data may be lost" in reason
    assert not (tmp_path / "receiver.db-head").exists()


async def test_a_log_that_another_program_has_begun_is_not_mixed_with_ours(tmp_path: Path) -> None:
    """No page of that log is copied, and none of ours goes into a database with that log."""
    database = tmp_path / "receiver.db"
    async with receiver_at(database) as (process, api):
        waiting = await registered(api)
        content = wal(database).read_bytes()
        reason = await lose_files(api, database, lambda path: replace(wal(path), content), waiting[1])
        log = wal(database).read_bytes()
        await process.stop()

    assert "the write-ahead log (-wal) was replaced; the last acknowledged data may be lost" in reason
    assert (log, wal(database).read_bytes()) == (content, content)


async def test_a_receiver_that_was_killed_before_it_noticed(tmp_path: Path) -> None:
    """Commands refuse the database until the receiver has started. Then its log has a new id, and readers get a gap."""
    database = tmp_path / "receiver.db"
    async with receiver_at(database) as (process, api):
        ref, path = await registered(api)
        await api.call_back(api.url + path)
        cursor = (await api.task(ref))["cursor"]
        process.process.send_signal(signal.SIGSTOP)
        # The process may run on for a moment after the signal.
        await asyncio.to_thread(os.waitid, os.P_PID, process.process.pid, os.WSTOPPED)
        wal(database).unlink()
        await process.stop(signal.SIGKILL)
    commands = [("doctor",), ("explain", ref), ("callback-url", "--list"), ("redeliver", "--apply"), ("prune",)]
    refused = [await run_command(tmp_path, *command, API_KEYS=KEY) for command in commands]

    has_log = wal(database).exists()
    async with running_receiver(database) as api:
        gone = await api.send("GET", "/v1/results", params={"after": cursor})

    assert {(finished.code, "(receiver.db-wal) was removed" in finished.err) for finished in refused} == {(1, True)}
    assert not has_log
    assert (gone.status, gone.json["reason"]) == (410, "other-log")


async def test_the_doctor_names_it(tmp_path: Path) -> None:
    """The doctor shows the reason of the receiver. Reading the database meanwhile does no harm."""
    database = tmp_path / "receiver.db"
    async with receiver_at(database) as (process, api):
        stored, waiting = await registered(api), await registered(api)
        await api.call_back(api.url + stored[1])
        reason = await lose_files(api, database, lambda path: wal(path).unlink(), waiting[1])
        finished = await run_command(tmp_path, "doctor", "--json", API_KEYS=KEY, PORT=process.url.rpartition(":")[2])
        explained = await run_command(tmp_path, "explain", stored[0], API_KEYS=KEY)
        still = await api.send("GET", "/readyz", key=None)

    (found,) = [finding for finding in json.loads(finished.out)["findings"] if finding["about"] == "server"]
    assert found["says"] == f"the receiver reports that it cannot store: {reason}"
    assert (explained.code, still.status) == (0, 503)
    assert is_sound(database)


async def test_others_may_shorten_the_files(tmp_path: Path) -> None:
    """An emptied log and a VACUUM by another program are no loss: callbacks are acknowledged."""
    database = tmp_path / "receiver.db"
    async with receiver_at(database) as (_, api):
        statuses: list[Any] = []
        for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            (_, path), with_body = await registered(api), {"solution": {"text": "x" * 100_000}}
            statuses.append((await api.call_back(api.url + path, **with_body)).status)
            await api.send("DELETE", f"/v1/tasks/{(await registered(api))[0]}")
            await asyncio.to_thread(execute, database, statement)
        statuses += [(await api.call_back(api.url + (await registered(api))[1])).status for _ in range(3)]
        ready = await api.send("GET", "/readyz", key=None)

    assert (statuses, ready.status) == ([200] * 6, 200)


def test_a_checkpoint_between_two_commits_may_shorten_the_database(tmp_path: Path) -> None:
    """After VACUUM it cuts the file to the pages of that moment, and the next commit needs more. Less is a loss."""
    database = tmp_path / "receiver.db"
    with (
        closing(sqlite3.connect(database, isolation_level=None)) as writing,
        closing(sqlite3.connect(database, isolation_level=None)) as copying,
    ):
        writing.execute("PRAGMA journal_mode = WAL")
        writing.execute("CREATE TABLE answer (text TEXT)")
        writing.execute("INSERT INTO answer VALUES (?)", ("x" * 400_000,))
        writing.execute("DELETE FROM answer")
        copying.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        watch = FileWatch(database, writing)
        execute(database, "VACUUM")
        watch.check(writing, reads_version=True)
        long = database.stat().st_size
        for _ in range(2):
            writing.execute("INSERT INTO answer VALUES (?)", ("y" * 40_000,))
            copying.execute("PRAGMA wal_checkpoint(PASSIVE)")
            writing.execute("INSERT INTO answer VALUES (?)", ("z" * 40_000,))
            watch.check(writing, reads_version=False)
        short = database.stat().st_size
        os.truncate(database, 4096)

        with pytest.raises(FilesLostError, match="the database file was truncated"):
            watch.check(writing, reads_version=False)

    assert short < long / 2


async def test_a_database_behind_a_link(tmp_path: Path) -> None:
    """The write-ahead log is beside the target of the link. Acknowledged callbacks are saved there as usual."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").mkdir()
    database, link = tmp_path / "disk" / "real.db", tmp_path / "data" / "receiver.db"
    database.touch(0o600)
    link.symlink_to(database)
    async with receiver_at(link) as (process, api):
        stored, waiting = await registered(api), await registered(api)
        assert (await api.call_back(api.url + stored[1])).status == 200
        reason = await lose_files(api, database, lambda path: wal(path).unlink(), waiting[1])
        await process.stop(signal.SIGKILL)

    async with receiver_at(link) as (_, api):
        assert (await api.task(stored[0]))["status"] == "ready"
    assert reason.startswith("the write-ahead log (-wal) is gone")


def execute(database: Path, statement: str) -> None:
    """Execute SQL like another program."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(statement).fetchall()


def is_sound(database: Path) -> bool:
    """Return True if SQLite finds no fault in a copy of it."""
    copy = database.with_name("checked.db")
    for path in (database, wal(database)):
        if path.exists():
            shutil.copy(path, copy.with_name(path.name.replace(database.name, copy.name)))
    with closing(sqlite3.connect(copy)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))
