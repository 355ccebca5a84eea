"""The next transport to the receiver, the pause before it, and the reported changes."""

from __future__ import annotations

from typing import Any

import pytest

from client.errors import ReceiverUnavailableError
from client.protocol.connection import StreamBlockedError
from client.provider_api.timing import Timing
from client.receiver_api.transport import TransportChoice

BROKEN = ReceiverUnavailableError("it broke")
BLOCKED = StreamBlockedError("nothing gets through")


class Attempts:
    """A choice of transports with a clock set by hand."""

    def __init__(self, *, random: float = 0.0) -> None:
        self.now = 100.0
        self.reported: list[str] = []
        self.choice = TransportChoice(Timing(clock=lambda: self.now, random=lambda: random), self._tell)

    def receive(self, seconds: float = 0.0) -> None:
        """Record a message now, and another one after `seconds`."""
        self.choice.received()
        self.now += seconds
        self.choice.received()

    def _tell(self, happened: str, **facts: Any) -> None:
        self.reported.append(happened)


@pytest.fixture
def attempts() -> Attempts:
    """Return a new choice of transports."""
    return Attempts()


def test_begins_with_a_websocket(attempts: Attempts) -> None:
    """The first transport is a websocket, and its connection is reported once."""
    attempts.receive()

    assert (attempts.choice.transport, attempts.reported) == ("websocket", ["reader.connected"])


def test_pauses_grow(attempts: Attempts) -> None:
    """While no transport works, each pause is longer than the one before, up to some seconds."""
    pauses = [attempts.choice.failed(BROKEN) for _ in range(17)]

    assert [pause for pause in pauses if pause] == [0.125, 0.25, 0.5, 1.0, 2.0, 2.5, 2.5, 2.5, 2.5]
    assert attempts.reported == ["receiver.lost"]


def test_pauses_are_drawn() -> None:
    """The pauses are random, so that many clients do not reconnect at the same moment."""
    assert Attempts(random=1.0).choice.failed(BROKEN) == 2 * Attempts(random=0.0).choice.failed(BROKEN)


@pytest.mark.parametrize(("seconds", "pause"), [(6.0, 0.125), (1.0, 0.25)])
def test_pauses_begin_anew_after_what_lasted(attempts: Attempts, seconds: float, pause: float) -> None:
    """A long connection resets the pauses. A connection with an early break is one more failure."""
    attempts.choice.failed(BROKEN)
    attempts.receive(seconds)

    assert attempts.choice.failed(BROKEN) == pause


def test_a_break_is_told_before_a_loss(attempts: Attempts) -> None:
    """The first failure after a connection is its break. If the next one fails too, the receiver is lost."""
    attempts.receive()
    attempts.choice.failed(BROKEN)
    silent_since = attempts.choice.silent_since
    attempts.now += 1
    attempts.choice.failed(BROKEN)

    assert attempts.reported == ["reader.connected", "reader.broken", "receiver.lost"]
    assert attempts.choice.silent_since == silent_since == 100.0


def test_long_polls_stand_in_at_once_where_websockets_are_blocked(attempts: Attempts) -> None:
    """The first delivery is reported with the reason. Until then the receiver does not count as silent."""
    pause = attempts.choice.failed(BLOCKED)
    silent_since = attempts.choice.silent_since
    attempts.receive()

    assert (attempts.choice.transport, pause, silent_since) == ("long poll", 0.0, None)
    assert attempts.reported == ["reader.fell_back"]


def test_long_polls_stand_in_after_two_websockets_in_vain(attempts: Attempts) -> None:
    """One websocket without any message may be chance, two in a row are not."""
    transports = []
    for _ in range(2):
        attempts.choice.failed(BROKEN)
        transports.append(attempts.choice.transport)

    assert transports == ["websocket", "long poll"]


def test_a_websocket_that_told_something_was_not_in_vain(attempts: Attempts) -> None:
    """After a message, no number of breaks makes long polls replace the websocket."""
    for _ in range(5):
        attempts.receive()
        attempts.choice.failed(BROKEN)

    assert attempts.choice.transport == "websocket"


def test_long_polls_are_over_after_about_a_minute(attempts: Attempts) -> None:
    """After about a minute a websocket is tried. While websockets are blocked, nothing is reported."""
    attempts.choice.failed(BLOCKED)
    attempts.receive()
    attempts.now += 44
    before = attempts.choice.is_websocket_due
    attempts.now += 2
    after = attempts.choice.is_websocket_due
    attempts.choice.retry_websocket()
    attempts.choice.failed(BROKEN)
    attempts.receive()

    assert (before, after, attempts.choice.transport) == (False, True, "long poll")
    assert attempts.reported == ["reader.fell_back"]


def test_long_polls_that_fail_are_over_too(attempts: Attempts) -> None:
    """After a pause a websocket is tried, and its connection is reported."""
    attempts.choice.failed(BLOCKED)
    attempts.receive()
    pause = attempts.choice.failed(BROKEN)
    attempts.receive()

    assert (pause, attempts.choice.transport) == (0.125, "websocket")
    assert attempts.reported == ["reader.fell_back", "reader.broken", "reader.connected"]


def test_a_lost_receiver_is_found(attempts: Attempts) -> None:
    """The first message after a loss is reported, and the receiver is no longer silent."""
    attempts.choice.failed(BROKEN)
    attempts.receive()

    assert attempts.reported == ["receiver.lost", "reader.connected", "receiver.found"]
    assert attempts.choice.silent_since is None
