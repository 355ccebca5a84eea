"""`callback-receiver copy`: its options, its output and its errors, and no password in any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.commands import Finished, run_command
from tests.receiver.storage.test_copying import read, used

PASSWORD = "hush"
EXPECTED = "--to: expected the path of an SQLite file, or postgresql://user:password@host/name"


async def run_copy(folder: Path, *options: str, **environment: str) -> Finished:
    """Run the command in the folder. The password of the URL is in no line."""
    finished = await run_command(folder, "copy", *options, **environment)
    assert PASSWORD not in finished.out + finished.err
    return finished


@pytest.mark.sqlite
async def test_the_server_is_named_by_the_settings(postgres_url: str, tmp_path: Path) -> None:
    """With one option the other end is RECEIVER_DATABASE, from wherever the settings come, or the URL past a pooler."""
    path = tmp_path / "receiver.db"
    await used(path)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "RECEIVER_DATABASE").write_text(postgres_url)
    (tmp_path / ".env").write_text(f"RECEIVER_SECRETS_DIR={secrets}\n")

    there = await run_copy(tmp_path, "--from", "receiver.db")
    pooler = "postgresql://pooler:hush@127.0.0.1:1/receiver"
    back = await run_copy(tmp_path, "--to", "back.db", DATABASE=pooler, DATABASE_LISTEN=postgres_url)

    assert (there.code, back.code) == (0, 0), (there, back)
    assert "task: 7 rows\n" in there.out
    name = postgres_url.partition("?")[0].partition("@")[2].removeprefix("/")
    assert f"copied receiver.db to postgresql:///{name}: all rows are there, log position 5\n" in there.out
    assert f"copied postgresql:///{name} to back.db: all rows are there" in back.out
    assert "start the receivers; never start one on the old database" in there.err
    assert await read(tmp_path / "back.db") == await read(path) == await read(postgres_url)


@pytest.mark.sqlite
async def test_a_password_on_the_command_line_is_warned_of(postgres_url: str, tmp_path: Path) -> None:
    """It works, because a URL may have no password at all."""
    await used(tmp_path / "receiver.db")
    finished = await run_copy(tmp_path, "--from", "receiver.db", "--to", postgres_url)
    without = await run_copy(tmp_path, "--from", "receiver.db", "--to", postgres_url.replace(":hush", ""))

    warning = "--to: its password stands in the process list; set RECEIVER_DATABASE instead\n"
    assert (finished.code, without.code) == (0, 0)
    assert warning in finished.err
    assert warning not in without.err


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("options", "database", "text"),
    [
        ((), "receiver.db", "copy: expected --from or --to"),
        (("--to", "other.db"), "receiver.db", "copy: both are files; use backup and restore"),
        (("--from", "no.db"), "postgresql://me:hush@127.0.0.1:1/db", "no.db: there is no database"),
        (
            ("--to", "mysql://me:hush@host/db"),
            "receiver.db",
            "--to: expected the path of an SQLite file, or postgresql",
        ),
        (("--to", "me:hush@host/db"), "receiver.db", EXPECTED),
        (("--to", "postgresql://me:hush@host"), "receiver.db", EXPECTED),
        (("--to", "nowhere/r.db"), "postgresql://me:hush@127.0.0.1:1/db", "postgresql://127.0.0.1:1/db: "),
    ],
)
async def test_a_wrong_end_is_named(tmp_path: Path, options: tuple[str, ...], database: str, text: str) -> None:
    """One line says which end is wrong, and the exit code tells if it may pass."""
    finished = await run_copy(tmp_path, *options, DATABASE=database)

    assert finished.code == (1 if ":1/db" in text else 2), finished
    assert (finished.out, finished.err.count("\n")) == ("", 1)
    assert finished.err.startswith(f"callback-receiver: {text}"), finished


@pytest.mark.sqlite
async def test_a_used_target_is_refused(postgres_url: str, tmp_path: Path) -> None:
    """The exit code says that waiting does not help."""
    await used(tmp_path / "receiver.db")
    await used(postgres_url)
    finished = await run_copy(tmp_path, "--from", "receiver.db", DATABASE=postgres_url)

    assert finished.code == 2
    assert finished.err.endswith(": it has another log; copy into an empty database\n")
