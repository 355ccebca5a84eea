"""The limits of a provider, and whether a call breaks one. Pure: the time is an argument.

CapSolver's are documented (PROVIDERS.md 3.1, 5). Of 1captcha.vip only the 3 s between two queries and the 300 s
time-out are (PROVIDERS.md 3.2); the rest are placeholders, which the command's help names as unknown.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any

from client.errors import BadArgumentError

__all__ = [
    "CAPSOLVER_LIMITS",
    "ONECAPTCHA_LIMITS",
    "Bans",
    "Block",
    "Limits",
    "PollCount",
    "RefusalError",
    "broken_limit",
    "limits_of",
]

_MOST_CALLERS = 1000
_MOST_KEYS = 10_000
_SHUT_OUT = frozenset({"ERROR_IP_BANNED", "ERROR_KEY_TEMP_BLOCKED", "MAX_USER_TURN", "ERROR: 1005"})


class RefusalError(Exception):
    """The request gets an error answer with this code, and this text where the usual one says too little."""

    def __init__(self, error_code: str, description: str | None = None) -> None:
        super().__init__(error_code)
        self.error_code = error_code
        self.description = description


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a provider puts up with; 0 in a count means that it is not limited.

    A task is asked for at most `max_polls` times and can be read for `window_seconds` after its creation; then its id
    is unknown (ERROR_TASKID_INVALID). It fails with ERROR_TASK_TIMEOUT after `task_timeout_seconds`. Polls closer than
    `poll_interval_seconds` are counted, and refused (ERROR_RATE_LIMIT) where `is_interval_enforced`. `ban_errors`
    errors within 60 s block an address for `ban_seconds` (ERROR_IP_BANNED), `key_block_errors` a key for
    `key_block_seconds` (ERROR_KEY_TEMP_BLOCKED). `ban_codes` are the errors that count for the first, if not all do;
    polls are refused for `poll_ban_seconds` then, if that is another time.

    More than `submit_count` createTask calls of a key within `submit_seconds` are refused for `submit_ban_seconds`
    (MAX_USER_TURN); more polls than `polls_for_each` for each of its tasks and `polls_for_all` besides, for
    `all_polls_ban_seconds` (ERROR: 1005). Answers can be reported for `report_seconds` after the end of a task.

    Raises:
        BadArgumentError: a negative or non-finite number.
    """

    max_polls: int = 120
    window_seconds: float = 300.0
    task_timeout_seconds: float = 120.0
    poll_interval_seconds: float = 3.0
    is_interval_enforced: bool = False
    ban_errors: int = 1000
    ban_seconds: float = 1800.0
    key_block_errors: int = 0
    key_block_seconds: float = 300.0
    ban_codes: frozenset[str] = frozenset()
    poll_ban_seconds: float | None = None
    submit_count: int = 0
    submit_seconds: float = 3.0
    submit_ban_seconds: float = 10.0
    polls_for_each: int = 0
    polls_for_all: int = 0
    all_polls_ban_seconds: float = 300.0
    report_seconds: float = 900.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and (not isfinite(value) or value < 0):
                raise BadArgumentError(f"{each.name}: expected a number that is not negative, got {value}")


CAPSOLVER_LIMITS = Limits()
"""Documented, except how many errors block a key."""

ONECAPTCHA_LIMITS = Limits(task_timeout_seconds=300.0, window_seconds=330.0, ban_errors=0)
"""`task_timeout_seconds` and `poll_interval_seconds` are documented; the others are placeholders.

A task that timed out can be read for another 30 s, or nobody would ever see that it did.
"""

ERROR_WINDOW_SECONDS = 60.0
"""Within which errors add up to a block (documented by CapSolver)."""


def limits_of(provider: str) -> Limits:
    """Return the limits of a provider, where nobody asked for others."""
    return _LIMITS.get(provider, CAPSOLVER_LIMITS)


