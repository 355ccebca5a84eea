"""Limits that a provider sets for all tasks of one client key."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from client.logs import Log
from client.provider_api.timing import Timing
from client.providers import KeyLimits

__all__ = ["KeyBudget", "KeyLimiter"]

_log = Log()

_LONGEST_SECONDS = 60.0
_TURN_LASTS_SECONDS = 1.0


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
        errors = limits.errors
        self._submit_gap = limits.submit_gap_seconds
        self._poll_gap = 1 / limits.requests_per_second
        self._most_errors = math.inf if errors is None else max(1, errors.count // 2)
        self._most_under_way = self._most_errors
        self._errors: deque[float] = deque(maxlen=None if errors is None else max(1, errors.count // 2))
        self._last_submit = self._last_poll = -math.inf
        self._polls = self._tasks = self._under_way = 0
        self._turns: _Turns | None = None
        self.paused_until = -math.inf

    def share(self) -> None:
        """Allow polls, and createTask at a limited rate, only at granted turns. These keep the limits on their number.

        Then several processes share the key, and something else gives each its turns.
        """
        self._turns = _Turns()

    def grant(self, *, polls: Iterable[float] = (), submits: Iterable[float] = ()) -> None:
        """Add turns, by their times. A turn that was not taken a second later is lost."""
        if self._turns is not None:
            self._turns.polls.extend(polls)
            self._turns.submits.extend(submits)

    def share_errors(self, processes: int) -> None:
        """Let so many processes share the requests that may be under way."""
        if self._limits.errors is not None:
            self._most_under_way = max(1, self._most_errors // processes)

    def submit_at(self, now: float) -> float:
        """Return the earliest time for createTask; infinity until a request under way has ended."""
        at = max(self._request_at(now), self._last_submit + self._submit_gap)
        return at if self._turns is None or not self._submit_gap else max(at, _first(self._turns.submits, now))

    def poll_at(self, now: float) -> float:
        """Return the earliest time for a poll; infinity until a request under way has ended."""
        at = max(self._request_at(now), self._last_poll + self._poll_gap)
        return at if self._turns is None else max(at, _first(self._turns.polls, now))

    def submits_granted(self, now: float) -> int | None:
        """Return the number of turns for createTask that are left; None if it needs none."""
        if self._turns is None or not self._submit_gap:
            return None
        _first(self._turns.submits, now)
        return len(self._turns.submits)

    def has_polls_left(self, *, is_first: bool, is_hinted: bool) -> bool:
        """Return True if such a poll is allowed for the tasks so far. The first poll of another task adds to them."""
        return self._turns is not None or self._limits.allows_poll(
            self._polls, self._tasks, is_first=is_first, is_hinted=is_hinted
        )

    def submit(self, now: float) -> None:
        """Record that createTask is sent."""
        self._last_submit = now
        if self._turns is not None and self._turns.submits:
            self._turns.submits.popleft()

    def poll(self, now: float, *, is_first: bool) -> None:
        """Record that a poll is sent."""
        self._last_poll = now
        self._polls += 1
        self._tasks += is_first
        if self._turns is not None and self._turns.polls:
            self._turns.polls.popleft()

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
        return math.inf if self._under_way and self._under_way >= self._most_under_way else now

    def _is_full(self, now: float) -> bool:
        errors = self._limits.errors
        return errors is not None and len(self._errors) >= self._most_errors and self._errors[0] + errors.seconds > now


class _Turns:
    """Turns granted to this process, oldest first."""

    __slots__ = ("polls", "submits")

    def __init__(self) -> None:
        self.polls: deque[float] = deque()
        self.submits: deque[float] = deque()


def _first(turns: deque[float], now: float) -> float:
    """Drop turns that are too old, and return the time of the next one; infinity without any."""
    while turns and turns[0] < now - _TURN_LASTS_SECONDS:
        turns.popleft()
    return turns[0] if turns else math.inf


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
        self._changed_here: Callable[[], None] | None = None
        self._submitting = 0
        self.requests = self.failures = 0
        """The numbers of requests and of errors of the provider so far."""

    def share(self, changed: Callable[[], None]) -> None:
        """Share the key with other processes: requests need turns, see `KeyBudget.share`.

        `changed` is called if a turn is wanted, and after each error and each new pause.
        """
        self._budget.share()
        self._changed_here = changed

    def grant(self, *, polls: Sequence[float] = (), submits: Sequence[float] = ()) -> None:
        """Add turns, by the clock of `timing`."""
        self._budget.grant(polls=polls, submits=submits)
        self._changed.set()

    def share_errors(self, processes: int) -> None:
        """Let so many processes share the requests that may be under way."""
        self._budget.share_errors(processes)

    @property
    def submits_wanted(self) -> int:
        """The number of callers that wait for a turn for createTask, and for which none was granted."""
        granted = self._budget.submits_granted(self._timing.clock())
        return 0 if granted is None else max(0, self._submitting - granted)

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
        self._submitting += 1
        self._tell()
        try:
            if not await self._turn(self._submits, self._budget.submit_at, by):
                return False
        finally:
            self._submitting -= 1
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
        self._tell()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a request as under way inside the block. Its answer may be an error."""
        self.requests += 1
        self._budget.begin()
        try:
            yield
        finally:
            self._budget.end()
            self._changed.set()

    def failed(self) -> None:
        """Record an error of the provider. Pause the key at half of the provider's error limit."""
        now = self._timing.clock()
        self.failures += 1
        if self._budget.fail(now):
            self._is_braked = True
            _log.warning(
                "key.braked",
                provider=self._provider,
                seconds=round(self.paused_until - now, 1),
                reason=self.pause_reason,
            )
        self._changed.set()
        self._tell()

    def _tell(self) -> None:
        if self._changed_here is not None:
            self._changed_here()

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
