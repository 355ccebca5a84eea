"""Idempotency-Keys of requests that this receiver is still carrying out.

Requests of two receivers with one key meet in the store: the first one makes the task. If it also submits the task,
then the second one is refused meanwhile (`receiver.domain.registrations`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from receiver.domain.registrations import in_flight_error

__all__ = ["KeysInFlight"]


class KeysInFlight:
    """Idempotency-Keys in use, each by the name of the API key it came with. None is a request without one."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()

    def take(self, owner: str, key: str | None) -> None:
        """Take a key into use until `give_back`.

        Raises:
            ReceiverError: `idempotency-in-flight`; nothing is taken.
        """
        if key is None:
            return
        if (owner, key) in self._keys:
            raise in_flight_error()
        self._keys.add((owner, key))

    def give_back(self, owner: str, key: str | None) -> None:
        """Let further requests use the key."""
        self._keys.discard((owner, key or ""))

    @contextmanager
    def held(self, owner: str, key: str | None) -> Iterator[None]:
        """Hold a key inside the block; raises as `take`."""
        self.take(owner, key)
        try:
            yield
        finally:
            self.give_back(owner, key)
