"""Ends every task at its `deadlineAt`, so that nothing waits forever; releases callbacks that were held back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from receiver.errors import ReceiverError
from receiver.service.inbox import Inbox

__all__ = ["end_overdue_tasks"]

_LONGEST_SLEEP_SECONDS = 1.0
_BATCH = 200

_log = structlog.get_logger()


async def end_overdue_tasks(inbox: Inbox, now: Callable[[], int]) -> None:
    """Run until it is cancelled. A task is ended within about a second of its deadline.

    The outcome is provisional: an answer of the provider that still comes replaces it. While the store cannot write,
    the tasks wait for the next round.
    """
    failing_as: str | None = None
    while True:
        try:
            held_until = await inbox.next_held()
            if held_until is not None and held_until <= now():
                _log.info("callbacks.released", tasks=await inbox.release_held(_BATCH))
                continue
            deadline = await inbox.next_deadline()
            if deadline is not None and deadline <= now():
                ended = await inbox.give_up_overdue(_BATCH)
                _log.info("tasks.expired", tasks=ended)
                continue
            failing_as = None
        except ReceiverError as error:
            # Once for each reason: it may last until a restart.
            if error.detail != failing_as:
                failing_as = error.detail
                _log.warning("tasks.not_expired", reason=failing_as)
        await asyncio.sleep(_LONGEST_SLEEP_SECONDS)
