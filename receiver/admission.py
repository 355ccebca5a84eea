"""How many may wait at once, in all and for each API key: one key must not take the room of all others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from receiver.errors import ReceiverError

__all__ = ["Admission", "Limits", "Place"]

_RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Requests and calls that may wait, and open streams, at once: in all, and for each API key."""

    waiters: int = 20_000
    waiters_per_key: int = 10_000
    streams: int = 20_000
    streams_per_key: int = 10_000


class Admission:
    """Room for so many of one kind. `slug` is the problem of a key that has all it may."""

    def __init__(self, slug: str, *, most: int, most_each: int) -> None:
        self._slug = slug
        self._most = most
        self._most_each = most_each
        self._by_owner: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def admitted(self, owner: str) -> Place:
        """Room for one more of `owner`'s, taken now and given back at the end of the block.

        Raises:
            ReceiverError: `slug` where the owner has all it may, `receiver-full` where all together have.
        """
        if self._count >= self._most:
            detail = f"all {self._most} places are taken"
            raise ReceiverError("receiver-full", detail, retry_after_seconds=_RETRY_SECONDS)
        if self._by_owner[owner] >= self._most_each:
            detail = f"the key {owner} has all {self._most_each} places that it may have"
            raise ReceiverError(self._slug, detail, retry_after_seconds=_RETRY_SECONDS)
        self._count += 1
        self._by_owner[owner] += 1
        return Place(self, owner)

    def give_back(self, owner: str) -> None:
        """One of `owner`'s has ended."""
        self._count -= 1
        self._by_owner[owner] -= 1
        if not self._by_owner[owner]:
            del self._by_owner[owner]


class Place:
    """One place that was taken; to be used as `with room.admitted(owner):`. Small, because thousands wait at once."""

    __slots__ = ("_owner", "_room")

    def __init__(self, room: Admission, owner: str) -> None:
        self._room = room
        self._owner = owner

    def __enter__(self) -> None:
        """Nothing: the place was taken already."""

    def __exit__(self, *_: object) -> None:
        self._room.give_back(self._owner)
