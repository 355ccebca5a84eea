"""What makes the receiver poll a provider less, or for a while not at all."""

from __future__ import annotations

import structlog

from client.provider_api.http import ProviderBusyError
from client.provider_api.timing import backoff_seconds
from client.providers.readings import Reaction, Refused
from receiver.upstream.accounts import Account

__all__ = ["Brake"]

_PAUSE_SECONDS = 5.0
_HALT_SECONDS = (60.0, 1800.0)
_BAN_SECONDS = (3600.0, 86_400.0)

_log = structlog.get_logger()


class Brake:
    """Pauses the key of one account by what the provider answers to its polls, and says so in the log."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._halts = 0
        self._was_banned = False
        self._until = 0.0

    def release(self) -> None:
        """An answer came that refuses nothing."""
        self._halts, self._was_banned = 0, False

    def busy(self, error: ProviderBusyError) -> None:
        """The provider has too much to do."""
        self._pause(error.retry_after_seconds or _PAUSE_SECONDS, str(error))

    def refused(self, said: Refused, retry_after_seconds: float | None) -> None:
        """The provider refused a poll: by its code the key pauses, or halts for ever longer.

        A key, an account or an address that is refused stays so until a person acts; to go on asking gets it banned. A
        ban that was waited for and still holds is such a refusal, too (PROVIDERS.md 6). What comes during a pause was
        under way when it began, and tells nothing new.
        """
        if said.reaction is Reaction.WAIT or self._account.timing.clock() < self._until:
            return
        if said.reaction is Reaction.SLOW and not (said.is_ban and self._was_banned):
            self._was_banned = said.is_ban
            self._pause(retry_after_seconds or said.pause_seconds or _PAUSE_SECONDS, said.error_code)
            return
        first, most = _BAN_SECONDS if said.is_ban else _HALT_SECONDS
        seconds = backoff_seconds(self._halts, self._account.timing.random, first=first, most=most)
        self._halts += 1
        _log.error(
            "provider.refused",
            provider=self._account.dialect.provider,
            errorCode=said.error_code[:80],
            about=said.about,
            seconds=round(seconds),
            consequence="its tasks wait for callbacks alone meanwhile",
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
        self._account.gate.pause(seconds)
        self._until = max(self._until, self._account.timing.clock() + seconds)
