"""Backoff of the receiver's own polls."""

from __future__ import annotations

import structlog

from client.provider_api.http import ProviderBusyError
from client.provider_api.refusals import POLL_PAUSE_SECONDS, pause_after_poll
from client.provider_api.timing import backoff_seconds
from client.providers.readings import Refused
from receiver.upstream.accounts import Account

__all__ = ["KeyBackoff"]

_HALT_SECONDS = (60.0, 1800.0)
_BAN_SECONDS = (3600.0, 86_400.0)

_log = structlog.get_logger()


class KeyBackoff:
    """Pauses the key of one account after refused polls, and logs each pause.

    The count of refusals is that of all receivers with the key: `news` says what this one adds, and `go_on` takes what
    all together have.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._halts = 0
        self._was_banned = False
        self._until = 0.0
        self._is_released = self._is_refused = False

    def release(self) -> None:
        """Record any answer but a refusal."""
        if self._halts or self._was_banned:
            self._halts, self._was_banned = 0, False
            self._is_released, self._is_refused = True, False

    def news(self) -> tuple[bool, tuple[int, bool] | None]:
        """Return True if an answer ended the count, and the count after a later refusal, if there was one.

        They are not returned again, unless they are given back.
        """
        is_released, is_refused = self._is_released, self._is_refused
        self._is_released = self._is_refused = False
        return is_released, (self._halts, self._was_banned) if is_refused else None

    def give_back(self, news: tuple[bool, tuple[int, bool] | None]) -> None:
        """Return the same news again: they were not stored."""
        self._is_released |= news[0]
        self._is_refused |= news[1] is not None

    def go_on(self, halts: int, *, was_banned: bool, pause_seconds: float) -> None:
        """Count on from the number of all receivers, unless there is news. Refusals during the pause change nothing."""
        if not self._is_released and not self._is_refused:
            self._halts, self._was_banned = halts, was_banned
        if pause_seconds > 0:
            self._until = max(self._until, self._account.timing.clock() + pause_seconds)

    def busy(self, error: ProviderBusyError) -> None:
        """Pause the key of a busy provider."""
        self._pause(error.retry_after_seconds or POLL_PAUSE_SECONDS, str(error))

    def refused(self, refused: Refused, retry_after_seconds: float | None) -> None:
        """Pause the key after a refused poll. If no pause helps against a refusal, stop for longer each time.

        A refused key, account or address stays refused until a person acts, and repeated requests get it banned. A
        refusal during a pause belongs to a poll from before the pause, so it changes nothing.
        """
        if self._account.timing.clock() < self._until:
            return
        seconds = pause_after_poll(refused, retry_after_seconds, was_banned=self._was_banned)
        if seconds is None:
            self._halt(refused)
        elif seconds:
            self._was_banned = refused.is_ban
            self._is_refused = True
            self._pause(seconds, refused.error_code)

    def _halt(self, refused: Refused) -> None:
        first, most = _BAN_SECONDS if refused.is_ban else _HALT_SECONDS
        seconds = backoff_seconds(self._halts, self._account.timing.random, first=first, most=most)
        self._halts += 1
        self._is_refused = True
        _log.error(
            "provider.refused",
            provider=self._account.dialect.provider,
            errorCode=refused.error_code[:80],
            about=refused.about,
            seconds=round(seconds),
            consequence="until then its tasks wait for callbacks only",
        )
        self._hold(seconds)

    def _pause(self, seconds: float, reason: str) -> None:
        self._hold(seconds)
        _log.warning(
            "provider.paused",
            provider=self._account.dialect.provider,
            seconds=round(seconds, 1),
            reason=reason[:200],
        )

    def _hold(self, seconds: float) -> None:
        self._account.limiter.pause(seconds)
        self._until = max(self._until, self._account.timing.clock() + seconds)
