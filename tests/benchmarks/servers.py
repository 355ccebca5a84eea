"""The servers to measure, each in its own process: `python -m tests.benchmarks.servers NAME PORT DATABASE`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import uvloop
from aiohttp import web

from client.provider_api.unlisted import UnlistedCodes
from client.providers import DIALECTS
from client.signals import on_signals
from receiver.app import create_app, microseconds_now, new_ref
from receiver.commands.serve import raise_file_limit, tune
from receiver.domain.deliveries import DeliveryResult, Quotas, delivery_rules
from receiver.domain.records import TaskRecord
from receiver.domain.transaction import Command
from receiver.logs import configure_logs
from receiver.service.callbacks import Callbacks
from receiver.service.providers import Providers
from receiver.settings import load_settings
from receiver.storage.sqlite.checkpoints import Checkpoints
from receiver.storage.sqlite.database import connect_writer
from receiver.storage.sqlite.files import MOST_LOG_PAGES
from receiver.storage.sqlite.writer import Writer
from receiver.storage.store import Store
from receiver.upstream.schedules import Schedules
from receiver.web.context import RUNTIME
from receiver.web.server.runner import make_runner
from tests.benchmarks.peers import PEERS
from tests.benchmarks.rows_alone import RowsAlone, copy_database
from tests.benchmarks.tasks import READ_KEY, task_record
from tests.support import free_port

__all__ = ["Server", "kilobytes", "serving"]

_START_SECONDS = 20.0
_MOST_CONNECTIONS = 30_000
_PROCESS_CPU_CLOCK = 2
"""CPUCLOCK_SCHED of the kernel, which makes a clock of the complement of a process id: clock_getcpuclockid(3)."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int
    process: asyncio.subprocess.Process

    def cpu_seconds(self) -> float | None:
        """Return the processor time used so far, or None on systems other than Linux.

        The process's own clock has it in nanoseconds; the steps of 10 ms in /proc/PID/stat are too coarse for a round.
        """
        clock = (~self.process.pid << 3) | _PROCESS_CPU_CLOCK
        return time.clock_gettime(clock) if sys.platform == "linux" else None


@asynccontextmanager
async def serving(
    name: str, database: Path, settings: Mapping[str, str] | None = None, *, start_seconds: float = _START_SECONDS
) -> AsyncIterator[Server]:
    """Run a server until the block is left; `name` is a key of `PEERS` or `_RECEIVERS`, or "receiver".

    `settings` are further variables of its environment. It must accept connections within `start_seconds`.
    The receiver is started by its own command, as a user would. Its log goes to a file beside the database.
    """
    port = free_port()
    environment = {variable: value for variable, value in os.environ.items() if not variable.startswith("RECEIVER_")}
    environment |= {
        "RECEIVER_DATABASE": str(database),
        "RECEIVER_PORT": str(port),
        "RECEIVER_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "RECEIVER_API_KEYS": f"bench:{READ_KEY}:read+submit",
        "RECEIVER_MAX_WAITERS_PER_KEY": "20000",
        "RECEIVER_MAX_STREAMS_PER_KEY": "20000",
        "RECEIVER_MAX_REQUESTS_PER_KEY": "1000000",
        "RECEIVER_MAX_CONNECTIONS_PER_ADDRESS": "40000",
        "PYTHONPATH": str(Path.cwd()),
        **(settings or {}),
    }
    command = ["receiver", "serve"] if name == "receiver" else [__name__, name, str(port), str(database)]
    with database.with_suffix(".log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command, env=environment, cwd=database.parent, stdout=log, stderr=log
        )
    try:
        await _accepts(port, process, start_seconds)
        yield Server(port, process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def kilobytes(process: asyncio.subprocess.Process) -> int:
    """Return the resident memory of the process."""
    (line,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1])


async def _accepts(port: int, process: asyncio.subprocess.Process, start_seconds: float) -> None:
    async with asyncio.timeout(start_seconds):
        while process.returncode is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                await asyncio.sleep(0.02)
            else:
                return
    raise RuntimeError(f"the server ended with {process.returncode}; its log says why")


def _with_commit_times(_database: Path) -> web.Application:
    """Return the receiver with GET /bench/commits: for the ref of each outcome, the time at which COMMIT returned."""
    settings = load_settings(Path.cwd())
    configure_logs(settings.log_format)
    commits: dict[str, int] = {}
    written: list[str] = []
    write, finish = Writer._write, Writer._finish

    def write_and_record(*arguments: Any, **options: Any) -> Any:
        committed = write(*arguments, **options)
        written[:] = (entry.ref for entry in committed.entries or ())
        return committed

    def finish_and_record(writer: Writer, connection: sqlite3.Connection) -> None:
        finish(writer, connection)
        commits.update(dict.fromkeys(written, time.monotonic_ns()))

    async def show_commits(_: web.Request) -> web.Response:
        return web.json_response(commits)

    # Only these methods know the time at which COMMIT returned. (setattr, because mypy forbids assigning to a method.)
    setattr(Writer, "_write", write_and_record)  # noqa: B010
    setattr(Writer, "_finish", finish_and_record)  # noqa: B010
    app = create_app(settings)
    app.router.add_get("/bench/commits", show_commits)
    return app


