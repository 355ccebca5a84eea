"""The balances of the receiver's own accounts, asked for if the operator wants to know when one is low."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from client.errors import CallbackReceiverError
from client.provider_api.account import ask_balance
from receiver.errors import CannotStartError
from receiver.health.findings import Balance
from receiver.settings import Settings
from receiver.upstream.accounts import Account

__all__ = ["Balances", "check_balances"]

_ROUND_SECONDS = 600.0

_log = structlog.get_logger()


def check_balances(settings: Settings) -> None:
    """Check the setting of low balances.

    Raises:
        CannotStartError: it names a provider without a key.
    """
    for provider in settings.balance_low:
        if provider not in settings.provider_keys:
            raise CannotStartError(f"RECEIVER_BALANCE_LOW: {provider}: expected a provider of RECEIVER_PROVIDER_KEYS")


class Balances:
    """The last known balance of each account with a limit in `low`. `count` gets each one read, with its limit."""

    def __init__(
        self,
        accounts: Mapping[str, Account],
        low: Mapping[str, float],
        *,
        now: Callable[[], int],
        count: Callable[[str, float, float], None],
    ) -> None:
        self._accounts = {provider: accounts[provider] for provider in low if provider in accounts}
        self._low = low
        self._now = now
        self._count = count
        self._failing: set[str] = set()
        self.known: dict[str, Balance] = {}

    async def run(self) -> None:
        """Ask every ten minutes, until cancelled. Without an answer, the last balance stays."""
        while True:
            for provider, account in self._accounts.items():
                await self._ask(provider, account)
            await asyncio.sleep(_ROUND_SECONDS)

    async def _ask(self, provider: str, account: Account) -> None:
        try:
            left = await ask_balance(account.api, provider)
        except Exception as error:
            # Logged once, because a provider may be down for hours. No fault here is worth the end of the receiver.
            if provider not in self._failing:
                reason = str(error) if isinstance(error, CallbackReceiverError) else type(error).__name__
                _log.warning("balance.not_read", provider=provider, reason=reason)
            self._failing.add(provider)
            return
        self._failing.discard(provider)
        self.known[provider] = Balance(provider, left, self._low[provider], self._now())
        self._count(provider, left, self._low[provider])
