"""Callbacks of providers: read, stored with a verdict, and only then answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from uuid import UUID

from client.protocol.filters import CANARY
from client.providers import Dialect
from client.providers.readings import CallbackReading, Failed
from receiver.domain.deliveries import DeliveryResult, DeliveryRules, HintTask, delivery_command
from receiver.domain.reading import CallbackRequest
from receiver.domain.tokens import CallbackToken, Kind
from receiver.errors import ReceiverError
from receiver.service.providers import Providers
from receiver.storage.store import Store

__all__ = ["Callbacks"]

_ACKNOWLEDGE_SECONDS = 1.5


class Callbacks:
    """Stores what providers deliver. `rules` holds the rules of each provider.

    `now` returns microseconds since 1970, `new_ref` a UUIDv7.
    """

    def __init__(
        self,
        store: Store,
        providers: Providers,
        rules: Mapping[str, DeliveryRules],
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
            ReceiverError: `not-found` for a revoked URL, or for an unknown one if the URL may make nothing;
                `quota-full`.
            StoreFailedError: nothing was stored.
            StoreBusyError: not stored within 1.5 s; it may still be.
        """
        makes_nothing = token.is_ending or dialect.provider == CANARY
        if makes_nothing and not await self._is_known(token):
            # With a leaked key, its holder could make as many tasks and standing URLs as the quotas allow.
            raise ReceiverError("not-found", "no such callback URL: nothing has this id, and the URL makes nothing")
        rules = self._rules[dialect.provider]
        command = delivery_command(rules, incoming, token, now=self._now(), new_ref=self._new_ref)
        delivered = await self._store.write(command, within_seconds=_ACKNOWLEDGE_SECONDS)
        self._providers.schedules.delivered(delivered)
        if isinstance(command.reading, CallbackReading) and isinstance(command.reading.reading, Failed):
            # It is stored: a log that cannot be written changes nothing about the answer any more.
            with suppress(Exception):
                self._providers.unlisted.note(dialect, command.reading.reading)
        return delivered

    async def _is_known(self, token: CallbackToken) -> bool:
        if token.kind is Kind.TASK:
            return await self._store.task(token.id) is not None
        return await self._store.standing_url(token.id) is not None

    async def is_revoked(self, token: CallbackToken) -> bool:
        """Return True if the token belongs to a standing URL that was revoked."""
        if token.kind is not Kind.STANDING:
            return False
        url = await self._store.standing_url(token.id)
        return url is not None and url.revoked_at is not None

    async def hint(self, token: CallbackToken) -> None:
        """Record a hint for the task of this URL, after a request that could not be read.

        Raises:
            StoreFailedError, StoreBusyError: as `deliver`.
        """
        if token.kind is Kind.TASK:
            command = HintTask(ref=token.id, now=self._now())
            await self._store.write(command, within_seconds=_ACKNOWLEDGE_SECONDS)
