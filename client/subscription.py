"""One reader of the receiver's log for all waits of a client: thousands of tasks, one connection.

It starts with the first task that waits and stops when none does. Whatever it is told twice changes nothing, so it may
read a page again. After a gap in the log it looks at every waiting task: what the log no longer tells, the task does.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.logs import Log
from client.protocol import LogEntry, ResultsPage, Task
from client.receiver_api import Gap, ReceiverApi
from client.timing import Timing, backoff_seconds

__all__ = ["Reader", "Subscriber"]

_log = Log()

_WAIT_SECONDS = 20.0
_LOOK_SECONDS = 5.0
_MOST_SECONDS = 5.0
# A page that comes back empty much sooner than asked: the receiver is shutting down.
_EARLY_SECONDS = 1.0


class Subscriber(Protocol):
    """One that waits for one task. None of these calls waits or fails."""

    def offer(self, task: Task) -> None:
        """The task as the receiver knows it now, with or without an outcome."""

    def hint(self) -> None:
        """An answer may be there: poll once."""

    def forget(self) -> None:
        """The receiver has no such task any more: no callback can come."""

    def wake(self) -> None:
        """The receiver fell silent or is heard again."""


class Reader:
    """Reads the log while anyone waits, and gives each entry to those that wait for its task.

    `silent_since` is when the receiver began to fail, None while it answers; `owner` runs the reading and is told of
    its bugs.
    """

    def __init__(self, api: ReceiverApi, owner: asyncio.TaskGroup, timing: Timing) -> None:
        self._api = api
        self._owner = owner
        self._timing = timing
        self._subscribers: dict[str, set[Subscriber]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._unsure: set[str] = set()
        self.silent_since: float | None = None

    def __len__(self) -> int:
        return len(self._subscribers)

    def add(self, ref: str, cursor: str, subscriber: Subscriber) -> None:
        """From now on the subscriber is told of the task, if its result is behind `cursor`.

        A reader that runs already has not read beyond what happens from now on; so only the first cursor matters.
        """
        self._subscribers.setdefault(ref, set()).add(subscriber)
        if self._reading is None:
            self.silent_since = None
            self._reading = self._owner.create_task(self._read(cursor), name="reader")

    def remove(self, ref: str, subscriber: Subscriber) -> None:
        """Tells the subscriber no more; the last one to go ends the reading, and its request."""
        same = self._subscribers.get(ref, set())
        same.discard(subscriber)
        if not same:
            self._subscribers.pop(ref, None)
            self._unsure.discard(ref)
        if not self._subscribers and self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def _read(self, cursor: str) -> None:
        failures = 0
        while True:
            started = self._timing.clock()
            try:
                await self._look_at_unsure()
                page = await self._api.results(cursor, wait_seconds=_WAIT_SECONDS)
            except (ReceiverUnavailableError, ReceiverRefusedError) as error:
                self._fell_silent(error)
                failures = await self._back_off(failures)
                continue
            self._is_heard()
            if isinstance(page, Gap):
                _log.warning("log.gap_found", reason=page.reason, waiting=len(self))
                cursor = page.resumes_at
                self._unsure = set(self._subscribers)
                failures = await self._back_off(failures)
                continue
            failures = 0
            cursor = page.cursor
            self._tell(page)
            is_early = self._timing.clock() - started < _EARLY_SECONDS
            if is_early and not page.results and not page.more:
                await self._back_off(0)

    def _tell(self, page: ResultsPage) -> None:
        for entry in page.results:
            for subscriber in tuple(self._subscribers.get(_ref_of(entry), ())):
                if entry.task is not None:
                    subscriber.offer(entry.task)
                elif entry.hint:
                    subscriber.hint()
                elif entry.deleted:
                    subscriber.forget()

    async def _look_at_unsure(self) -> None:
        while self._unsure:
            ref = next(iter(self._unsure))
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    task = await self._api.task(ref)
            except TimeoutError:
                raise ReceiverUnavailableError(f"the receiver did not answer within {_LOOK_SECONDS:g} s") from None
            except ReceiverRefusedError as error:
                if error.slug != "unknown-task":
                    raise
                self._unsure.discard(ref)
                for subscriber in tuple(self._subscribers.get(ref, ())):
                    subscriber.forget()
            else:
                self._unsure.discard(ref)
                for subscriber in tuple(self._subscribers.get(ref, ())):
                    subscriber.offer(task)

    async def _back_off(self, failures: int) -> int:
        await self._timing.sleep(backoff_seconds(failures, self._timing.random, first=0.25, most=_MOST_SECONDS))
        return failures + 1

    def _fell_silent(self, error: Exception) -> None:
        if self.silent_since is not None:
            return
        self.silent_since = self._timing.clock()
        _log.warning("receiver.lost", reason=str(error), waiting=len(self))
        self._wake()

    def _is_heard(self) -> None:
        if self.silent_since is None:
            return
        self.silent_since = None
        _log.info("receiver.found", waiting=len(self))
        self._wake()

    def _wake(self) -> None:
        for same in tuple(self._subscribers.values()):
            for subscriber in tuple(same):
                subscriber.wake()


def _ref_of(entry: LogEntry) -> str:
    return entry.task.ref if entry.task is not None else entry.ref or ""
