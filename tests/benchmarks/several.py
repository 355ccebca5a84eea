"""Several receivers on one PostgreSQL server of this run, beside one on SQLite: callbacks, wake-ups and the head row.

The server keeps its files in the folder for temporary files (TMPDIR), with fsync on. Load, receivers and server share
the cores of this machine, so more receivers gain little here. The figures show what sharing one database costs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks.comparison import spread
from tests.benchmarks.goals import Goal, table
from tests.benchmarks.load import distribution, percentile, run_load, write_targets
from tests.benchmarks.registering import OpenTask, connected, register_tasks
from tests.benchmarks.servers import Server, serving
from tests.benchmarks.tasks import READ_KEY
from tests.benchmarks.waiting.waiters import ReceivedAt, open_waiters, paced, waiter_of
from tests.postgres import missing_tools, running_cluster

__all__ = ["FULL", "QUICK", "Several", "SeveralPlan", "measure_several"]

_SQLITE = "SQLite"
_RECEIVERS = (1, 2, 4)
_CONNECTIONS = 256
_WAKES_PER_SECOND = 100
_WAKES = 500
_ELSEWHERE = "PostgreSQL, another receiver"
_SETTLE_SECONDS = 0.5
_LIMIT_SECONDS = 20.0
_HEAD = "receiver with head times"
_DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB", "max_wal_size": "1GB"}
_WAKE_GOAL_MS = 20


@dataclass(frozen=True, slots=True)
class SeveralPlan:
    """The number of rounds, and the callbacks in each round of each store."""

    rounds: int
    requests: int


FULL = SeveralPlan(rounds=5, requests=2000)
QUICK = SeveralPlan(rounds=3, requests=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One round of callbacks: the rate, its latencies, and processor time of all receivers for each.

    `head_ms` is the time from asking for the head row until it is ours, for each commit; `batch` are its callbacks.
    """

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None
    head_ms: float | None
    batch: float | None


@dataclass(frozen=True, slots=True)
class Several:
    """The rounds of each store. `delays` are those from POST to frame in ms, by the place of the websocket."""

    rounds: Mapping[str, Sequence[Load]]
    delays: Mapping[str, Sequence[float]]

    def goals(self) -> Sequence[Goal]:
        """Return the goal of wake-ups."""
        name = "PostgreSQL: POST to frame at another receiver, ms, p99"
        return [Goal(name, percentile(self.delays[_ELSEWHERE], 99), most=_WAKE_GOAL_MS)]

    def figures(self) -> dict[str, Any]:
        """Return all rounds, and the delays, as JSON."""
        return {
            "connections": _CONNECTIONS,
            "rounds": {name: [asdict(load) for load in loads] for name, loads in self.rounds.items()},
            "wakesPerSecond": _WAKES_PER_SECOND,
            "postToFrameMs": {place: distribution(delays) for place, delays in self.delays.items()},
        }

    def tables(self) -> Sequence[Table]:
        """Return the medians and the delays as tables to print."""
        title = f"durable callbacks, connections: {_CONNECTIONS} in all: median (lowest to highest)"
        loads = table(
            title, "a second", "÷ SQLite", "p50 ms", "p99 ms", "CPU µs each", "head row ms", "callbacks a commit"
        )
        for name, measured in self.rounds.items():
            rates = [load.per_second for load in measured]
            pairs = zip(rates, self.rounds[_SQLITE], strict=True)
            loads.add_row(
                name,
                f"{spread(rates).median:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
                str(spread([rate / sqlite.per_second for rate, sqlite in pairs])),
                f"{spread([load.p50_ms for load in measured]).median:.1f}",
                f"{spread([load.p99_ms for load in measured]).median:.1f}",
                _median([load.cpu_us for load in measured], 0),
                _median([load.head_ms for load in measured], 2),
                _median([load.batch for load in measured], 1),
            )
        delays = table(f"POST to frame, {_WAKES_PER_SECOND} callbacks/s", "p50 ms", "p99 ms")
        for name, measured_ms in self.delays.items():
            delays.add_row(name, f"{percentile(measured_ms, 50):.1f}", f"{percentile(measured_ms, 99):.1f}")
        return [loads, delays]


