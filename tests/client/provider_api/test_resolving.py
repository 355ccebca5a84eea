"""Hosts of shipped providers: refused at the connection if they resolve to an address of a private network."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from client.provider_api.http import NotCarriedOutError, NotSentError, ProviderApi, open_provider_session
from client.provider_api.resolving import CheckedResolver, PrivateAddressError, is_public
from client.providers import DIALECTS
from receiver.settings import Settings
from receiver.upstream.accounts import open_accounts
from tests.client.support import Reply, scripted_provider

KEY = "tests-only-client-key"
BALANCE = {"errorId": 0, "balance": 7.5}
HOST = "api.capsolver.com"


class ScriptedResolver(AbstractResolver):
    """Answers every look-up with the next of these addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = [*addresses]

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the next address."""
        address = self.addresses.pop(0)
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *((address, True) for address in ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")),
        # Programs that route connections by name answer with these.
        ("198.18.0.7", True),
        *((address, False) for address in ("127.0.0.1", "::1", "0.0.0.1", "::", "localhost", "")),
        *((address, False) for address in ("10.0.0.1", "172.16.0.1", "192.168.1.1", "fd00::1", "fec0::1")),
        *((address, False) for address in ("169.254.169.254", "fe80::1", "fe80::1%eth0", "100.64.0.1")),
        *((address, False) for address in ("224.0.0.1", "ff02::1", "255.255.255.255", "192.0.2.1")),
        *((address, False) for address in ("::ffff:127.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1")),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    """Private, shared and special addresses aren't public, inside IPv6 addresses neither."""
    assert is_public(address) is expected


async def test_a_shipped_host_at_a_private_address() -> None:
    """No connection is made, and the error names the host and its address."""
    async with scripted_provider(getBalance=Reply(BALANCE)) as provider:
        port = urlsplit(provider.url).port
        async with open_provider_session({"localhost"}) as session:
            api = ProviderApi(session, DIALECTS["capsolver"], KEY, f"http://localhost:{port}")
            with pytest.raises(NotSentError, match=r"no connection \(localhost resolves to (127.0.0.1|::1), expected"):
                await api.get_balance()

    assert not provider.calls["getBalance"]


async def test_other_hosts_may_be_anywhere() -> None:
    """A host that the caller named is reached at any address."""
    async with scripted_provider(getBalance=Reply(BALANCE)) as provider:
        port = urlsplit(provider.url).port
        async with open_provider_session({HOST}) as session:
            api = ProviderApi(session, DIALECTS["capsolver"], KEY, f"http://127.0.0.1:{port}")
            answer = await api.get_balance()

    assert answer.reading == 7.5


async def test_a_second_look_up_changes_nothing() -> None:
    """The checked address is the one connected to: a name that changes in between isn't looked up again."""
    resolver = ScriptedResolver("8.8.8.8", "127.0.0.1")
    checked = CheckedResolver({HOST}, resolver)

    found = await checked.resolve(HOST.upper() + ".", 443)
    with pytest.raises(PrivateAddressError):
        await checked.resolve(HOST, 443)

    assert [address["host"] for address in found] == ["8.8.8.8"]


@pytest.mark.parametrize("is_named", [False, True])
async def test_the_settings_permit_a_private_address(monkeypatch: pytest.MonkeyPatch, is_named: bool) -> None:
    """The receiver refuses a shipped host at a private address, unless RECEIVER_PROVIDER_URLS names that host."""
    look_up = socket.getaddrinfo

    def at_loopback(host: str, *rest: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == HOST else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", at_loopback)
    async with scripted_provider(getBalance=Reply(BALANCE)) as provider, AsyncExitStack() as stack:
        named: Mapping[str, str] = {"capsolver": f"http://{HOST}:{urlsplit(provider.url).port}"}
        settings = Settings(provider_keys={"capsolver": KEY}, provider_urls=named if is_named else {}, _env_file=None)
        api = (await open_accounts(settings, DIALECTS, stack))["capsolver"].api
        if is_named:
            assert (await api.get_balance()).reading == 7.5
        else:
            with pytest.raises(NotSentError, match="RECEIVER_PROVIDER_URLS can name a private one"):
                await api.get_balance()


async def test_a_redirect_is_not_followed() -> None:
    """A redirect to another host would give it the key: the client doesn't ask there."""
    async with scripted_provider(getBalance=Reply(BALANCE)) as other:
        moved = Reply(b"", status=307, headers={"Location": f"{other.url}/getBalance"})
        async with scripted_provider(getBalance=moved) as provider, open_provider_session() as session:
            api = ProviderApi(session, DIALECTS["capsolver"], KEY, provider.url)
            with pytest.raises(NotCarriedOutError, match="HTTP 307 without an answer"):
                await api.get_balance()

    assert not other.calls["getBalance"]
