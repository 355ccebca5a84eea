"""The latencies of the last answers: a bounded window that gives new ones more weight than old ones. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate

__all__ = ["LARGEST", "QUANTILE", "Latencies"]

LARGEST = 100
"""The number of latencies that are kept."""

QUANTILE = 0.9

_HALF_LIFE = 25
_WEIGHTS = [0.5 ** (age / _HALF_LIFE) for age in range(LARGEST)]
_TOTALS = [0.0, *accumulate(_WEIGHTS)]


class Latencies:
    """The last `LARGEST` latencies, in seconds.

    Each has half the weight of the one 25 later. So among many latencies, four high ones in a row move the quantile,
    under traffic within minutes. One or two do not, however high they are. Bad hours are soon over.
    """

    __slots__ = ("_added", "_by_age", "_by_size")

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._by_age: deque[float] = deque()
        self._by_size: list[tuple[float, int]] = []
        self._added = 0
        for latency in seconds:
            self.add(latency)

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, seconds: float) -> None:
        """Add the newest. If there are too many, forget the oldest."""
        if len(self._by_age) == LARGEST:
            oldest = (self._by_age.popleft(), self._added - LARGEST)
            del self._by_size[bisect_left(self._by_size, oldest)]
        self._by_age.append(seconds)
        insort(self._by_size, (seconds, self._added))
        self._added += 1

    def quantile(self) -> float:
        """Return the smallest latency above which no more than 1 - `QUANTILE` of the weight lies.

        Raises:
            ValueError: there are none.
        """
        # From the top, because so few of the weights lie above the quantile.
        above, most = 0.0, (1.0 - QUANTILE) * _TOTALS[len(self._by_age)]
        for seconds, number in reversed(self._by_size):
            above += _WEIGHTS[self._added - 1 - number]
            if above > most:
                return seconds
        raise ValueError("no latency is known")

    def oldest_first(self) -> Sequence[float]:
        """Return all of them. They make an equal window."""
        return list(self._by_age)
