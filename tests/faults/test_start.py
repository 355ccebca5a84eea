"""`callback-receiver serve` refuses an unsafe start: exit code 2, one clear line, no secret in it."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from receiver.__main__ import main
from tests.faults.commands import KEY, SECRET, Finished, run_command
from tests.receiver.storage.stores import running_store
from tests.support import receiver_process

ANONYMOUS = {"ALLOW_ANONYMOUS": "true"}
KEYS = "RECEIVER_API_KEYS: key 1"
NO_KEYS = (
    "RECEIVER_API_KEYS: at least one key is needed, as name:secret or made by callback-receiver keys add; for a "
    "trial on this machine alone, set RECEIVER_ALLOW_ANONYMOUS=true"
)
SCOPES = f"{KEYS} (tests): expected scopes out of submit, read, admin, joined by +"


async def test_the_soft_limit_of_files_is_raised(tmp_path: Path) -> None:
    """The soft limit of 256 open files in a login shell is raised to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft_before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        async with receiver_process(tmp_path / "receiver.db", port=0) as receiver:
            limits = Path(f"/proc/{receiver.process.pid}/limits").read_text()  # noqa: ASYNC240  (the kernel answers at once)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_before, hard))

    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3:5] == [str(hard), str(hard)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder to start in; the command is `serve`, and no setting is in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["callback-receiver", "serve"])
    for name in [name for name in os.environ if name.startswith("RECEIVER_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"API_KEY": KEY}, "RECEIVER_API_KEY: there is no such setting; did you mean RECEIVER_API_KEYS?"),
        ({"API_KEYS": KEY, "XYZZY": SECRET}, "RECEIVER_XYZZY: there is no such setting"),
        ({}, NO_KEYS),
        ({"HOST": "0.0.0.0"}, NO_KEYS),  # noqa: S104
        ({"API_KEYS": ","}, NO_KEYS),
        (
            {**ANONYMOUS, "HOST": "0.0.0.0"},  # noqa: S104
            "RECEIVER_ALLOW_ANONYMOUS: RECEIVER_HOST is 0.0.0.0, expected a loopback address",
        ),
        (
            {**ANONYMOUS, "PUBLIC_URL": "https://callbacks.example.com"},
            "RECEIVER_ALLOW_ANONYMOUS: RECEIVER_PUBLIC_URL is not on this machine; keys are needed",
        ),
        (
            {"API_KEYS": KEY, "PROVIDERS_FILE": "none.toml"},
            "RECEIVER_PROVIDERS_FILE: none.toml: cannot be read (No such file or directory)",
        ),
        ({"API_KEYS": f"tests:{SECRET[:20]}"}, f"{KEYS} (tests): the secret needs at least 24 characters"),
        ({"API_KEYS": SECRET}, f"{KEYS}: expected name:secret or name:secret:scopes"),
        ({"API_KEYS": f"{KEY}:read:admin"}, f"{KEYS}: expected name:secret or name:secret:scopes"),
        ({"API_KEYS": f"{KEY}:read+wirte"}, SCOPES),
        ({"API_KEYS": f"{KEY}:"}, SCOPES),
        ({"API_KEYS": f"{KEY},other:{SECRET}"}, "RECEIVER_API_KEYS: two keys have the same secret"),
        ({"API_KEYS": KEY + "\udcff"}, "RECEIVER_API_KEYS: expected text in UTF-8"),
        (
            {"API_KEYS": KEY, "SIGNING_KEYS": SECRET[:9]},
            "RECEIVER_SIGNING_KEYS: key 1 has 9 bytes, at least 32 are needed",
        ),
        (
            {"API_KEYS": KEY, "CALLBACK_SECRETS": f'{{"capsolver": "{SECRET}'},
            "RECEIVER_CALLBACK_SECRETS: expected JSON",
        ),
        (
            {"API_KEYS": KEY, "CALLBACK_SECRETS": f'["{SECRET}"]'},
            "RECEIVER_CALLBACK_SECRETS: Input should be a valid dictionary",
        ),
        (
            {"API_KEYS": KEY, "PORT": "eighty"},
            "RECEIVER_PORT: Input should be a valid integer, unable to parse string as an integer",
        ),
        ({"API_KEYS": KEY, "PORT": "65536"}, "RECEIVER_PORT: Input should be less than or equal to 65535"),
        (
            {"API_KEYS": KEY, "PUBLIC_URL": f"https://me:{SECRET}@example.com"},
            "RECEIVER_PUBLIC_URL: expected no query, fragment or user in it",
        ),
        (
            {"API_KEYS": KEY, "DATABASE": f"mysql://me:{SECRET}@db/receiver"},
            "RECEIVER_DATABASE: expected the path of an SQLite file, or postgresql://user:password@host/name",
        ),
        (
            {"API_KEYS": KEY, "DATABASE": f"postgresql://me:{SECRET}@db:port/receiver"},
            "RECEIVER_DATABASE: expected the path of an SQLite file, or postgresql://user:password@host/name",
        ),
        (
            {"API_KEYS": KEY, "DATABASE_LISTEN": f"postgresql://me:{SECRET}@db"},
            "RECEIVER_DATABASE_LISTEN: expected the path of an SQLite file, or postgresql://user:password@host/name",
        ),
        (
            {"API_KEYS": KEY, "PORT": "-1", "MAX_WAITERS": "0", "LOG_FORMAT": SECRET},
            (
                "RECEIVER_PORT: Input should be greater than or equal to 0; "
                "RECEIVER_MAX_WAITERS: Input should be greater than or equal to 1; "
                "RECEIVER_LOG_FORMAT: Input should be 'json' or 'console'"
            ),
        ),
        ({"API_KEYS": KEY, "SECRETS_DIR": "missing"}, "RECEIVER_SECRETS_DIR: there is no folder missing"),
    ],
)
def test_a_wrong_setting_is_refused(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    line: str,
) -> None:
    """The line names every wrong variable and the expected value. Nothing is made on the disk."""
    for name, value in environment.items():
        monkeypatch.setenv(f"RECEIVER_{name}", value)

    with pytest.raises(SystemExit) as exited:
        main()

    finished = Finished(int(exited.value.code or 0), *capsys.readouterr())
    assert finished.refusal == line
    assert list(folder.iterdir()) == []


