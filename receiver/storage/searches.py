"""Searches for single tasks, collected so that all requests of a turn of the event loop share statements."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from receiver.domain.records import TaskRecord
from receiver.errors import StoreFailedError

__all__ = ["Found", "Search", "SearchQueue"]


class Search(NamedTuple):
    """A ref, or an id of the provider's, or both. Then the ref wins."""

    ref: str | None
    id_text: str | None = None
    provider: str | None = None


Found = Mapping[Search, Sequence[TaskRecord]]
"""The tasks by search. An id without a provider finds at most two."""


class SearchQueue:
    """Answers searches in batches of at most `max_batch`, in turns of some milliseconds, while `run` is running."""

    def __init__(self, clock: Callable[[], float], *, max_batch: int, turn_seconds: float) -> None:
        self._clock = clock
        self._max_batch = max_batch
        self._turn_seconds = turn_seconds
        self._queue: deque[tuple[Search, asyncio.Future[Sequence[TaskRecord]]]] = deque()
        self._arrived = asyncio.Event()
        self._is_running = self._is_stopped = False

    async def task(self, ref: str) -> TaskRecord | None:
        """See `Store.task`. The read begins after the call, so it sees all earlier commits. Cancelling is safe."""
        return next(iter(await self._read(Search(ref))), None)

    def tasks_by_id(self, id_text: str, provider: str | None) -> Coroutine[Any, Any, Sequence[TaskRecord]]:
        """See `Store.tasks_by_id`; otherwise as `task`."""
        return self._read(Search(None, id_text, provider))

    def find(self, ref_or_id: str, provider: str | None) -> Coroutine[Any, Any, Sequence[TaskRecord]]:
        """See `Store.find`; otherwise as `task`."""
        return self._read(Search(ref_or_id, ref_or_id, provider))

    async def run(self) -> None:
        """Read until `stop`, and answer all calls made until then. If it is cancelled, the other calls fail."""
        # `stop` may have come first.
        self._is_running = not self._is_stopped
        try:
            while self._is_running or self._queue:
                if self._queue:
                    await self._answer_turn()
                else:
                    self._arrived.clear()
                    await self._arrived.wait()
        finally:
            self._is_running = False
            for _, tasks in self._queue:
                if not tasks.done():
                    tasks.set_exception(StoreFailedError("the store was closed"))
            self._queue.clear()

    def stop(self) -> None:
        """Let `run` end."""
        self._is_running, self._is_stopped = False, True
        self._arrived.set()

    async def _find(self, searches: Sequence[Search]) -> Found:
        raise NotImplementedError

    async def _find_alone(self, search: Search) -> Sequence[TaskRecord]:
        """Return what one search finds, without `run`."""
        return (await self._find([search]))[search]

    async def _read(self, search: Search) -> Sequence[TaskRecord]:
        if not self._is_running:
            return await self._find_alone(search)
        tasks: asyncio.Future[Sequence[TaskRecord]] = asyncio.get_running_loop().create_future()
        self._queue.append((search, tasks))
        self._arrived.set()
        return await tasks

    async def _answer_turn(self) -> None:
        """Answer what is queued, as far as the loop may be kept from all else."""
        until = self._clock() + self._turn_seconds
        while self._queue and self._clock() < until:
            await self._answer([self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch))])
        if self._queue:
            await asyncio.sleep(0)

    async def _answer(self, batch: Sequence[tuple[Search, asyncio.Future[Sequence[TaskRecord]]]]) -> None:
        searches = list(dict.fromkeys(search for search, _ in batch))
        found: Found | Exception
        try:
            found = await self._find(searches)
        except Exception as error:
            # One of the searches may be the cause. It must not fail the others.
            if len(searches) > 1:
                for request in batch:
                    await self._answer([request])
                return
            found = error
        for search, tasks in batch:
            if tasks.done():
                continue
            if isinstance(found, Exception):
                tasks.set_exception(found)
            else:
                tasks.set_result(found[search])
