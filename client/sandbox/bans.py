"""Who is shut out of a sandbox, for how long, and why. Pure: the time is an argument."""

from __future__ import annotations

from collections import Counter

from client.sandbox.limits import Block, Limits
from client.sandbox.reading import RefusalError

__all__ = ["Bans"]

_MOST_KEYS = 10_000
_SHUT_OUT = frozenset({"ERROR_IP_BANNED", "ERROR_KEY_TEMP_BLOCKED", "MAX_USER_TURN", "ERROR: 1005"})


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
        """Raises RefusalError while the address is banned from this call."""
        block = self._polling if call == "getTaskResult" else self._addresses
        if block.is_blocked(address, now):
            self._refuse("ipBanned", "ERROR_IP_BANNED")

    def check_key(self, key: str, now: float) -> None:
        """Raises RefusalError while the key is blocked."""
        if self._keys.is_blocked(key, now):
            self._refuse("keyBlocked", "ERROR_KEY_TEMP_BLOCKED")

    def check_submit(self, key: str, now: float) -> None:
        """Counts a createTask call; raises RefusalError where there were too many (PROVIDERS.md 3.6)."""
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
        """Counts a poll; raises RefusalError where all tasks of the key were asked for too often (PROVIDERS.md 3.6)."""
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
        """Notes an error of a caller; one who is shut out makes no new ones, so that a block ends when it was said."""
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
