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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from aiohttp import web

from receiver.errors import ReceiverError, TooManyRequestsError
from receiver.settings import Network
from receiver.web.edge.addresses import UNKNOWN, Address, client_ip
from receiver.web.edge.rates import RateLimit
from receiver.web.edge.refusals import RefusalLog

__all__ = ["Edge"]

_ADDRESS_BURST_SECONDS = 10
# As many requests as one key may have waiting: after a restart all of them come again.
_KEY_BURST_SECONDS = 20
_RETRY_SECONDS = 5
# Lines of the log, a hundred at once and then one every ten seconds for an address: 2 MB a day.
_LINES_PER_SECOND = 0.1
_LINES_AT_ONCE = 100
_ALL_LINES_PER_SECOND = 1.0
_ALL_LINES_AT_ONCE = 1000


class Edge:
    """The limits on requests: by address, by key, and at once.

    `per_address` and `per_key` are requests per second; 0 is no limit. `proxies` are trusted to name clients.
    """

    def __init__(
        self,
        proxies: Sequence[Network] = (),
        *,
        per_address: float = 0.0,
        per_key: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proxies = proxies
        self._addresses = RateLimit(per_address, per_address * _ADDRESS_BURST_SECONDS, clock=clock)
        self._keys = RateLimit(per_key, per_key * _KEY_BURST_SECONDS, clock=clock)
        self.log = RefusalLog(
            of_each=RateLimit(_LINES_PER_SECOND, _LINES_AT_ONCE, clock=clock),
            of_all=RateLimit(_ALL_LINES_PER_SECOND, _ALL_LINES_AT_ONCE, clock=clock),
        )
        self._most_at_once = math.inf
        self._at_once = 0

    @property
    def is_full(self) -> bool:
        """True if no more requests but callbacks may be handled now."""
        return self._at_once >= self._most_at_once

    def leave_lane(self, most: int, lane: int) -> None:
        """Leave `lane` of the `most` connections to callbacks."""
        self._most_at_once = most - lane

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Count a request other than a callback as being handled, inside the block.

        Raises:
            ReceiverError: `receiver-full`. The rest of the connections is for callbacks.
        """
        if self.is_full:
            detail = f"{self._at_once} requests are being handled, and the other connections are for callbacks"
            raise ReceiverError("receiver-full", detail, retry_after_seconds=_RETRY_SECONDS)
        self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1

    def admit_key(self, name: str) -> None:
        """Count a request with a key.

        Raises:
            TooManyRequestsError: the key has used up its rate.
        """
        wait = self._keys.take(name)
        if wait:
            raise _too_many("key", f"the key {name} sends", self._keys, wait)

    def admit_stranger(self, request: web.BaseRequest) -> None:
        """Count a request without a valid key or token.

        Raises:
            TooManyRequestsError: its address has used up its rate.
        """
        if not self._addresses.per_second:
            return
        address = client_ip(request, self._proxies)
        wait = self._addresses.take(_owner(address))
        if wait:
            raise _too_many("address", f"{UNKNOWN if address is None else address} sends", self._addresses, wait)

    def logs_refusal(self, request: web.BaseRequest) -> bool:
        """Return True if the refusal of a stranger is to be logged."""
        address = client_ip(request, self._proxies)
        return self.log.takes(_owner(address), lambda: UNKNOWN if address is None else str(address))


def _owner(address: Address | None) -> object:
    """Return the owner of an address. In IPv6, it is the network of one customer (RFC 6177)."""
    if address is None:
        return None
    return address.packed[:8]


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
