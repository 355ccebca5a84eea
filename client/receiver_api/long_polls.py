"""Long polls of the log, in place of a websocket."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.protocol.connection import Gap, ReceiverConnection
from client.protocol.frames import (
    Add,
    Deleted,
    GapFrame,
    Heartbeat,
    Hint,
    NamedTask,
    Remove,
    ResultFrame,
    StreamFrame,
    Subscribe,
    TaskName,
)
from client.protocol.models import LogEntry, ResultsPage, Task
from client.provider_api.timing import Timing
from client.providers.values import task_id_text

__all__ = ["LongPolls", "Named", "fetch_tasks"]

_WAIT_SECONDS = 20.0
_FETCH_SECONDS = 5.0
# A page that comes back empty much sooner than asked: the receiver is shutting down.
_EARLY_SECONDS = 1.0
_PAUSE_SECONDS = 0.25
# So many names, and so many characters of them, have room in the address of a request.
_NAMES = 150
_NAMES_CHARS = 4000


class Named:
    """The tasks that a subscription names, by ref or by the provider's id."""

    def __init__(self) -> None:
        self._names: set[str | tuple[str, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._names)

    def __contains__(self, task: Task) -> bool:
        if task.ref in self._names:
            return True
        return task.task_id is not None and (task.provider, task_id_text(task.task_id)) in self._names

    def add(self, names: Sequence[TaskName]) -> None:
        """Names further tasks."""
        self._names.update(map(_key, names))

    def remove(self, names: Sequence[TaskName]) -> None:
        """Names tasks no more."""
        self._names.difference_update(map(_key, names))


class LongPolls:
    """A `client.protocol.connection.OpenSubscription` by long polls.

    As over a websocket, named tasks that have ended come first, and the others are found in the log as it grows. Unlike
    a websocket, it does not report a named task that the receiver does not know.
    """

    def __init__(self, connection: ReceiverConnection, timing: Timing) -> None:
        self._connection = connection
        self._timing = timing
        self._only = Subscribe(id=0)
        self._named = Named()
        self._unread: deque[TaskName] = deque()
        self._frames: deque[StreamFrame] = deque()

    async def send(self, frame: Subscribe | Add | Remove) -> None:
        """Change the subscription; see `OpenSubscription`. Nothing is sent before the next `receive`."""
        match frame:
            case Subscribe(tasks=tasks):
                self._only = frame
                self._name(tasks or ())
            case Add(tasks=tasks):
                self._name(tasks)
            case Remove(tasks=tasks):
                self._named.remove(tasks)

    async def receive(self) -> StreamFrame:
        """Return the next frame; see `OpenSubscription`. A heartbeat with the cursor read so far ends each page."""
        while not self._frames:
            await self._ask()
        return self._frames.popleft()

    def _name(self, tasks: Sequence[TaskName]) -> None:
        self._named.add(tasks)
        self._unread.extend(tasks)

    async def _ask(self) -> None:
        if self._only.cursor is None:
            # "From now" is said once: what comes behind it is read by its cursor, however often that fails.
            await self._read(self._only.model_copy(update={"tasks": None}), wait_seconds=0)
        elif self._unread:
            await self._ask_for_named(self._only.cursor)
        else:
            began_at = self._timing.clock()
            is_empty = await self._read(self._stream(), wait_seconds=_WAIT_SECONDS)
            if is_empty and self._timing.clock() - began_at < _EARLY_SECONDS:
                await self._timing.sleep(_PAUSE_SECONDS)

    async def _read(self, only: Subscribe, *, wait_seconds: float) -> bool:
        """Take the next page; whether there was nothing in it."""
        page = await self._connection.results(only, wait_seconds=wait_seconds)
        if isinstance(page, Gap):
            self._miss(page)
            return True
        self._take(page)
        return not page.results and not page.more

    async def _ask_for_named(self, cursor: str) -> None:
        """Ask for the named tasks that have ended, a part at a time. The cursor of the stream does not move."""
        names = tuple(_part(self._unread))
        page = await self._connection.results(Subscribe(id=0, cursor=cursor, tasks=names), wait_seconds=0)
        if isinstance(page, Gap):
            self._miss(page)
            return
        for _ in names:
            self._unread.popleft()
        tasks = (entry.task for entry in page.results if entry.task is not None)
        self._frames.extend(ResultFrame(cursor=cursor, task=task) for task in tasks if task in self._named)

    def _stream(self) -> Subscribe:
        """Return the filter of the stream. With named tasks the whole log is read: they may be too many for a URL."""
        if self._only.tasks is None and not self._named:
            return self._only
        return Subscribe(id=0, cursor=self._only.cursor, hints=self._only.hints)

    def _take(self, page: ResultsPage) -> None:
        frames = (_frame_of(entry) for entry in page.results if self._lets_through(entry))
        self._frames.extend(frame for frame in frames if frame is not None)
        self._frames.append(Heartbeat(cursor=page.cursor))
        self._go_on_from(page.cursor)

    def _lets_through(self, entry: LogEntry) -> bool:
        """What is read whole is filtered here, as the receiver would."""
        only, task = self._only, entry.task
        if task is None or (only.tasks is None and not self._named):
            return True
        if task in self._named:
            return True
        is_stream = only.provider is not None or bool(only.tags)
        return is_stream and only.provider in (None, task.provider) and set(only.tags).issubset(task.tags)

    def _miss(self, gap: Gap) -> None:
        self._frames.append(GapFrame(reason=gap.reason, resumes_at=gap.resumes_at))
        self._go_on_from(gap.resumes_at)

    def _go_on_from(self, cursor: str) -> None:
        self._only = self._only.model_copy(update={"cursor": cursor})


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


def _frame_of(entry: LogEntry) -> StreamFrame | None:
    if entry.task is not None:
        return ResultFrame(cursor=entry.cursor, task=entry.task)
    if entry.ref is None or not (entry.hint or entry.deleted):
        return None
    return (Hint if entry.hint else Deleted)(cursor=entry.cursor, ref=entry.ref)


def _part(names: deque[TaskName]) -> Iterator[TaskName]:
    """Yield the first names, as many as have room in a URL, but one at least."""
    room = _NAMES_CHARS
    for number, name in enumerate(islice(names, _NAMES)):
        room -= 1 + len(name if isinstance(name, str) else f"{name.provider}:{name.task_id}")
        if room < 0 and number:
            return
        yield name


def _key(name: TaskName) -> str | tuple[str, str]:
    return (name.provider, task_id_text(name.task_id)) if isinstance(name, NamedTask) else name
