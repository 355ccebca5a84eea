"""Tickets, with which a page in a browser opens a stream, because it must not have an API key.

The page's own backend asks for a ticket with its key and gives it to the page. Tickets live in memory. After a restart,
a page needs a new one, as after the end of its ticket.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from receiver.errors import ReceiverError
from receiver.settings import ApiKey

__all__ = ["TICKET_SECONDS", "Tickets"]

TICKET_SECONDS = 60.0
_MOST_EACH = 1000
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class _Ticket:
    key: ApiKey
    ends_at: float


class Tickets:
    """All valid tickets, by digest. `clock` returns seconds from a clock without steps."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # In the order of their ends, because all live equally long.
        self._tickets: dict[bytes, _Ticket] = {}
        self._by_owner: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._tickets)

    def make(self, key: ApiKey) -> str:
        """Return a new ticket for this API key.

        Raises:
            ReceiverError: `too-many-tickets`.
        """
        self._drop_ended()
        if len(self._tickets) >= _MOST or self._by_owner[key.name] >= _MOST_EACH:
            raise ReceiverError(
                "too-many-tickets",
                f"the limit on valid tickets is reached; each expires after {TICKET_SECONDS:g} s",
                retry_after_seconds=10,
            )
        ticket = secrets.token_urlsafe(24)
        self._tickets[_digest(ticket)] = _Ticket(key, self._clock() + TICKET_SECONDS)
        self._by_owner[key.name] += 1
        return ticket

    def key_of(self, ticket: str, *, is_used_up: bool) -> ApiKey | None:
        """Return the key that made the ticket, or None if the ticket is not valid. The key may have ended since.

        With `is_used_up` the ticket is not valid from now on.
        """
        self._drop_ended()
        digest = _digest(ticket)
        found = self._tickets.get(digest)
        if found is not None and is_used_up:
            self._drop(digest)
        return None if found is None else found.key

    def _drop_ended(self) -> None:
        now = self._clock()
        while self._tickets:
            digest, ticket = next(iter(self._tickets.items()))
            if ticket.ends_at > now:
                break
            self._drop(digest)

    def _drop(self, digest: bytes) -> None:
        ticket = self._tickets.pop(digest)
        self._by_owner[ticket.key.name] -= 1
        if not self._by_owner[ticket.key.name]:
            del self._by_owner[ticket.key.name]


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogateescape")).digest()