async def test_a_process_that_refuses_ends_with_code_2(tmp_path: Path) -> None:
    """The process prints one line without a traceback. The key in it is too short."""
    finished = await run_command(tmp_path, "serve", API_KEYS=KEY, SIGNING_KEYS=SECRET[:9])

    assert finished.refusal == "RECEIVER_SIGNING_KEYS: key 1 has 9 bytes, at least 32 are needed"


@pytest.mark.sqlite
async def test_a_database_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The line names the path and the system's reason, for a file and for a folder."""
    (tmp_path / "file").touch()

    below_a_file = await run_command(tmp_path, "serve", API_KEYS=KEY, PORT="0", DATABASE="file/receiver.db")
    folder = await run_command(tmp_path, "serve", API_KEYS=KEY, PORT="0", DATABASE=".")

    assert below_a_file.refusal == "file/receiver.db: the database cannot be opened for writing: Not a directory"
    assert folder.refusal == ".: the database cannot be opened for writing: Is a directory"


@pytest.mark.sqlite
async def test_a_database_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    """A database of another program, a newer one, and a text file are refused by name."""
    async with running_store(tmp_path / "newer.db"):
        pass
    for name, statement in (
        ("theirs.db", "CREATE TABLE theirs (id INTEGER)"),
        ("newer.db", "PRAGMA user_version = 99"),
    ):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            connection.execute(statement)
            connection.commit()
    (tmp_path / "notes.txt").write_text("no database, but a longer text than its header would be" * 50)

    theirs = await run_command(tmp_path, "serve", API_KEYS=KEY, PORT="0", DATABASE="theirs.db")
    newer = await run_command(tmp_path, "serve", API_KEYS=KEY, PORT="0", DATABASE="newer.db")
    none = await run_command(tmp_path, "serve", API_KEYS=KEY, PORT="0", DATABASE="notes.txt")

    assert theirs.refusal == "theirs.db: this is another program's database"
    assert newer.refusal.startswith("newer.db: the database is newer (schema 99) than this program")
    assert none.refusal == "notes.txt: the database cannot be used: file is not a database"


