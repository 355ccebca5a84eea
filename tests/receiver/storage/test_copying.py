"""Copies of everything from an SQLite file to PostgreSQL and back: no row is forgotten, and no other log replaced."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from receiver.domain.access.api_keys import AddKey, StoredKey
from receiver.domain.transaction import Forget
from receiver.errors import CannotStartError
from receiver.storage.copying.copy import Copied, copy_store
from receiver.storage.copying.ends import tables
from receiver.storage.postgres.schema import MIGRATIONS as OF_SERVER
from receiver.storage.postgres.schema import OWN_META, OWN_TABLES
from receiver.storage.sqlite.backups.copies import back_up
from receiver.storage.sqlite.schema import MIGRATIONS
from tests.postgres import execute
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, query, running_store, whole_log
from tests.support import free_port, receiver_process

pytestmark = pytest.mark.sqlite

Place = Path | str
VALUES: dict[str, Callable[[int, int], object]] = {
    "INTEGER": lambda number, place: number * 1000 + place,
    "TEXT": lambda number, place: f"{number}\0\1é{place}\ud7ff😀",
    "ANY": lambda number, place: f"{number}.{place}",
    "BLOB": lambda number, place: bytes([0, 255, number, place]),
}


async def copy(source: Place, target: Place, *, time_text: str = "now") -> Copied:
    """Copy one database to the other."""
    ends = [SecretStr(place) if isinstance(place, str) else place for place in (source, target)]
    return await copy_store(ends[0], ends[1], lambda share: None, time_text=time_text)


async def used(place: Place, first: int = 1, last: int = 8) -> None:
    """Register tasks of these numbers, end every second one, and delete the first one."""
    async with running_store(place) as store:
        for number in range(first, last + 1):
            await store.write(a_registration(number, tags=("one", "two")))
            if number % 2 == 0:
                await store.write(a_delivery(number, task_id=f"id{number}"))
        await store.write(Forget(ref=a_ref(first), now=NOW))


async def read(place: Place) -> tuple[str, Sequence[bytes], Sequence[str]]:
    """Return the end of the log, the signing keys, and the cursors of all entries."""
    async with running_store(place) as store:
        return await store.head(), store.signing_keys, [entry.cursor for entry in await whole_log(store)]


def filled(path: Path) -> None:
    """Write a row with a value in each column into every table, and one with as few values as possible."""
    with closing(sqlite3.connect(path)) as connection:
        for table in tables():
            columns = connection.execute(f"PRAGMA table_info({table.name})").fetchall()
            for number in (50, 51):
                values = [
                    VALUES[column[2]](number, place) if number == 50 or column[3] or column[5] else None
                    for place, column in enumerate(columns)
                ]
                places = ", ".join("?" * len(values))
                connection.execute(f"INSERT INTO {table.name} VALUES ({places})", values)
        # Retention stores a position here.
        connection.execute("INSERT INTO meta VALUES ('floor', 7)")
        connection.commit()


def everything(path: Path) -> dict[str, list[Any]]:
    """Return all rows of a file by table, with the types of the values in `meta`."""
    with closing(sqlite3.connect(path)) as connection:
        found: dict[str, list[Any]] = {
            table.name: connection.execute(f"SELECT * FROM {table.name} ORDER BY 1, 2").fetchall() for table in tables()
        }
        found["types"] = connection.execute("SELECT name, typeof(value) FROM meta ORDER BY 1").fetchall()
        found["sequences"] = connection.execute("SELECT * FROM sqlite_sequence ORDER BY 1").fetchall()
        found["schema"] = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2").fetchall()
        found["damage"] = connection.execute("PRAGMA integrity_check").fetchall()
    return found


async def test_every_value_of_every_table_goes_there_and_back(postgres_url: str, tmp_path: Path) -> None:
    """Texts with any characters, missing values, the types in `meta`, the numbers given next, and all indexes."""
    path, back = tmp_path / "receiver.db", tmp_path / "back.db"
    await used(path)
    filled(path)
    before = everything(path)

    there = await copy(path, postgres_url)
    indexes = query(postgres_url, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1")
    again = await copy(postgres_url, back)

    assert all(count >= 2 for count in there.rows.values())
    assert there == again
    assert everything(back) == before
    assert before["damage"] == [("ok",)]
    async with running_store(postgres_url):
        pass
    fresh = query(postgres_url, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'")
    assert [(len(indexes),)] == fresh


async def test_the_copy_gives_the_next_numbers(postgres_url: str, tmp_path: Path) -> None:
    """New rows of every table with numbers of its own follow the copied ones, in both databases."""
    path, back = tmp_path / "receiver.db", tmp_path / "back.db"
    await used(path)
    filled(path)
    await copy(path, postgres_url)
    identities = query(
        postgres_url,
        "SELECT table_name FROM information_schema.columns WHERE is_identity = 'YES' AND table_schema = 'public'",
    )
    following = [
        query(postgres_url, f"SELECT nextval(pg_get_serial_sequence('{name}', 'id')) - max(id) FROM {name}")
        for (name,) in identities
    ]
    await copy(postgres_url, back)
    async with running_store(back) as store:
        await store.write(a_registration(100))
        await store.write(a_delivery(100))
        (task,) = await store.find(a_ref(100), None)

    assert len(identities) >= 4
    assert following == [[(1,)]] * len(identities)
    assert (task.row, task.position) == (51001, 51001)


async def test_no_table_is_forgotten(postgres_url: str) -> None:
    """Each table of PostgreSQL is copied, or it is named as one of its own. The same holds for the names in `meta`."""
    async with running_store(postgres_url):
        pass
    there = {row[0] for row in query(postgres_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}

    assert there == {table.name for table in tables()} | set(OWN_TABLES)
    assert {row[0] for row in query(postgres_url, "SELECT name FROM meta")} == {*OWN_META, "log_id"}


@pytest.mark.parametrize("direction", ["there", "back"])
async def test_a_copy_can_be_run_again(postgres_url: str, tmp_path: Path, direction: str) -> None:
    """The log is the same, and goes on in the source. The next copy replaces the older one, which a file keeps."""
    source, target = one_way(direction, postgres_url, tmp_path)
    await used(source)
    await copy(source, target, time_text="first")
    await used(source, 11, 14)
    copied = await copy(source, target, time_text="second")

    assert await read(target) == await read(source)
    assert copied.before == (tmp_path / "receiver.db-before-second" if direction == "back" else None)


async def test_a_log_moves_back_into_the_file_that_it_came_from(postgres_url: str, tmp_path: Path) -> None:
    """The file has older entries of the same log, and is kept under another name."""
    path = tmp_path / "receiver.db"
    await used(path)
    before = await read(path)
    await copy(path, postgres_url)
    await used(postgres_url, 11, 14)
    copied = await copy(postgres_url, path)

    assert await read(path) == await read(postgres_url)
    assert copied.before is not None
    assert query(copied.before, "SELECT max(position) FROM log") == [(int(before[0].rpartition("-")[2]),)]


def one_way(direction: str, url: str, folder: Path) -> tuple[Place, Place]:
    """Return source and target of a copy from a file to a server, or back."""
    ends: tuple[Place, Place] = folder / "receiver.db", url
    return ends if direction == "there" else (ends[1], ends[0])


def names(folder: Path) -> list[str]:
    """Return the names of all files in a folder."""
    return [path.name for path in folder.iterdir()]


async def refusal(source: Place, target: Place) -> str:
    """Return the line of a refused copy. It has no password."""
    with pytest.raises(CannotStartError) as refused:
        await copy(source, target)
    assert "hush" not in str(refused.value)
    return str(refused.value)


async def use_the_target(target: Place) -> None:
    """Store a task in the copy."""
    async with running_store(target) as store:
        await store.write(a_registration(20))


async def use_both(source: Place, target: Place) -> None:
    """Store different tasks under the same numbers, more of them in the source."""
    await use_the_target(target)
    await used(source, 21, 24)


async def add_a_key(target: Place) -> None:
    """Make an API key in the copy."""
    key = StoredKey(
        id="k", name="one", digest=b"1" * 32, scopes=frozenset({"read"}), providers=None, created_at=NOW,
        expires_at=None, revoked_at=None, last_used_at=None,
    )  # fmt: skip
    async with running_store(target) as store:
        await store.write(AddKey(key=key))


@pytest.mark.parametrize("direction", ["there", "back"])
@pytest.mark.parametrize("use", ["the target", "both", "a key"])
async def test_a_copy_that_was_used_is_not_replaced(
    postgres_url: str, tmp_path: Path, direction: str, use: str
) -> None:
    """Tasks, results and keys that only the target has would be lost."""
    source, target = one_way(direction, postgres_url, tmp_path)
    await used(source)
    await copy(source, target)
    match use:
        case "the target":
            await use_the_target(target)
        case "both":
            await use_both(source, target)
        case _:
            await add_a_key(target)
    before = await read(target)

    assert "it was used since it was copied" in await refusal(source, target)
    assert await read(target) == before


@pytest.mark.parametrize("direction", ["there", "back"])
async def test_another_log_is_not_replaced(postgres_url: str, tmp_path: Path, direction: str) -> None:
    """A log without any task is replaced, because a receiver that was started once leaves one."""
    source, target = one_way(direction, postgres_url, tmp_path)
    await used(source)
    await read(target)
    await copy(source, target)
    other = tmp_path / "other.db" if direction == "there" else execute_new(postgres_url)
    await used(other)

    assert "it has another log" in await refusal(other, target)
    assert await read(target) == await read(source)


def execute_new(url: str) -> str:
    """Return the URL of a second database, which takes the place of the first one's schema."""
    name = url.partition("?")[0].rpartition("/")[2]
    execute(url, f"CREATE DATABASE {name}_other")
    return url.replace(name, f"{name}_other")


