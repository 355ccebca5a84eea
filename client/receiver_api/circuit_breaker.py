"""When to stop asking a receiver that does not answer, and when to try again. Pure but for its clock."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """Closed while calls succeed; open for a while after a failure; then one call is let through as a trial.

    A trial whose caller goes away without a word counts as failed, so the breaker can't get stuck.
    """

    def __init__(self, clock: Callable[[], float], *, open_seconds: float = 30.0) -> None:
        self._clock = clock
        self._open_seconds = open_seconds
        self._open_until: float | None = None

    def allows(self) -> bool:
        """Whether to call now. The first yes after the break is the trial; until it succeeds, all others get a no."""
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
