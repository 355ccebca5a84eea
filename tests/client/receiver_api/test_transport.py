"""Which road to the receiver is tried next, after how long, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from client.errors import ReceiverUnavailableError
from client.protocol.connection import StreamBlockedError
from client.provider_api.timing import Timing
from client.receiver_api.transport import TransportChoice

BROKEN = ReceiverUnavailableError("it broke")
BLOCKED = StreamBlockedError("nothing gets through")


class Travels:
    """Roads with a clock that is set by hand."""

    def __init__(self, *, random: float = 0.0) -> None:
        self.now = 100.0
        self.told: list[str] = []
        self.choice = TransportChoice(Timing(clock=lambda: self.now, random=lambda: random), self._tell)

    def heard(self, seconds: float = 0.0) -> None:
        """Something came, and so long again after it."""
        self.choice.received()
        self.now += seconds
        self.choice.received()

    def _tell(self, happened: str, **facts: Any) -> None:
        self.told.append(happened)


@pytest.fixture
def travels() -> Travels:
    """Roads at their beginning."""
    return Travels()


def test_begins_with_a_websocket(travels: Travels) -> None:
    """It is told once that it leads there."""
    travels.heard()

    assert (travels.choice.transport, travels.told) == ("websocket", ["reader.connected"])


def test_pauses_grow(travels: Travels) -> None:
    """While no road leads there, each pause is longer than the one before, up to some seconds."""
    pauses = [travels.choice.failed(BROKEN) for _ in range(17)]

    assert [pause for pause in pauses if pause] == [0.125, 0.25, 0.5, 1.0, 2.0, 2.5, 2.5, 2.5, 2.5]
    assert travels.told == ["receiver.lost"]


def test_pauses_are_drawn() -> None:
    """Many clients do not come back at the same moment."""
    assert Travels(random=1.0).choice.failed(BROKEN) == 2 * Travels(random=0.0).choice.failed(BROKEN)


@pytest.mark.parametrize(("seconds", "pause"), [(6.0, 0.125), (1.0, 0.25)])
def test_pauses_begin_anew_after_what_lasted(travels: Travels, seconds: float, pause: float) -> None:
    """A connection that broke soon is one more failure."""
    travels.choice.failed(BROKEN)
    travels.heard(seconds)

    assert travels.choice.failed(BROKEN) == pause


def test_a_break_is_told_before_a_loss(travels: Travels) -> None:
    """The first failure after a connection is its break; only when the next one fails too is the receiver lost."""
    travels.heard()
    travels.choice.failed(BROKEN)
    silent_since = travels.choice.silent_since
    travels.now += 1
    travels.choice.failed(BROKEN)

    assert travels.told == ["reader.connected", "reader.broken", "receiver.lost"]
    assert travels.choice.silent_since == silent_since == 100.0


def test_long_polls_stand_in_at_once_where_websockets_are_blocked(travels: Travels) -> None:
    """It is told when they bring something, with the reason; until then the receiver does not count as silent."""
    pause = travels.choice.failed(BLOCKED)
    silent_since = travels.choice.silent_since
    travels.heard()

    assert (travels.choice.transport, pause, silent_since) == ("long poll", 0.0, None)
    assert travels.told == ["reader.fell_back"]


def test_long_polls_stand_in_after_two_websockets_in_vain(travels: Travels) -> None:
    """The first may have been chance."""
    roads = []
    for _ in range(2):
        travels.choice.failed(BROKEN)
        roads.append(travels.choice.transport)

    assert roads == ["websocket", "long poll"]


def test_a_websocket_that_told_something_was_not_in_vain(travels: Travels) -> None:
    """However often it breaks."""
    for _ in range(5):
        travels.heard()
        travels.choice.failed(BROKEN)

    assert travels.choice.transport == "websocket"


def test_long_polls_are_over_after_about_a_minute(travels: Travels) -> None:
    """Then a websocket is tried, and while that is blocked nothing is told."""
    travels.choice.failed(BLOCKED)
    travels.heard()
    travels.now += 44
    before = travels.choice.is_websocket_due
    travels.now += 2
    after = travels.choice.is_websocket_due
    travels.choice.retry_websocket()
    travels.choice.failed(BROKEN)
    travels.heard()

    assert (before, after, travels.choice.transport) == (False, True, "long poll")
    assert travels.told == ["reader.fell_back"]


def test_long_polls_that_fail_are_over_too(travels: Travels) -> None:
    """The next is a websocket, after a pause; it is told when it leads there again."""
    travels.choice.failed(BLOCKED)
    travels.heard()
    pause = travels.choice.failed(BROKEN)
    travels.heard()

    assert (pause, travels.choice.transport) == (0.125, "websocket")
    assert travels.told == ["reader.fell_back", "reader.broken", "reader.connected"]


def test_a_lost_receiver_is_found(travels: Travels) -> None:
    """By whichever road."""
    travels.choice.failed(BROKEN)
    travels.heard()

    assert travels.told == ["receiver.lost", "reader.connected", "receiver.found"]
    assert travels.choice.silent_since is None
