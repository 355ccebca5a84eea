"""Error codes on no list: their meaning in answers to polls, and their counts.

The meaning of such a code is not known, so a single one ends no task. The task is polled on, at doubled intervals. The
same code several times in a row, over long enough a time, ends the task. That outcome is our reading of the code, so it
is provisional: a later answer of the provider replaces it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from client.logs import Log
from client.providers import Dialect
from client.providers.codes import REASON_NOT_GIVEN, code_named
from client.providers.readings import Failed, Reading, Submitted

__all__ = ["MOST_CODES", "OTHER", "WIDEST", "UnlistedCodes", "UnlistedRow", "is_provisional", "row_after"]

WIDEST = 4.0
"""The longest wait between two polls of a task, as a multiple of the provider's interval."""

MOST_CODES = 20
"""Number of unlisted codes counted by name for one provider. All further ones are counted as `OTHER`."""

OTHER = "other"

_TIMES = 3
_SECONDS = 15.0
_NAME = re.compile(r"[A-Z0-9_: ]{1,80}", re.ASCII)

_log = Log()


@dataclass(frozen=True, slots=True)
class UnlistedRow:
    """Consecutive answers to polls of one task with the same unlisted code, the first of them at `since` (seconds)."""

    code: str
    times: int
    since: float

    def is_enough(self, now: float) -> bool:
        """Return True if the row, whose last answer came at `now`, ends the task."""
        return self.times >= _TIMES and now - self.since >= _SECONDS

    @property
    def intervals(self) -> float:
        """The wait until the next poll, as a multiple of the provider's interval."""
        return min(2.0 ** min(self.times, 8), WIDEST)

    def least_wait(self, interval: float, *, window_left: float) -> float:
        """Return the shortest wait until the next poll, in the unit of the arguments.

        It is 0 if the poll would come after the provider's window. That poll is made at the ordinary interval.
        """
        wait = self.intervals * interval
        return wait if wait < window_left else 0.0


def row_after(row: UnlistedRow | None, reading: Reading, now: float) -> UnlistedRow | None:
    """Return the row after one more answer, at `now`. A listed code or another state ends the row.

    Leave out answers without a statement about the task (refusals, 5xx, no connection). They neither extend nor end it.
    """
    if not isinstance(reading, Failed) or reading.is_listed:
        return None
    if row is None or row.code != reading.error_code:
        return UnlistedRow(reading.error_code, 1, now)
    # If the clock was set back, the row still does not begin in the future.
    return UnlistedRow(row.code, row.times + 1, min(row.since, now))


def is_provisional(reading: Reading, source: str) -> bool:
    """Return True if an outcome with this reading is provisional: a poll brought an unlisted code."""
    return source == "poll" and isinstance(reading, Failed) and not reading.is_listed


class UnlistedCodes:
    """Counts the unlisted codes of all providers by name, and logs them. The number of names is bounded.

    `counted` gets the provider and the name of each code. The name is `OTHER` for an implausible code, and beyond
    `MOST_CODES` names of one provider. Each name is logged for its 1st, 10th, 100th code and so on.
    """

    def __init__(self, counted: Callable[[str, str], None] | None = None) -> None:
        self._counted = counted
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def note(self, dialect: Dialect, reading: object) -> None:
        """Count the code in a reading of the dialect, if it is unlisted."""
        if isinstance(reading, Submitted):
            reading = reading.reading
        if not isinstance(reading, Failed) or reading.error_code == REASON_NOT_GIVEN:
            return
        if code_named(dialect.codes, reading.error_code) is not None:
            return
        counts = self._counts[dialect.provider]
        name = reading.error_code if _NAME.fullmatch(reading.error_code) else OTHER
        if name not in counts and len(counts) >= MOST_CODES:
            name = OTHER
        counts[name] += 1
        if self._counted is not None:
            self._counted(dialect.provider, name)
        if str(counts[name]).strip("0") == "1":
            _log.warning(
                "code.unlisted",
                provider=dialect.provider,
                errorCode=reading.error_code[:80],
                times=counts[name],
                consequence="a poll with it ends no task unless the code repeats",
            )
