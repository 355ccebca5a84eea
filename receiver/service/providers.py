"""Providers as the services see them: dialects, accounts of the receiver, learned schedules and unlisted codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from client.protocol.models import Registration
from client.provider_api.unlisted import UnlistedCodes
from client.providers import Dialect
from receiver.upstream.accounts import Account
from receiver.upstream.schedules import Schedules

__all__ = ["Providers"]


@dataclass(frozen=True, slots=True)
class Providers:
    """All known providers by name, and those among them with an account that the receiver polls with."""

    dialects: Mapping[str, Dialect]
    accounts: Mapping[str, Account]
    schedules: Schedules
    unlisted: UnlistedCodes

    def polls(self, registration: Registration) -> bool:
        """Return True if the receiver has the key of this task, and so polls it itself."""
        account = self.accounts.get(registration.provider)
        return account is not None and account.is_of(registration.client_key_id)
