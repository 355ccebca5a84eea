"""A limit on the rate of many owners, in bounded memory.

It is the generic cell rate algorithm: for each owner one number, the time up to which its requests are paid for. The
library `limits` needs ten times as long for a request, and keeps every owner that it has seen for the whole window.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimit"]

_MOST_OWNERS = 10_000
_TOLERANCE_SECONDS = 1e-6


class RateLimit:
    """At most `per_second` for each owner in the long run, and `burst` at once. 0 per second is no limit.

    Beyond `most_owners`, the one that asked longest ago is forgotten, and has its whole burst again.
    """

    def __init__(
        self,
        per_second: float,
        burst: float,
        *,
        most_owners: int = _MOST_OWNERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_second = per_second
        self.burst = burst
        self._interval = 1 / per_second if per_second else 0.0
        self._window = burst * self._interval
        self._most_owners = most_owners
        self._clock = clock
        self._paid_until: OrderedDict[object, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paid_until)

    def take(self, owner: object) -> float:
        """Take one now. Return 0, or the seconds until there is one. Then nothing is taken."""
        if not self._interval:
            return 0.0
        now = self._clock()
        paid_until = max(now, self._paid_until.get(owner, now)) + self._interval
        wait = paid_until - now - self._window
        # The clock and the sums of intervals are not exact.
        if wait > _TOLERANCE_SECONDS:
            return wait
        self._paid_until[owner] = paid_until
        self._paid_until.move_to_end(owner)
        if len(self._paid_until) > self._most_owners:
            self._paid_until.popitem(last=False)
        return 0.0
