"""Callbacks of providers: read, stored with a verdict, and only then answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from client.protocol.filters import CANARY
from client.providers import Dialect
from client.providers.readings import CallbackReading, Failed
from receiver.domain.deliveries import DeliveryResult, DeliveryRules, HintTask, delivery_command
from receiver.domain.reading import CallbackRequest
from receiver.domain.tokens import CallbackToken, Kind
from receiver.domain.verdicts import UnreadVerdict
from receiver.errors import ReceiverError
from receiver.service.providers import Providers
from receiver.storage.store import Store

__all__ = ["Callbacks", "Delivery"]

_ACKNOWLEDGE_SECONDS = 1.5


# Not frozen, as one is made for each callback. Nothing changes it.
@dataclass(slots=True)
class Delivery:
    """A callback on its way to the store."""

    dialect: Dialect
    reading: CallbackReading | UnreadVerdict | None
    stored: asyncio.Future[DeliveryResult]


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
        if self.makes_nothing(dialect, token) and not await self._is_known(token):
            # With a leaked key, its holder could make as many tasks and standing URLs as the quotas allow.
            raise ReceiverError("not-found", "no such callback URL: nothing has this id, and the URL makes nothing")
        delivery = self.begin(dialect, token, incoming)
        await delivery.stored
        return self.end(delivery)

    @staticmethod
    def makes_nothing(dialect: Dialect, token: CallbackToken) -> bool:
        """Return True if the URL must be known already."""
        return token.is_ending or dialect.provider == CANARY

    def begin(self, dialect: Dialect, token: CallbackToken, incoming: CallbackRequest) -> Delivery:
        """Begin to store a callback of a URL that need not be known. `end` must follow. All errors come by the future.

        Cancelling the future does not stop it.
        """
        rules = self._rules[dialect.provider]
        try:
            command = delivery_command(rules, incoming, token, now=self._now(), new_ref=self._new_ref)
            return Delivery(dialect, command.reading, self._store.begin(command, within_seconds=_ACKNOWLEDGE_SECONDS))
        except Exception as error:
            failed: asyncio.Future[DeliveryResult] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return Delivery(dialect, None, failed)

    def end(self, delivery: Delivery) -> DeliveryResult:
        """Return the verdict once it is stored, or raise as `deliver` does."""
        delivered = delivery.stored.result()
        self._providers.schedules.delivered(delivered)
        reading = delivery.reading
        if isinstance(reading, CallbackReading) and isinstance(reading.reading, Failed):
            # It is stored: a log that cannot be written changes nothing about the answer any more.
            with suppress(Exception):
                self._providers.unlisted.note(delivery.dialect, reading.reading)
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
