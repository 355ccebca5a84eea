"""One provider key of several receivers: they share its turns, its pauses, its errors and its refusals.

The row of the key in the database is the truth (`receiver.domain.sharing.budgets`). The limiter of this receiver
follows it. States and races:

* *quiet*: the row is read twice a second. So a pause of another receiver holds here half a second later, and turns that
  were reserved until then are still used.
* *news*: a pause, an error, a refusal, or a caller that waits for createTask. They are written at once, and all news
  that come during the write together by the next one.
* *the store cannot write*: news wait for the next time, and the limiter keeps all that it knows. Without turns nothing
  is polled or submitted at a limited rate. A task could not be stored anyway.
* *this receiver dies*: its turns of the next two seconds are lost. It counts as present for a minute.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Sequence
from contextlib import suppress

import structlog

from receiver.domain.records import SECOND
from receiver.domain.sharing.budgets import KeyUse, SharedBudget, SharedKey, ShareKey
from receiver.errors import ReceiverError
from receiver.storage.store import Store
from receiver.upstream.accounts import Account
from receiver.upstream.backoff import KeyBackoff

__all__ = ["KeySharing"]

_TICK_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_PRESENT_SECONDS = 20.0
_WRITE_SECONDS = 5.0
_END_SECONDS = 1.0
# Two ends of one pause differ by less, unless a write took long.
_SAME_SECONDS = 0.1

_log = structlog.get_logger()


class KeySharing:
    """The part of one receiver in a key. Run `run` beside the requests of the account."""

    def __init__(self, account: Account, store: Store, backoff: KeyBackoff) -> None:
        provider = account.dialect.provider
        self.use = KeyUse(f"{provider} {account.key_id}", secrets.token_hex(6), account.dialect.key_limits)
        self._account = account
        self._limiter = account.limiter
        self._store = store
        self._backoff = backoff
        self._has_news = asyncio.Event()
        self._requests, self._failures = self._limiter.requests, self._limiter.failures
        self._paused_until = -math.inf
        self._present_until = -math.inf
        self._ask_at = -math.inf
        self._is_failing = False
        self._limiter.share(self._has_news.set)

    def grant_polls(self, waits: Sequence[int]) -> None:
        """Add the turns that were reserved for taken tasks, by their waits from now in µs."""
        now = self._account.timing.clock()
        self._limiter.grant(polls=[now + wait / SECOND for wait in waits])

    async def run(self) -> None:
        """Share the key until cancelled. Then the row is told that this receiver is gone."""
        try:
            is_starting = True
            while True:
                self._has_news.clear()
                is_shared = await self._share(is_starting=is_starting)
                if not is_shared:
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                is_starting = False
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_SECONDS):
                        await self._has_news.wait()
        finally:
            with suppress(ReceiverError):
                await self._store.write(ShareKey(use=self.use, is_ending=True), within_seconds=_END_SECONDS)

    async def _share(self, *, is_starting: bool) -> bool:
        """Write the news, or read the row. Return False if the store failed."""
        paused_until, failures = self._limiter.paused_until, self._limiter.failures
        is_released, refusals = news = self._backoff.news()
        now = self._account.timing.clock()
        is_new_pause = paused_until > max(now, self._paused_until + _SAME_SECONDS)
        errors = 0 if self.use.limits.errors is None else failures - self._failures
        command = ShareKey(
            use=self.use,
            pause_seconds=paused_until - now if is_new_pause else 0.0,
            errors=errors,
            submits=self._limiter.submits_wanted if now >= self._ask_at else 0,
            refusals=refusals,
            is_released=is_released,
            is_starting=is_starting,
        )
        has_news = is_new_pause or errors or command.submits or is_released or refusals or is_starting
        try:
            if has_news or self._must_be_seen(now, paused_until):
                shared = await self._store.write(command, within_seconds=_WRITE_SECONDS)
                self._present_until, self._requests = now + _PRESENT_SECONDS, self._limiter.requests
            else:
                found = await self._store.key_budget(self.use.name)
                shared = SharedKey(*found) if found else SharedKey(SharedBudget(), 0)
        except ReceiverError as error:
            self._backoff.give_back(news)
            if not self._is_failing:
                _log.warning("key.not_shared", provider=self._account.dialect.provider, reason=error.detail)
            self._is_failing = True
            return False
        self._is_failing = False
        self._failures, self._paused_until = failures, max(self._paused_until, paused_until)
        if len(shared.submit_waits) < command.submits:
            # All turns are reserved for as far ahead as may be.
            self._ask_at = now + _TICK_SECONDS
        self._follow(shared, asked_at=now)
        return True

    def _must_be_seen(self, now: float, paused_until: float) -> bool:
        """Return True if the row should show this receiver: it may cause errors, or it keeps a pause."""
        is_in_use = self.use.limits.errors is not None and self._limiter.requests > self._requests
        return (is_in_use or paused_until > now) and now >= self._present_until

    def _follow(self, shared: SharedKey, *, asked_at: float) -> None:
        budget, now = shared.budget, self._account.timing.clock()
        pause_seconds = budget.pause_left(shared.now) / SECOND
        # The row may have been on its way for long. Its pause ends at this time at the earliest.
        ends_at, known_until = asked_at + pause_seconds, self._limiter.paused_until
        if pause_seconds and ends_at > known_until + _SAME_SECONDS:
            self._limiter.pause(pause_seconds)
            # Shorter pauses are no news any more.
            self._paused_until = self._limiter.paused_until
            # An own pause ends later in the row by the time that its write took. That is no line of the log.
            is_own = known_until > asked_at - _WRITE_SECONDS
            if not is_own or ends_at > known_until + _WRITE_SECONDS:
                self._tell(pause_seconds, is_braked=shared.is_braked)
        self._backoff.go_on(budget.halts, was_banned=budget.was_banned, pause_seconds=pause_seconds)
        self._limiter.share_errors(max(1, len(budget.receivers)))
        self._limiter.grant(submits=[now + wait / SECOND for wait in shared.submit_waits])

    def _tell(self, seconds: float, *, is_braked: bool) -> None:
        _log.warning(
            "provider.paused",
            provider=self._account.dialect.provider,
            seconds=round(seconds, 1),
            reason="the errors of all receivers" if is_braked else "another receiver has paused the key",
        )
