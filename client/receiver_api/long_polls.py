"""Long polls of the log, for as long as they have to stand in for a websocket."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
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

__all__ = ["LongPolls", "look_at", "open_long_polls"]

_WAIT_SECONDS = 20.0
_LOOK_SECONDS = 5.0
# A page that comes back empty much sooner than asked: the receiver is shutting down.
_EARLY_SECONDS = 1.0
_PAUSE_SECONDS = 0.25
# So many names, and so many characters of them, have room in the address of a request.
_NAMES = 150
_NAMES_CHARS = 4000


class LongPolls:
    """A `client.protocol.connection.OpenSubscription` by long polls.

    Tasks that are named are looked for in the log as it grows, and those that have ended come first, as over
    a websocket; but one that the receiver does not know is not told.
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
        """See `OpenSubscription`; nothing is sent before something is to be received."""
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
        """See `OpenSubscription`; a heartbeat ends each page, with the cursor up to which the log was read."""
        while not self._frames:
            await self._ask()
        return self._frames.popleft()

    def _name(self, tasks: Sequence[str | NamedTask]) -> None:
        names = tuple(map(task_name, tasks))
        self._named.update(names)
        self._unread.extend(names)

    async def _ask(self) -> None:
        if self._cursor is None:
            # "From now" is said once: what comes behind it is read by its cursor, however often that fails.
            await self._read(wait_seconds=0)
        elif self._unread:
            await self._ask_for_named(self._cursor)
        else:
            began_at = self._timing.clock()
            is_empty = await self._read(wait_seconds=_WAIT_SECONDS)
            if is_empty and self._timing.clock() - began_at < _EARLY_SECONDS:
                await self._timing.sleep(_PAUSE_SECONDS)

    async def _read(self, *, wait_seconds: float) -> bool:
        """Take the next page; whether there was nothing in it."""
        page = await self._connection.results(self._cursor, self._stream(), wait_seconds=wait_seconds)
        if isinstance(page, GapFrame):
            self._miss(page)
            return True
        self._take(page)
        return not page.results and not page.more

    async def _ask_for_named(self, cursor: str) -> None:
        """Those of the named tasks that have ended, a part at a time; the stream stays where it is."""
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
        """Where tasks are named, the log is read whole: they may be too many for an address."""
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


@asynccontextmanager
async def open_long_polls(connection: ReceiverConnection, timing: Timing) -> AsyncIterator[LongPolls]:
    """Long polls, as `ReceiverConnection.subscription` gives a websocket; there is nothing to be opened."""
    yield LongPolls(connection, timing)


async def look_at(connection: ReceiverConnection, refs: Sequence[str]) -> Sequence[tuple[str, Task | None]]:
    """Return each task as it is now, all asked for at once; None: the receiver does not know it (any more).

    Raises:
        ReceiverUnavailableError, ReceiverRefusedError: one could not be looked at.
    """
    found: list[tuple[str, Task | None]] = []
    failed: list[BaseException] = []

    async def look(ref: str) -> None:
        try:
            found.append((ref, await connection.task(ref)))
        except ReceiverRefusedError as error:
            if error.slug != "unknown-task":
                raise
            found.append((ref, None))

    try:
        async with asyncio.timeout(_LOOK_SECONDS), asyncio.TaskGroup() as looks:
            for ref in refs:
                looks.create_task(look(ref))
    except* TimeoutError:
        failed.append(ReceiverUnavailableError(f"the receiver did not answer within {_LOOK_SECONDS:g} s"))
    except* (ReceiverUnavailableError, ReceiverRefusedError) as errors:
        failed.extend(errors.exceptions)
    if failed:
        raise failed[0]
    return found


def _part(names: deque[TaskName]) -> Iterator[TaskName]:
    """As many of the first names as have room in an address, but one at least."""
    room = _NAMES_CHARS
    for number, name in enumerate(islice(names, _NAMES)):
        room -= 1 + len(name_text(name))
        if room < 0 and number:
            return
        yield name
