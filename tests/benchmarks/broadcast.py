"""POST to frame: the time from sending a callback until a websocket subscriber has its result.

The receiver stores each callback before it tells its subscriber. Beside it stand a broadcaster without a store, and one
with the least store: a row and a commit for each callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks.comparison import Figures, Round, ratios, spread
from tests.benchmarks.goals import Goal, table
from tests.benchmarks.load import distribution, percentile
from tests.benchmarks.registering import OpenTask, register_tasks
from tests.benchmarks.servers import Server, serving
from tests.benchmarks.tasks import PROVIDER, READ_KEY
from tests.benchmarks.waiting.waiters import ReceivedAt, open_waiters, paced, waiter_of

__all__ = ["FULL", "QUICK", "Broadcast", "BroadcastPlan", "measure_broadcast"]

_PER_SECOND = 500
_WAITERS = 200
_LIMIT_SECONDS = 20.0
_SETTLE_SECONDS = 0.5
# In this order, and back in the next round. So the broadcaster is the neighbour of the others.
_SERVERS = ("receiver", "broadcaster", "storing broadcaster")


@dataclass(frozen=True, slots=True)
class BroadcastPlan:
    """The number of rounds, and the callbacks in each."""

    rounds: int
    callbacks: int


FULL = BroadcastPlan(rounds=9, callbacks=1000)
QUICK = BroadcastPlan(rounds=3, callbacks=500)


@dataclass(frozen=True, slots=True)
class Broadcast:
    """The figures of each server, round by round."""

    rounds: Sequence[Mapping[str, Figures]]

    def goals(self) -> Sequence[Goal]:
        """Return the ratios of the delays."""
        pairs = self._beside_broadcaster("receiver")
        p50, p99 = (spread(ratios(pairs, of)).median for of in ("p50_ms", "p99_ms"))
        return [
            Goal("POST to frame ÷ a broadcaster's, p50", p50, most=4),
            Goal("POST to frame ÷ a broadcaster's, p99", p99, most=5),
        ]

    def figures(self) -> dict[str, Any]:
        """Return all rounds as JSON."""
        return {
            "waiters": _WAITERS,
            "perSecond": _PER_SECOND,
            "rounds": [{name: asdict(measured) for name, measured in one_round.items()} for one_round in self.rounds],
        }

    def tables(self) -> Sequence[Table]:
        """Return the delays and their ratios as tables to print."""
        title = (
            f"POST to frame at a websocket, {_WAITERS} waiters, {_PER_SECOND} callbacks/s: median (lowest to highest)"
        )
        delays = table(title, "p50 ms", "p99 ms", "CPU µs each")
        beside = table("÷ the neighbouring round of the broadcaster", "p50", "p99", "CPU")
        for name in _SERVERS:
            measured = [one_round[name] for one_round in self.rounds]
            cpu_us = [figures.cpu_us for figures in measured if figures.cpu_us is not None]
            delays.add_row(
                name,
                str(spread([figures.p50_ms for figures in measured])),
                str(spread([figures.p99_ms for figures in measured])),
                f"{spread(cpu_us).median:.0f}" if cpu_us else "",
            )
            if name != "broadcaster":
                pairs = self._beside_broadcaster(name)
                compared = (ratios(pairs, of) for of in ("p50_ms", "p99_ms", "cpu_us"))
                beside.add_row(name, *(str(spread(values)) if values else "" for values in compared))
        return [delays, beside]

    def _beside_broadcaster(self, name: str) -> Sequence[Round]:
        return [Round(one_round[name], one_round["broadcaster"]) for one_round in self.rounds]


async def measure_broadcast(folder: Path, plan: BroadcastPlan) -> Broadcast:
    """Measure all servers round by round, each with the same tasks and waiters of its own."""
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(serving(name, folder / f"broadcast-{name.replace(' ', '-')}.db"))
            for name in _SERVERS
        }
        rounds = []
        for number in range(plan.rounds + 1):
            tasks = await register_tasks(servers["receiver"].port, plan.callbacks, first=number * plan.callbacks)
            plain = [OpenTask(task.ref, task.task_id, f"/callback/{PROVIDER}/{task.ref}") for task in tasks]
            rounds.append(
                {
                    name: await _measure(servers[name], tasks if name == "receiver" else plain)
                    for name in (_SERVERS if number % 2 else reversed(_SERVERS))
                }
            )
    # The first round was the warm-up.
    return Broadcast(rounds[1:])


async def _measure(server: Server, tasks: Sequence[OpenTask]) -> Figures:
    received_at: ReceivedAt = {}
    refs = [task.ref for task in tasks]
    waiters = [
        waiter_of("websocket", READ_KEY, refs[number::_WAITERS], received_at.setdefault)
        for number in range(min(_WAITERS, len(refs)))
    ]
    await open_waiters(server.port, waiters)
    await asyncio.sleep(_SETTLE_SECONDS)
    received_at.clear()
    before = server.cpu_seconds()
    sent = await paced(server.port, [task.callback().request() for task in tasks], per_second=_PER_SECOND)
    async with asyncio.timeout(_LIMIT_SECONDS):
        while len(received_at) < len(refs):
            await asyncio.sleep(0.02)
    after = server.cpu_seconds()
    for waiter in waiters:
        waiter.transport.close()
    delays = [(received_at[ref] - one.sent_at) / 1e6 for ref, one in zip(refs, sent, strict=True)]
    return Figures(
        per_second=_PER_SECOND,
        p50_ms=percentile(delays, 50),
        p99_ms=percentile(delays, 99),
        distribution_ms=distribution(delays),
        cpu_us=None if before is None or after is None else (after - before) / len(tasks) * 1e6,
        busy=0.0,
    )
