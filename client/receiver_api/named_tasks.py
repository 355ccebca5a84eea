"""The tasks that a subscription names and should name. Only the difference is sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from client.protocol.frames import MAX_NAMED, NAMES_AT_ONCE, Add, Remove

__all__ = ["NamedTasks"]


class NamedTasks:
    """The wanted refs, and the refs named on the current connection.

    `changed` is set when the two differ. If more are wanted than may be named, the newest are named as room for them
    comes. A receiver may have less room than that. Refs that it refused stay wanted, and no more are named than it
    took, until `try_again`.
    """

    def __init__(self, *, most: int = MAX_NAMED) -> None:
        self._most = self._most_ever = most
        # Added and not answered yet, in their order; with each ref, whether it was named before.
        self._asked: deque[dict[str, bool]] = deque()
        # Both in the order in which they came.
        self._wanted: dict[str, None] = {}
        self._new: dict[str, None] = {}
        self._named: set[str] = set()
        self._dropped: dict[str, None] = {}
        self.changed = asyncio.Event()

    @property
    def unnamed(self) -> int:
        """The number of refs that are wanted and not named (yet)."""
        return len(self._new)

    @property
    def is_refused(self) -> bool:
        """True if the receiver has room for less than may be named."""
        return self._most < self._most_ever

    def want(self, ref: str) -> None:
        """Name the ref; again, if it was named before."""
        self._wanted[ref] = None
        self._dropped.pop(ref, None)
        self._new[ref] = None
        self.changed.set()

    def drop(self, ref: str) -> None:
        """Stop naming the ref."""
        self._wanted.pop(ref, None)
        self._new.pop(ref, None)
        if ref in self._named:
            self._dropped[ref] = None
            self.changed.set()

    def begin(self) -> tuple[str, ...]:
        """Return the refs to name first on a new connection. The rest are changes."""
        self._most = self._most_ever
        self._asked.clear()
        first = tuple(islice(self._wanted, min(self._most, NAMES_AT_ONCE)))
        self._named = set(first)
        self._dropped = {}
        self._new = dict.fromkeys(islice(self._wanted, len(first), None))
        if self._new:
            self.changed.set()
        return first

    def changes(self) -> Iterator[Add | Remove]:
        """Yield the frames to make the two equal, within the room for names. Each counts as sent once it is yielded."""
        self.changed.clear()
        while self._dropped:
            yield Remove(id="remove", tasks=self._unname())
        while self._new and (room := self._most - len(self._named)) > 0:
            yield Add(id="add", tasks=self._name(room))

    def added(self) -> None:
        """Record that the receiver took the oldest unanswered `Add`."""
        if self._asked:
            self._asked.popleft()

    def refused(self) -> None:
        """Record that the receiver had no room for the oldest unanswered `Add`."""
        for ref, was_named in (self._asked.popleft() if self._asked else {}).items():
            if not was_named:
                self._named.discard(ref)
                self._dropped.pop(ref, None)
            if ref in self._wanted:
                self._new[ref] = None
        self._most = len(self._named) - sum(not was_named for asked in self._asked for was_named in asked.values())
        self.changed.set()

    def try_again(self) -> None:
        """Name refused refs again, because the receiver may have room by now."""
        self._most = self._most_ever
        self.changed.set()

    def _unname(self) -> tuple[str, ...]:
        refs = _take(self._dropped, NAMES_AT_ONCE)
        self._named.difference_update(refs)
        return refs

    def _name(self, room: int) -> tuple[str, ...]:
        refs = _take(self._new, min(room, NAMES_AT_ONCE))
        self._asked.append({ref: ref in self._named for ref in refs})
        self._named.update(refs)
        return refs


def _take(refs: dict[str, None], most: int) -> tuple[str, ...]:
    taken: Sequence[str] = tuple(islice(refs, most))
    for ref in taken:
        del refs[ref]
    return tuple(taken)
