"""One reader of the receiver's log for all waits of a client: thousands of tasks, one websocket.

It starts with the first task that waits and stops when none does. The websocket names exactly the tasks that are
waited for, and named tasks are told whenever they have ended, so that after a break nothing is missing once they are
named again. Where no websocket gets through, long polls of the whole log stand in; then the log's cursor is what
nothing is missed by, and after a gap each task that waits is looked at.
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
from client.receiver_api.long_polls import LongPolls, look_at
from client.receiver_api.named_tasks import Names
from client.receiver_api.transport import Roads

__all__ = ["Reader", "Subscriber"]

_log = Log()

_LOOKS_AT_ONCE = 32
# Names for which the receiver had no room are sent again after so long.
_FULL_SECONDS = 30.0
# What is told last of these is how things stand: it is told to those that come later as well.
_STATES = ("reader.connected", "reader.fell_back", "reader.broken", "receiver.lost")


class Subscriber(Protocol):
    """One that waits for one task. None of these calls waits or fails."""

    def offer(self, task: Task) -> None:
        """The task as the receiver knows it now, with or without an outcome; each outcome once."""

    def hint(self) -> None:
        """An answer may be there: poll once."""

    def forget(self) -> None:
        """The receiver has no such task any more: no callback can come."""

    def wake(self) -> None:
        """The receiver fell silent or is heard again."""

    def note(self, happened: str, **facts: Any) -> None:
        """What became of the road to the receiver, for the task's timeline."""


