"""The log of results for programs that only read it: each result once, over every break, and no gap untold."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

from pydantic import ValidationError

from client.config.arguments import read_receiver
from client.errors import BadArgumentError, ReceiverRefusedError, ReceiverUnavailableError, ResultsGapError
from client.logs import Log
from client.protocol.connection import OpenSubscription, ReceiverConnection, StreamBlockedError
from client.protocol.filters import TaskSet, task_name
from client.protocol.frames import (
    NO_ROOM,
    GapFrame,
    Goodbye,
    NamedTask,
    ProblemFrame,
    ResultFrame,
    StreamFrame,
    Subscribe,
)
from client.protocol.models import Problem, Task
from client.provider_api.timing import Timing
from client.providers.readings import TaskId
from client.receiver_api.http import ReceiverApi, open_receiver_session
from client.receiver_api.long_polls import open_long_polls
from client.receiver_api.transport import Roads

__all__ = ["LogReader", "read_log", "read_results", "subscription_of"]

_log = Log()

# What an answer counts as that is no problem of a receiver's: something else answered.
_NOT_OURS = "about:blank"
_GIVEN_AS = {"cursor": "after"}


def read_results(
    *,
    receiver_url: str | None = None,
    receiver_key: str | None = None,
    after: str | None = None,
    provider: str | None = None,
    tags: Iterable[str] = (),
    tasks: Iterable[str | tuple[str, TaskId]] | None = None,
) -> AsyncGenerator[Task]:
    """Yield each result of the receiver's log once, as it comes; for programs that submit nothing. It does not end.

    `after` is the `cursor` of a result: it goes on right behind it, whatever happened meanwhile. None: from now on;
    "start": from the oldest result kept. What is read is of the `provider` and has all `tags`, or is one of the `tasks`
    (refs, or pairs of provider and taskId, at most 5,000); nothing given: all. Tasks that are named and have ended come
    first, whatever the cursor. A task whose time had run out and that got an answer after all is two results.

    It reads over a websocket, and over long polls where no websocket gets through. While the receiver is down it waits,
    which the log lines `receiver.lost` and `receiver.found` tell. The address and the key come from
    `CALLBACK_RECEIVER_URL` and `CALLBACK_RECEIVER_KEY` where they are not given. Leaving the loop closes the connection
    soon after; `contextlib.aclosing` does so at once, and cancelling it as well.

    Raises:
        BadArgumentError: an argument or a variable is wrong or missing; at once.
        ResultsGapError: the cursor is gone, so results may have been missed; the error says where to go on.
        ReceiverRefusedError: the key is wrong or may not read, or `after` is no cursor.
    """
    url, key = read_receiver(receiver_url, receiver_key, os.environ)
    return _read_over_http(url, key, subscription_of(after, provider=provider, tags=tags, tasks=tasks))


def read_log(connection: ReceiverConnection, only: Subscribe, timing: Timing) -> AsyncGenerator[Task]:
    """Yield each result that `only` lets through, as `read_results` gives them."""
    return LogReader(connection, only, timing).results()


def subscription_of(
    after: str | None,
    *,
    provider: str | None = None,
    tags: Iterable[str] = (),
    tasks: Iterable[str | tuple[str, TaskId]] | None = None,
) -> Subscribe:
    """Return the subscription of what `read_results` would read.

    Raises:
        BadArgumentError: an argument is wrong; the text names it.
    """
    if isinstance(tags, str) or isinstance(tasks, str):
        raise BadArgumentError("tags, tasks: expected several texts, got one")
    try:
        names = None if tasks is None else tuple(map(_name, tasks))
    except (ValidationError, TypeError, ValueError):
        raise BadArgumentError("tasks: expected refs, or pairs of a provider and its taskId") from None
    try:
        return Subscribe(id=0, cursor=after, provider=provider, tags=tuple(tags), tasks=names)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        name = str(detail["loc"][0])
        raise BadArgumentError(f"{_GIVEN_AS.get(name, name)}: {detail['msg']}") from None


class LogReader:
    """Reads the log over every break. `cursor` is where to go on, also where nothing came for long."""

    def __init__(self, connection: ReceiverConnection, only: Subscribe, timing: Timing) -> None:
        self._connection = connection
        self._only = only
        self._timing = timing
        self._named = TaskSet(map(task_name, only.tasks or ()))
        # Named tasks are told anew after each break: the cursor of the outcome that was given out, by ref.
        self._given: dict[str, str | None] = {}
        self.cursor = only.cursor

    async def results(self) -> AsyncGenerator[Task]:
        """What `read_results` gives. After a `ResultsGapError` it may be called again, and goes on behind the gap."""
        roads = Roads(self._timing, _tell)
        was_heard = False
        while True:
            try:
                async with self._open(roads) as opened:
                    await opened.send(self._only.model_copy(update={"cursor": self.cursor}))
                    while not roads.is_over:
                        frame = await opened.receive()
                        task = self._take(frame)
                        roads.heard()
                        was_heard = True
                        if task is not None:
                            yield task
                roads.turn_back()
            except (StreamBlockedError, ReceiverUnavailableError, ReceiverRefusedError) as error:
                if isinstance(error, ReceiverRefusedError) and (error.slug != _NOT_OURS or not was_heard):
                    raise
                await self._timing.sleep(roads.broke(error))

    def _open(self, roads: Roads) -> AbstractAsyncContextManager[OpenSubscription]:
        if roads.road == "websocket":
            return self._connection.subscription()
        return open_long_polls(self._connection, self._timing)

    def _take(self, frame: StreamFrame) -> Task | None:
        """Return the result in the frame, if there is one that was not given out; its cursor is where to go on."""
        match frame:
            case ResultFrame(cursor=cursor, task=task):
                self.cursor = cursor
                return task.model_copy(update={"cursor": cursor}) if self._is_new(task) else None
            case GapFrame(reason=reason, resumes_at=cursor):
                self.cursor = cursor
                raise ResultsGapError(reason, cursor)
            case Goodbye(cursor=cursor):
                self.cursor = cursor
                raise ReceiverUnavailableError("the receiver is shutting down")
            case ProblemFrame(problem=problem):
                raise _error_of(problem)
            case _:
                self.cursor = frame.cursor
                return None

    def _is_new(self, task: Task) -> bool:
        if not self._named.holds(task):
            return True
        if self._given.get(task.ref, "") == task.cursor:
            return False
        self._given[task.ref] = task.cursor
        return True


async def _read_over_http(url: str, key: str | None, only: Subscribe) -> AsyncGenerator[Task]:
    async with (
        open_receiver_session() as session,
        aclosing(read_log(ReceiverApi(session, url, key), only, Timing())) as results,
    ):
        async for result in results:
            yield result


def _tell(happened: str, **facts: Any) -> None:
    is_good = happened in ("reader.connected", "receiver.found")
    (_log.info if is_good else _log.warning)(happened, **facts)


def _error_of(problem: dict[str, Any]) -> ReceiverRefusedError | ReceiverUnavailableError:
    try:
        told = Problem.model_validate(problem)
    except ValidationError:
        told = Problem()
    if told.slug == _NOT_OURS or told.status >= 500 or told.slug in NO_ROOM:
        return ReceiverUnavailableError(f"the receiver refused the subscription: {told.detail}")
    return ReceiverRefusedError(status=told.status, slug=told.slug, detail=told.detail)


def _name(task: str | tuple[str, TaskId]) -> str | NamedTask:
    if isinstance(task, str):
        return task
    provider, task_id = task
    return NamedTask(provider=provider, task_id=task_id)
