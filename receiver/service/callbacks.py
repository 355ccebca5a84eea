"""Callbacks of providers: read, stored with a verdict, and only then answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from client.providers import Dialect
from client.providers.readings import CallbackReading, Failed
from receiver.domain.deliveries import DeliverToStanding, DeliverToTask, DeliveryResult, HintTask, Quotas
from receiver.domain.reading import CallbackRequest, read_arrival, times_of_new_task
from receiver.domain.tokens import CallbackToken, Kind
from receiver.domain.transaction import Command
from receiver.service.providers import Providers
from receiver.storage.store import Store

__all__ = ["CallbackRules", "Callbacks"]

_ACKNOWLEDGE_SECONDS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRules:
    """Settings of the receiver about callbacks: secrets by provider, quotas, and which callbacks a poll confirms."""

    secrets: Mapping[str, bytes]
    quotas: Quotas
    confirm: str = "mismatched"


class Callbacks:
    """Stores what providers deliver. `now` returns microseconds since 1970, `new_ref` a UUIDv7."""

    def __init__(
        self,
        store: Store,
        providers: Providers,
        rules: CallbackRules,
        *,
        now: Callable[[], int],
        new_ref: Callable[[], UUID],
    ) -> None:
        self._store = store
        self._providers = providers
        self._rules = rules
        self._now = now
        self._new_ref = new_ref

    async def deliver(self, dialect: Dialect, token: CallbackToken, incoming: CallbackRequest) -> DeliveryResult:
        """Return the verdict, once the delivery is durable.

        Raises:
            ReceiverError: `not-found` for a revoked URL, `quota-full`.
            StoreFailedError: nothing was stored.
            StoreBusyError: not stored within 1.5 s; it may still be.
        """
        now = self._now()
        arrival = read_arrival(
            dialect,
            incoming,
            token,
            self._rules.secrets.get(dialect.provider),
            now,
            confirm=self._rules.confirm,
            can_poll=dialect.provider in self._providers.accounts,
        )
        command: Command[DeliveryResult]
        if token.kind is Kind.TASK:
            times = times_of_new_task(dialect, str(token.id), now)
            command = DeliverToTask(ref=times.ref, arrival=arrival, new_task=times, quotas=self._rules.quotas)
        else:
            times = times_of_new_task(dialect, str(self._new_ref()), now)
            command = DeliverToStanding(
                url_id=str(token.id), arrival=arrival, new_task=times, quotas=self._rules.quotas
            )
        delivered = await self._store.write(command, within_seconds=_ACKNOWLEDGE_SECONDS)
        self._providers.schedules.delivered(delivered)
        if isinstance(arrival.reading, CallbackReading) and isinstance(arrival.reading.reading, Failed):
            # It is stored: a log that cannot be written changes nothing about the answer any more.
            with suppress(Exception):
                self._providers.unlisted.note(dialect, arrival.reading.reading)
        return delivered

    async def is_revoked(self, token: CallbackToken) -> bool:
        """Return True if the token belongs to a standing URL that was revoked."""
        if token.kind is not Kind.STANDING:
            return False
        url = await self._store.standing_url(str(token.id))
        return url is not None and url.revoked_at is not None

    async def hint(self, token: CallbackToken) -> None:
        """Record a hint for the task of this URL, after a request that could not be read.

        Raises:
            StoreFailedError, StoreBusyError: as `deliver`.
        """
        if token.kind is Kind.TASK:
            command = HintTask(ref=str(token.id), now=self._now())
            await self._store.write(command, within_seconds=_ACKNOWLEDGE_SECONDS)
