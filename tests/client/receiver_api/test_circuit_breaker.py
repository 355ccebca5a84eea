"""The breaker opens after a failure, lets one trial through, and can't get stuck."""

from __future__ import annotations

from client.receiver_api.circuit_breaker import CircuitBreaker


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_closed_while_calls_succeed() -> None:
    """Nothing is skipped as long as nothing failed."""
    breaker = CircuitBreaker(_Clock())

    breaker.succeeded()

    assert [breaker.allows() for _ in range(3)] == [True, True, True]


def test_open_after_a_failure() -> None:
    """After a failure every call is skipped for the break."""
    clock = _Clock()
    breaker = CircuitBreaker(clock, open_seconds=30.0)

    breaker.failed()
    clock.now += 29.9

    assert not breaker.allows()


def test_one_trial_after_the_break() -> None:
    """After the break one call is let through, and no other until its end is known."""
    clock = _Clock()
    breaker = CircuitBreaker(clock, open_seconds=30.0)
    breaker.failed()
    clock.now += 30.0

    assert [breaker.allows() for _ in range(3)] == [True, False, False]


def test_trial_closes_it() -> None:
    """A successful trial closes the breaker at once."""
    clock = _Clock()
    breaker = CircuitBreaker(clock, open_seconds=30.0)
    breaker.failed()
    clock.now += 30.0
    breaker.allows()

    breaker.succeeded()

    assert [breaker.allows() for _ in range(2)] == [True, True]


def test_forgotten_trial_is_followed_by_another() -> None:
    """A cancelled trial costs one more break, not all calls for ever."""
    clock = _Clock()
    breaker = CircuitBreaker(clock, open_seconds=30.0)
    breaker.failed()
    clock.now += 30.0
    breaker.allows()

    clock.now += 30.0

    assert breaker.allows()
