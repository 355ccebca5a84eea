"""What all tasks of one client key share: whose turn it is, and the pauses that a provider asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from client.logs import Log
from client.provider_api.budget import Allowance
from client.provider_api.timing import Timing
from client.providers import KeyLimits

__all__ = ["KeyGate"]

_log = Log()

_LONGEST_SECONDS = 60.0


class KeyGate:
    """The limits of one key at one provider, and the lines of those that want to send something with it.

    There is a line for createTask, one for polls, and one for polls that cannot wait. Each is served in order: whoever
    is first waits until the key allows it, so that a thousand tasks break no limit and wake no herd.
    """

    def __init__(self, limits: KeyLimits, timing: Timing, provider: str) -> None:
        self._allowance = Allowance(limits)
        self._timing = timing
        self._provider = provider
        self._submits, self._polls, self._urgent_polls = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._changed = asyncio.Event()
        self._is_braked = False

    @property
    def paused_until(self) -> float:
        """Nothing is sent before."""
        return self._allowance.paused_until

    @property
    def pause_reason(self) -> str:
        """Why the key is paused, where it is."""
        return "half of the errors that get a key blocked were answered" if self._is_braked else "the key is paused"

    async def submit_turn(self, by: float) -> bool:
        """Wait for the turn to send createTask, which is to be sent at once; false where it does not come before `by`.

        Cancelling it gives the turn to the next in line.
        """
        if not await self._turn(self._submits, self._allowance.submit_at, by):
            return False
        self._allowance.submit(self._timing.clock())
        return True

    async def poll_turn(self, by: float, *, is_first: bool, is_hinted: bool = False) -> bool:
        """Wait for the turn to poll, as `submit_turn`; `is_first`: this task was not polled before.

        False also where all polls are used up that the provider allows for the tasks so far (`has_polls_left`).
        """
        line = self._urgent_polls if is_first or is_hinted else self._polls
        if not await self._turn(line, self._allowance.poll_at, by):
            return False
        if not self.has_polls_left(is_first=is_first, is_hinted=is_hinted):
            return False
        self._allowance.poll(self._timing.clock(), is_first=is_first)
        return True

    def has_polls_left(self, *, is_first: bool, is_hinted: bool = False) -> bool:
        """Whether such a poll may be sent at all, as things are."""
        return self._allowance.has_polls_left(is_first=is_first, is_hinted=is_hinted)

    def pause(self, seconds: float) -> None:
        """Nobody sends anything with this key for so long; pauses do not shorten each other."""
        self._allowance.pause(self._timing.clock() + seconds)
        self._changed.set()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """While a request is under way, whose answer may be an error."""
        self._allowance.begin()
        try:
            yield
        finally:
            self._allowance.end()
            self._changed.set()

    def failed(self) -> None:
        """The provider answered with an error; where it has had enough of them, the key is paused."""
        now = self._timing.clock()
        if self._allowance.fail(now):
            self._is_braked = True
            _log.warning(
                "key.braked",
                provider=self._provider,
                seconds=round(self.paused_until - now, 1),
                reason=self.pause_reason,
            )
        self._changed.set()

    async def _turn(self, line: asyncio.Lock, allowed_at: Callable[[float], float], by: float) -> bool:
        clock = self._timing.clock
        if clock() >= by:
            return False
        try:
            async with asyncio.timeout(by - clock()), line:
                while (at := allowed_at(now := clock())) > now:
                    if self.paused_until >= by:
                        return False
                    self._changed.clear()
                    # Also what never comes to pass by itself is looked at again, should the machine have slept.
                    await self._timing.wait(self._changed, min(at, now + _LONGEST_SECONDS))
        except TimeoutError:
            return False
        if self._is_braked:
            self._is_braked = False
            _log.info("key.released", provider=self._provider)
        return True
