"""`callback-receiver restore`: what it refuses, what it leaves, and a receiver that notices the older copy."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

import pytest

from receiver.errors import CannotStartError
from receiver.storage.sqlite.backups.copies import back_up
from receiver.storage.sqlite.backups.locks import opening
from receiver.storage.sqlite.backups.restoring import restore
from receiver.storage.sqlite.store import open_sqlite_store
from tests.faults.backup_steps import COPY, DATABASE
from tests.faults.commands import KEY, Finished, run_command
from tests.faults.test_backup import LARGE_BYTES, TASKS, is_left, make_database, refs, run_steps
from tests.receiver.storage.stores import NOW, a_delivery, a_registration, running_store
from tests.support import receiver_process, running_receiver

pytestmark = pytest.mark.sqlite

MORE = 8
"""The tasks of the database that is replaced."""


async def restore_copy(folder: Path, name: str = COPY) -> Finished:
    """Run the command in the folder."""
    return await run_command(folder, "restore", name, API_KEYS=KEY)


def read_nothing(_share: float) -> None:
    """Ignore the progress."""


async def make_both(folder: Path) -> None:
    """Make a database, a backup of it, and then more tasks."""
    await make_database(folder / DATABASE)
    back_up(folder / DATABASE, folder / COPY, read_nothing)
    async with running_store(folder / DATABASE) as store:
        for number in range(TASKS + 1, MORE + 1):
            await store.write(a_registration(number))
            await store.write(a_delivery(number))


def kept(folder: Path) -> list[Path]:
    """Return the databases kept beside the restored one, with the files beside them."""
    return sorted(folder.glob(f"{DATABASE}-before-*"))


async def test_the_old_database_is_kept_beside(tmp_path: Path) -> None:
    """The backup is in place with mode 0600, and the old database is complete under a name with the time."""
    await make_both(tmp_path)

    finished = await restore_copy(tmp_path)

    assert finished.code == 0, finished
    assert finished.out.startswith(f"restored {DATABASE}: ")
    assert "5 tasks, log position 5" in finished.out
    (old,) = kept(tmp_path)
    assert str(old) in finished.err
    assert (len(refs(tmp_path / DATABASE)), len(refs(old))) == (TASKS, MORE)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / DATABASE, old)] == [0o600, 0o600]
    assert not is_left(tmp_path)


async def test_an_empty_place_is_filled(tmp_path: Path) -> None:
    """On a new machine there is no database yet, and nothing is kept."""
    await make_both(tmp_path)
    place = tmp_path / "new"
    place.mkdir()

    restored = restore(tmp_path / COPY, place / DATABASE, read_nothing, time_text="now")

    assert restored.before is None
    assert [path.name for path in place.iterdir()] == [DATABASE]
    assert len(refs(place / DATABASE)) == TASKS


async def test_a_running_receiver_is_left_alone(tmp_path: Path) -> None:
    """While a receiver has the database open, nothing changes, and it goes on storing."""
    async with receiver_process(tmp_path / DATABASE, port=0) as receiver:
        assert (await run_command(tmp_path, "backup", COPY, API_KEYS=KEY)).code == 0
        inode = (tmp_path / DATABASE).stat().st_ino

        finished = await restore_copy(tmp_path)

        assert (finished.code, finished.out) == (1, "")
        assert finished.err.endswith("a program has the database open; stop the receiver first\n")
        assert (tmp_path / DATABASE).stat().st_ino == inode
        assert not kept(tmp_path)
        assert not is_left(tmp_path)
        await receiver.stop()
    assert (await restore_copy(tmp_path)).code == 0


async def test_a_killed_receiver_holds_nothing(tmp_path: Path) -> None:
    """After SIGKILL the database can be replaced at once. Commits in its log alone are in the kept database."""
    await make_database(tmp_path / DATABASE)
    back_up(tmp_path / DATABASE, tmp_path / COPY, read_nothing)
    async with receiver_process(tmp_path / DATABASE, port=0) as receiver:
        with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
            connection.execute("INSERT INTO meta VALUES ('late', 1)")
            connection.commit()
        receiver.process.kill()
        await receiver.process.wait()
    assert (tmp_path / f"{DATABASE}-wal").stat().st_size

    assert (await restore_copy(tmp_path)).code == 0

    (old,) = kept(tmp_path)
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'late'").fetchall() == [(1,)]


async def test_no_receiver_opens_a_database_that_is_being_replaced(tmp_path: Path) -> None:
    """A start in the middle of a restore is refused and may be repeated. A restore in the middle of a start, too."""
    await make_both(tmp_path)
    refusals: list[str] = []

    async def start() -> None:
        async with open_sqlite_store(tmp_path / DATABASE, now=NOW, clock=time.monotonic):
            pass

    def start_meanwhile(_share: float) -> None:
        with pytest.raises(CannotStartError) as caught:
            start().send(None)
        assert caught.value.passes
        refusals.append(str(caught.value))

    restore(tmp_path / COPY, tmp_path / DATABASE, start_meanwhile, time_text="now")
    with opening(tmp_path / DATABASE), pytest.raises(CannotStartError) as caught:
        restore(tmp_path / COPY, tmp_path / DATABASE, read_nothing, time_text="later")
    await start()

    assert refusals
    assert all("a backup is being restored there" in text for text in refusals)
    assert caught.value.passes


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "there is no such file"),
        (b"", "expected a backup of a receiver, found an empty file"),
        (b"no database" * 1000, "it cannot be read: file is not a database"),
        ("CREATE TABLE theirs (id INTEGER)", "this is another program's database"),
        ("newer", "the database is newer (schema 99) than this program"),
        ("damaged", "damaged"),
    ],
)
async def test_a_wrong_file_changes_nothing(tmp_path: Path, content: bytes | str | None, text: str) -> None:
    """Each wrong file is refused in one line, and the database keeps its bytes and its name."""
    await make_both(tmp_path)
    wrong = tmp_path / "wrong.db"
    match content:
        case None:
            pass
        case bytes():
            wrong.write_bytes(content)
        case "newer":
            shutil.copy(tmp_path / COPY, wrong)
            with closing(sqlite3.connect(wrong)) as connection:
                connection.execute("PRAGMA user_version = 99")
        case "damaged":
            broken = bytearray((tmp_path / COPY).read_bytes())
            broken[4096 * 3 : 4096 * 11] = b"\xff" * 4096 * 8
            wrong.write_bytes(broken)
        case str():
            with closing(sqlite3.connect(wrong)) as connection:
                connection.execute(content)
    before = (tmp_path / DATABASE).read_bytes()

    refusal = (await restore_copy(tmp_path, "wrong.db")).refusal

    assert text in refusal or (content == "damaged" and "malformed" in refusal)
    assert (tmp_path / DATABASE).read_bytes() == before
    assert not kept(tmp_path)
    assert not is_left(tmp_path)


async def test_a_backup_on_a_read_only_medium_is_read(tmp_path: Path) -> None:
    """No file is made beside the backup."""
    await make_both(tmp_path)
    medium = tmp_path / "medium"
    medium.mkdir()
    shutil.copy(tmp_path / COPY, medium / COPY)
    (medium / COPY).chmod(0o400)
    medium.chmod(0o500)

    try:
        restore(medium / COPY, tmp_path / DATABASE, read_nothing, time_text="now")
        assert [path.name for path in medium.iterdir()] == [COPY]
    finally:
        medium.chmod(0o700)
    assert len(refs(tmp_path / DATABASE)) == TASKS


async def test_a_plain_copy_with_its_log_is_restored_with_it(tmp_path: Path) -> None:
    """A file that was copied with its write-ahead log has commits in both, and all of them are restored."""
    files = tmp_path / "files"
    files.mkdir()
    async with running_store(tmp_path / DATABASE) as store:
        await store.write(a_registration(1))
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"{DATABASE}{suffix}", files / f"{COPY}{suffix}")

    restore(files / COPY, tmp_path / DATABASE, read_nothing, time_text="now")

    assert len(refs(tmp_path / DATABASE)) == 1


@pytest.mark.parametrize("damage", ["header", "log only"])
async def test_a_broken_database_is_replaced(tmp_path: Path, damage: str) -> None:
    """A database that SQLite cannot read is kept with all its files, and none of them stays for the new one."""
    await make_both(tmp_path)
    (tmp_path / f"{DATABASE}-wal").write_bytes(b"log" * 1000)
    (tmp_path / f"{DATABASE}-shm").write_bytes(b"index" * 1000)
    if damage == "header":
        (tmp_path / DATABASE).write_bytes(b"broken" * 1000)

    assert (await restore_copy(tmp_path)).code == 0

    assert len(refs(tmp_path / DATABASE)) == TASKS
    assert not (tmp_path / f"{DATABASE}-shm").exists()
    assert not (tmp_path / f"{DATABASE}-wal").exists()
    old = {path.name.removeprefix(kept(tmp_path)[0].name): path for path in kept(tmp_path)}
    if damage == "header":
        assert old[""].read_bytes() == b"broken" * 1000
        assert old["-wal"].read_bytes() == b"log" * 1000
    else:
        assert len(refs(old[""])) == MORE


async def test_another_programs_database_is_not_replaced(tmp_path: Path) -> None:
    """RECEIVER_DATABASE may name a wrong file. It keeps its bytes."""
    await make_both(tmp_path)
    (tmp_path / DATABASE).unlink()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")
    before = (tmp_path / DATABASE).read_bytes()

    assert "another program's database" in (await restore_copy(tmp_path)).refusal
    assert (tmp_path / DATABASE).read_bytes() == before


async def test_a_linked_database_is_restored_at_its_target(tmp_path: Path) -> None:
    """The link stays a link, and the old database is kept beside the real one."""
    await make_both(tmp_path)
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / DATABASE).rename(real / "data.db")
    (tmp_path / DATABASE).symlink_to(real / "data.db")

    assert (await restore_copy(tmp_path)).code == 0

    assert (tmp_path / DATABASE).is_symlink()
    assert len(refs(real / "data.db")) == TASKS
    assert len(list(real.glob("data.db-before-*"))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_root_restores_for_the_owner(tmp_path: Path) -> None:
    """The new database belongs to the owner of the old one, and on a new machine to the owner of the folder."""
    await make_both(tmp_path)
    os.chown(tmp_path / DATABASE, 12345, 12346)
    new = tmp_path / "new"
    new.mkdir()
    os.chown(new, 12347, 12348)

    restored = restore(tmp_path / COPY, tmp_path / DATABASE, read_nothing, time_text="now")
    restore(tmp_path / COPY, new / DATABASE, read_nothing, time_text="now")

    owners = [(path.stat().st_uid, path.stat().st_gid) for path in (tmp_path / DATABASE, new / DATABASE)]
    assert owners == [(12345, 12346), (12347, 12348)]
    assert restored.before is not None
    assert restored.before.stat().st_uid == 12345


async def test_readers_are_told_of_the_older_copy(tmp_path: Path) -> None:
    """A cursor from after the backup gets 410 `restored`. URLs from before and from after the backup stay valid."""
    async with running_receiver(tmp_path / DATABASE) as api:
        earlier = await api.register()
        assert (await run_command(tmp_path, "backup", COPY, API_KEYS=KEY)).code == 0
        later = await api.register()
        await api.call_back(later["callbackUrl"])
        cursor = (await api.log())["cursor"]
    assert (await restore_copy(tmp_path)).code == 0

    async with running_receiver(tmp_path / DATABASE) as api:
        gone = await api.send("GET", "/v1/results", params={"after": cursor})
        urls = [task["callbackUrl"].partition("/callback/")[2] for task in (earlier, later)]
        answers = [await api.call_back(f"{api.url}/callback/{url}") for url in urls]

    assert (gone.status, gone.json["type"].rpartition(":")[2]) == (410, "cursor-gone")
    assert [answer.status for answer in answers] == [200, 200]


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGKILL"])
async def test_a_signal_at_any_step_leaves_a_complete_database(tmp_path: Path, signal_name: str) -> None:
    """The database is the old one or the restored one, whole, and a receiver starts on it."""
    start = tmp_path / "start"
    start.mkdir()
    origin = tmp_path / "origin"
    origin.mkdir()
    await make_database(origin / DATABASE, extra_bytes=LARGE_BYTES)
    back_up(origin / DATABASE, start / COPY, read_nothing)
    async with running_store(origin / DATABASE) as store:
        for number in range(TASKS + 1, MORE + 1):
            await store.write(a_registration(number))
        # As a killed receiver leaves its files: commits in the log alone.
        for suffix in ("", "-wal"):
            shutil.copy(origin / f"{DATABASE}{suffix}", start / f"{DATABASE}{suffix}")

    codes = await run_steps("restore", signal_name, tmp_path)

    assert len(codes) > 15
    assert codes[-1] == 0
    for number, code in enumerate(codes, start=1):
        folder = tmp_path / str(number)
        async with running_store(folder / DATABASE) as store:
            await store.write(a_registration(20))
        found = len(refs(folder / DATABASE)) - 1
        assert found == TASKS if code == 0 else found in (TASKS, MORE), number
        if found == TASKS:
            assert len(refs(kept(folder)[0])) == MORE
        assert code == -9 or not is_left(folder)
        restore(folder / COPY, folder / DATABASE, read_nothing, time_text="again")
        assert not is_left(folder)