async def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    """The line names the address and the reason. The reason may pass, so the exit code is 1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        finished = await run_command(tmp_path, "serve", API_KEYS=KEY, PORT=str(port))

    assert (finished.code, finished.err.count("\n")) == (1, 1)
    assert finished.err.startswith(f"callback-receiver: cannot listen on 127.0.0.1:{port}: ")
    assert "in use" in finished.err


async def test_a_misspelt_setting_in_a_file_is_refused(tmp_path: Path) -> None:
    """Names in .env and in the secrets folder are checked like those of the environment."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "RECEIVER_SIGNING_KEY").write_text(SECRET)
    in_secrets = await run_command(tmp_path, "serve", API_KEYS=KEY, SECRETS_DIR="secrets")
    (tmp_path / ".env").write_text(f"RECEIVER_APIKEYS={KEY}\nOTHER_PROGRAMS=1\n")
    in_dotenv = await run_command(tmp_path, "serve", API_KEYS=KEY)

    assert in_secrets.refusal == ("RECEIVER_SIGNING_KEY: there is no such setting; did you mean RECEIVER_SIGNING_KEYS?")
    assert in_dotenv.refusal == "RECEIVER_APIKEYS: there is no such setting; did you mean RECEIVER_API_KEYS?"


@pytest.mark.sqlite
async def test_settings_come_from_files_too(tmp_path: Path) -> None:
    """Keys from the secrets folder and the rest from .env are used; the environment wins over both."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "RECEIVER_API_KEYS").write_text(f"{KEY}\n")
    (tmp_path / ".env").write_text(
        "RECEIVER_SECRETS_DIR=secrets\nRECEIVER_DATABASE=kept.db\nRECEIVER_PUBLIC_URL=https://from.example/dotenv/\n"
    )
    async with running_store(tmp_path / "kept.db"):
        pass

    from_files = await run_command(tmp_path, "callback-url", "capsolver")
    overridden = await run_command(tmp_path, "callback-url", "capsolver", PUBLIC_URL="https://from.example/environment")

    assert from_files.out.startswith("https://from.example/dotenv/callback/capsolver/")
    assert overridden.out.startswith("https://from.example/environment/callback/capsolver/")


async def test_service_links_of_kubernetes_are_no_settings(tmp_path: Path) -> None:
    """Variables of Kubernetes for a service called receiver are neither refused nor used."""
    async with running_store(tmp_path / "receiver.db"):
        pass

    finished = await run_command(
        tmp_path,
        *("callback-url", "--list"),
        API_KEYS=KEY,
        PORT="tcp://10.0.0.1:8080",
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT="8080",
        SERVICE_PORT_HTTP="8080",
        PORT_8080_TCP="tcp://10.0.0.1:8080",
        PORT_8080_TCP_ADDR="10.0.0.1",
        PORT_8080_TCP_PORT="8080",
        PORT_8080_TCP_PROTO="tcp",
    )

    assert (finished.code, finished.out) == (0, "")
    assert finished.err.startswith("there is no standing URL")


async def test_an_interrupt_ends_it_cleanly(tmp_path: Path) -> None:
    """Ctrl-C ends the server with exit code 0, like SIGTERM."""
    async with receiver_process(tmp_path / "receiver.db", port=0) as receiver:
        assert await receiver.stop(signal.SIGINT) == 0


@pytest.mark.sqlite
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Path.is_file hides the error there")
@pytest.mark.parametrize("command", ["doctor", "serve", "keys list", "explain x", "backup copy.db", "prune"])
def test_a_folder_of_another_user_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A command of a user who may not look into the folder of the database ends with one line and exit code 2."""
    database = tmp_path / "closed" / "receiver.db"
    stat = Path.stat

    def stat_outside(path: Path, **options: Any) -> os.stat_result:
        if path.parent == database.parent:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_outside)
    monkeypatch.setenv("RECEIVER_DATABASE", str(database))
    monkeypatch.setenv("RECEIVER_API_KEYS", KEY)
    monkeypatch.setenv("RECEIVER_PUBLIC_URL", "https://example.com")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["callback-receiver", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()

    told = capsys.readouterr().err
    assert (ended.value.code, told.count("\n")) == (2, 1)
    assert re.search(rf"{database}(-shm)?: Permission denied for this user\n", told)
