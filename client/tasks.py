"""`TaskClient`: submit tasks to a provider and await each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from functools import partial
from types import TracebackType
from typing import Any

from client.config.arguments import GivenArguments, read_arguments
from client.errors import BadArgumentError, ClientClosedError, StaleAnswerError
from client.following.follower import Watch
from client.following.freshness import FreshnessRule, name_of
from client.following.handle import Task
from client.following.resources import Surroundings, open_surroundings
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
    """Submits tasks to one provider with one key, and brings each answer once, by whatever road it comes.

    To be used as `async with TaskClient("capsolver") as tasks:`. With a receiver, each task is registered there and
    submitted with a callback URL, and polled only where no callback comes; without one, or while it is down, tasks are
    polled, within the provider's limits over all tasks of the key.

    Keys come from `<PROVIDER>_CLIENT_KEY` and `CALLBACK_RECEIVER_KEY`, the receiver's address from
    `CALLBACK_RECEIVER_URL`, where they are not given. `receiver` is one without an address, such as one that is mounted
    in this process; then neither address nor key of another is read. `provider_url` (or `<PROVIDER>_URL`) is another
    endpoint, or a sandbox. `first_poll_seconds` is when a task behind a callback is first polled; `requests_per_second`
    bounds all polls; `timeout_seconds` is how long a task may take, by default the provider's window and a grace;
    `tags` are given to every task. `dialects` are the providers that are known: by default the shipped ones, and those
    declared in the file that `CALLBACK_RECEIVER_PROVIDERS_FILE` names. `timing` is for tests.

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
        self._watches: dict[Watch, asyncio.Task[None]] = {}
        self._readings: set[asyncio.Timeout] = set()
        self._stack = AsyncExitStack()
        self._owner: asyncio.TaskGroup | None = None
        self._around: Surroundings | None = None

    async def __aenter__(self) -> TaskClient:
        if self._owner is not None:
            raise ClientClosedError("a client is opened once")
        self._owner = owner = asyncio.TaskGroup()
        await owner.__aenter__()
        self._around = await open_surroundings(self._arguments, self._timing, self._stack, owner)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        around, owner = self._open()
        self._around = None
        for reading in self._readings:
            reading.reschedule(0.0)
        try:
            ending = tuple(self._watches.values())
            for watch in tuple(self._watches):
                watch.abandon()
            if ending:
                # What they had in hand goes to the reports before these get their last try.
                await asyncio.wait(ending)
            if around.link is not None:
                await around.link.close(_CLOSE_SECONDS)
        except asyncio.CancelledError as cancelled:
            # What still runs was not told to end: the group ends it, instead of waiting for it.
            kind, error, traceback = type(cancelled), cancelled, cancelled.__traceback__
            raise
        finally:
            # The group hears only of a cancellation, which may be its own; other errors of the block stay as they are.
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
        """Submit a task of the provider's; `body` may be a path, bytes, or base64. Nothing is submitted twice.

        Cancelling it leaves open whether the task was made; with a receiver it is followed all the same.

        Raises:
            BadArgumentError: the task or an argument is wrong; nothing was sent.
            WrongKeyError, NoBalanceError, ProviderRefusedError: the provider refused it.
            TaskFailedError, UnsolvableError, TaskParametersError: the provider took it and failed it at once.
            ProviderUnreachableError: there was no answer, or none that can be understood; a task may have been made.
            ReceiverRefusedError: the receiver refused the registration, mostly because of its key; nothing was sent.
            ClientClosedError: the client is not open.
        """
        registration, encoded = await self._prepared(task, tags, metadata, timeout_seconds)
        watch = self._start(registration, encoded)
        await self._accepted(watch)
        return Task(watch)

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
        """Submit a task and wait for it: the finished task with its solution.

        With `fresh_for` no answer is given out that may be older than so many seconds at the moment when this returns.
        Its age counts from the earliest moment at which it may have been ready: for a callback, when the receiver got
        it; for a poll, when the last poll that was answered with "processing" was sent, or createTask itself. So the
        first poll comes early enough to know, within the provider's limits. The receiver's clock and this machine's may
        differ: neither is compared with the other. A provider that delivers again what it could not deliver at first
        makes an answer look younger than it is.

        An answer that is too old (its callback was lost, the receiver was down, this process was paused) is thrown
        away, and the task submitted, and paid for, anew: at most `fresh_tries` times in all, and for no other reason.
        What was thrown away is told by the log line `answer.discarded`, and by `discarded` of what is returned; where
        there is a receiver, it has it.

        Cancelling it, or the end of `timeout`, leaves the task to be followed to its end and stored by the receiver;
        without a receiver it abandons the task. `timeout` is for all tries, `timeout_seconds` for each task.

        Raises:
            TimeoutError: `timeout` seconds passed.
            StaleAnswerError: every answer was too old; `fresh_tries` tasks were submitted.
            BadArgumentError: also where no callback can come, and polls alone cannot tell that an answer is so young.
            CallbackReceiverError: as `submit` and `Task.result`.
        """
        rule = FreshnessRule(fresh_for, fresh_tries)
        rule.check(self._arguments.dialect.polls, has_callback=self._arguments.has_callback)
        stale: list[StaleAnswerError] = []
        async with asyncio.timeout(timeout):
            registration, encoded = await self._prepared(task, tags, metadata, timeout_seconds)
            while True:
                try:
                    solved = await self._solved(self._start(registration, encoded), fresh_for)
                except StaleAnswerError as error:
                    stale.append(error)
                    if (last := rule.too_old(stale)) is not None:
                        raise last from None
                else:
                    return solved.model_copy(update={"discarded": tuple(name_of(each.task) for each in stale)})

    async def attach(self, task_id: TaskId) -> Task:
        """Return a task that exists already at the provider, submitted by whomever, by the provider's id.

        Cancelling it leaves the task, like any that was submitted, to be followed to its end where there is a receiver;
        without one it is forgotten here, and can be attached again.

        Raises:
            BadArgumentError: this is no id.
            ReceiverRefusedError: the receiver refused to register it.
            ClientClosedError: the client is not open.
        """
        check_task_id(task_id)
        registration = self._arguments.registration(timeout_seconds=None, tags=(), task_id=task_id)
        watch = self._start(registration, None)
        await self._accepted(watch)
        return Task(watch)

    async def first(self, tasks: Iterable[Task], timeout: float | None = None) -> Task:
        """Return the first of the tasks to end, failed or not; `result` of it is there at once. The others live on.

        Of several that have ended already, it is the one that was named first. Cancelling it leaves nothing behind.

        Raises:
            TimeoutError: `timeout` seconds passed, and none has ended.
            BadArgumentError: there are no tasks.
        """
        async with asyncio.timeout(timeout), aclosing(self.as_completed(tasks)) as ended:
            async for task in ended:
                return task
        raise BadArgumentError("tasks: expected at least one to wait for")

    async def as_completed(self, tasks: Iterable[Task]) -> AsyncGenerator[Task, None]:
        """Yield the tasks in the order in which they end, failed ones too; `result` of each is there at once.

        Cancelling it, or leaving the loop, leaves nothing behind.
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
        """Each result of the receiver's log once, as it comes, whoever submitted its task. It does not end by itself.

        As `read_results`, with the receiver of this client. `tasks` may be handles, too. Where no `provider` is named,
        it is the client's own, unless only `tasks` are. Leaving the loop closes the connection soon after,
        `contextlib.aclosing` at once; cancelling it leaves nothing behind.

        Raises:
            BadArgumentError: an argument is wrong, or the client has no receiver; at once.
            ResultsGapError: the cursor is gone, so results may have been missed; the error says where to go on.
            ReceiverRefusedError: the key may not read, or `after` is no cursor.
            ClientClosedError: the client is not open, or was closed meanwhile.
        """
        around, _ = self._open()
        if around.receiver is None:
            raise BadArgumentError("receiver: results are read from one, and this client has none")
        named = tasks if tasks is None or isinstance(tasks, str) else [self._name(task) for task in tasks]
        if provider is None and (tags or named is None):
            provider = self._arguments.dialect.provider
        only = subscription_of(after, provider=provider, tags=tags, tasks=named)
        return self._while_open(read_log(around.receiver, only, self._timing))

    async def balance(self) -> float:
        """What the provider says is left in the account, in its unit.

        Raises:
            WrongKeyError, ProviderRefusedError: it refused to say.
            ProviderUnreachableError: there was no answer.
            ClientClosedError: the client is not open.
        """
        around, _ = self._open()
        return await ask_balance(around.provider, around.dialect.provider)

    async def report_good(self, task: Task | protocol.Task | TaskId, *, type: str | None = None) -> None:
        """Tells the provider that the answer to a task was right; returns once it was taken.

        `type` is the type of the task, which some providers' requests depend on; of a task it is known. Cancelling it
        leaves open whether it was reported.

        Raises:
            BadArgumentError: there is no id, or no way to report is known of this provider, or none for this type.
            WrongKeyError, SlowDownError, ProviderRefusedError: it refused the report.
            ProviderUnreachableError: there was no answer.
            ClientClosedError: the client is not open.
        """
        await self._report(task, type, is_good=True)

    async def report_bad(self, task: Task | protocol.Task | TaskId, *, type: str | None = None) -> None:
        """Tells the provider that the answer to a task was wrong, which may bring the money back; as `report_good`.

        Raises:
            CallbackReceiverError: as `report_good`.
        """
        await self._report(task, type, is_good=False)

    async def _report(self, task: Task | protocol.Task | TaskId, task_type: str | None, *, is_good: bool) -> None:
        around, _ = self._open()
        name = around.dialect.provider
        if not isinstance(task, Task | protocol.Task):
            await send_report(around.provider, name, task, task_type, is_good=is_good)
            return
        if isinstance(task, protocol.Task) and task.provider != name:
            raise BadArgumentError(f"task: it is one of {task.provider}, and this client speaks to {name}")
        if task.task_id is None:
            raise BadArgumentError("task: its taskId is not known")
        await send_report(around.provider, name, task.task_id, task_type or task.type, is_good=is_good)

    async def _solved(self, watch: Watch, fresh_for: float | None) -> protocol.Task:
        await self._accepted(watch)
        try:
            return await watch.answer(fresh_for)
        except asyncio.CancelledError:
            self._give_up_on(watch)
            raise

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

    def _start(self, registration: protocol.Registration, task: Mapping[str, Any] | None) -> Watch:
        around, owner = self._open()
        watch = Watch(around, registration, task)
        self._watches[watch] = running = watch.start(owner)
        running.add_done_callback(lambda _: self._watches.pop(watch))
        return watch

    async def _accepted(self, watch: Watch) -> None:
        try:
            await watch.accepted()
        except asyncio.CancelledError:
            self._give_up_on(watch)
            raise

    def _name(self, task: Task | str | tuple[str, TaskId]) -> str | tuple[str, TaskId]:
        if not isinstance(task, Task):
            return task
        if task.ref is None and task.task_id is None:
            raise BadArgumentError("tasks: one of them has neither a ref nor a taskId")
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
                    # It is the end of the client that ended the wait.
                    self._open()
                    raise
                finally:
                    self._readings.discard(reading)
                yield result

    def _give_up_on(self, watch: Watch) -> None:
        """Without a receiver nobody can get an answer any more that its only waiter does not wait for."""
        if not self._arguments.has_receiver:
            watch.abandon()

    def _open(self) -> tuple[Surroundings, asyncio.TaskGroup]:
        if self._around is None or self._owner is None:
            raise ClientClosedError("the client is not open: use `async with TaskClient(...)`")
        return self._around, self._owner
