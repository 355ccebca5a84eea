"""Log lines about strangers, within a limit: a flood of guesses would otherwise fill the disk with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from receiver.web.edge.rates import RateLimit

__all__ = ["RefusalLog"]

_REPORT_SECONDS = 60.0

_log = structlog.get_logger()


class RefusalLog:
    """Says which refusals are logged, at most `of_each` for an address and `of_all` together.

    The others are counted, in one line a minute.
    """

    def __init__(self, *, of_each: RateLimit, of_all: RateLimit, report_seconds: float = _REPORT_SECONDS) -> None:
        self._of_each = of_each
        self._of_all = of_all
        self._report_seconds = report_seconds
        self._suppressed = 0
        self._last_address = ""
        self._report_handle: asyncio.TimerHandle | None = None

    def takes(self, owner: object, address: Callable[[], str]) -> bool:
        """Return True if a refusal of `owner` is to be logged. `address` names it."""
        # An address that has used up its part takes nothing from the others.
        if not self._of_each.take(owner) and not self._of_all.take(None):
            return True
        self._suppressed += 1
        self._last_address = address()
        if self._report_handle is None:
            loop = asyncio.get_running_loop()
            self._report_handle = loop.call_later(self._report_seconds, self.report)
        return False

    def report(self) -> None:
        """Write the number of refusals without a line, if there are any."""
        if self._report_handle is not None:
            self._report_handle.cancel()
            self._report_handle = None
        suppressed, self._suppressed = self._suppressed, 0
        if suppressed:
            _log.warning("refusals.suppressed", count=suppressed, lastAddress=self._last_address)
