"""The checks on opening a file, and the state of the file after a refusal."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from receiver.errors import CannotStartError, CursorGoneError
from receiver.storage.sqlite.store import open_sqlite_store
from tests.receiver.storage.stores import ALL, NOW, a_delivery, a_ref, a_registration, running_store, whole_log
from tests.support import eventually

pytestmark = pytest.mark.sqlite


@pytest.fixture
def _no_umask() -> Iterator[None]:
    """Let files get exactly the mode asked for."""
    before = os.umask(0)
    yield
    os.umask(before)


FILES = ["receiver.db", "receiver.db-wal", "receiver.db-shm", "receiver.db-head"]


def modes(folder: Path) -> dict[str, str]:
    """Return the mode of every file in the folder."""
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()}


def execute(path: Path, *statements: str) -> None:
    """Run statements on the file, as another program would."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


async def refusal(path: Path, *, create: bool = True) -> str:
    """Return the reason of the store for refusing the file."""
    with pytest.raises(CannotStartError) as caught:
        async with open_sqlite_store(path, now=NOW, clock=lambda: 0.0, create=create):
            pass
    return str(caught.value)


def times_open(path: Path) -> int:
    """Return how many times this process has the file open."""
    return [file.readlink() for file in Path("/proc/self/fd").iterdir() if file.is_symlink()].count(path)


async def test_all_connections_have_the_log_open_from_the_start(tmp_path: Path) -> None:
    """So the number of open files stays, and the last one to be closed is one that only reads."""
    async with running_store(tmp_path / "receiver.db"):
        assert times_open(tmp_path / "receiver.db-wal") == 5


@pytest.mark.usefixtures("_no_umask")
async def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    """The database, its log and its index get mode 0600 under any umask."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))

        assert modes(tmp_path) == dict.fromkeys(FILES, "0o600")


@pytest.mark.usefixtures("_no_umask")
async def test_a_file_with_a_wider_mode_is_restricted(tmp_path: Path) -> None:
    """The database gets mode 0600 again, and so do the files beside it."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
    (tmp_path / "receiver.db").chmod(0o666)

    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(2))

        assert modes(tmp_path) == dict.fromkeys(FILES, "0o600")


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.usefixtures("_no_umask")
async def test_another_programs_database_is_left_alone(tmp_path: Path, mode: str) -> None:
    """A foreign database is refused, and neither its bytes nor its mode change."""
    path = tmp_path / "theirs.db"
    execute(path, f"PRAGMA journal_mode = {mode}", "CREATE TABLE theirs (id INTEGER)", "PRAGMA user_version = 1")
    path.chmod(0o640)
    before = path.read_bytes()

    reason = await refusal(path)

    assert reason == f"{path}: this is another program's database"
    assert (path.read_bytes(), modes(tmp_path)) == (before, {"theirs.db": "0o640"})


async def test_an_application_id_of_another_program_is_enough(tmp_path: Path) -> None:
    """A database without tables but with another program's id is refused."""
    path = tmp_path / "theirs.db"
    execute(path, "PRAGMA application_id = 42")

    assert await refusal(path) == f"{path}: this is another program's database"


async def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    """The schema of a later version is refused with both numbers, and stays unchanged."""
    path = tmp_path / "receiver.db"
    async with running_store(path):
        pass
    execute(path, "PRAGMA user_version = 99")
    before = path.read_bytes()

    reason = await refusal(path)

    assert reason.startswith(f"{path}: the database is newer (schema 99) than this program (schema ")
    assert path.read_bytes() == before


async def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    """Garbage is refused and kept as it is."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"what somebody wrote down, longer than a header of SQLite is. " * 50)
    before = path.read_bytes()

    reason = await refusal(path)

    assert reason == f"{path}: the database cannot be used: file is not a database"
    assert path.read_bytes() == before


async def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    """An empty file, as a mount or `touch` makes it, belongs to no program and is used."""
    path = tmp_path / "receiver.db"
    path.touch()

    async with running_store(path) as store:
        await store.write(a_registration(1))

        assert await store.task(a_ref(1)) is not None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a folder", "Is a directory"),
        ("a file/receiver.db", "Not a directory"),
        ("nowhere/receiver.db", "No such file or directory"),
    ],
)
async def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, name: str, reason: str) -> None:
    """The text has the path and the system's reason."""
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").touch()

    assert await refusal(tmp_path / name) == (f"{tmp_path / name}: the database cannot be opened for writing: {reason}")


async def test_a_command_does_not_make_a_database(tmp_path: Path) -> None:
    """Without one, commands other than serve refuse, and none exists afterwards."""
    reason = await refusal(tmp_path / "receiver.db", create=False)

    assert reason.startswith(f"{tmp_path / 'receiver.db'}: there is no database")
    assert modes(tmp_path) == {}


