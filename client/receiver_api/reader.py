"""One reader of the receiver's log for all tasks of a client: thousands of tasks, one websocket.

It starts with the first task that waits and stops with the last one. The websocket names exactly these tasks. The
receiver sends a named task even if it ended before, so nothing is missing once the tasks are named again after a
break. If no websocket gets through, long polls read the whole log instead. Then the cursor makes sure that nothing is
missed, and after a gap each waiting task is fetched.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any, Protocol

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.logs import Log
from client.protocol.connection import OpenSubscription, ReceiverConnection, StreamBlockedError
from client.protocol.frames import (
    NO_ROOM,
    Added,
    Deleted,
    GapFrame,
    Goodbye,
    Heartbeat,
    Hint,
    ProblemFrame,
    Removed,
    ResultFrame,
    StreamFrame,
    Subscribe,
    Subscribed,
)
from client.protocol.models import Task
from client.provider_api.timing import Timing
from client.receiver_api.long_polls import LongPolls, fetch_tasks
from client.receiver_api.named_tasks import NamedTasks
from client.receiver_api.transport import TransportChoice, log_change

__all__ = ["Subscriber", "TaskReader"]

_log = Log()

_FETCHES_AT_ONCE = 32
# The pause before refused names are sent again, if the receiver had no room for them.
_FULL_SECONDS = 30.0
# The latest of these is the current state, so later subscribers get it as well.
_STATES = ("reader.connected", "reader.fell_back", "reader.broken", "receiver.lost")


class Subscriber(Protocol):
    """A subscriber for one task. None of these calls waits or fails."""

    def offer(self, task: Task) -> None:
        """Take the task as the receiver knows it now, with or without an outcome. Each outcome comes once."""

    def hint(self) -> None:
        """Poll once, because an answer may be there."""

    def forget(self) -> None:
        """Expect no callback, because the receiver has no such task any more."""

    def wake(self) -> None:
        """Decide again, because the receiver fell silent or answers again."""

    def note(self, happened: str, **facts: Any) -> None:
        """Add a change of the transport to the task's timeline."""


