"""Tickets of pages, valid at every receiver on the database. Pure.

All times are those of the database's clock. States of a ticket and its races:

* *valid*: server-sent events use it again and again. A websocket uses it up. Of two receivers that see it at once, one
  decides after the other, and the second finds it used up.
* *used up* or *ended*: its end has passed, so it counts for no limit. The next new ticket removes its row.
* *beyond*: its end is further off than that of a new ticket, because the clock was set back. It counts as ended.

Limits hold in sum. Of two receivers that make tickets at once, the second counts that of the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from receiver.domain.records import SECOND
from receiver.domain.transaction import CLOCK, Transaction
from receiver.errors import ReceiverError
from receiver.settings import ApiKey

__all__ = ["TICKET_SECONDS", "MakeTicket", "StoredTicket", "UseTicket", "fingerprint"]

TICKET_SECONDS = 60.0
_LIFE = round(TICKET_SECONDS * SECOND)
_MOST_EACH = 1000
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class StoredTicket:
    """A row of the table of tickets. `fingerprint` is that of its API key, `owner` the name of the key."""

    owner: str
    fingerprint: bytes
    ends_at: int


def fingerprint(key: ApiKey) -> bytes:
    """Return a digest of a key and of what it may do. A ticket of a key that may do something else now is not valid."""
    providers = None if key.providers is None else sorted(key.providers)
    parts = (key.name, key.digest.hex(), sorted(key.scopes), providers, key.key_id)
    return hashlib.sha256(json.dumps(parts).encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeTicket:
    """A new ticket for an API key, by the digest of the ticket."""

    digest: bytes
    key: ApiKey
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> None:
        """Keep it.

        Raises:
            ReceiverError: `too-many-tickets`.
        """
        own, all_keys = ("ticket_count", self.key.name), ("ticket_count",)
        transaction.require(own, all_keys, CLOCK)
        count, sum_of_all = transaction.row(own), transaction.row(all_keys)
        if count >= _MOST_EACH or sum_of_all >= _MOST:
            raise ReceiverError(
                "too-many-tickets",
                f"the limit on valid tickets is reached; each expires after {TICKET_SECONDS:g} s",
                retry_after_seconds=10,
            )
        ends_at = transaction.row(CLOCK) + _LIFE
        transaction.save_row(("ticket", self.digest), StoredTicket(self.key.name, fingerprint(self.key), ends_at))
        transaction.save_row(own, count + 1, is_change=False)
        transaction.save_row(all_keys, sum_of_all + 1, is_change=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UseTicket:
    """The single use of a ticket, by its digest."""

    digest: bytes
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> StoredTicket | None:
        """Return the ticket, which is used up now; None if it was not valid."""
        key = ("ticket", self.digest)
        transaction.require(key, CLOCK)
        ticket: StoredTicket | None = transaction.row(key)
        if ticket is None or not 0 < ticket.ends_at - transaction.row(CLOCK) <= _LIFE:
            return None
        transaction.save_row(key, replace(ticket, ends_at=0))
        return ticket
