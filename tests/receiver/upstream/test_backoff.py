"""How what a provider answers to polls slows the receiver down, with a clock of its own."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from client.provider_api.http import ProviderApi, ProviderBusyError
from client.provider_api.limits import KeyGate
from client.provider_api.timing import Timing
from client.providers import DIALECTS
from client.providers.readings import Reaction, Refused
from receiver.upstream.accounts import Account
from receiver.upstream.backoff import Brake

BANNED = Refused(1, "ERROR_IP_BANNED", None, Reaction.SLOW, "request", 1800.0, is_ban=True)
SLOW = Refused(1, "ERROR_TOO_MUCH_REQUESTS", None, Reaction.SLOW, "request", 30.0)
WRONG_KEY = Refused(1, "ERROR_KEY_DOES_NOT_EXIST", None, Reaction.STOP, "key")
HOUR = 3600.0


class Braked:
    """An account at a time that the test says; chance always takes the longest."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.now = 1000.0
        timing = Timing(clock=lambda: self.now, random=lambda: 1.0)
        dialect = DIALECTS["capsolver"]
        self.gate = KeyGate(dialect.key_limits, timing, "capsolver")
        api = ProviderApi(session, dialect, "key", "http://127.0.0.1:1", self.gate)
        self.brake = Brake(Account(dialect, "0" * 8, api, self.gate, timing))

    def refused(self, said: Refused, retry_after_seconds: float | None = None) -> float:
        """For how many seconds from now on nothing is sent."""
        self.brake.refused(said, retry_after_seconds)
        return self.gate.paused_until - self.now

    def wait(self) -> None:
        """Until the pause is over."""
        self.now = self.gate.paused_until


@pytest.fixture
async def braked() -> Any:
    """Return an account that nobody has refused yet."""
    async with aiohttp.ClientSession() as session:
        yield Braked(session)


async def test_what_passes_is_waited_for_as_long_as_it_says(braked: Braked) -> None:
    """Its code's pause, or that of the answer's header; each time anew."""
    assert braked.refused(SLOW) == 30.0
    braked.wait()
    assert braked.refused(SLOW, 7.0) == 7.0
    braked.wait()
    assert braked.refused(SLOW) == 30.0


async def test_what_a_person_must_mend_is_asked_ever_more_rarely(braked: Braked) -> None:
    """Up to half an hour apart; an answer begins it anew."""
    waits = []
    for _ in range(7):
        waits.append(braked.refused(WRONG_KEY))
        braked.wait()
    braked.brake.release()

    assert waits == [60.0, 120.0, 240.0, 480.0, 960.0, 1800.0, 1800.0]
    assert braked.refused(WRONG_KEY) == 60.0


async def test_a_ban_that_was_waited_for_is_hardly_asked_about(braked: Braked) -> None:
    """Its own pause first; then hours, for each question may prolong it."""
    waits = []
    for _ in range(3):
        waits.append(braked.refused(BANNED))
        braked.wait()

    assert waits == [1800.0, HOUR, 2 * HOUR]
    braked.brake.release()
    assert braked.refused(BANNED) == 1800.0


@pytest.mark.parametrize("said", [BANNED, SLOW, WRONG_KEY], ids=lambda each: each.error_code)
async def test_polls_that_were_under_way_say_nothing_new(braked: Braked, said: Refused) -> None:
    """Fifty refusals at once are one."""
    first = braked.refused(said)

    assert [braked.refused(said) for _ in range(49)] == [first] * 49


async def test_a_busy_provider_gets_the_pause_that_it_asks_for(braked: Braked) -> None:
    """Or a short one where it asks for none."""
    braked.brake.busy(ProviderBusyError("busy", 12.0))
    asked_for = braked.gate.paused_until - braked.now
    braked.wait()
    braked.brake.busy(ProviderBusyError("busy", None))

    assert (asked_for, braked.gate.paused_until - braked.now) == (12.0, 5.0)