@pytest.mark.parametrize("direction", ["there", "back"])
@pytest.mark.parametrize("end", [0, 1])
async def test_a_running_receiver_is_noticed(postgres_url: str, tmp_path: Path, direction: str, end: int) -> None:
    """At the source it would store callbacks that the copy never gets, and at the target it would lose them."""
    ends = one_way(direction, postgres_url, tmp_path)
    await used(ends[0])
    variables = {"RECEIVER_DATABASE": str(ends[end])}
    async with receiver_process(tmp_path / "receiver.db", port=free_port(), variables=variables):
        text = await refusal(*ends)

    assert ("a program has the database open" if isinstance(ends[end], Path) else "a receiver is connected") in text
    assert await read(ends[0])


async def test_a_receiver_cannot_start_on_a_source_being_copied(postgres_url: str, tmp_path: Path) -> None:
    """Its callbacks would be lost. Afterwards it starts."""
    path = tmp_path / "receiver.db"
    await used(path)
    refused: list[str] = []

    def try_to_start(share: float) -> None:
        if refused:
            return

        async def start() -> None:
            async with running_store(path):
                pass

        with pytest.raises(CannotStartError) as caught:
            asyncio.run(start())
        refused.append(str(caught.value))

    def beside(share: float) -> None:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(try_to_start, share).result()

    await copy_store(path, SecretStr(postgres_url), beside, time_text="now")

    assert "locked" in refused[0]
    assert await read(path) == await read(postgres_url)


