"""Retention: old finished tasks, solutions and bytes of deliveries are removed in small steps.

A step is a command like any other, with a limit on its rows and their bytes. There is a pause between two steps. A
callback waits for the step under way, and at most for one more in the same transaction. Unfinished tasks stay, however
old they are.

Of several receivers one prunes, under a lease that it takes only if there is something to remove. If it dies, another
one goes on a minute later at most. Two at once would be safe: the store carries out one step after another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from receiver.domain.records import SECOND, TOMBSTONE_LIFE, Horizon, Removed
from receiver.domain.transaction import Prune
from receiver.errors import ReceiverError
from receiver.storage.store import Store
from receiver.upkeep.leases import UpkeepLease

__all__ = ["LEASE_SECONDS", "RetentionTimes", "keep_pruning", "prune"]

LEASE_SECONDS = 30.0
"""The time after which another receiver takes over from one that died."""

_ROUND_SECONDS = 15.0
_PAUSE_SECONDS = 0.05
_SLOW_SECONDS = 0.02
_MOST_ROWS = 200
_FEWEST_ROWS = 10
_MOST_TOMBSTONES = 1_000_000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionTimes:
    """Times to keep things, in seconds since the task ended or the delivery came, and the most finished tasks."""

    results_seconds: int
    solutions_seconds: int
    deliveries_seconds: int
    most_finished: int

    def horizon(self, now: int) -> Horizon:
        """Return the limits of age that apply at this time."""
        return Horizon(
            now=now,
            results=now - self.results_seconds * SECOND,
            solutions=now - self.solutions_seconds * SECOND,
            deliveries=now - self.deliveries_seconds * SECOND,
            tombstones=now - TOMBSTONE_LIFE,
            most_finished=self.most_finished,
            most_tombstones=_MOST_TOMBSTONES,
        )


async def prune(
    store: Store,
    horizon: Horizon,
    notify: Callable[[Removed], None],
    *,
    may_go_on: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """Remove everything beyond the horizon. `notify` is called after each step with the sum so far.

    Before each step, `may_go_on` may end it. If it is cancelled between two steps, the steps before are done. Without
    anything to do, it writes nothing.

    Raises:
        StoreFailedError, StoreBusyError: the store cannot write now; the steps before are done.
    """
    until = await store.prunable(horizon)
    if until is None:
        return
    limit = _MOST_ROWS
    total = Removed()
    while may_go_on is None or await may_go_on():
        began = time.monotonic()
        removed = await store.write(Prune(horizon=horizon, until=until, limit=limit))
        if removed is None:
            return
        total = total.plus(removed)
        notify(total)
        # Rows differ in size by a thousand times, so after a slow step the next one is smaller.
        is_slow = time.monotonic() - began > _SLOW_SECONDS
        limit = max(limit // 2, _FEWEST_ROWS) if is_slow else min(limit * 2, _MOST_ROWS)
        await asyncio.sleep(_PAUSE_SECONDS)


async def keep_pruning(
    store: Store,
    times: RetentionTimes,
    now: Callable[[], int],
    forget_solutions: Callable[[int], None],
    *,
    holder: str,
) -> None:
    """Remove old data every 15 s, until cancelled, unless another receiver does. `holder` names this one.

    `forget_solutions` removes solutions from memory. It is called with a time: tasks that ended by then have lost
    theirs. While the store cannot write, everything stays as it is until the next round.
    """
    lease = UpkeepLease(store, "retention", holder=holder, seconds=LEASE_SECONDS)
    while True:
        horizon = times.horizon(now())
        total = Removed()

        def note(removed: Removed) -> None:
            nonlocal total
            total = removed

        # Memory first: from it, a reader could get a solution that the store has not any more.
        forget_solutions(horizon.solutions)
        try:
            await prune(store, horizon, note, may_go_on=lease.is_held)
        except ReceiverError as error:
            _log.warning("retention.failed", reason=error.detail)
        if any(total):
            _log.info("retention.done", **total._asdict())
        await asyncio.sleep(_ROUND_SECONDS)