class TaskReader:
    """Reads the log while any task waits, and passes each entry to the subscribers of its task.

    `owner` runs the reading, and gets the exceptions that are bugs.
    """

    def __init__(self, connection: ReceiverConnection, owner: asyncio.TaskGroup, timing: Timing) -> None:
        self._connection = connection
        self._owner = owner
        self._timing = timing
        # With each subscriber, the cursor of the last outcome that was offered to it.
        self._subscribers: dict[str, dict[Subscriber, str]] = {}
        self._names = NamedTasks()
        self._choice = TransportChoice(timing, self._tell)
        self._state: dict[str, Any] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._cursor: str | None = None
        # True if no task can have ended unnoticed at or before the cursor. Else `_unsure` holds those that may have.
        self._is_sure = True
        self._unsure: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def silent_since(self) -> float | None:
        """The time at which the receiver began to fail; None while it answers."""
        return self._choice.silent_since

    def add(self, ref: str, cursor: str, subscriber: Subscriber) -> None:
        """Tell the subscriber of the task from now on. `cursor` is from before the task could have ended."""
        self._subscribers.setdefault(ref, {}).setdefault(subscriber, "")
        self._names.want(ref)
        if self._reading is None:
            self._choice, self._state = TransportChoice(self._timing, self._tell), None
            self._cursor, self._is_sure, self._unsure = cursor, True, {}
            self._reading = self._owner.create_task(self._read(self._choice), name="reader")
        elif self._state is not None:
            subscriber.note(**self._state)

    def remove(self, ref: str, subscriber: Subscriber) -> None:
        """Tell the subscriber no more. The last one to go ends the reading and closes its connection."""
        subscribers = self._subscribers.get(ref, {})
        subscribers.pop(subscriber, None)
        if not subscribers:
            self._subscribers.pop(ref, None)
            self._names.drop(ref)
        if not self._subscribers and self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def _read(self, choice: TransportChoice) -> None:
        while True:
            try:
                if choice.transport == "websocket":
                    await self._read_websocket(choice)
                else:
                    await self._read_long_polls(choice)
                    choice.retry_websocket()
            except (StreamBlockedError, ReceiverUnavailableError, ReceiverRefusedError) as error:
                if self._reading is not asyncio.current_task():
                    # The reading was cancelled. A task group with an error swallows a cancellation at the same time.
                    # `cancelling()` cannot tell, because a group may leave it raised after an error of its own.
                    return
                await self._timing.sleep(choice.failed(error))

    # By websocket

    async def _read_websocket(self, choice: TransportChoice) -> None:
        """Read by a websocket until it breaks."""
        async with self._connection.subscription() as opened:
            await opened.send(Subscribe(id=0, cursor=self._cursor, tasks=self._names.begin(), hints=True))
            self._take(choice, await opened.receive())
            # This cursor covers the named tasks alone: a task that is named later may have ended before.
            self._is_sure = False
            await self._read_opened(choice, opened)

    async def _read_opened(self, choice: TransportChoice, opened: OpenSubscription) -> None:
        broken: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_names(opened))
                while True:
                    self._take(choice, await opened.receive())
        except* (ReceiverUnavailableError, ReceiverRefusedError) as errors:
            broken.extend(errors.exceptions)
        raise broken[0]

    async def _keep_names(self, opened: OpenSubscription) -> None:
        """Keep the named tasks the same as the waiting ones. Changes that gather meanwhile go in one frame."""
        while True:
            await self._names_changed()
            for frame in self._names.changes():
                await opened.send(frame)
            if self._names.unnamed:
                _log.warning("reader.full", waiting=len(self), unnamed=self._names.unnamed)

    async def _names_changed(self) -> None:
        try:
            async with asyncio.timeout(_FULL_SECONDS if self._names.is_refused else None):
                await self._names.changed.wait()
        except TimeoutError:
            self._names.try_again()

    # By long polls

    async def _read_long_polls(self, choice: TransportChoice) -> None:
        """Read by long polls until a websocket may be tried again."""
        polls = LongPolls(self._connection, self._timing)
        await polls.send(Subscribe(id=0, cursor=self._cursor, hints=True))
        if self._cursor is None:
            self._take(choice, await polls.receive())
            self._is_sure = False
        while not choice.is_websocket_due:
            await self._fetch_unsure()
            self._take(choice, await polls.receive())

    async def _fetch_unsure(self) -> None:
        if not self._is_sure:
            self._is_sure, self._unsure = True, dict.fromkeys(self._subscribers)
        while self._unsure:
            refs = tuple(islice(self._unsure, _FETCHES_AT_ONCE))
            for ref, task in await fetch_tasks(self._connection, [ref for ref in refs if ref in self._subscribers]):
                if task is None:
                    self._forget(ref)
                else:
                    self._offer(task)
            for ref in refs:
                self._unsure.pop(ref, None)

    # Frames of either transport

    def _take(self, choice: TransportChoice, frame: StreamFrame) -> None:
        match frame:
            case ResultFrame(cursor=cursor, task=task):
                self._cursor = cursor
                self._offer(task)
            case Hint(cursor=cursor, ref=ref):
                self._cursor = cursor
                for subscriber in tuple(self._subscribers.get(ref, ())):
                    subscriber.hint()
            case Deleted(cursor=cursor, ref=ref):
                self._cursor = cursor
                self._forget(ref)
            case Added(cursor=cursor):
                self._cursor = cursor
                self._names.added()
            case Heartbeat(cursor=cursor) | Subscribed(cursor=cursor) | Removed(cursor=cursor):
                self._cursor = cursor
            case GapFrame(reason=reason, resumes_at=cursor):
                # Named tasks are sent all the same; for long polls the waiting tasks are fetched.
                self._cursor, self._is_sure = cursor, False
                self._tell("log.gap_found", reason=reason)
            case Goodbye():
                raise ReceiverUnavailableError("the receiver is shutting down")
            case ProblemFrame(id="add", slug=slug) if slug in NO_ROOM:
                # The other tasks are sent all the same. These are polled as without a receiver, until there is room.
                self._names.refused()
            case ProblemFrame(problem=problem):
                # The cursor may be the reason, and named tasks need none.
                self._cursor = None
                raise ReceiverUnavailableError(f"the receiver refused a frame: {problem.get('detail')}")
        choice.received()

    def _offer(self, task: Task) -> None:
        subscribers = self._subscribers.get(task.ref, {})
        outcome = (task.cursor or "?") if task.is_final else ""
        for subscriber, offered in tuple(subscribers.items()):
            if not outcome:
                subscriber.offer(task)
            elif offered != outcome:
                subscribers[subscriber] = outcome
                subscriber.offer(task)

    def _forget(self, ref: str) -> None:
        for subscriber in tuple(self._subscribers.get(ref, ())):
            subscriber.forget()

    def _tell(self, happened: str, **facts: Any) -> None:
        """Log a change of the transport, add it to each timeline, and wake each task."""
        log_change(happened, waiting=len(self), **facts)
        if happened in _STATES:
            self._state = {"happened": happened, **facts}
        for subscribers in tuple(self._subscribers.values()):
            for subscriber in tuple(subscribers):
                subscriber.note(happened, **facts)
                subscriber.wake()
