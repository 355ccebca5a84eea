"""The loop that sends the receiver a callback of its own every few minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

import structlog

from receiver.domain.records import SECOND
from receiver.domain.transaction import PruneCanary
from receiver.errors import ReceiverError
from receiver.health.findings import CanaryFailure
from receiver.metrics import Metrics
from receiver.service.signing_keys import SigningKeys
from receiver.storage.store import Store
from receiver.web.canary.probe import run_canary

__all__ = ["KEPT", "Canary"]

# A proxy beside it, started at the same time, may have to get its certificate first.
_SOON_SECONDS = 60.0
KEPT = 3600 * SECOND
"""The time in µs for which the tasks of these callbacks are kept."""

_log = structlog.get_logger()


class Canary:
    """Sends callbacks to this receiver, one after another.

    `report` gets a failure once two in a row failed, and None after a good one. One lost packet wakes nobody.
    `now` returns microseconds since 1970, `new_ref` a UUIDv7.
    """

    def __init__(
        self,
        store: Store,
        signing_keys: SigningKeys,
        metrics: Metrics,
        *,
        now: Callable[[], int],
        new_ref: Callable[[], UUID],
        report: Callable[[CanaryFailure | None], None],
    ) -> None:
        self._store = store
        self._signing_keys = signing_keys
        self._metrics = metrics
        self._now = now
        self._new_ref = new_ref
        self._report = report
        self._failing_since: int | None = None

    async def run(self, public_url: str, seconds: float) -> None:
        """Send one a minute after the start, and then every `seconds`, until cancelled. After a failure, be quicker."""
        soon = min(_SOON_SECONDS, seconds)
        await asyncio.sleep(soon)
        while True:
            try:
                await self.send(public_url)
            except Exception:
                # Nothing that this loop does is worth the end of the receiver.
                _log.exception("canary.not_sent")
            await asyncio.sleep(seconds if self._failing_since is None else soon)

    async def send(self, public_url: str) -> None:
        """Send one callback, count it, log a failure or the end of one, and remove old tasks."""
        run = await run_canary(
            public_url, self._signing_keys.current, self._store, now=self._now, new_ref=self._new_ref
        )
        self._metrics.canary(run.seconds, run.failed)
        if run.failed is not None:
            _log.warning("canary.failed", stage=run.failed, reason=run.reason)
            now = self._now()
            if self._failing_since is None:
                self._failing_since = now
            else:
                self._report(CanaryFailure(run.failed, run.reason, self._failing_since, now))
        elif self._failing_since is not None:
            self._failing_since = None
            self._report(None)
            _log.info("canary.recovered", milliseconds=round(run.seconds["frame"] * 1000, 1))
        try:
            await self._store.write(PruneCanary(before=self._now() - KEPT))
        except ReceiverError as error:
            _log.warning("retention.failed", reason=error.detail)
