"""How long answers took lately: a bounded window in which new ones count more than old ones. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate

__all__ = ["LARGEST", "QUANTILE", "Latencies"]

LARGEST = 100
"""So many latencies are kept."""

QUANTILE = 0.9

_HALF_LIFE = 25
_WEIGHTS = [0.5 ** (age / _HALF_LIFE) for age in range(LARGEST)]
_TOTALS = [0.0, *accumulate(_WEIGHTS)]


class Latencies:
    """The last `LARGEST` latencies, in seconds.

    Each counts half as much as one that came 25 later. So where many are known, the quantile is moved by four high ones
    in a row, within minutes where there is traffic, but not by one or two, however high; and bad hours are soon over.
    """

    __slots__ = ("_added", "_by_age", "_by_size")

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._by_age: deque[float] = deque()
        self._by_size: list[tuple[float, int]] = []
        self._added = 0
        for each in seconds:
            self.add(each)

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, seconds: float) -> None:
        """Take the newest in; the oldest is forgotten where there are too many."""
        if len(self._by_age) == LARGEST:
            oldest = (self._by_age.popleft(), self._added - LARGEST)
            del self._by_size[bisect_left(self._by_size, oldest)]
        self._by_age.append(seconds)
        insort(self._by_size, (seconds, self._added))
        self._added += 1

    def quantile(self) -> float:
        """What `QUANTILE` of them, weighted, did not exceed; always one of them.

        Raises:
            ValueError: there are none.
        """
        # Walked from the top, because so few of the weights lie above it.
        above, most = 0.0, (1.0 - QUANTILE) * _TOTALS[len(self._by_age)]
        for seconds, number in reversed(self._by_size):
            above += _WEIGHTS[self._added - 1 - number]
            if above > most:
                return seconds
        raise ValueError("no latency is known")

    def oldest_first(self) -> Sequence[float]:
        """Return all of them, from which an equal window can be made."""
        return list(self._by_age)
