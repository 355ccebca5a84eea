"""By which road the log of results is read: a websocket, or long polls where no websocket gets through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from client.protocol.connection import StreamBlockedError
from client.provider_api.timing import Timing, backoff_seconds

__all__ = ["Road", "Roads"]

Road = Literal["websocket", "long poll"]

_FIRST_SECONDS = 0.25
_MOST_SECONDS = 5.0
# A connection that lasted so long was a good one: the next break is the first.
_LASTING_SECONDS = 5.0
# So long, more or less, long polls stand in until a websocket is tried again.
_STAND_IN_SECONDS = 60.0
# So many websockets in a row may end before anything came, until they count as blocked.
_IN_VAIN = 2


class Roads:
    """Says which road to try next and after how long, and tells each change once.

    A websocket that is blocked, or that ended twice in a row before anything came by it, gives way to long polls, until
    about a minute is over or they fail as well. `silent_since` is when the receiver began to fail, None while it
    answers. `tell` is called with what happened and its facts: `reader.connected` and `reader.broken` for a websocket,
    `reader.fell_back` when long polls bring what it does not, `receiver.lost` when no road leads there any more, and
    `receiver.found` when one does again.
    """

    def __init__(self, timing: Timing, tell: Callable[..., None]) -> None:
        self._timing = timing
        self._tell = tell
        self._travelled: Road | None = None
        self._heard_since: float | None = None
        self._until = 0.0
        self._failures = 0
        self._in_vain = 0
        self._is_lost = False
        self._why = ""
        self.road: Road = "websocket"
        self.silent_since: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether long polls have stood in for long enough; each time they bring something at least."""
        is_heard = self.road == "long poll" and self._heard_since is not None
        return is_heard and self._timing.clock() >= self._until

    def heard(self) -> None:
        """Something came by the road."""
        if self._heard_since is None:
            self._heard_since = self._timing.clock()
        self.silent_since = None
        if self.road == "websocket":
            self._in_vain = 0
        if self._travelled != self.road:
            self._travelled = self.road
            if self.road == "websocket":
                self._tell("reader.connected", road=self.road)
            else:
                self._tell("reader.fell_back", road=self.road, reason=self._why)
        if self._is_lost:
            self._is_lost = False
            self._tell("receiver.found")

    def turn_back(self) -> None:
        """The websocket is to be tried again, though long polls do what they can."""
        self.road = "websocket"
        self._heard_since = None

    def broke(self, error: Exception) -> float:
        """Return the road leads nowhere now; how many seconds to wait until the next one is tried."""
        heard_since, self._heard_since = self._heard_since, None
        if heard_since is not None and self._timing.clock() - heard_since > _LASTING_SECONDS:
            self._failures = 0
        if self._travelled == self.road:
            self._travelled = None
            self._tell("reader.broken", road=self.road, reason=str(error))
        if self.road == "websocket":
            self._in_vain += heard_since is None
            if isinstance(error, StreamBlockedError) or self._in_vain >= _IN_VAIN:
                self._stand_in(error)
                return 0.0
        return self._fail(error, is_new=heard_since is not None)

    def _stand_in(self, error: Exception) -> None:
        self.road = "long poll"
        # If the next websocket ends in vain too, nothing more is to be learned from another one.
        self._in_vain = _IN_VAIN
        self._why = str(error)
        self._until = self._timing.clock() + _STAND_IN_SECONDS * (0.75 + 0.5 * self._timing.random())

    def _fail(self, error: Exception, *, is_new: bool) -> float:
        self.road = "websocket"
        if self.silent_since is None:
            self.silent_since = self._timing.clock()
        if not is_new and not self._is_lost:
            self._is_lost = True
            self._tell("receiver.lost", reason=str(error))
        seconds = backoff_seconds(self._failures, self._timing.random, first=_FIRST_SECONDS, most=_MOST_SECONDS)
        self._failures += 1
        return seconds