@pytest.mark.parametrize("direction", ["there", "back"])
async def test_a_copy_that_breaks_off_changes_nothing(postgres_url: str, tmp_path: Path, direction: str) -> None:
    """Source and target are as before, without unfinished files, and the copy is begun again."""
    source, target = one_way(direction, postgres_url, tmp_path)
    await used(source)
    await copy(source, target)
    before = await read(target)
    await used(source, 11, 14)

    def interrupt(share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    ends = [SecretStr(place) if isinstance(place, str) else place for place in (source, target)]
    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(asyncio.run, copy_store(ends[0], ends[1], interrupt, time_text="now"))
    left = await read(target)
    await copy(source, target)

    assert left == before
    assert await read(target) == await read(source)
    assert not [name for name in names(tmp_path) if "unfinished" in name]


async def test_a_lost_row_drops_the_copy(postgres_url: str, tmp_path: Path) -> None:
    """The counts of all tables are compared before the copy is in place."""
    path = tmp_path / "receiver.db"
    await used(path)
    before = await read(postgres_url)
    execute(postgres_url, "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    execute(postgres_url, "CREATE TRIGGER lose BEFORE INSERT ON tag FOR EACH ROW EXECUTE FUNCTION lose()")

    assert "14 rows of tag became 0, so the copy is dropped" in await refusal(path, postgres_url)
    assert await read(postgres_url) == before


async def test_a_restored_file_needs_a_start_first(postgres_url: str, tmp_path: Path) -> None:
    """Its log gets a new id then, because readers may have cursors from after the backup."""
    path, backup = tmp_path / "receiver.db", tmp_path / "backup.db"
    await used(path)
    back_up(path, backup, lambda share: None)

    assert "so its log needs a new id" in await refusal(backup, postgres_url)
    await read(backup)
    await copy(backup, postgres_url)
    assert await read(postgres_url) == await read(backup)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs commands for another user")
async def test_a_copy_by_root_belongs_to_the_receivers_user(postgres_url: str, tmp_path: Path) -> None:
    """With a note that the receiver cannot read, its log would get a new id."""
    path = tmp_path / "receiver.db"
    await used(path)
    for name in (path, tmp_path / "receiver.db-head"):
        os.chown(name, 65534, 65534)
    await copy(path, postgres_url)
    await copy(postgres_url, path)

    owners = {name: (tmp_path / name).stat().st_uid for name in ("receiver.db", "receiver.db-head")}
    assert owners == dict.fromkeys(owners, 65534)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("UPDATE meta SET value = '7' WHERE name = 'schema'", "copy with the newer program"),
        (f"UPDATE meta SET value = '{len(OF_SERVER) - 1}' WHERE name = 'schema'", "start the receiver once"),
    ],
)
async def test_a_copy_needs_the_schema_of_this_program(
    postgres_url: str, tmp_path: Path, statement: str, text: str
) -> None:
    """Columns of a newer schema would be lost."""
    await used(postgres_url)
    execute(postgres_url, statement)

    assert text in await refusal(postgres_url, tmp_path / "receiver.db")


