"""Error codes that no list has: when one ends a task that is polled. Pure.

Nobody knows what such a code is about. So one of them ends nothing: the task is polled on, at doubled intervals. The
same code several times in a row, for long enough, is taken for the provider's word. That is our reading of it, so the
outcome is provisional: what the provider says of the task afterwards replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.providers.readings import Failed, Reading

__all__ = ["WIDEST", "UnlistedRow", "row_after"]

WIDEST = 4.0
"""No wait between two polls of a task is longer than so many of the provider's intervals."""

_TIMES = 3
_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class UnlistedRow:
    """The same unlisted code so many `times` in a row, in answers to polls of one task, `since` then in seconds."""

    code: str
    times: int
    since: float

    def is_enough(self, now: float) -> bool:
        """Tell whether the code, which came again just now, is taken for the outcome of the task."""
        return self.times >= _TIMES and now - self.since >= _SECONDS

    @property
    def intervals(self) -> float:
        """The wait until the next poll, as a number of the provider's intervals."""
        return min(2.0 ** min(self.times, 8), WIDEST)


def row_after(row: UnlistedRow | None, said: Reading, now: float) -> UnlistedRow | None:
    """Return the row after one more answer, at `now`; an answer that is known ends it.

    Answers that say nothing about the task (refusals, 5xx, no connection) neither lengthen nor end a row: leave them
    out.
    """
    if not isinstance(said, Failed) or said.is_listed:
        return None
    if row is None or row.code != said.error_code:
        return UnlistedRow(said.error_code, 1, now)
    # After a clock was set back, no row begins in the future.
    return UnlistedRow(row.code, row.times + 1, min(row.since, now))
