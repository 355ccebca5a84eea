"""The committed end of the log in memory. Readers near the end need not read the store.

The tail is bounded in entries and bytes. A reader behind its start reads the store.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from operator import attrgetter

from receiver.domain.records import Entry, TaskRecord

__all__ = ["Tail"]

_MOST_ENTRIES = 4096
_MOST_BYTES = 16 * 1024 * 1024
_position_of = attrgetter("position")


class Tail:
    """The entries of the log between `start` (exclusive) and `end`, oldest first."""

    def __init__(self, *, most_entries: int = _MOST_ENTRIES, most_bytes: int = _MOST_BYTES) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._entries: list[Entry] = []
        self._size = 0
        self._newest: dict[str, Entry] = {}
        self.start = 0
        self.end = 0

    def begin_at(self, position: int) -> None:
        """Forget all entries. Those up to `position` have to be read from the store."""
        self._entries, self._size, self._newest = [], 0, {}
        self.start = self.end = position

    def extend(self, entries: Iterable[Entry], until: int) -> None:
        """Append the entries behind `end`, oldest first, and move `end` to `until`."""
        for entry in entries:
            self._entries.append(entry)
            self._size += size_of(entry.task)
            if entry.kind == "result":
                self._newest[entry.ref] = entry
            elif entry.kind == "deleted":
                self._forget(entry.ref)
        self.end = max(self.end, until)
        while len(self._entries) > self._most_entries or self._size > self._most_bytes:
            self._trim()

    def after(self, position: int) -> Sequence[Entry]:
        """Return the entries behind `position`, which must not be before `start`."""
        return self._entries[bisect_right(self._entries, position, key=_position_of) :]

    def result(self, ref: str) -> TaskRecord | None:
        """Return the task with its newest outcome, if the tail still holds it."""
        entry = self._newest.get(ref)
        return None if entry is None else entry.task

    def drop_older(self, finished_at: int) -> None:
        """Drop the entries up to the last result that ended by `finished_at`. Readers before it read the store."""
        old = [number for number, entry in enumerate(self._entries, start=1) if _ended_by(entry, finished_at)]
        if old:
            self._cut(old[-1])

    def _trim(self) -> None:
        """Drop the older half, so that dropping is rare."""
        self._cut(len(self._entries) - len(self._entries) // 2)

    def _cut(self, cut: int) -> None:
        dropped, self._entries = self._entries[:cut], self._entries[cut:]
        self.start = dropped[-1].position
        self._size = sum(size_of(entry.task) for entry in self._entries)
        for entry in dropped:
            if self._newest.get(entry.ref) is entry:
                del self._newest[entry.ref]

    def _forget(self, ref: str) -> None:
        """Remove the earlier entries of a deleted task, so that readers a little behind do not get them."""
        self._newest.pop(ref, None)
        self._entries = [entry for entry in self._entries if entry.ref != ref or entry.kind == "deleted"]
        self._size = sum(size_of(entry.task) for entry in self._entries)


def _ended_by(entry: Entry, time: int) -> bool:
    outcome = None if entry.task is None else entry.task.outcome
    return outcome is not None and outcome.finished_at <= time


def size_of(task: TaskRecord | None) -> int:
    """Return about how many bytes an entry with this task takes."""
    solution = None if task is None or task.outcome is None else task.outcome.solution
    return 1000 + len(solution or "")
