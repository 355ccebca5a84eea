"""`TaskClient`: submit tasks to a provider and await each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

from client.config.arguments import GivenArguments, read_arguments
from client.errors import BadArgumentError, ClientClosedError, StaleAnswerError
from client.following.follower import Follower
from client.following.freshness import FreshnessRule, name_of
from client.following.handle import Task
from client.following.resources import ClientResources, open_resources
from client.images import with_encoded_body
from client.protocol import models as protocol
from client.protocol.connection import ReceiverConnection
from client.provider_api.account import ask_balance, check_task_id, send_report
from client.provider_api.timing import Timing
from client.providers import Dialect
from client.providers.readings import TaskId
from client.results import read_log, subscription_of

__all__ = ["Task", "TaskClient"]

_CLOSE_SECONDS = 2.0


class TaskClient:
    """Submits tasks to one provider with one key, and returns each answer once, from a callback or a poll.

    Use it as `async with TaskClient("capsolver") as tasks:`. With a receiver, each task is registered there and
    submitted with a callback URL. It is polled only if no callback comes. Without a receiver, or while it is down,
    tasks are polled. The provider's limits are kept over all tasks of the key.

    If they are not given, the keys come from `<PROVIDER>_CLIENT_KEY` and `CALLBACK_RECEIVER_KEY`, and the receiver's
    address from `CALLBACK_RECEIVER_URL`.

    * `receiver`: a receiver without an address, such as one mounted in this process. Then no address or key of another
      receiver is read.
    * `provider_url` (or `<PROVIDER>_URL`): another endpoint, or a sandbox.
    * `first_poll_seconds`: the delay of the first poll behind a callback.
    * `requests_per_second`: the limit of all polls together.
    * `timeout_seconds`: the longest time for a task, by default the provider's window and a grace.
    * `tags`: the tags of every task.
    * `dialects`: the known providers. By default they are the shipped ones, and the ones declared in the file
      `CALLBACK_RECEIVER_PROVIDERS_FILE`.
    * `timing`: for tests.

    Raises:
        BadArgumentError: an argument or a variable is wrong or missing; the text names it.
    """

    def __init__(
        self,
        provider: str,
        *,
        client_key: str | None = None,
        receiver_url: str | None = None,
        receiver_key: str | None = None,
        receiver: ReceiverConnection | None = None,
        provider_url: str | None = None,
        app_id: str | None = None,
        first_poll_seconds: float | None = None,
        requests_per_second: float | None = None,
        timeout_seconds: float | None = None,
        tags: Iterable[str] = (),
        dialects: Mapping[str, Dialect] | None = None,
        timing: Timing | None = None,
    ) -> None:
        given = GivenArguments(
            provider=provider,
            client_key=client_key,
            receiver_url=receiver_url,
            receiver_key=receiver_key,
            receiver=receiver,
            provider_url=provider_url,
            app_id=app_id,
            first_poll_seconds=first_poll_seconds,
            requests_per_second=requests_per_second,
            timeout_seconds=timeout_seconds,
            tags=tags,
        )
        self._arguments = read_arguments(given, dialects, os.environ)
        self._timing = timing or Timing()
        self._followers: dict[Follower, asyncio.Task[None]] = {}
        self._readings: set[asyncio.Timeout] = set()
        self._stack = AsyncExitStack()
        self._owner: asyncio.TaskGroup | None = None
        self._resources: ClientResources | None = None

    async def __aenter__(self) -> TaskClient:
        if self._owner is not None:
            raise ClientClosedError("a client can be opened only once: make a new TaskClient")
        self._owner = owner = asyncio.TaskGroup()
        await owner.__aenter__()
        self._resources = await open_resources(self._arguments, self._timing, self._stack, owner)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        resources, owner = self._open()
        self._resources = None
        for reading in self._readings:
            reading.reschedule(0.0)
        try:
            ending = tuple(self._followers.values())
            for follower in tuple(self._followers):
                follower.abandon()
            if ending:
                # The answers in hand are queued as reports before these get their last try.
                await asyncio.wait(ending)
            if resources.receiver is not None:
                await resources.receiver.close(_CLOSE_SECONDS)
        except asyncio.CancelledError as cancelled:
            # The remaining tasks were not told to end: the group cancels them instead of waiting.
            kind, error, traceback = type(cancelled), cancelled, cancelled.__traceback__
            raise
        finally:
            # The group sees only a cancellation, because that may be its own. Other errors of the block stay unchanged.
            is_cancelled = isinstance(error, asyncio.CancelledError)
            try:
                await owner.__aexit__(*((kind, error, traceback) if is_cancelled else (None, None, None)))
            finally:
                await self._stack.aclose()

    async def submit(
        self,
        task: Mapping[str, Any],
        *,
        tags: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = None,
    ) -> Task:
        """Submit a task and return its handle. `body` may be a path, bytes, or base64. Nothing is submitted twice.

        Example::

            async with TaskClient("capsolver") as tasks:
                task = await tasks.submit({"type": "ImageToTextTask", "body": Path("captcha.png")}, tags=["login"])
                print(f"submitted as {task.task_id}")
                solved = await task.result(timeout=120)
                print(solved.solution["text"])

        After a cancellation the task may exist. With a receiver it is followed all the same.

        Raises:
            BadArgumentError: the task or an argument is wrong; nothing was sent.
            WrongKeyError, NoBalanceError, ProviderRefusedError: the provider refused it.
            TaskFailedError, UnsolvableError, TaskParametersError: the provider took it and failed it at once.
            ProviderUnreachableError: there was no readable answer; a task may have been made.
            ReceiverRefusedError: the receiver refused the registration, mostly because of its key; nothing was sent.
            ClientClosedError: the client is not open.
        """
        registration, encoded = await self._prepared(task, tags, metadata, timeout_seconds)
        return await self._accepted(self._start(registration, encoded))

    async def solve(
        self,
        task: Mapping[str, Any],
        *,
        tags: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = None,
        timeout: float | None = None,
        fresh_for: float | None = None,
        fresh_tries: int = 3,
    ) -> protocol.Task:
        """Submit a task, wait for it, and return the finished task with its solution.

        Example::

            async with TaskClient("capsolver") as tasks:
                solved = await tasks.solve({"type": "ImageToTextTask", "body": Path("captcha.png")}, timeout=120)
                print(solved.solution["text"])

        With `fresh_for`, an answer is returned only if it is certainly no older than that in seconds. The age counts
        from the earliest time at which the answer may have been ready.

        * For a callback, its arrival at the receiver.
        * For a poll, the sending of the last poll with the answer "processing", or of createTask if there was none.

        So the first poll comes early enough to know the age, within the provider's limits. The receiver's clock is
        never compared with this machine's, so they may differ. If a provider delivers an answer again after a failed
        delivery, the answer looks younger than it is.

        An answer may be too old because its callback was lost, the receiver was down, or this process was paused. Then
        it is discarded, and the task is submitted and paid for again, at most `fresh_tries` times in all. Nothing is
        submitted again for another reason. Discarded answers are in the log line `answer.discarded`, in the `discarded`
        of the returned task, and at the receiver, if there is one.

        After a cancellation, or the end of `timeout`, the task is still followed to its end and stored by the receiver.
        Without a receiver it is abandoned. `timeout` is for all tries, `timeout_seconds` for each task.

        Raises:
            TimeoutError: `timeout` seconds passed.
            StaleAnswerError: every answer was too old; `fresh_tries` tasks were submitted.
            BadArgumentError: as `submit`, or without callbacks the polls cannot prove that an answer is so young.
            CallbackReceiverError: as `submit` and `Task.result`.
        """
        rule = FreshnessRule(fresh_for, fresh_tries)
        rule.check(self._arguments.dialect.polls, has_callback=self._arguments.has_callback)
        stale: list[StaleAnswerError] = []
        async with asyncio.timeout(timeout):
            registration, encoded = await self._prepared(task, tags, metadata, timeout_seconds)
            while True:
                try:
                    follower = self._start(registration, encoded)
                    with self._abandoned_if_cancelled(follower):
                        await follower.accepted()
                        solved = await follower.answer(fresh_for)
                except StaleAnswerError as error:
                    stale.append(error)
                    if (last := rule.too_old(stale)) is not None:
                        raise last from None
                else:
                    return solved.model_copy(update={"discarded": tuple(name_of(error.task) for error in stale)})

    async def attach(self, task_id: TaskId) -> Task:
        """Return the handle of an existing task by the provider's id. Anyone may have submitted the task.

        After a cancellation the task is still followed to its end, if there is a receiver. Without one it is forgotten
        here, and can be attached again.

        Raises:
            BadArgumentError: `task_id` cannot be an id.
            ReceiverRefusedError: the receiver refused to register the task.
            ClientClosedError: the client is not open.
        """
        check_task_id(task_id)
        registration = self._arguments.registration(timeout_seconds=None, tags=(), task_id=task_id)
        return await self._accepted(self._start(registration, None))

    async def first(self, tasks: Iterable[Task], timeout: float | None = None) -> Task:
        """Return the first of the tasks to end, failed or not. Its `result` returns at once. The others go on.

        If several have ended already, the first of them in `tasks` is returned. Cancelling leaves nothing behind.

        Raises:
            TimeoutError: `timeout` seconds passed, and no task has ended.
            BadArgumentError: there are no tasks.
        """
        async with asyncio.timeout(timeout), aclosing(self.as_completed(tasks)) as ended:
            async for task in ended:
                return task
        raise BadArgumentError("tasks: expected at least one to wait for")

    async def as_completed(self, tasks: Iterable[Task]) -> AsyncGenerator[Task, None]:
        """Yield the tasks in the order of their ends, failed ones too. The `result` of each returns at once.

        Cancelling, or leaving the loop, leaves nothing behind.
        """
        ended: asyncio.Queue[Task] = asyncio.Queue()
        awaited = tuple(dict.fromkeys(tasks))
        takings_back = [task.when_finished(partial(ended.put_nowait, task)) for task in awaited]
        try:
            for _ in awaited:
                yield await ended.get()
        finally:
            for take_back in takings_back:
                take_back()

    def results(
        self,
        *,
        provider: str | None = None,
        tags: Iterable[str] = (),
        tasks: Iterable[Task | str | tuple[str, TaskId]] | None = None,
        after: str | None = None,
    ) -> AsyncGenerator[protocol.Task]:
        """Yield each result of the receiver's log once, as it comes. It does not end by itself.

        It is like `read_results` with the receiver of this client, and yields results of other clients as well. `tasks`
        may be handles, too. Without a `provider`, only the client's own is read, unless `tasks` alone are given. After
        the loop is left, the connection is closed soon; with `contextlib.aclosing` it is closed at once. Cancelling
        leaves nothing behind.

        Raises:
            BadArgumentError: an argument is wrong, or the client has no receiver; at once.
            ResultsGapError: the cursor is gone, so results may have been missed; the error names the next cursor.
            ReceiverRefusedError: the key may not read, or `after` is no cursor.
            ClientClosedError: the client is not open, or was closed meanwhile.
        """
        resources, _ = self._open()
        if resources.receiver is None:
            raise BadArgumentError("receiver: expected one to read results from, but this client has none")
        named = tasks if tasks is None or isinstance(tasks, str) else [self._name(task) for task in tasks]
        if provider is None and (tags or named is None):
            provider = self._arguments.dialect.provider
        only = subscription_of(after, provider=provider, tags=tags, tasks=named)
        return self._while_open(read_log(resources.receiver.connection, only, self._timing))

    async def balance(self) -> float:
        """Return the balance of the account, in the provider's unit.

        Raises:
            WrongKeyError, ProviderRefusedError: the provider refused to tell it.
            ProviderUnreachableError: there was no answer.
            ClientClosedError: the client is not open.
        """
        resources, _ = self._open()
        return await ask_balance(resources.provider, resources.dialect.provider)

    async def report_good(self, task: Task | protocol.Task | TaskId, *, type: str | None = None) -> None:
        """Report to the provider that the answer to a task was right. Return once the report was taken.

        Some providers' requests depend on the `type` of the task. Give it with a bare id; a task knows its own. After a
        cancellation the report may have been sent.

        Raises:
            BadArgumentError: there is no id, or this provider has no such report, in general or for this type.
            WrongKeyError, SlowDownError, ProviderRefusedError: the provider refused the report.
            ProviderUnreachableError: there was no answer.
            ClientClosedError: the client is not open.
        """
        await self._report(task, type, is_good=True)

    async def report_bad(self, task: Task | protocol.Task | TaskId, *, type: str | None = None) -> None:
        """Report to the provider that the answer to a task was wrong, like `report_good`. It may refund the task.

        Raises:
            CallbackReceiverError: as `report_good`.
        """
        await self._report(task, type, is_good=False)

    async def _report(self, task: Task | protocol.Task | TaskId, task_type: str | None, *, is_good: bool) -> None:
        resources, _ = self._open()
        name = resources.dialect.provider
        if not isinstance(task, Task | protocol.Task):
            await send_report(resources.provider, name, task, task_type, is_good=is_good)
            return
        if isinstance(task, protocol.Task) and task.provider != name:
            raise BadArgumentError(
                f"task: expected one of {name}, the provider of this client, got one of {task.provider}"
            )
        if task.task_id is None:
            raise BadArgumentError("task: expected one with a known taskId")
        await send_report(resources.provider, name, task.task_id, task_type or task.type, is_good=is_good)

    async def _prepared(
        self,
        task: Mapping[str, Any],
        tags: Iterable[str],
        metadata: Mapping[str, Any] | None,
        timeout_seconds: float | None,
    ) -> tuple[protocol.Registration, dict[str, Any]]:
        self._open()
        encoded = await with_encoded_body(task)
        self._arguments.check_task(encoded)
        registration = self._arguments.registration(
            timeout_seconds=timeout_seconds, tags=tags, metadata=dict(metadata or {}), type=encoded["type"]
        )
        return registration, encoded

    def _start(self, registration: protocol.Registration, task: Mapping[str, Any] | None) -> Follower:
        resources, owner = self._open()
        follower = Follower(resources, registration, task)
        self._followers[follower] = running = follower.start(owner)
        running.add_done_callback(lambda _: self._followers.pop(follower))
        return follower

    async def _accepted(self, follower: Follower) -> Task:
        with self._abandoned_if_cancelled(follower):
            await follower.accepted()
        return Task(follower)

    @contextmanager
    def _abandoned_if_cancelled(self, follower: Follower) -> Iterator[None]:
        """Abandon the task with its only waiter, if there is no receiver from which anyone could get the answer."""
        try:
            yield
        except asyncio.CancelledError:
            if not self._arguments.has_receiver:
                follower.abandon()
            raise

    def _name(self, task: Task | str | tuple[str, TaskId]) -> str | tuple[str, TaskId]:
        if not isinstance(task, Task):
            return task
        if task.ref is None and task.task_id is None:
            raise BadArgumentError("tasks: expected each to have a ref or a taskId, got one without")
        return task.ref or (self._arguments.dialect.provider, task.task_id or 0)

    async def _while_open(self, results: AsyncGenerator[protocol.Task]) -> AsyncGenerator[protocol.Task]:
        async with aclosing(results):
            while True:
                try:
                    async with asyncio.timeout(None) as reading:
                        self._open()
                        self._readings.add(reading)
                        result = await anext(results)
                except TimeoutError:
                    # The wait ended because the client is closed.
                    self._open()
                    raise
                finally:
                    self._readings.discard(reading)
                yield result

    def _open(self) -> tuple[ClientResources, asyncio.TaskGroup]:
        if self._resources is None or self._owner is None:
            raise ClientClosedError("the client is not open: use `async with TaskClient(...)`")
        return self._resources, self._owner