class Reader:
    """Reads the log while anyone waits, and gives each entry to those that wait for its task.

    `owner` runs the reading and is told of its bugs.
    """

    def __init__(self, connection: ReceiverConnection, owner: asyncio.TaskGroup, timing: Timing) -> None:
        self._connection = connection
        self._owner = owner
        self._timing = timing
        # With each subscriber, the cursor of the last outcome that it was told.
        self._subscribers: dict[str, dict[Subscriber, str]] = {}
        self._names = Names()
        self._roads = Roads(timing, self._tell)
        self._state: dict[str, Any] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._cursor: str | None = None
        # Whether none of the tasks can have ended at or before the cursor without being told; else, which may have.
        self._is_sure = True
        self._unsure: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def silent_since(self) -> float | None:
        """When the receiver began to fail; None while it answers."""
        return self._roads.silent_since

    def add(self, ref: str, cursor: str, subscriber: Subscriber) -> None:
        """From now on the subscriber is told of the task; `cursor` is from before it could have ended."""
        self._subscribers.setdefault(ref, {}).setdefault(subscriber, "")
        self._names.want(ref)
        if self._reading is None:
            self._roads, self._state = Roads(self._timing, self._tell), None
            self._cursor, self._is_sure, self._unsure = cursor, True, {}
            self._reading = self._owner.create_task(self._read(self._roads), name="reader")
        elif self._state is not None:
            subscriber.note(**self._state)

    def remove(self, ref: str, subscriber: Subscriber) -> None:
        """Tells the subscriber no more; the last one to go ends the reading, and its connection."""
        same = self._subscribers.get(ref, {})
        same.pop(subscriber, None)
        if not same:
            self._subscribers.pop(ref, None)
            self._names.drop(ref)
        if not self._subscribers and self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def _read(self, roads: Roads) -> None:
        while True:
            try:
                if roads.road == "websocket":
                    await self._follow(roads)
                else:
                    await self._poll(roads)
                    roads.turn_back()
            except (StreamBlockedError, ReceiverUnavailableError, ReceiverRefusedError) as error:
                if self._reading is not asyncio.current_task():
                    # A task group that ends with an error swallows a cancellation that comes meanwhile. Not asked of
                    # `cancelling()`: a group whose own task failed may leave that raised.
                    return
                await self._timing.sleep(roads.broke(error))

    # By websocket

    async def _follow(self, roads: Roads) -> None:
        """Read by a subscription until it breaks."""
        async with self._connection.subscription() as opened:
            await opened.send(Subscribe(id=0, cursor=self._cursor, tasks=self._names.begin(), hints=True))
            self._take(roads, await opened.receive())
            # Its cursor is one for what is named: what is named last may have ended before.
            self._is_sure = False
            await self._follow_opened(roads, opened)

    async def _follow_opened(self, roads: Roads, opened: OpenSubscription) -> None:
        broken: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_names(opened))
                while True:
                    self._take(roads, await opened.receive())
        except* (ReceiverUnavailableError, ReceiverRefusedError) as errors:
            broken.extend(errors.exceptions)
        raise broken[0]

    async def _keep_names(self, opened: OpenSubscription) -> None:
        """Names what is waited for from now on, and no more what is not; what gathers meanwhile goes in one frame."""
        while True:
            await self._when_names_change()
            for frame in self._names.changes():
                await opened.send(frame)
            if self._names.unnamed:
                _log.warning("reader.full", waiting=len(self), unnamed=self._names.unnamed)

    async def _when_names_change(self) -> None:
        try:
            async with asyncio.timeout(_FULL_SECONDS if self._names.is_refused else None):
                await self._names.changed.wait()
        except TimeoutError:
            self._names.try_again()

    # By long polls

    async def _poll(self, roads: Roads) -> None:
        """Read by long polls until a websocket may be tried again."""
        polls = LongPolls(self._connection, self._timing)
        await polls.send(Subscribe(id=0, cursor=self._cursor, hints=True))
        if self._cursor is None:
            self._take(roads, await polls.receive())
            self._is_sure = False
        while not roads.is_over:
            await self._look_at_unsure()
            self._take(roads, await polls.receive())

    async def _look_at_unsure(self) -> None:
        if not self._is_sure:
            self._is_sure, self._unsure = True, dict.fromkeys(self._subscribers)
        while self._unsure:
            refs = tuple(islice(self._unsure, _LOOKS_AT_ONCE))
            for ref, task in await look_at(self._connection, [ref for ref in refs if ref in self._subscribers]):
                if task is None:
                    self._forget(ref)
                else:
                    self._offer(task)
            for ref in refs:
                self._unsure.pop(ref, None)

    # What comes, whichever way

    def _take(self, roads: Roads, frame: StreamFrame) -> None:
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
                # What is named is told all the same; what a poll reads is looked at.
                self._cursor, self._is_sure = cursor, False
                self._tell("log.gap_found", reason=reason)
            case Goodbye():
                raise ReceiverUnavailableError("the receiver is shutting down")
            case ProblemFrame(id="add", slug=slug) if slug in NO_ROOM:
                # The others are told all the same; these are polled as if there were no receiver, until there is room.
                self._names.refused()
            case ProblemFrame(problem=problem):
                # Perhaps it was the cursor, and what is named needs none.
                self._cursor = None
                raise ReceiverUnavailableError(f"the receiver refused a frame: {problem.get('detail')}")
        roads.heard()

    def _offer(self, task: Task) -> None:
        same = self._subscribers.get(task.ref, {})
        outcome = (task.cursor or "?") if task.is_final else ""
        for subscriber, told in tuple(same.items()):
            if not outcome:
                subscriber.offer(task)
            elif told != outcome:
                same[subscriber] = outcome
                subscriber.offer(task)

    def _forget(self, ref: str) -> None:
        for subscriber in tuple(self._subscribers.get(ref, ())):
            subscriber.forget()

    def _tell(self, happened: str, **facts: Any) -> None:
        """A change of the road: one log line, a step of each timeline, and reason enough to think again."""
        is_good = happened in ("reader.connected", "receiver.found")
        (_log.info if is_good else _log.warning)(happened, waiting=len(self), **facts)
        if happened in _STATES:
            self._state = {"happened": happened, **facts}
        for same in tuple(self._subscribers.values()):
            for subscriber in tuple(same):
                subscriber.note(happened, **facts)
                subscriber.wake()
