"""Retention: finished tasks, solutions and the bytes of deliveries go when they are old, in small steps.

A step is a command like any other, with a bound on its rows and their bytes; between two there is a pause. A callback
waits for the step that is being done as it comes, and at most for one more that is stored together with it. Unfinished
tasks stay, however old they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from receiver.domain.records import SECOND, Horizon, Removed
from receiver.domain.transaction import Prune
from receiver.errors import ReceiverError
from receiver.storage.store import Store

__all__ = ["Lives", "prune", "prune_old"]

_ROUND_SECONDS = 15.0
_PAUSE_SECONDS = 0.05
_SLOW_SECONDS = 0.02
_MOST_ROWS = 200
_FEWEST_ROWS = 10
_TOMBSTONE_SECONDS = 90 * 24 * 3600
_MOST_TOMBSTONES = 1_000_000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lives:
    """How long what is kept, in seconds from when the task ended or the delivery came, and how many finished tasks."""

    results_seconds: int
    solutions_seconds: int
    deliveries_seconds: int
    most_finished: int

    def horizon(self, now: int) -> Horizon:
        """What they take at this time."""
        return Horizon(
            now=now,
            results=now - self.results_seconds * SECOND,
            solutions=now - self.solutions_seconds * SECOND,
            deliveries=now - self.deliveries_seconds * SECOND,
            tombstones=now - _TOMBSTONE_SECONDS * SECOND,
            most_finished=self.most_finished,
            most_tombstones=_MOST_TOMBSTONES,
        )


async def prune(store: Store, horizon: Horizon, tell: Callable[[Removed], None]) -> None:
    """Remove all that the horizon takes; `tell` is called after each step with what went in all.

    Cancelled between two steps, it has done those before. Nothing is written where there is nothing to do.

    Raises:
        StoreFailedError, StoreBusyError: the store cannot do it now; the steps before are done.
    """
    until = await store.prunable(horizon)
    if until is None:
        return
    limit = _MOST_ROWS
    gone = Removed()
    while True:
        began = time.monotonic()
        removed = await store.write(Prune(horizon=horizon, until=until, limit=limit))
        if removed is None:
            return
        gone = gone.plus(removed)
        tell(gone)
        # Rows differ in size by a thousand times: what took long is asked for in smaller pieces.
        is_slow = time.monotonic() - began > _SLOW_SECONDS
        limit = max(limit // 2, _FEWEST_ROWS) if is_slow else min(limit * 2, _MOST_ROWS)
        await asyncio.sleep(_PAUSE_SECONDS)


async def prune_old(
    store: Store, lives: Lives, now: Callable[[], int], forget_solutions: Callable[[int], None]
) -> None:
    """Run until it is cancelled. What is too old is gone within some 15 s, where there is not much of it.

    `forget_solutions` is called with the time up to which tasks must have lost theirs, for what is kept in memory.
    While the store cannot write, all stays as it is until the next round.
    """
    while True:
        horizon = lives.horizon(now())
        gone = Removed()

        def note(removed: Removed) -> None:
            nonlocal gone
            gone = removed

        forget_solutions(horizon.solutions)
        try:
            await prune(store, horizon, note)
        except ReceiverError as error:
            _log.warning("retention.failed", reason=error.detail)
        if any(gone):
            _log.info("retention.done", **gone._asdict())
        await asyncio.sleep(_ROUND_SECONDS)
