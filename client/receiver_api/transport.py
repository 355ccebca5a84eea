"""The transport for reading the log of results: a websocket, or long polls if no websocket gets through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from client.logs import Log
from client.protocol.connection import StreamBlockedError
from client.provider_api.timing import Timing, backoff_seconds

__all__ = ["Transport", "TransportChoice", "log_change"]

Transport = Literal["websocket", "long poll"]

_log = Log()

_FIRST_SECONDS = 0.25
_MOST_SECONDS = 5.0
# After a connection of this length, the count of failures in a row starts again.
_LASTING_SECONDS = 5.0
# The time, more or less, until a websocket is tried again while long polls work.
_STAND_IN_SECONDS = 60.0
# After this many websockets in a row without any message, websockets count as blocked.
_IN_VAIN = 2


class TransportChoice:
    """Chooses the next transport and the pause before it, and reports each change once.

    Long polls replace a websocket that is blocked, or that ended twice in a row before anything came. They do so for
    about a minute, or until they fail as well. `silent_since` is the time at which the receiver began to fail, None
    while it answers. `tell` is called with the name and the facts of each change.

    * `reader.connected` and `reader.broken`: a websocket works, or works no more.
    * `reader.fell_back`: long polls deliver instead of a websocket.
    * `receiver.lost` and `receiver.found`: no transport works any more, or one works again.
    """

    def __init__(self, timing: Timing, tell: Callable[..., None]) -> None:
        self._timing = timing
        self._tell = tell
        self._told_of: Transport | None = None
        self._received_since: float | None = None
        self._stand_in_until = 0.0
        self._failures = 0
        self._in_vain = 0
        self._is_lost = False
        self._reason = ""
        self.transport: Transport = "websocket"
        self.silent_since: float | None = None

    @property
    def is_websocket_due(self) -> bool:
        """True if long polls have stood in for long enough. Each time they deliver something at least."""
        has_received = self.transport == "long poll" and self._received_since is not None
        return has_received and self._timing.clock() >= self._stand_in_until

    def received(self) -> None:
        """Record a message by the current transport."""
        if self._received_since is None:
            self._received_since = self._timing.clock()
        self.silent_since = None
        if self.transport == "websocket":
            self._in_vain = 0
        if self._told_of != self.transport:
            self._told_of = self.transport
            if self.transport == "websocket":
                self._tell("reader.connected", road=self.transport)
            else:
                self._tell("reader.fell_back", road=self.transport, reason=self._reason)
        if self._is_lost:
            self._is_lost = False
            self._tell("receiver.found")

    def retry_websocket(self) -> None:
        """Try a websocket next, though long polls work."""
        self.transport = "websocket"
        self._received_since = None

    def failed(self, error: Exception) -> float:
        """Record a failed connection. Return the number of seconds to wait before the next one."""
        received_since, self._received_since = self._received_since, None
        if received_since is not None and self._timing.clock() - received_since > _LASTING_SECONDS:
            self._failures = 0
        if self._told_of == self.transport:
            self._told_of = None
            self._tell("reader.broken", road=self.transport, reason=str(error))
        if self.transport == "websocket":
            self._in_vain += received_since is None
            if isinstance(error, StreamBlockedError) or self._in_vain >= _IN_VAIN:
                self._stand_in(error)
                return 0.0
        return self._back_off(error, is_new=received_since is not None)

    def _stand_in(self, error: Exception) -> None:
        self.transport = "long poll"
        # After one more websocket without a message, long polls are used again at once.
        self._in_vain = _IN_VAIN
        self._reason = str(error)
        self._stand_in_until = self._timing.clock() + _STAND_IN_SECONDS * (0.75 + 0.5 * self._timing.random())

    def _back_off(self, error: Exception, *, is_new: bool) -> float:
        self.transport = "websocket"
        if self.silent_since is None:
            self.silent_since = self._timing.clock()
        if not is_new and not self._is_lost:
            self._is_lost = True
            self._tell("receiver.lost", reason=str(error))
        seconds = backoff_seconds(self._failures, self._timing.random, first=_FIRST_SECONDS, most=_MOST_SECONDS)
        self._failures += 1
        return seconds


def log_change(happened: str, /, **facts: Any) -> None:
    """Log a change of the transport: a warning unless it is a good one."""
    is_good = happened in ("reader.connected", "receiver.found")
    (_log.info if is_good else _log.warning)(happened, **facts)