# PROVIDERS.md 3.3 to 3.7 and 5; where no count of errors that bans is known there is none.
_CAPMONSTER_LIMITS = Limits(poll_interval_seconds=2.0, ban_errors=0)
_TWOCAPTCHA_LIMITS = Limits(max_polls=0, window_seconds=900.0, poll_interval_seconds=5.0, ban_errors=0)
# Documented for in.php and res.php only.
_V1_LIMITS = replace(_TWOCAPTCHA_LIMITS, submit_count=60, polls_for_each=20, polls_for_all=1200)
_EZCAPTCHA_LIMITS = Limits(
    max_polls=0,
    task_timeout_seconds=180.0,
    ban_errors=30,
    ban_seconds=180.0,
    poll_ban_seconds=60.0,
    ban_codes=frozenset({"ERROR_KEY_DOES_NOT_EXIST", "ERROR_ZERO_BALANCE"}),
)
_LIMITS = {
    "anticaptcha": Limits(max_polls=0, poll_interval_seconds=2.0, ban_errors=0, report_seconds=60.0),
    "capkill": _CAPMONSTER_LIMITS,
    "capmonster": _CAPMONSTER_LIMITS,
    "capsolution": Limits(max_polls=0, poll_interval_seconds=2.0, ban_errors=0),
    "captcha69": _CAPMONSTER_LIMITS,
    # Nothing is known of its own; its API is that of 2captcha.
    "captchaai": _TWOCAPTCHA_LIMITS,
    "ezcaptcha": _EZCAPTCHA_LIMITS,
    "ezcaptchasync": _EZCAPTCHA_LIMITS,
    "hardcaptcha": Limits(max_polls=0, ban_errors=0),
    "nextcaptcha": Limits(max_polls=0, poll_interval_seconds=0.5, ban_errors=0),
    "onecaptcha": ONECAPTCHA_LIMITS,
    "rucaptcha": _TWOCAPTCHA_LIMITS,
    "rucaptchav1": _V1_LIMITS,
    "scrapeless": Limits(max_polls=0, ban_errors=0),
    "twocaptcha": _TWOCAPTCHA_LIMITS,
    "twocaptchav1": _V1_LIMITS,
    "ucaptcha": Limits(max_polls=60, task_timeout_seconds=300.0, poll_interval_seconds=5.0, ban_errors=0),
    "yescaptcha": Limits(ban_errors=0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PollCount:
    """One poll of a task: its age, which poll it is (from 1), and the seconds since the one before (None: none)."""

    age_seconds: float
    number: int
    since_last_seconds: float | None


def broken_limit(limits: Limits, poll: PollCount) -> str | None:
    """Return the name of the limit that the poll breaks, the gravest first; `interval` is only advised by default."""
    if poll.age_seconds > limits.window_seconds:
        return "window"
    if limits.max_polls and poll.number > limits.max_polls:
        return "maxPolls"
    if poll.since_last_seconds is not None and poll.since_last_seconds < limits.poll_interval_seconds:
        return "interval"
    return None


class Block:
    """Shuts callers out who make too many errors in a while; of the callers, only the newest 1,000 are remembered.

    `errors` 0 never blocks.
    """

    def __init__(self, *, errors: int, seconds: float, window_seconds: float = ERROR_WINDOW_SECONDS) -> None:
        self._errors = errors
        self._seconds = seconds
        self._window_seconds = window_seconds
        self._times: dict[str, deque[float]] = {}
        self._until: dict[str, float] = {}

    def is_blocked(self, caller: str, now: float) -> bool:
        """Whether the caller has to wait; a block ends by itself and leaves no errors behind."""
        return now < self._until.get(caller, now)

    def count_error(self, caller: str, now: float) -> None:
        """Note an error; enough of them within the window block the caller from the next call on."""
        if not self._errors:
            return
        times = self._times.pop(caller, None) or deque(maxlen=self._errors)
        times.append(now)
        self._times[caller] = times
        if len(times) == self._errors and now - times[0] <= self._window_seconds:
            self._until[caller] = now + self._seconds
            del self._times[caller]
        _keep_newest(self._times)
        _keep_newest(self._until)


def _keep_newest(callers: dict[str, Any]) -> None:
    if len(callers) > _MOST_CALLERS:
        del callers[next(iter(callers))]


class Bans:
    """The blocks that the limits of a provider lead to; a refused call is counted in `broken` by the limit's name."""

    def __init__(self, limits: Limits, broken: Counter[str]) -> None:
        self._limits = limits
        self._broken = broken
        errors, seconds = limits.ban_errors, limits.ban_seconds
        self._addresses = Block(errors=errors, seconds=seconds)
        poll_seconds = seconds if limits.poll_ban_seconds is None else limits.poll_ban_seconds
        self._polling = Block(errors=errors, seconds=poll_seconds)
        self._keys = Block(errors=limits.key_block_errors, seconds=limits.key_block_seconds)
        # One more than are allowed is the one that is too much.
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
        """Count a createTask call; raises RefusalError where there were too many (PROVIDERS.md 3.6)."""
        if not self._submits.is_blocked(key, now):
            self._submits.count_error(key, now)
        if self._submits.is_blocked(key, now):
            self._refuse("submits", "MAX_USER_TURN")

    def note_task(self, key: str) -> None:
        """A task more, which may be asked for."""
        self._polls_left[key] = self._left(key) + self._limits.polls_for_each
        if len(self._polls_left) > _MOST_KEYS:
            del self._polls_left[next(iter(self._polls_left))]

    def check_all_polls(self, key: str, now: float) -> None:
        """Count a poll; raises RefusalError where all tasks of the key were asked for too often (PROVIDERS.md 3.6)."""
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
        """Note an error of a caller; one who is shut out makes no new ones, so that a block ends when it was said."""
        if error_code in _SHUT_OUT:
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
