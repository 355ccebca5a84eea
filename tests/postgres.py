"""A PostgreSQL server of the tests' own, on a socket in a temporary folder, and a database for each test."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

__all__ = ["Cluster", "execute", "missing_tools", "running_cluster"]

_USERS = ("postgres", "nobody")
_START_SECONDS = 60.0
# Without fsync nothing survives a crash of the machine, but everything a crash of the server.
_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "120",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "log_min_messages": "fatal",
}


class Cluster:
    """A server in a folder. Start and stop may alternate; its databases stay.

    `data` is the name of its data folder. After another one was restored there, it may be changed while it is stopped.
    """

    def __init__(self, folder: Path, *, options: dict[str, str] | None = None, primary: Cluster | None = None) -> None:
        self.data = "data"
        self.folder = folder
        self.options = _OPTIONS | (options or {})
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            users = {user.pw_name: user for user in pwd.getpwall()}
            account = next(users[name] for name in _USERS if name in users)
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._user = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        else:
            self._user = []
        data = str(folder / self.data)
        if primary is None:
            self.run("initdb", "-D", data, "-U", "tests", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        else:
            host = str(primary.folder)
            self.run("pg_basebackup", "-D", data, "-U", "tests", "-h", host, "-R", "-X", "stream", "-c", "fast")

    def start(self, variables: Mapping[str, str] | None = None) -> None:
        """Start the server and wait until it takes connections. It ends with this process.

        `variables` are added to its environment.
        """
        options = {**self.options, "listen_addresses": "", "unix_socket_directories": str(self.folder)}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            self._command("postgres", "-D", str(self.folder / self.data), *arguments),
            env={**os.environ, **(variables or {})},
        )
        until = time.monotonic() + _START_SECONDS
        while subprocess.run(
            self._command("pg_isready", "-q", "-U", "tests", "-d", "postgres", "-h", str(self.folder)), check=False
        ).returncode:
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError("the server does not start")
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server at once. Connections break. SIGINT writes everything out before."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_SECONDS)
        self._process = None

    def promote(self) -> None:
        """Let a standby become the primary."""
        self.execute("SELECT pg_promote()")

    def set_rule(self, line: str) -> None:
        """Put a line before all others of `pg_hba.conf`. Without one, undo it."""
        rules = self.folder / "data" / "pg_hba.conf"
        others = [rule for rule in rules.read_text().splitlines() if not rule.endswith("# test")]
        rules.write_text("\n".join(([f"{line} # test"] if line else []) + others) + "\n")
        self.execute("SELECT pg_reload_conf()")

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://tests:hush@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """Make an empty database. Return its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whatever uses it."""
        name = url.partition("?")[0].rpartition("/")[2]
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Run a statement on the cluster."""
        execute(self.url("postgres"), statement)

    def run(self, *command: str) -> None:
        """Run a program of PostgreSQL to its end, as the user of the server and in its folder."""
        subprocess.run(self._command(*command), check=True, capture_output=True, cwd=self.folder)

    def _command(self, program: str, *arguments: str) -> Sequence[str]:
        programs = _folder_of_programs()
        assert programs is not None
        return ["setpriv", *self._user, "--pdeathsig=QUIT", str(programs / program), *arguments]


@contextmanager
def running_cluster(options: dict[str, str] | None = None, *, primary: Cluster | None = None) -> Iterator[Cluster]:
    """Yield a server, or a standby of a primary. Its folder goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        cluster = Cluster(folder, options=options, primary=primary)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows of a statement. An event loop may be running on this thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _execute(url, statement)).result()


async def _execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


def missing_tools() -> str | None:
    """Return the reason why there can be no server here."""
    if _folder_of_programs() is None:
        return "PostgreSQL is missing; install Debian's package postgresql"
    return None if shutil.which("setpriv") else "setpriv is missing; install Debian's package util-linux"


def _folder_of_programs() -> Path | None:
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if newest:
        return newest[-1].parent
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent
