"""The log of results for programs that only read it: each result once, over every break, and every gap reported."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any

from pydantic import ValidationError

from client.config.environment import read_receiver
from client.errors import BadArgumentError, ReceiverRefusedError, ReceiverUnavailableError, ResultsGapError
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
from client.receiver_api.long_polls import LongPolls
from client.receiver_api.transport import TransportChoice, log_change

__all__ = ["LogReader", "read_log", "read_results", "subscription_of"]

# The type of a problem that comes from another server than a receiver.
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

    Example::

        async for result in read_results(after="start", tags=["login"]):
            print(f"{result.task_id} is {result.status}; go on after {result.cursor}")

    `after` is the `cursor` of a result: reading goes on right behind it, even after a restart. None: from now on;
    "start": from the oldest result kept. A result is read if it has the `provider` and all `tags`, or is of one of
    the `tasks`. These are refs, or pairs of provider and taskId, at most 5,000. Without any of the three, all results
    are read. Named tasks that have ended come first, whatever the cursor. A task that got an answer after its deadline
    is two results.

    It reads over a websocket, or over long polls if no websocket gets through. While the receiver is down it waits. The
    log lines `receiver.lost` and `receiver.found` report that. If they are not given, the address and the key come from
    `CALLBACK_RECEIVER_URL` and `CALLBACK_RECEIVER_KEY`. After the loop is left, the connection is closed soon.
    Cancelling closes it at once, and so does `contextlib.aclosing`.

    Raises:
        BadArgumentError: an argument or a variable is wrong or missing; at once.
        ResultsGapError: the cursor is gone, so results may have been missed; the error names the next cursor.
        ReceiverRefusedError: the key is wrong or may not read, or `after` is no cursor.
    """
    url, key = read_receiver(receiver_url, receiver_key, os.environ)
    return _read_over_http(url, key, subscription_of(after, provider=provider, tags=tags, tasks=tasks))


def read_log(connection: ReceiverConnection, only: Subscribe, timing: Timing) -> AsyncGenerator[Task]:
    """Yield each result that matches `only`, as `read_results` does."""
    return LogReader(connection, only, timing).results()


def subscription_of(
    after: str | None,
    *,
    provider: str | None = None,
    tags: Iterable[str] = (),
    tasks: Iterable[str | tuple[str, TaskId]] | None = None,
) -> Subscribe:
    """Return the subscription for these arguments of `read_results`.

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
    """Reads the log over every break. `cursor` is the place to go on from, even if no result came for long."""

    def __init__(self, connection: ReceiverConnection, only: Subscribe, timing: Timing) -> None:
        self._connection = connection
        self._only = only
        self._timing = timing
        self._named = TaskSet(map(task_name, only.tasks or ()))
        # The cursor of the yielded outcome by ref, because the receiver sends named tasks again after each break.
        self._given: dict[str, str | None] = {}
        self.cursor = only.cursor

    async def results(self) -> AsyncGenerator[Task]:
        """Yield the results. After a `ResultsGapError` this may be called again, and goes on behind the gap."""
        choice = TransportChoice(self._timing, log_change)
        has_received = False
        while True:
            try:
                async with self._open(choice) as subscription:
                    await subscription.send(self._only.model_copy(update={"cursor": self.cursor}))
                    while not choice.is_websocket_due:
                        frame = await subscription.receive()
                        task = self._take(frame)
                        choice.received()
                        has_received = True
                        if task is not None:
                            yield task
                choice.retry_websocket()
            except (StreamBlockedError, ReceiverUnavailableError, ReceiverRefusedError) as error:
                if isinstance(error, ReceiverRefusedError) and (error.slug != _NOT_OURS or not has_received):
                    raise
                await self._timing.sleep(choice.failed(error))

    def _open(self, choice: TransportChoice) -> AbstractAsyncContextManager[OpenSubscription]:
        if choice.transport == "websocket":
            return self._connection.subscription()
        return nullcontext(LongPolls(self._connection, self._timing))

    def _take(self, frame: StreamFrame) -> Task | None:
        """Take the cursor of a frame, to go on from there. Return its result, if it has a new one."""
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


def _error_of(problem: dict[str, Any]) -> ReceiverRefusedError | ReceiverUnavailableError:
    try:
        parsed = Problem.model_validate(problem)
    except ValidationError:
        parsed = Problem()
    if parsed.slug == _NOT_OURS or parsed.status >= 500 or parsed.slug in NO_ROOM:
        return ReceiverUnavailableError(f"the receiver refused the subscription: {parsed.detail}")
    return ReceiverRefusedError(status=parsed.status, slug=parsed.slug, detail=parsed.detail)


def _name(task: str | tuple[str, TaskId]) -> str | NamedTask:
    if isinstance(task, str):
        return task
    provider, task_id = task
    return NamedTask(provider=provider, task_id=task_id)