async def test_a_file_needs_the_schema_of_this_program(postgres_url: str, tmp_path: Path) -> None:
    """An older file is updated by a start of the receiver."""
    path = tmp_path / "receiver.db"
    await used(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) - 1}")

    assert "start the receiver once to update it" in await refusal(path, postgres_url)


async def test_two_databases_of_one_kind_have_better_tools(postgres_url: str, tmp_path: Path) -> None:
    """The line names them."""
    assert "use backup and restore" in await refusal(tmp_path / "receiver.db", tmp_path / "other.db")
    assert "use pg_dump and pg_restore" in await refusal(postgres_url, postgres_url)


async def test_a_missing_source_is_named(postgres_url: str, tmp_path: Path) -> None:
    """There is no file, or there are no tables."""
    assert "there is no database" in await refusal(tmp_path / "receiver.db", postgres_url)
    assert "the receiver has no tables there" in await refusal(postgres_url, tmp_path / "receiver.db")
    assert execute(postgres_url, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []
    assert names(tmp_path) == []


async def test_a_server_that_breaks_off_is_named(postgres_url: str, tmp_path: Path) -> None:
    """The copy may work later, so the exit code says so."""
    path = tmp_path / "receiver.db"
    await used(path)

    def disconnect(share: float) -> None:
        execute(
            postgres_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()",
        )

    with pytest.raises(CannotStartError) as refused:
        await copy_store(path, SecretStr(postgres_url), disconnect, time_text="now")

    assert refused.value.passes
    assert str(refused.value).startswith("postgresql:///")
    await copy(path, postgres_url)
    assert await read(postgres_url) == await read(path)
