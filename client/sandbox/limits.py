"""The limits of a provider at work: polls, bans and balances. Pure: the time is an argument.

CapSolver's limits are documented (providers/README.md, "CapSolver"). 1captcha.vip documents only the 3 s between two
queries and the 300 s time-out (providers/README.md, "1captcha.vip"). The rest are placeholders; the command's help
calls them unknown.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from client.sandbox.requests import RefusalError
from client.sandbox.settings import SandboxLimits

__all__ = ["Accounts", "Bans", "Block", "PollCount", "broken_limit"]

_ERROR_WINDOW_SECONDS = 60.0
"""Errors within this time add up to a block (documented by CapSolver)."""
_MILLION = 1_000_000
_MOST_CALLERS = 1000
_MOST_KEYS = 10_000
_BLOCK_CODES = frozenset({"ERROR_IP_BANNED", "ERROR_KEY_TEMP_BLOCKED", "MAX_USER_TURN", "ERROR: 1005"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PollCount:
    """One poll of a task: its age, its number (from 1), and the seconds since the poll before it (None: none)."""

    age_seconds: float
    number: int
    since_last_seconds: float | None


def broken_limit(limits: SandboxLimits, poll: PollCount) -> str | None:
    """Return the name of the limit that the poll breaks, the gravest first. `interval` is only advised by default."""
    if poll.age_seconds > limits.window_seconds:
        return "window"
    if limits.max_polls and poll.number > limits.max_polls:
        return "maxPolls"
    if poll.since_last_seconds is not None and poll.since_last_seconds < limits.poll_interval_seconds:
        return "interval"
    return None


class Block:
    """A block of callers for too many errors in a while; `errors` 0 never blocks.

    The newest 1,000 callers are remembered.
    """

    def __init__(self, *, errors: int, seconds: float, window_seconds: float = _ERROR_WINDOW_SECONDS) -> None:
        self._errors = errors
        self._seconds = seconds
        self._window_seconds = window_seconds
        self._times: dict[str, deque[float]] = {}
        self._until: dict[str, float] = {}

    def is_blocked(self, caller: str, now: float) -> bool:
        """Return True while the caller must wait. A block ends by itself and leaves no errors behind."""
        return now < self._until.get(caller, now)

    def count_error(self, caller: str, now: float) -> None:
        """Note an error. Enough of them within the window block the caller from the next call on."""
        if not self._errors:
            return
        times = self._times.pop(caller, None) or deque(maxlen=self._errors)
        times.append(now)
        self._times[caller] = times
        if len(times) == self._errors and now - times[0] <= self._window_seconds:
            self._until[caller] = now + self._seconds
            del self._times[caller]
        _keep_newest(self._times, _MOST_CALLERS)
        _keep_newest(self._until, _MOST_CALLERS)


def _keep_newest(entries: dict[str, Any], most: int) -> None:
    if len(entries) > most:
        del entries[next(iter(entries))]


class Bans:
    """The blocks of a provider's limits. A refused call is counted in `broken` by the limit's name."""

    def __init__(self, limits: SandboxLimits, broken: Counter[str]) -> None:
        self._limits = limits
        self._broken = broken
        errors, seconds = limits.ban_errors, limits.ban_seconds
        self._addresses = Block(errors=errors, seconds=seconds)
        poll_seconds = seconds if limits.poll_ban_seconds is None else limits.poll_ban_seconds
        self._polling = Block(errors=errors, seconds=poll_seconds)
        self._keys = Block(errors=limits.key_block_errors, seconds=limits.key_block_seconds)
        # The first call beyond the allowed ones is the one that is too much.
        most = limits.submit_count + 1 if limits.submit_count else 0
        self._submits = Block(errors=most, seconds=limits.submit_ban_seconds, window_seconds=limits.submit_seconds)
        self._polls = Block(errors=1, seconds=limits.all_polls_ban_seconds)
        self._polls_left: dict[str, int] = {}

    def check_address(self, call: str, address: str, now: float) -> None:
        """Raise RefusalError while the address is banned from this call."""
        block = self._polling if call == "getTaskResult" else self._addresses
        if block.is_blocked(address, now):
            self._refuse("ipBanned", "ERROR_IP_BANNED")

    def check_key(self, key: str, now: float) -> None:
        """Raise RefusalError while the key is blocked."""
        if self._keys.is_blocked(key, now):
            self._refuse("keyBlocked", "ERROR_KEY_TEMP_BLOCKED")

    def check_submit(self, key: str, now: float) -> None:
        """Count a createTask call. Raise RefusalError if there were too many.

        Source: providers/README.md, "2captcha and ruCaptcha".
        """
        if not self._submits.is_blocked(key, now):
            self._submits.count_error(key, now)
        if self._submits.is_blocked(key, now):
            self._refuse("submits", "MAX_USER_TURN")

    def note_task(self, key: str) -> None:
        """Allow the polls of one more task."""
        self._polls_left[key] = self._left(key) + self._limits.polls_for_each
        _keep_newest(self._polls_left, _MOST_KEYS)

    def check_all_polls(self, key: str, now: float) -> None:
        """Count a poll. Raise RefusalError if there were too many for all tasks of the key.

        Source: providers/README.md, "2captcha and ruCaptcha".
        """
        if not self._limits.polls_for_each:
            return
        if not self._polls.is_blocked(key, now):
            self._polls_left[key] = self._left(key) - 1
            if self._polls_left[key] < 0:
                self._polls.count_error(key, now)
                del self._polls_left[key]
        if self._polls.is_blocked(key, now):
            self._refuse("allPolls", "ERROR: 1005")

    def count_error(self, error_code: str, address: str, key: object, now: float) -> None:
        """Note an error of a caller. A refusal by a block counts as none, so that the block ends when it should."""
        if error_code in _BLOCK_CODES:
            return
        if not self._limits.ban_codes or error_code in self._limits.ban_codes:
            self._addresses.count_error(address, now)
            self._polling.count_error(address, now)
        if isinstance(key, str):
            self._keys.count_error(key, now)

    def _left(self, key: str) -> int:
        return self._polls_left.get(key, self._limits.polls_for_all)

    def _refuse(self, limit: str, error_code: str) -> None:
        self._broken[limit] += 1
        raise RefusalError(error_code)


class Accounts:
    """The accounts of a sandbox. Without `keys`, any key but an empty one is right.

    The newest 10,000 charged accounts are remembered. A forgotten one has its first balance again. Amounts are whole
    millionths, so that sums come out even.
    """

    def __init__(self, *, keys: Container[str], balance: float, cost: float) -> None:
        self._keys = keys or None
        self._first_balance = round(balance * _MILLION)
        self._cost = round(cost * _MILLION)
        self._balances: dict[str, int] = {}

    def is_known(self, key: object) -> bool:
        """Return True if `key` opens an account."""
        return isinstance(key, str) and key != "" and (self._keys is None or key in self._keys)

    def balance(self, key: str) -> float:
        """Return the money left."""
        return self._left(key) / _MILLION

    def charge(self, key: str) -> bool:
        """Take the price of one task. Return False, and take nothing, if too little or nothing is left."""
        left = self._left(key)
        if left < max(self._cost, 1):
            return False
        self._set(key, left - self._cost)
        return True

    def give_back(self, key: str) -> None:
        """Return the price of one task to its account."""
        self._set(key, self._left(key) + self._cost)

    def _left(self, key: str) -> int:
        return self._balances.get(key, self._first_balance)

    def _set(self, key: str, left: int) -> None:
        self._balances[key] = left
        _keep_newest(self._balances, _MOST_KEYS)
