"""Backoff after the provider's answers to polls, with a scripted clock."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from client.provider_api.http import ProviderApi, ProviderBusyError
from client.provider_api.limits import KeyLimiter
from client.provider_api.timing import Timing
from client.providers import DIALECTS
from client.providers.readings import Reaction, Refused
from receiver.upstream.accounts import Account
from receiver.upstream.backoff import KeyBackoff

BANNED = Refused(1, "ERROR_IP_BANNED", None, Reaction.SLOW, "request", 1800.0, is_ban=True)
SLOW = Refused(1, "ERROR_TOO_MUCH_REQUESTS", None, Reaction.SLOW, "request", 30.0)
WRONG_KEY = Refused(1, "ERROR_KEY_DOES_NOT_EXIST", None, Reaction.STOP, "key")
HOUR = 3600.0


class BackoffAtTime:
    """The backoff of one account at the time `now`. Random waits are the longest possible."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.now = 1000.0
        timing = Timing(clock=lambda: self.now, random=lambda: 1.0)
        dialect = DIALECTS["capsolver"]
        self._limiter = KeyLimiter(dialect.key_limits, timing, "capsolver")
        api = ProviderApi(session, dialect, "key", "http://127.0.0.1:1", self._limiter)
        self._backoff = KeyBackoff(Account(dialect, "0" * 8, api, self._limiter, timing))

    @property
    def seconds_left(self) -> float:
        """The rest of the pause."""
        return self._limiter.paused_until - self.now

    def refused(self, refused: Refused, retry_after_seconds: float | None = None) -> float:
        """Refuse a poll. Return the pause in seconds."""
        self._backoff.refused(refused, retry_after_seconds)
        return self.seconds_left

    def busy(self, retry_after_seconds: float | None) -> float:
        """Answer a poll as a busy provider. Return the pause in seconds."""
        self._backoff.busy(ProviderBusyError("busy", retry_after_seconds))
        return self.seconds_left

    def release(self) -> None:
        """Answer a poll."""
        self._backoff.release()

    def wait(self) -> None:
        """Wait for the end of the pause."""
        self.now = self._limiter.paused_until


@pytest.fixture
async def backoff() -> Any:
    """Return the backoff of an account without refusals."""
    async with aiohttp.ClientSession() as session:
        yield BackoffAtTime(session)


async def test_a_temporary_refusal_pauses_as_long_as_it_says(backoff: BackoffAtTime) -> None:
    """The pause is the answer's header or the code's own, the same each time."""
    assert backoff.refused(SLOW) == 30.0
    backoff.wait()
    assert backoff.refused(SLOW, 7.0) == 7.0
    backoff.wait()
    assert backoff.refused(SLOW) == 30.0


async def test_a_final_refusal_is_polled_ever_more_rarely(backoff: BackoffAtTime) -> None:
    """The longest distance between polls is half an hour. An answer resets the pauses."""
    waits = []
    for _ in range(7):
        waits.append(backoff.refused(WRONG_KEY))
        backoff.wait()
    backoff.release()

    assert waits == [60.0, 120.0, 240.0, 480.0, 960.0, 1800.0, 1800.0]
    assert backoff.refused(WRONG_KEY) == 60.0


async def test_a_ban_that_holds_after_its_pause_halts_for_hours(backoff: BackoffAtTime) -> None:
    """The first pause is the ban's own. Later ones take hours, because each poll may prolong the ban."""
    waits = []
    for _ in range(3):
        waits.append(backoff.refused(BANNED))
        backoff.wait()

    assert waits == [1800.0, HOUR, 2 * HOUR]
    backoff.release()
    assert backoff.refused(BANNED) == 1800.0


@pytest.mark.parametrize("refused", [BANNED, SLOW, WRONG_KEY], ids=lambda refused: refused.error_code)
async def test_polls_that_were_under_way_count_once(backoff: BackoffAtTime, refused: Refused) -> None:
    """Fifty refusals at the same time count as one refusal."""
    first = backoff.refused(refused)

    assert [backoff.refused(refused) for _ in range(49)] == [first] * 49


async def test_a_poll_that_came_too_early_pauses_nothing(backoff: BackoffAtTime) -> None:
    """The refusal of a single poll does not pause the key."""
    assert backoff.refused(Refused(1, "CAPCHA_NOT_READY", None, Reaction.WAIT)) < 0


async def test_a_busy_provider_gets_the_pause_that_it_asks_for(backoff: BackoffAtTime) -> None:
    """If the provider asks for no pause, a short one is made."""
    asked_for = backoff.busy(12.0)
    backoff.wait()

    assert (asked_for, backoff.busy(None)) == (12.0, 5.0)
