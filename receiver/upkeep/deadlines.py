"""Deadlines: every task ends at its `deadlineAt`, so that nothing waits forever. Callbacks held back are released."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from receiver.domain.polls import Read, ReleaseHeld
from receiver.domain.registrations import Expire
from receiver.errors import ReceiverError
from receiver.storage.store import Store

__all__ = ["end_overdue_tasks"]

_LONGEST_SLEEP_SECONDS = 1.0
_BATCH = 200

_log = structlog.get_logger()


async def end_overdue_tasks(store: Store, read: Read, now: Callable[[], int]) -> None:
    """End tasks within about a second of their deadlines, until cancelled.

    The outcome is provisional: a later answer of the provider replaces it. While the store cannot write, the tasks wait
    for the next round. `read` returns the outcome in a callback that was held back.
    """
    failing_as: str | None = None
    while True:
        try:
            held_until = await store.next_held()
            if held_until is not None and held_until <= now():
                released = await store.write(ReleaseHeld(now=now(), limit=_BATCH, read=read))
                _log.info("callbacks.released", tasks=released)
                continue
            deadline = await store.next_deadline()
            if deadline is not None and deadline <= now():
                ended = await store.write(Expire(now=now(), limit=_BATCH))
                _log.info("tasks.expired", tasks=ended)
                continue
            failing_as = None
        except ReceiverError as error:
            # Logged once for each reason, because it may last until a restart.
            if error.detail != failing_as:
                failing_as = error.detail
                _log.warning("tasks.not_expired", reason=failing_as)
        await asyncio.sleep(_LONGEST_SLEEP_SECONDS)
