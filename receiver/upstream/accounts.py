"""The provider keys that the receiver was given: by each it can ask, and submit, as a client would."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from client.errors import BadArgumentError
from client.provider_api.code_counts import UnlistedCodes
from client.provider_api.http import ProviderApi, open_provider_session
from client.provider_api.limits import KeyGate
from client.provider_api.timing import Timing
from client.providers import Dialect
from receiver.errors import CannotStartError
from receiver.settings import Settings

__all__ = ["Account", "check_accounts", "key_id_of", "open_accounts"]


@dataclass(frozen=True, slots=True)
class Account:
    """One key at one provider: what is asked with it, and the limits that all of it shares."""

    dialect: Dialect
    key_id: str
    api: ProviderApi
    gate: KeyGate
    timing: Timing

    def is_of(self, client_key_id: str | None) -> bool:
        """Whether a task that was submitted with this key (None: nobody told with which) can be asked for."""
        return client_key_id is None or client_key_id == self.key_id


def key_id_of(client_key: str) -> str:
    """What a client key is called where it must not be named: the first 8 hex digits of its SHA-256."""
    return hashlib.sha256(client_key.encode()).hexdigest()[:8]


def check_accounts(settings: Settings, dialects: Mapping[str, Dialect]) -> None:
    """Refuses keys and addresses that are of no use.

    Raises:
        CannotStartError: of an unknown provider, or of one of which it is not known where or how it is asked.
    """
    if settings.confirm_callbacks == "always" and not settings.provider_keys:
        raise CannotStartError("RECEIVER_CONFIRM_CALLBACKS: always needs a key in RECEIVER_PROVIDER_KEYS to ask with")
    for name, given in (("PROVIDER_KEYS", settings.provider_keys), ("PROVIDER_URLS", settings.provider_urls)):
        for provider in given:
            if provider not in dialects:
                raise CannotStartError(f"RECEIVER_{name}: no provider {provider} is known")
    for provider in settings.provider_keys:
        try:
            dialects[provider].get_task_result("", "any")
        except BadArgumentError as error:
            raise CannotStartError(f"RECEIVER_PROVIDER_KEYS: {error}") from None
        if not (settings.provider_urls.get(provider) or dialects[provider].base_url):
            raise CannotStartError(f"RECEIVER_PROVIDER_URLS: no endpoint of {provider} is known; give its base URL")


async def open_accounts(
    settings: Settings,
    dialects: Mapping[str, Dialect],
    stack: AsyncExitStack,
    unlisted: UnlistedCodes | None = None,
) -> Mapping[str, Account]:
    """An account for each key of the settings; `stack` closes what is opened, `unlisted` is told of unlisted codes."""
    if not settings.provider_keys:
        return {}
    session = await stack.enter_async_context(open_provider_session())
    timing = Timing()
    accounts = {}
    for provider, secret in settings.provider_keys.items():
        dialect, key = dialects[provider], secret.get_secret_value()
        url = settings.provider_urls.get(provider) or dialect.base_url or ""
        gate = KeyGate(dialect.key_limits, timing, provider)
        api = ProviderApi(session, dialect, key, url, gate, unlisted)
        accounts[provider] = Account(dialect, key_id_of(key), api, gate, timing)
    return accounts
