"""A circuit breaker for calls to a receiver. Pure but for its clock."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CircuitBreaker"]


class CircuitBreaker:
    """Closed while calls succeed, open for a while after a failure. Then one call is let through as a trial.

    A trial that is cancelled counts as failed, so the breaker can't get stuck.
    """

    def __init__(self, clock: Callable[[], float], *, open_seconds: float = 30.0) -> None:
        self._clock = clock
        self._open_seconds = open_seconds
        self._open_until: float | None = None

    def allows(self) -> bool:
        """Return True if a call may be made now.

        The first one allowed after a break is the trial. Until it succeeds, no other call is allowed.
        """
        if self._open_until is None:
            return True
        if self._clock() < self._open_until:
            return False
        self._open_until = self._clock() + self._open_seconds
        return True

    def succeeded(self) -> None:
        """Close the breaker."""
        self._open_until = None

    def failed(self) -> None:
        """Open the breaker."""
        self._open_until = self._clock() + self._open_seconds
