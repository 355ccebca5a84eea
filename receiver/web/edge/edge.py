"""The limits that hold for every request, in one place for the front and the application.

A request is one of three, and its kind is known once its head has been read:

* a callback with a valid token: no rate and no number limits it, because providers have few addresses;
* a request with a key: limited by the rate of the key, and by the number of requests handled at once;
* a stranger's, with neither: limited by the rate of its address.

Before its head has come, a connection is idle, and may be closed for a new one
(`receiver.web.server.connections`). All requests but callbacks together leave a part of the connections free, the lane.
So a callback finds room however many requests wait and streams are open. Behind a proxy this is the same: there, each
request under way has a connection of its own.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import structlog
from aiohttp import web

from receiver.errors import ReceiverError, TooManyRequestsError
from receiver.settings import Network
from receiver.web.edge.addresses import UNKNOWN, address_of_text, client_ip, is_in, owner_of
from receiver.web.edge.rates import RateLimit
from receiver.web.edge.refusals import RefusalLog

__all__ = ["Edge", "EdgeLimits"]

_ADDRESS_BURST_SECONDS = 10
# As many requests as one key may have waiting: after a restart all of them come again.
_KEY_BURST_SECONDS = 20
_RETRY_SECONDS = 5
# Lines of the log, a hundred at once and then one every ten seconds for an address: 2 MB a day.
_LINES_PER_SECOND = 0.1
_LINES_AT_ONCE = 100
_ALL_LINES_PER_SECOND = 1.0
_ALL_LINES_AT_ONCE = 1000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLimits:
    """Requests per second of an address and of a key, where 0 is no limit, and connections of an address at once."""

    per_address: float = 0.0
    per_key: float = 0.0
    connections_per_address: float = math.inf


class Edge:
    """The limits on requests and connections: by address, by key, and at once.

    `proxies` are trusted to name clients, and may have any number of connections. `limited` is called with "address",
    "key" or "room" for each request that a limit refuses.
    """

    def __init__(
        self,
        limits: EdgeLimits | None = None,
        proxies: Sequence[Network] = (),
        *,
        limited: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = limits or EdgeLimits()
        self._proxies = proxies
        self._limited = limited
        self._addresses = _rate(limits.per_address, _ADDRESS_BURST_SECONDS, clock)
        self._keys = _rate(limits.per_key, _KEY_BURST_SECONDS, clock)
        self._log = RefusalLog(
            of_each=RateLimit(_LINES_PER_SECOND, _LINES_AT_ONCE, clock=clock),
            of_all=RateLimit(_ALL_LINES_PER_SECOND, _ALL_LINES_AT_ONCE, clock=clock),
        )
        self._connections: Counter[object] = Counter()
        self._most_connections = limits.connections_per_address
        self._most_at_once = math.inf
        self._at_once = 0
        self._slot = _Slot(self)
        self._has_named_proxy = False

    @property
    def is_full(self) -> bool:
        """True if no more requests but callbacks may be handled now."""
        return self._at_once >= self._most_at_once

    def leave_lane(self, most: int, lane: int) -> None:
        """Leave `lane` of the `most` connections to callbacks."""
        self._most_at_once = most - lane

    def at_once(self) -> AbstractContextManager[None]:
        """Count a request other than a callback as being handled, until the end of a block.

        Raises:
            ReceiverError: `receiver-full`. The rest of the connections is for callbacks.
        """
        if self.is_full:
            self._limited("room")
            detail = f"{self._at_once} requests are being handled, and the other connections are for callbacks"
            raise ReceiverError("receiver-full", detail, retry_after_seconds=_RETRY_SECONDS)
        self._at_once += 1
        return self._slot

    def ended(self) -> None:
        """Stop counting a request of `at_once`."""
        self._at_once -= 1

    def takes_key(self, name: str) -> bool:
        """Count a request with a key. Return False if the key has used up its rate: `admit_key` then refuses it."""
        return not self._keys.take(name)

    def admit_key(self, name: str) -> None:
        """Count a request with a key.

        Raises:
            TooManyRequestsError: the key has used up its rate.
        """
        wait = self._keys.take(name)
        if wait:
            self._limited("key")
            raise _too_many("key", f"the key {name} sends", self._keys, wait)

    def admit_stranger(self, request: web.BaseRequest) -> None:
        """Count a request without a valid key or token.

        Raises:
            TooManyRequestsError: its address has used up its rate.
        """
        self._look_for_proxy(request)
        address = client_ip(request, self._proxies)
        wait = self._addresses.take(owner_of(address))
        if wait:
            self._limited("address")
            raise _too_many("address", f"{UNKNOWN if address is None else address} sends", self._addresses, wait)

    def close(self) -> None:
        """Log the number of refusals that are not logged yet."""
        self._log.report()

    def _look_for_proxy(self, request: web.BaseRequest) -> None:
        """Log once that a proxy inside seems to be missing in the settings. Strangers outside cannot cause the line."""
        if self._has_named_proxy or "X-Forwarded-For" not in request.headers:
            return
        peer = address_of_text(request.remote or "")
        if peer is not None and peer.is_private and not is_in(peer, self._proxies):
            self._has_named_proxy = True
            _log.warning(
                "proxy.not_trusted",
                address=str(peer),
                consequence="its clients count as one address; a proxy of yours belongs in RECEIVER_TRUSTED_PROXIES",
            )

    def logs_refusal(self, request: web.BaseRequest) -> bool:
        """Return True if the request of a stranger, or its refusal, is to be logged."""
        address = client_ip(request, self._proxies)
        return self._log.takes(owner_of(address), lambda: UNKNOWN if address is None else str(address))

    def logs_peer(self, peer: str) -> bool:
        """Return True if the refusal of a connection is to be logged."""
        return self._log.takes(owner_of(address_of_text(peer)), lambda: peer)

    def connection_owner(self, peer: str) -> object:
        """Return the owner of a connection, or None if it has no address or comes from a trusted proxy."""
        address = address_of_text(peer)
        return None if address is None or is_in(address, self._proxies) else owner_of(address)

    def connection_opened(self, owner: object) -> bool:
        """Count a connection. Return False if its address has more than it may have; it is counted all the same."""
        if owner is None:
            return True
        self._connections[owner] += 1
        return self._connections[owner] <= self._most_connections

    def connection_lost(self, owner: object) -> None:
        """Stop counting a connection."""
        if owner is None:
            return
        self._connections[owner] -= 1
        if not self._connections[owner]:
            del self._connections[owner]


class _Slot:
    """The end of a block of `Edge.at_once`. One object serves all requests, because all it does is count."""

    __slots__ = ("_edge",)

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def __enter__(self) -> None:
        """Do nothing: the request was counted already."""

    def __exit__(self, *_: object) -> None:
        self._edge.ended()


def _rate(per_second: float, burst_seconds: float, clock: Callable[[], float]) -> RateLimit:
    return RateLimit(per_second, max(1.0, per_second * burst_seconds), clock=clock)


def _too_many(policy: str, sender: str, limit: RateLimit, wait: float) -> TooManyRequestsError:
    """Return the refusal, with the policy as headers.

    Both header fields are of draft-ietf-httpapi-ratelimit-headers-10, and may still change.
    """
    seconds = math.ceil(wait)
    text = f"{sender} more than {limit.per_second:g} requests a second"
    return TooManyRequestsError(
        text,
        retry_after_seconds=seconds,
        headers={
            "RateLimit": f'"{policy}";r=0;t={seconds}',
            "RateLimit-Policy": f'"{policy}";q={round(limit.burst)};w={max(1, round(limit.burst / limit.per_second))}',
        },
    )