def _with_head_times(_database: Path) -> web.Application:
    """Return a receiver on PostgreSQL with GET /bench/head: commits with new entries, and seconds for the head row."""
    from receiver.storage.postgres.batch import LockingBatch

    settings = load_settings(Path.cwd())
    configure_logs(settings.log_format)
    spent = [0.0, 0.0]
    take = LockingBatch._take_numbers

    def take_and_record(batch: LockingBatch, entries: int, tasks: int) -> tuple[int, int]:
        started = time.perf_counter()
        numbers = take(batch, entries, tasks)
        if entries:
            spent[:] = spent[0] + 1, spent[1] + time.perf_counter() - started
        return numbers

    async def show(_: web.Request) -> web.Response:
        return web.json_response(spent)

    setattr(LockingBatch, "_take_numbers", take_and_record)  # noqa: B010
    app = create_app(settings)
    app.router.add_get("/bench/head", show)
    return app


def _with_stages(_database: Path) -> web.Application:
    """Return the receiver with GET /bench/stages: its processor time by stage."""
    # Here, because that module starts servers.
    from tests.benchmarks.stages import add_stages

    settings = load_settings(Path.cwd())
    configure_logs(settings.log_format)
    app = create_app(settings)
    add_stages(app)
    return app


def _no_store(_database: Path) -> web.Application:
    """Return the whole receiver with a store that keeps nothing and answers at once."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[_NoStore]:
        yield _NoStore(task_record(0))

    return _with_store(opened)


def _rows_alone(database: Path) -> web.Application:
    """Return the whole receiver with a store that reads and writes the rows of a callback, and decides nothing."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[RowsAlone]:
        # Beside the receiver's own store, which writes to its database now and then.
        rows = database.with_name(f"{database.name}-rows")
        copy_database(database, rows)
        async with connect_writer(rows) as connection, connect_writer(rows) as copying:
            for pragma in ("synchronous = FULL", f"wal_autocheckpoint = {MOST_LOG_PAGES}"):
                await connection.execute(f"PRAGMA {pragma}")
            checkpoints = Checkpoints(copying)
            store = RowsAlone(connection, checkpoints, task_record(0))
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(store.run()), tasks.create_task(checkpoints.run())]
                yield store
                for task in running:
                    task.cancel()

    return _with_store(opened)


def _with_store(opened: Callable[[], AbstractAsyncContextManager[_NoStore | RowsAlone]]) -> web.Application:
    """Return the whole receiver. Its callbacks go to another store."""
    settings = load_settings(Path.cwd())
    configure_logs(settings.log_format)
    app = create_app(settings)

    async def use_store(_app: web.Application) -> AsyncIterator[None]:
        rules = delivery_rules(
            DIALECTS,
            Quotas(standing_rows=0, standing_bytes=0, unreadable_bytes=0),
            secrets={},
            confirm="mismatched",
            polled=(),
        )
        async with opened() as own:
            store = cast("Store", own)
            providers = Providers(DIALECTS, {}, Schedules(store, {}, microseconds_now), UnlistedCodes())
            callbacks = Callbacks(store, providers, rules, now=microseconds_now, new_ref=new_ref)
            app[RUNTIME] = replace(app[RUNTIME], callbacks=callbacks)
            yield

    app.cleanup_ctx.append(use_store)
    return app


class _NoStore:
    """The part of a `Store` that the path of a callback uses."""

    def __init__(self, task: TaskRecord) -> None:
        self._delivered = DeliveryResult("accepted", task)

    def begin(self, _command: Command[Any], *, within_seconds: float) -> asyncio.Future[DeliveryResult]:
        """Report the delivery as accepted."""
        del within_seconds
        answer: asyncio.Future[DeliveryResult] = asyncio.get_running_loop().create_future()
        answer.set_result(self._delivered)
        return answer


_RECEIVERS: Mapping[str, Callable[[Path], web.Application]] = {
    "no store": _no_store,
    "rows alone": _rows_alone,
    "receiver with commit times": _with_commit_times,
    "receiver with head times": _with_head_times,
    "receiver with stages": _with_stages,
}
"""Receivers with a change for the measurement. They are served as the receiver's own command does."""


def main() -> None:
    """Serve until a signal ends the process."""
    name, port, database = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(name, port, database))


async def _serve(name: str, port: int, database: Path) -> None:
    stop = asyncio.Event()
    on_signals(stop.set, signal.SIGTERM, signal.SIGINT)
    if name in _RECEIVERS:
        runner: web.AppRunner = make_runner(_RECEIVERS[name](database), most=_MOST_CONNECTIONS)
    else:
        runner = web.AppRunner(PEERS[name](database), access_log=None, handler_cancellation=True, shutdown_timeout=1)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        if name in _RECEIVERS:
            raise_file_limit()
            tune()
        await stop.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    main()
