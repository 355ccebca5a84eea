"""The receiver's own provider keys, used to poll and to submit as a client does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from client.errors import BadArgumentError
from client.protocol.models import client_key_id
from client.provider_api.http import ProviderApi, open_provider_session
from client.provider_api.limits import KeyLimiter
from client.provider_api.timing import Timing
from client.provider_api.unlisted import UnlistedCodes
from client.providers import DIALECTS, Dialect, dialect_named
from receiver.errors import CannotStartError
from receiver.settings import Settings

__all__ = ["Account", "check_accounts", "open_accounts"]


@dataclass(frozen=True, slots=True)
class Account:
    """One key at one provider, with its requests and their shared limits."""

    dialect: Dialect
    key_id: str
    api: ProviderApi
    limiter: KeyLimiter
    timing: Timing

    def is_of(self, key_id: str | None) -> bool:
        """Return True if a task submitted with that key can be polled with this one. None: the key is not known."""
        return key_id is None or key_id == self.key_id


def check_accounts(settings: Settings, dialects: Mapping[str, Dialect]) -> None:
    """Check the settings of provider keys and URLs.

    Raises:
        CannotStartError: a provider is unknown, or its endpoint or API is not known.
    """
    if settings.confirm_callbacks == "always" and not settings.provider_keys:
        raise CannotStartError("RECEIVER_CONFIRM_CALLBACKS: always needs a key in RECEIVER_PROVIDER_KEYS to poll with")
    for name, by_provider in (("PROVIDER_KEYS", settings.provider_keys), ("PROVIDER_URLS", settings.provider_urls)):
        for provider in by_provider:
            try:
                dialect_named(provider, dialects)
            except BadArgumentError as error:
                raise CannotStartError(f"RECEIVER_{name}: {error}") from None
    for provider in settings.provider_keys:
        try:
            dialects[provider].get_task_result("", "any")
        except BadArgumentError as error:
            raise CannotStartError(f"RECEIVER_PROVIDER_KEYS: {error}") from None
        if not (settings.provider_urls.get(provider) or dialects[provider].base_url):
            raise CannotStartError(
                f"RECEIVER_PROVIDER_URLS: the endpoint of {provider} is not known, expected its base URL here"
            )


async def open_accounts(
    settings: Settings,
    dialects: Mapping[str, Dialect],
    stack: AsyncExitStack,
    unlisted: UnlistedCodes | None = None,
) -> Mapping[str, Account]:
    """Return an account for each key in the settings. `stack` closes their session, `unlisted` counts their codes."""
    if not settings.provider_keys:
        return {}
    session = await stack.enter_async_context(open_provider_session(_public_hosts(settings)))
    timing = Timing()
    accounts = {}
    for provider, secret in settings.provider_keys.items():
        dialect, key = dialects[provider], secret.get_secret_value()
        url = settings.provider_urls.get(provider) or dialect.base_url or ""
        limiter = KeyLimiter(dialect.key_limits, timing, provider)
        api = ProviderApi(session, dialect, key, url, limiter, unlisted)
        accounts[provider] = Account(dialect, client_key_id(key), api, limiter, timing)
    return accounts


def _public_hosts(settings: Settings) -> Collection[str]:
    """Return the hosts of the shipped providers. One that the settings name may be in a private network."""
    shipped = {urlsplit(dialect.base_url or "").hostname for dialect in DIALECTS.values()}
    named = {urlsplit(url).hostname for url in settings.provider_urls.values()}
    return {host for host in shipped - named if host is not None}
