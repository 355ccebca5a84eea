"""Limits on everything held at once, in all and for each API key. One key must not take the room of all others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from client.protocol.frames import MAX_NAME_BYTES, MAX_NAME_BYTES_EACH
from receiver.errors import ReceiverError

__all__ = ["ConcurrencyLimit", "Limits", "Slot"]

_RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on waiting requests and calls, on open streams, and on bytes for the tasks named by these.

    Each holds at once: in all, and for each API key.
    """

    waiters: int = 20_000
    waiters_per_key: int = 10_000
    streams: int = 20_000
    streams_per_key: int = 10_000
    name_bytes: int = MAX_NAME_BYTES
    name_bytes_per_key: int = MAX_NAME_BYTES_EACH


class ConcurrencyLimit:
    """Room for a number of `unit` at once. `slug` is the problem for a key beyond its part."""

    def __init__(self, slug: str, *, most: int, most_each: int, unit: str = "places") -> None:
        self._slug = slug
        self._unit = unit
        self._most = most
        self._most_each = most_each
        self._by_owner: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def admitted(self, owner: str) -> Slot:
        """Take a slot for `owner` now. Leaving its block gives it back.

        Raises:
            ReceiverError: `slug` if the owner has used up its part, `receiver-full` if all together have.
        """
        self.take(owner, 1)
        return Slot(self, owner)

    def take(self, owner: str, amount: int) -> None:
        """Take room for `amount` more of `owner`'s, until `give_back`.

        Raises:
            ReceiverError: as `admitted`; nothing is taken.
        """
        if self._count + amount > self._most:
            detail = f"all {self._most} {self._unit} are taken"
            raise ReceiverError("receiver-full", detail, retry_after_seconds=_RETRY_SECONDS)
        if self._by_owner.get(owner, 0) + amount > self._most_each:
            detail = f"the key {owner} has all {self._most_each} {self._unit} that it may have"
            raise ReceiverError(self._slug, detail, retry_after_seconds=_RETRY_SECONDS)
        self._count += amount
        self._by_owner[owner] += amount

    def give_back(self, owner: str, amount: int = 1) -> None:
        """Give back room of `owner`'s."""
        self._count -= amount
        self._by_owner[owner] -= amount
        if not self._by_owner[owner]:
            del self._by_owner[owner]


class Slot:
    """One taken slot, as in `with limit.admitted(owner):`. It is small, because thousands wait at once."""

    __slots__ = ("_limit", "_owner")

    def __init__(self, limit: ConcurrencyLimit, owner: str) -> None:
        self._limit = limit
        self._owner = owner

    def __enter__(self) -> None:
        """Do nothing: the slot was taken already."""

    def __exit__(self, *_: object) -> None:
        self._limit.give_back(self._owner)
