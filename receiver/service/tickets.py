"""Tickets, with which a page in a browser opens a stream, because it must not have an API key.

The page's own backend asks for a ticket with its key and gives it to the page. The store has the digests of tickets. So
a ticket is valid at every receiver on the database, also after a restart.
"""

from __future__ import annotations

import hashlib
import secrets

from receiver.domain.access.tickets import TICKET_SECONDS, MakeTicket, UseTicket
from receiver.service.keys import Keys
from receiver.settings import ApiKey
from receiver.storage.store import Store

__all__ = ["TICKET_SECONDS", "Tickets"]

_WRITE_SECONDS = 2.0


class Tickets:
    """All valid tickets of the store. A ticket ends with its key."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys

    async def make(self, key: ApiKey) -> str:
        """Return a new ticket for this API key.

        Raises:
            ReceiverError: `too-many-tickets`, `not-stored`.
        """
        ticket = secrets.token_urlsafe(24)
        await self._store.write(MakeTicket(digest=_digest(ticket), key=key), within_seconds=_WRITE_SECONDS)
        return ticket

    async def key_of(self, ticket: str, *, is_used_up: bool) -> ApiKey | None:
        """Return the valid key that made the ticket, or None if the ticket is not valid.

        With `is_used_up` the ticket is not valid from now on, at any receiver.

        Raises:
            ReceiverError: `not-stored`.
        """
        digest = _digest(ticket)
        # Read first, because a wrong ticket must cost no write.
        found = await self._store.ticket(digest)
        if found is not None and is_used_up:
            found = await self._store.write(UseTicket(digest=digest), within_seconds=_WRITE_SECONDS)
        return None if found is None else self._keys.find_by_fingerprint(found.fingerprint)


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogateescape")).digest()
