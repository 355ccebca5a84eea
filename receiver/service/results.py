"""The log of results: pages of it, with a wait for the next result, and subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace

from client.protocol.filters import ResultFilter, TaskSet
from client.protocol.frames import GapFrame
from receiver.domain.records import Entry, Page
from receiver.errors import CursorGoneError
from receiver.feed.hub import Waiter
from receiver.feed.subscription import Listener, Subscription
from receiver.service.waits import IN_PROCESS, Waits
from receiver.storage.store import Store

__all__ = ["Results"]

_MAX_LOOKS = 25


class Results:
    """Reads the log, from the store and then as it grows."""

    def __init__(self, store: Store, waits: Waits) -> None:
        self._store = store
        self._waits = waits

    async def page(
        self,
        after: str | None,
        only: ResultFilter,
        *,
        limit: int,
        seconds: float,
        owner: str = IN_PROCESS,
        turn: AbstractAsyncContextManager[None] | None = None,
    ) -> Page:
        """Return the next page of the log behind `after` (None: from the oldest kept), once it has an entry.

        Named tasks that are finished come at once, whatever the cursor. After `seconds`, or when the receiver shuts
        down, the page is empty, and its cursor is where to go on. `turn` is held while the store is read.

        Raises:
            CursorGoneError: the cursor is of no use, or no longer.
            ReceiverError: `too-many-waiters`, `too-many-names`, `receiver-full`.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        async with turn or nullcontext():
            page = await self._look(after, only, limit)
        if page.entries or page.more or seconds <= 0:
            return page
        with self._waits.request_admitted(owner):
            waiter = Waiter()
            subscription = self._waits.feed.follow(only, page.position, waiter.wake, owner=owner)
            subscription.most = limit
            return await self._next_page(page, subscription, waiter, deadline)

    async def subscribe(
        self, only: ResultFilter, cursor: str | None, listener: Listener, *, owner: str = IN_PROCESS
    ) -> Subscription:
        """Return a reader of the log as it grows, to be closed; see `Feed.subscribe`."""
        return await self._waits.feed.subscribe(only, cursor, listener, owner=owner)

    async def _look(self, after: str | None, only: ResultFilter, limit: int) -> Page:
        for _ in range(_MAX_LOOKS):
            page = await self._store.results(after, limit=limit, only=only)
            if page.entries or not page.more:
                break
            after = page.cursor
        return replace(page, entries=(*await self._named(only, page), *page.entries))

    async def _named(self, only: ResultFilter, page: Page) -> Sequence[Entry]:
        """Return the finished tasks that the filter names, except those on the page."""
        on_page = {entry.ref for entry in page.entries}
        named = only.tasks or TaskSet()
        found = [await self._store.task(ref) for ref in named.refs]
        for provider, id_text in named.task_ids:
            found.extend(await self._store.tasks_by_id(id_text, provider))
        finished = {
            task.ref: task
            for task in found
            if task is not None and task.outcome is not None and only.admits(task.provider)
        }
        return [
            Entry(self._store.cursor_at(task.position), task.position, "result", ref, task)
            for ref, task in finished.items()
            if ref not in on_page and task.position is not None
        ]

    async def _next_page(self, page: Page, subscription: Subscription, waiter: Waiter, deadline: float) -> Page:
        """Return the next page that has entries, or an empty one at `deadline`; close the subscription."""
        try:
            while True:
                waiter.clear()
                entries = tuple(map(_entry_or_error, await subscription.read()))
                if entries or not await self._waits.until_woken(waiter, deadline):
                    return replace(page, entries=entries, cursor=subscription.cursor, more=subscription.has_more)
        finally:
            subscription.close()


def _entry_or_error(item: Entry | GapFrame) -> Entry:
    if isinstance(item, GapFrame):
        raise CursorGoneError(item.reason, item.resumes_at)
    return item