def _median(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return f"{spread(known).median:.{digits}f}" if known else ""


async def measure_several(folder: Path, plan: SeveralPlan) -> Several | None:
    """Measure both stores round by round. Return None where PostgreSQL is missing.

    The four receivers on PostgreSQL run all the time. Callbacks go to one, two or all of them.
    """
    if missing_tools() is not None:
        return None
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(running_cluster(_DURABLE))
        url = {"RECEIVER_DATABASE": cluster.new_database()}
        sqlite = await stack.enter_async_context(serving("receiver", folder / "sqlite.db"))
        receivers = [
            await stack.enter_async_context(serving(_HEAD, folder / f"postgres-{number}.db", url))
            for number in range(max(_RECEIVERS))
        ]
        servers = {_SQLITE: [sqlite]} | {f"PostgreSQL, {count}": receivers[:count] for count in _RECEIVERS}
        rounds: dict[str, list[Load]] = {name: [] for name in servers}
        first = 0
        for number in range(plan.rounds + 1):
            for name, group in servers.items():
                tasks = await register_tasks(group[0].port, plan.requests, first=first)
                first += plan.requests
                load = await _measure_load(folder, group, tasks, has_head=name != _SQLITE)
                # The first round is the warm-up.
                if number:
                    rounds[name].append(load)
        delays: dict[str, Sequence[float]] = {}
        for places in ({_SQLITE: sqlite}, {"PostgreSQL, the same receiver": receivers[0], _ELSEWHERE: receivers[1]}):
            first_server = next(iter(places.values()))
            tasks = await register_tasks(first_server.port, _WAKES, first=first)
            delays |= await _measure_wakes(first_server, places, tasks)
            first += _WAKES
    return Several(rounds, delays)


async def _measure_load(folder: Path, servers: Sequence[Server], tasks: Sequence[OpenTask], *, has_head: bool) -> Load:
    targets = write_targets(folder / "targets", [task.callback() for task in tasks])
    heads = [await _head_times(server) for server in servers] if has_head else []
    before = [server.cpu_seconds() for server in servers]
    report = await run_load([server.port for server in servers], _CONNECTIONS, targets)
    spent = [
        after - start
        for server, start in zip(servers, before, strict=True)
        if start is not None and (after := server.cpu_seconds()) is not None
    ]
    commits = seconds = 0.0
    for server, (commits_before, seconds_before) in zip(servers, heads, strict=False):
        commits_now, seconds_now = await _head_times(server)
        commits, seconds = commits + commits_now - commits_before, seconds + seconds_now - seconds_before
    return Load(
        per_second=report.per_second,
        p50_ms=report.p50_ms,
        p99_ms=report.p99_ms,
        cpu_us=sum(spent) / len(tasks) * 1e6 if spent else None,
        head_ms=seconds / commits * 1000 if commits else None,
        batch=len(tasks) / commits if commits else None,
    )


async def _head_times(server: Server) -> tuple[float, float]:
    """Return the commits with new entries so far, and the seconds spent on the head row."""
    async with connected(server.port) as connection:
        connection.writer.write(b"GET /bench/head HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = await connection.reader.read()
    commits, seconds = json.loads(answer.partition(b"\r\n\r\n")[2])
    return float(commits), float(seconds)


async def _measure_wakes(
    called: Server, places: Mapping[str, Server], tasks: Sequence[OpenTask]
) -> dict[str, Sequence[float]]:
    """Send callbacks to one server. Return the delays until a websocket at each place has their results."""
    received_at: dict[str, ReceivedAt] = {place: {} for place in places}
    refs = [task.ref for task in tasks]
    for place, server in places.items():
        await open_waiters(server.port, [waiter_of("websocket", READ_KEY, refs, received_at[place].setdefault)])
    await asyncio.sleep(_SETTLE_SECONDS)
    for received in received_at.values():
        received.clear()
    sent = await paced(called.port, [task.callback().request() for task in tasks], per_second=_WAKES_PER_SECOND)
    async with asyncio.timeout(_LIMIT_SECONDS):
        while any(len(received) < len(refs) for received in received_at.values()):
            await asyncio.sleep(0.02)
    return {
        place: [(received[ref] - one.sent_at) / 1e6 for ref, one in zip(refs, sent, strict=True)]
        for place, received in received_at.items()
    }
