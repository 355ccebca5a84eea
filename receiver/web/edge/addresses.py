"""The address of a client, behind trusted proxies too.

Each proxy appends the address of its own peer to `X-Forwarded-For`. So the right end is written by trusted machines,
and everything left of the first untrusted address may be forged. `Forwarded` (RFC 7239) and the headers of single
vendors, such as `CF-Connecting-IP`, are not read: most proxies pass them on as the client wrote them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from functools import lru_cache

from aiohttp import web

from receiver.settings import Network

__all__ = ["UNKNOWN", "Address", "address_of_text", "client_address", "client_ip", "is_in", "owner_of"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN = "unknown"
"""The address of a peer without one, such as a proxy on a Unix socket that names no client."""

# An IPv6 address with brackets, zone and port has fewer characters.
_LONGEST = 80
# A header may name trusted addresses thousands of times.
_MOST_HOPS = 16


def client_address(request: web.BaseRequest, proxies: Sequence[Network]) -> str:
    """Return the address of the client as text, or `UNKNOWN`; see `client_ip`."""
    address = client_ip(request, proxies)
    return UNKNOWN if address is None else str(address)


def client_ip(request: web.BaseRequest, proxies: Sequence[Network]) -> Address | None:
    """Return the address of the client: that of the peer, or what trusted proxies say about theirs.

    Hops are counted from the right, as long as they are trusted. A part that is no address ends the search, and the
    last trusted hop is the answer. IPv4 addresses in IPv6 form are returned as IPv4. A peer on a Unix socket has no
    address, and is trusted: only programs of this machine reach it.
    """
    client = address_of_text(request.remote or "")
    is_trusted = request.remote == "" if client is None else is_in(client, proxies)
    if not is_trusted:
        return client
    hops = _hops(request.headers.getall("X-Forwarded-For", ()))
    for _ in range(_MOST_HOPS):
        hop = address_of_text(next(hops, ""))
        if hop is None:
            break
        client = hop
        if not is_in(client, proxies):
            break
    return client


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Return True if one of the networks holds the address."""
    return any(address in network for network in networks)


def owner_of(address: Address | None) -> object:
    """Return what limits are counted for: an address, and in IPv6 the network of one customer (RFC 6177), a /64."""
    return None if address is None else address.packed[:8]


@lru_cache(maxsize=4096)
def address_of_text(text: str) -> Address | None:
    """Return the address that a peer or a proxy wrote, or None.

    It may have a port, brackets, or both: `192.0.2.1:4711`, `[2001:db8::1]`, `[2001:db8::1]:4711`. The zone of a
    link-local address is left out.
    """
    if len(text) > _LONGEST:
        return None
    host = text.strip()
    if host.startswith("["):
        host, bracket, port = host[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
        if not _is_port(f":{port}"):
            return None
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _is_port(text: str) -> bool:
    return text[0] == ":" and text[1:].isascii() and text[1:].isdigit()


def _hops(values: Sequence[str]) -> Iterator[str]:
    """Yield the parts of all header lines, the last one first. They form one list (RFC 9110, 5.3)."""
    for value in reversed(values):
        rest, comma = value, ","
        while comma:
            rest, comma, hop = rest.rpartition(",")
            yield hop
