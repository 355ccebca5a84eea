"""Long polls of the log, in place of a websocket."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.protocol.connection import ReceiverConnection
from client.protocol.filters import ResultFilter, TaskName, TaskSet, name_text, task_name
from client.protocol.frames import (
    Add,
    GapFrame,
    Heartbeat,
    NamedTask,
    Remove,
    Request,
    ResultFrame,
    StreamFrame,
    Subscribe,
    frame_of,
)
from client.protocol.models import ResultsPage, Task
from client.provider_api.timing import Timing

__all__ = ["LongPolls", "fetch_tasks"]

_WAIT_SECONDS = 20.0
_FETCH_SECONDS = 5.0
# If an empty page comes sooner than this, the receiver is shutting down.
_EARLY_SECONDS = 1.0
_PAUSE_SECONDS = 0.25
# The bounds of the names in the address of one request: their number, and their characters.
_NAMES = 150
_NAMES_CHARS = 4000


class LongPolls:
    """A `client.protocol.connection.OpenSubscription` by long polls.

    As over a websocket, named tasks that have ended come first, and the others are found in the log as it grows. Unlike
    a websocket, it does not report a named task that the receiver does not know.
    """

    def __init__(self, connection: ReceiverConnection, timing: Timing) -> None:
        self._connection = connection
        self._timing = timing
        self._cursor: str | None = None
        self._named = TaskSet()
        self._only = ResultFilter()
        self._unread: deque[TaskName] = deque()
        self._frames: deque[StreamFrame] = deque()

    async def send(self, frame: Request) -> None:
        """Change the subscription; see `OpenSubscription`. Nothing is sent before the next `receive`."""
        match frame:
            case Subscribe(tasks=tasks):
                self._cursor = frame.cursor
                self._only = ResultFilter.of(frame).or_tasks(self._named)
                self._name(tasks or ())
            case Add(tasks=tasks):
                self._name(tasks)
            case Remove(tasks=tasks):
                for name in map(task_name, tasks):
                    self._named.discard(name)

    async def receive(self) -> StreamFrame:
        """Return the next frame; see `OpenSubscription`. A heartbeat with the cursor read so far ends each page."""
        while not self._frames:
            await self._ask()
        return self._frames.popleft()

    def _name(self, tasks: Sequence[str | NamedTask]) -> None:
        names = tuple(map(task_name, tasks))
        self._named.update(names)
        self._unread.extend(names)

    async def _ask(self) -> None:
        if self._cursor is None:
            # "From now" is requested once. After that the cursor is used, even if requests fail.
            await self._read(wait_seconds=0)
        elif self._unread:
            await self._ask_for_named(self._cursor)
        else:
            began_at = self._timing.clock()
            is_empty = await self._read(wait_seconds=_WAIT_SECONDS)
            if is_empty and self._timing.clock() - began_at < _EARLY_SECONDS:
                await self._timing.sleep(_PAUSE_SECONDS)

    async def _read(self, *, wait_seconds: float) -> bool:
        """Take the next page. Return True if there was nothing in it."""
        page = await self._connection.results(self._cursor, self._stream(), wait_seconds=wait_seconds)
        if isinstance(page, GapFrame):
            self._miss(page)
            return True
        self._take(page)
        return not page.results and not page.more

    async def _ask_for_named(self, cursor: str) -> None:
        """Ask for the named tasks that have ended, a part at a time. The cursor of the stream does not move."""
        names = tuple(_part(self._unread))
        page = await self._connection.results(cursor, ResultFilter(tasks=TaskSet(names)), wait_seconds=0)
        if isinstance(page, GapFrame):
            self._miss(page)
            return
        for _ in names:
            self._unread.popleft()
        tasks = (entry.task for entry in page.results if entry.task is not None)
        self._frames.extend(ResultFrame(cursor=cursor, task=task) for task in tasks if self._named.holds(task))

    def _stream(self) -> ResultFilter:
        """Return the filter of the stream. With named tasks the whole log is read: they may be too many for a URL."""
        if self._only.is_stream and not self._only.tasks:
            return self._only
        return ResultFilter(hints=self._only.hints)

    def _take(self, page: ResultsPage) -> None:
        # What is read whole is filtered here, as the receiver would.
        passed = [entry for entry in page.results if entry.task is None or self._only.matches(entry.task)]
        self._frames.extend(map(frame_of, passed))
        self._frames.append(Heartbeat(cursor=page.cursor))
        self._cursor = page.cursor

    def _miss(self, gap: GapFrame) -> None:
        self._frames.append(gap)
        self._cursor = gap.cursor


async def fetch_tasks(connection: ReceiverConnection, refs: Sequence[str]) -> Sequence[tuple[str, Task | None]]:
    """Return each task as it is now, all requested at once; None: the receiver does not know it (any more).

    Raises:
        ReceiverUnavailableError, ReceiverRefusedError: one could not be fetched.
    """
    found: list[tuple[str, Task | None]] = []
    failed: list[BaseException] = []

    async def fetch(ref: str) -> None:
        try:
            found.append((ref, await connection.task(ref)))
        except ReceiverRefusedError as error:
            if error.slug != "unknown-task":
                raise
            found.append((ref, None))

    try:
        async with asyncio.timeout(_FETCH_SECONDS), asyncio.TaskGroup() as fetches:
            for ref in refs:
                fetches.create_task(fetch(ref))
    except* TimeoutError:
        failed.append(ReceiverUnavailableError(f"the receiver did not answer within {_FETCH_SECONDS:g} s"))
    except* (ReceiverUnavailableError, ReceiverRefusedError) as errors:
        failed.extend(errors.exceptions)
    if failed:
        raise failed[0]
    return found


def _part(names: deque[TaskName]) -> Iterator[TaskName]:
    """Yield the first names, as many as have room in a URL, but one at least."""
    room = _NAMES_CHARS
    for number, name in enumerate(islice(names, _NAMES)):
        room -= 1 + len(name_text(name))
        if room < 0 and number:
            return
        yield name
