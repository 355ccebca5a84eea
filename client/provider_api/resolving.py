"""Names of hosts, resolved with a check: a shipped provider is at a public address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

__all__ = ["CheckedResolver", "PrivateAddressError", "is_public"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Programs on this machine that route each connection answer for every host with these (RFC 2544). Nobody else does.
_STAND_INS = ipaddress.ip_network("198.18.0.0/15")
_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(OSError):
    """A host of a shipped provider that resolves to an address inside a private network."""


class CheckedResolver(AbstractResolver):
    """aiohttp's resolver, with a check of the addresses of `public_hosts`.

    A connection is made to the checked addresses themselves. So a second look-up with another answer changes nothing.
    """

    def __init__(self, public_hosts: Collection[str], resolver: AbstractResolver | None = None) -> None:
        self._public_hosts = public_hosts
        self._resolver = DefaultResolver() if resolver is None else resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            PrivateAddressError: one of the addresses is not public, and the host has to be.
        """
        found = await self._resolver.resolve(host, port, family)
        if host.rstrip(".").lower() in self._public_hosts:
            for address in found:
                if not is_public(address["host"]):
                    raise PrivateAddressError(
                        f"{host} resolves to {address['host']}, expected a public address; "
                        "RECEIVER_PROVIDER_URLS can name a private one"
                    )
        return found

    async def close(self) -> None:
        """Close the resolver below."""
        await self._resolver.close()


def is_public(text: str) -> bool:
    """Return True if the address is one of the internet: not loopback, private, link-local, or shared by a carrier.

    IPv4 addresses inside IPv6 ones are checked too.
    """
    try:
        address: _Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None:
            return address in _UNICAST and address.is_global
        address = inner
    return address in _STAND_INS or (address.is_global and not address.is_multicast)
