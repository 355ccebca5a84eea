"""Wake-ups after each commit: waiters, readers of the log, and polls that a hint brought forward."""

from __future__ import annotations

from collections.abc import Callable

from receiver.feed.feed import Feed
from receiver.feed.hub import Hub
from receiver.storage.store import Store

__all__ = ["relay_commits"]


async def relay_commits(store: Store, feed: Feed, hub: Hub, hinted: Callable[[], None]) -> None:
    """Wake waiters and readers after each commit that made the log grow, until the store is closed.

    `hinted` is called if there is a hint among the new entries.
    """
    async for growth in store.commits():
        await feed.take(growth)
        hub.wake(growth.tasks)
        if any(entry.kind == "hint" for entry in growth.entries or ()):
            hinted()
