"""What one key may send, and when: the limits of a provider on all tasks of a key, kept at a distance. Pure.

All times are seconds on one axis that only grows. Kept here, whatever is asked for and whatever comes back:
createTask at most at half of the allowed rate, evenly; polls at the key's own rate, and fewer than would get it
blocked; and no request that could be the error which gets the key or the address banned (PROVIDERS.md 3.1, 3.6, 3.7).
"""

from __future__ import annotations

import math
from collections import deque

from client.providers import KeyLimits

__all__ = ["Allowance"]


class Allowance:
    """The limits of one key, and what was sent with it so far.

    Errors: once half of those that get a key blocked came within their time, nothing is sent until enough of them are
    older. What is under way may fail as well; so at most the other half may be, which no provider here can notice but
    those that allow very few errors.

    Polls: a provider counts those of all tasks together. Each task that is polled adds what it allows for each; half of
    what it allows beyond is kept for polls that cannot wait: the first of a task, and those that a hint asks for.
    """

    def __init__(self, limits: KeyLimits) -> None:
        self._limits = limits
        submits, errors = limits.submits, limits.errors
        self._submit_gap = 0.0 if submits is None else submits.seconds / max(1.0, submits.count / 2)
        self._poll_gap = 1 / limits.requests_per_second
        self._most_errors = math.inf if errors is None else max(1, errors.count // 2)
        self._errors: deque[float] = deque(maxlen=None if errors is None else max(1, errors.count // 2))
        self._last_submit = self._last_poll = -math.inf
        self._polls = self._tasks = self._under_way = 0
        self.paused_until = -math.inf

    def submit_at(self, now: float) -> float:
        """From when on createTask may be sent; infinity: not before a request under way has ended."""
        return max(self._sent_at(now), self._last_submit + self._submit_gap)

    def poll_at(self, now: float) -> float:
        """From when on a poll may be sent; infinity: not before a request under way has ended."""
        return max(self._sent_at(now), self._last_poll + self._poll_gap)

    def has_polls_left(self, *, is_first: bool, is_hinted: bool) -> bool:
        """Whether such a poll may be sent at all, as things are; the first poll of another task makes room for more."""
        each = self._limits.polls_for_each
        if each is None:
            return True
        spare = self._limits.polls_for_all if is_first or is_hinted else self._limits.polls_for_all // 2
        return self._polls + 1 < each * (self._tasks + is_first) + spare

    def submit(self, now: float) -> None:
        """A createTask request is sent."""
        self._last_submit = now

    def poll(self, now: float, *, is_first: bool) -> None:
        """A poll is sent."""
        self._last_poll = now
        self._polls += 1
        self._tasks += is_first

    def begin(self) -> None:
        """A request is under way, of whatever kind."""
        self._under_way += 1

    def end(self) -> None:
        """It is not any more."""
        self._under_way -= 1

    def fail(self, now: float) -> bool:
        """Return the provider answered with an error. Whether that is when sending has to stop for a while."""
        errors = self._limits.errors
        if errors is None:
            return False
        was_full = self._is_full(now)
        self._errors.append(now)
        if not self._is_full(now):
            return False
        self.pause(self._errors[0] + errors.seconds)
        return not was_full

    def pause(self, until: float) -> None:
        """Nothing is sent before; pauses do not shorten each other."""
        self.paused_until = max(self.paused_until, until)

    def _sent_at(self, now: float) -> float:
        if self.paused_until > now:
            return self.paused_until
        return math.inf if self._under_way and self._under_way >= self._most_errors else now

    def _is_full(self, now: float) -> bool:
        errors = self._limits.errors
        return errors is not None and len(self._errors) >= self._most_errors and self._errors[0] + errors.seconds > now
