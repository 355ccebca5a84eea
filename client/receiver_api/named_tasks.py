"""Which tasks a subscription names, and which it is to name: the difference is sent, and nothing else."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from client.protocol.frames import MAX_NAMED, NAMES_AT_ONCE, Add, Remove

__all__ = ["Names"]


class Names:
    """The refs that are wanted, and those that were named on the connection of now.

    `changed` is set when the two differ. Where more are wanted than may be named, those that came last are named as
    room for them comes. A receiver may have less room than that: what it refused is wanted still, and no more is named
    than it took, until `try_again`.
    """

    def __init__(self, *, most: int = MAX_NAMED) -> None:
        self._most = self._most_ever = most
        # Those that were added and not answered yet, in their order; and whether each was named before.
        self._asked: deque[dict[str, bool]] = deque()
        # Both in the order in which they came.
        self._wanted: dict[str, None] = {}
        self._new: dict[str, None] = {}
        self._named: set[str] = set()
        self._dropped: dict[str, None] = {}
        self.changed = asyncio.Event()

    @property
    def unnamed(self) -> int:
        """How many are wanted and not named (yet)."""
        return len(self._new)

    @property
    def is_refused(self) -> bool:
        """True if the receiver has room for less than may be named."""
        return self._most < self._most_ever

    def want(self, ref: str) -> None:
        """The ref is to be named; again, if it was named before."""
        self._wanted[ref] = None
        self._dropped.pop(ref, None)
        self._new[ref] = None
        self.changed.set()

    def drop(self, ref: str) -> None:
        """The ref is to be named no more."""
        self._wanted.pop(ref, None)
        self._new.pop(ref, None)
        if ref in self._named:
            self._dropped[ref] = None
            self.changed.set()

    def begin(self) -> tuple[str, ...]:
        """What to name first on a new connection; the rest are changes."""
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
        """The frames that make the two equal, as far as there is room; each counts as sent once it was given out."""
        self.changed.clear()
        while self._dropped:
            yield Remove(id="remove", tasks=self._unname())
        while self._new and (room := self._most - len(self._named)) > 0:
            yield Add(id="add", tasks=self._name(room))

    def added(self) -> None:
        """The receiver took the oldest `Add` that was not answered yet."""
        if self._asked:
            self._asked.popleft()

    def refused(self) -> None:
        """It had no room for that one."""
        for ref, was_named in (self._asked.popleft() if self._asked else {}).items():
            if not was_named:
                self._named.discard(ref)
                self._dropped.pop(ref, None)
            if ref in self._wanted:
                self._new[ref] = None
        self._most = len(self._named) - sum(not was_named for asked in self._asked for was_named in asked.values())
        self.changed.set()

    def try_again(self) -> None:
        """The receiver may have room by now."""
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
