"""The lease of a background loop, renewed in time while its work goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from receiver.domain.sharing.leases import TakeLease
from receiver.storage.store import Store

__all__ = ["UpkeepLease"]


class UpkeepLease:
    """A lease of `seconds` for the receiver `holder`. Another receiver takes over that time after its death."""

    def __init__(
        self, store: Store, name: str, *, holder: str, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._seconds = seconds
        self._clock = clock
        self._renew_at = 0.0

    async def is_held(self) -> bool:
        """Return True if this receiver may do the work for a moment. The lease is written after half of its time.

        Raises:
            ReceiverError: the store cannot write now.
        """
        now = self._clock()
        if now < self._renew_at:
            return True
        command = TakeLease(name=self._name, holder=self._holder, seconds=self._seconds)
        is_held = await self._store.write(command)
        # Counted from before the write, because it may have taken long.
        self._renew_at = now + self._seconds / 2 if is_held else 0.0
        return is_held
