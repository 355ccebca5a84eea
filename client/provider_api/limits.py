"""Limits that a provider sets for all tasks of one client key."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from client.logs import Log
from client.provider_api.timing import Timing
from client.providers import KeyLimits

__all__ = ["KeyBudget", "KeyLimiter"]

_log = Log()

_LONGEST_SECONDS = 60.0


class KeyBudget:
    """Requests of one key so far, and the earliest time of the next one. Pure.

    All times are seconds of one clock that only moves forward. These rules hold for any order of requests and answers
    (providers/README.md, "CapSolver", "2captcha and ruCaptcha", "Both hosts of EZ-Captcha"):

    * createTask is sent at half of the allowed rate at most, evenly spaced.
    * Polls keep the key's own rate. A provider counts the polls of all tasks together. Each polled task adds its
      allowance. Half of the extra allowance is reserved for urgent polls: a task's first one and hinted ones.
    * Requests stop at half the provider's error limit and resume as errors age out. Requests under way may fail as
      well, so at most the other half may be under way. Only limits of very few errors ever reach that bound.
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
        """Return the earliest time for createTask; infinity until a request under way has ended."""
        return max(self._request_at(now), self._last_submit + self._submit_gap)

    def poll_at(self, now: float) -> float:
        """Return the earliest time for a poll; infinity until a request under way has ended."""
        return max(self._request_at(now), self._last_poll + self._poll_gap)

    def has_polls_left(self, *, is_first: bool, is_hinted: bool) -> bool:
        """Return True if such a poll is allowed for the tasks so far. The first poll of another task adds to them."""
        polls_per_task = self._limits.polls_for_each
        if polls_per_task is None:
            return True
        spare = self._limits.polls_for_all if is_first or is_hinted else self._limits.polls_for_all // 2
        return self._polls + 1 < polls_per_task * (self._tasks + is_first) + spare

    def submit(self, now: float) -> None:
        """Record that createTask is sent."""
        self._last_submit = now

    def poll(self, now: float, *, is_first: bool) -> None:
        """Record that a poll is sent."""
        self._last_poll = now
        self._polls += 1
        self._tasks += is_first

    def begin(self) -> None:
        """Record the start of a request of any kind."""
        self._under_way += 1

    def end(self) -> None:
        """Record the end of a request."""
        self._under_way -= 1

    def fail(self, now: float) -> bool:
        """Record an error of the provider. Return True if it starts a pause."""
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
        """Allow no request before `until`. A shorter pause does not shorten a longer one."""
        self.paused_until = max(self.paused_until, until)

    def _request_at(self, now: float) -> float:
        if self.paused_until > now:
            return self.paused_until
        return math.inf if self._under_way and self._under_way >= self._most_errors else now

    def _is_full(self, now: float) -> bool:
        errors = self._limits.errors
        return errors is not None and len(self._errors) >= self._most_errors and self._errors[0] + errors.seconds > now


class KeyLimiter:
    """Rate limiter of one client key at one provider, shared by all tasks that use the key.

    It has one queue for createTask, one for polls, and one for urgent polls. Each queue is served in order. Only its
    first caller waits for the budget, so a thousand tasks break no limit and never wake all at once.
    """

    def __init__(self, limits: KeyLimits, timing: Timing, provider: str) -> None:
        self._budget = KeyBudget(limits)
        self._timing = timing
        self._provider = provider
        self._submits, self._polls, self._urgent_polls = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._changed = asyncio.Event()
        self._is_braked = False

    @property
    def paused_until(self) -> float:
        """The end of the latest pause, by the clock of `timing`."""
        return self._budget.paused_until

    @property
    def pause_reason(self) -> str:
        """The reason of the current pause, for timelines and logs."""
        return "half of the errors that get a key blocked were answered" if self._is_braked else "the key is paused"

    async def submit_turn(self, by: float) -> bool:
        """Wait for the turn to send createTask. Return False if it does not come before `by`.

        The caller sends at once after True. If it is cancelled, the next in the queue gets the turn.
        """
        if not await self._turn(self._submits, self._budget.submit_at, by):
            return False
        self._budget.submit(self._timing.clock())
        return True

    async def poll_turn(self, by: float, *, is_first: bool, is_hinted: bool = False) -> bool:
        """Wait for the turn to poll, as `submit_turn` does. `is_first`: this task was not polled before.

        Return False also if the provider allows no more polls for the tasks so far (`has_polls_left`).
        """
        queue = self._urgent_polls if is_first or is_hinted else self._polls
        if not await self._turn(queue, self._budget.poll_at, by):
            return False
        if not self.has_polls_left(is_first=is_first, is_hinted=is_hinted):
            return False
        self._budget.poll(self._timing.clock(), is_first=is_first)
        return True

    def has_polls_left(self, *, is_first: bool, is_hinted: bool = False) -> bool:
        """Return True if such a poll is allowed for the tasks so far."""
        return self._budget.has_polls_left(is_first=is_first, is_hinted=is_hinted)

    def pause(self, seconds: float) -> None:
        """Send nothing with this key for `seconds`. A shorter pause does not shorten a longer one."""
        self._budget.pause(self._timing.clock() + seconds)
        self._changed.set()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a request as under way inside the block. Its answer may be an error."""
        self._budget.begin()
        try:
            yield
        finally:
            self._budget.end()
            self._changed.set()

    def failed(self) -> None:
        """Record an error of the provider. Pause the key at half of the provider's error limit."""
        now = self._timing.clock()
        if self._budget.fail(now):
            self._is_braked = True
            _log.warning(
                "key.braked",
                provider=self._provider,
                seconds=round(self.paused_until - now, 1),
                reason=self.pause_reason,
            )
        self._changed.set()

    async def _turn(self, queue: asyncio.Lock, allowed_at: Callable[[float], float], by: float) -> bool:
        clock = self._timing.clock
        if clock() >= by:
            return False
        try:
            async with asyncio.timeout(by - clock()), queue:
                while (at := allowed_at(now := clock())) > now:
                    if self.paused_until >= by:
                        return False
                    self._changed.clear()
                    # Nothing may set the event, and the machine may sleep: look again after a minute.
                    await self._timing.wait(self._changed, min(at, now + _LONGEST_SECONDS))
        except TimeoutError:
            return False
        if self._is_braked:
            self._is_braked = False
            _log.info("key.released", provider=self._provider)
        return True