async def test_a_reopened_database_goes_on(tmp_path: Path) -> None:
    """Cursors, signing keys and tasks outlive a restart."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        cursor, keys = await store.head(), store.signing_keys
        await store.write(a_delivery(1))

    async with running_store(tmp_path / "receiver.db") as store:
        page = await store.results(cursor, limit=10, only=ALL)

        assert [entry.ref for entry in page.entries] == [a_ref(1)]
        assert store.signing_keys == keys
        assert [len(key) for key in keys] == [32]


async def test_a_moved_database_goes_on(tmp_path: Path) -> None:
    """Under another name, together with the note of its head, it is the same log. Its cursors stay valid."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        cursor = await store.head()
    (tmp_path / "receiver.db").rename(tmp_path / "moved.db")
    (tmp_path / "receiver.db-head").rename(tmp_path / "moved.db-head")

    async with running_store(tmp_path / "moved.db") as store:
        assert (await store.results(cursor, limit=10, only=ALL)).cursor == cursor


async def test_an_older_copy_in_its_place_is_another_log(tmp_path: Path) -> None:
    """A restored backup without the last results gets a new log id, even copied into the very same file."""
    database, backup = tmp_path / "receiver.db", tmp_path / "backup.db"
    async with running_store(database) as store:
        await store.write(a_registration(1))
    shutil.copy(database, backup)
    async with running_store(database) as store:
        await store.write(a_delivery(1))
        cursor = await store.head()
    shutil.copy(backup, database)

    with capture_logs() as lines:
        async with running_store(database) as store:
            await store.write(a_delivery(1))
            with pytest.raises(CursorGoneError) as caught:
                await store.results(cursor, limit=10, only=ALL)
            restored_id = (await store.head()).partition("-")[0]

    assert caught.value.reason == "other-log"
    (line,) = [line for line in lines if line["event"] == "database.restored"]
    assert (line["logId"], line["newLogId"]) == (cursor.partition("-")[0], restored_id)
    assert line["log_level"] == "warning"


async def test_only_a_restored_database_is_logged_as_one(tmp_path: Path) -> None:
    """A new database and one that goes on are silent."""
    with capture_logs() as lines:
        for _ in range(2):
            async with running_store(tmp_path / "receiver.db") as store:
                await store.head()

    assert [line["event"] for line in lines] == []


async def test_a_restored_folder_is_another_log(tmp_path: Path) -> None:
    """A backup of the database together with its note is detected by the inode in the note."""
    database = tmp_path / "receiver.db"
    async with running_store(database) as store:
        await store.write(a_registration(1))
    backup = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-backup"))
    async with running_store(database) as store:
        await store.write(a_delivery(1))
        cursor = await store.head()
    for name in ("receiver.db", "receiver.db-head"):
        (backup / name).replace(tmp_path / name)

    async with running_store(database) as store:
        await store.write(a_delivery(1))
        with pytest.raises(CursorGoneError) as caught:
            await store.results(cursor, limit=10, only=ALL)

    assert caught.value.reason == "other-log"


async def test_the_head_is_noted_while_the_store_runs(tmp_path: Path) -> None:
    """A killed process leaves a note about a second old, not the note of its start."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        await store.write(a_delivery(1))
        await eventually(lambda: (tmp_path / "receiver.db-head").read_text().split()[1] == "1")


@pytest.mark.parametrize("leftover", ["link", "killed"])
async def test_leftovers_in_the_place_of_the_note_are_replaced(tmp_path: Path, leftover: str) -> None:
    """The target of a link there stays unchanged, and the file of a killed process stops no later note."""
    target, fresh = tmp_path / "precious", tmp_path / "receiver.db-head.new"
    target.write_text("precious")
    if leftover == "link":
        fresh.symlink_to(target)
    else:
        fresh.write_text("half a no")
        fresh.chmod(0o644)

    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        await store.write(a_delivery(1))

    note = tmp_path / "receiver.db-head"
    assert target.read_text() == "precious"
    assert (note.read_text().split()[1], note.is_symlink(), fresh.exists()) == ("1", False, False)
    assert modes(tmp_path)["receiver.db-head"] == "0o600"


async def test_a_copy_elsewhere_is_another_log(tmp_path: Path) -> None:
    """A copy without the note of its head gets a new log id, and old cursors get a gap."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        await store.write(a_delivery(1))
        cursor = await store.head()
    shutil.copy(tmp_path / "receiver.db", tmp_path / "restored.db")

    async with running_store(tmp_path / "restored.db") as store:
        with pytest.raises(CursorGoneError) as caught:
            await store.results(cursor, limit=10, only=ALL)
        resumed = await store.results(caught.value.resumes_at, limit=10, only=ALL)

        assert caught.value.reason == "other-log"
        assert [entry.ref for entry in resumed.entries] == [a_ref(1)]
        assert len(await whole_log(store)) == 1


async def test_a_cursor_beyond_the_end_is_a_gap(tmp_path: Path) -> None:
    """A position behind the end is never taken for the end."""
    async with running_store(tmp_path / "receiver.db") as store:
        with pytest.raises(CursorGoneError) as caught:
            await store.results(store.cursor_at(1), limit=10, only=ALL)

        assert (caught.value.reason, caught.value.resumes_at) == ("beyond-end", await store.head())
