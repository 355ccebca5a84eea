"""`TaskClient`: submit tasks to a provider and await each; `Task`: one that was submitted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any

from client import protocol
from client.arguments import ClientArguments, Given, read_arguments
from client.errors import BadArgumentError, ClientClosedError, ProviderUnreachableError
from client.gate import KeyGate
from client.images import with_encoded_body
from client.link import ReceiverLink
from client.outcomes import refusal_of
from client.progress import Surroundings
from client.provider_api import ProviderApi, open_provider_session
from client.providers import DIALECTS, Dialect
from client.providers.readings import Failed, Refused, TaskId, Unknown
from client.receiver_api import ReceiverApi, open_receiver_session
from client.submitting import Submitter
from client.timing import Timing
from client.watching import Watch

__all__ = ["Task", "TaskClient"]

_CLOSE_SECONDS = 2.0


class Task:
    """A task that was submitted or attached to; awaited or not, it is followed to its end while the client is open."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __repr__(self) -> str:
        return f"<Task ref={self.ref!r} taskId={self.task_id!r}>"

    @property
    def ref(self) -> str | None:
        """The receiver's id of the task; None where it was done without."""
        return self._watch.ref

    @property
    def task_id(self) -> TaskId | None:
        """The provider's id; None where the answer to createTask was lost."""
        return self._watch.task_id

    def when_finished(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` once it has ended, or now if it has; calling what this returns takes that back."""
        return self._watch.ending.when_finished(listener)

    async def result(self, timeout: float | None = None) -> protocol.Task:
        """The finished task with its solution; any number of waiters may ask, any number of times.

        Cancelling the wait leaves nothing behind; the task lives on.

        Raises:
            TimeoutError: `timeout` seconds passed; the task lives on.
            TaskFailedError, UnsolvableError: the task ended as failed.
            TaskTimedOutError, SubmitUnknownError: no answer came until its deadline.
            WrongKeyError, NoBalanceError, ProviderRefusedError: the provider refuses to be asked, and won't call back.
            ClientClosedError: the client was closed first.
        """
        async with asyncio.timeout(timeout):
            return await self._watch.answer()


class TaskClient:
    """Submits tasks to one provider with one key, and brings each answer once, by whatever road it comes.

    To be used as `async with TaskClient("capsolver") as tasks:`. With a receiver, each task is registered there and
    submitted with a callback URL, and polled only where no callback comes; without one, or while it is down, tasks are
    polled, within the provider's limits over all tasks of the key.

    Keys come from `<PROVIDER>_CLIENT_KEY` and `CALLBACK_RECEIVER_KEY`, the receiver's address from
    `CALLBACK_RECEIVER_URL`, where they are not given. `provider_url` (or `<PROVIDER>_URL`) is another endpoint, or
    a sandbox. `first_poll_seconds` is when a task behind a callback is first polled; `requests_per_second` bounds
    all polls; `timeout_seconds` is how long a task may take, by default the provider's window and a grace; `tags`
    are given to every task. `timing` is for tests.

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
        provider_url: str | None = None,
        app_id: str | None = None,
        first_poll_seconds: float | None = None,
        requests_per_second: float | None = None,
        timeout_seconds: float | None = None,
        tags: Iterable[str] = (),
        dialects: Mapping[str, Dialect] = DIALECTS,
        timing: Timing | None = None,
    ) -> None:
        given = Given(
            provider=provider,
            client_key=client_key,
            receiver_url=receiver_url,
            receiver_key=receiver_key,
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
        self._stack = AsyncExitStack()
        self._owner: asyncio.TaskGroup | None = None
        self._around: Surroundings | None = None

    async def __aenter__(self) -> TaskClient:
        if self._owner is not None:
            raise ClientClosedError("a client is opened once")
        self._owner = owner = asyncio.TaskGroup()
        await owner.__aenter__()
        self._around = await _surroundings(self._arguments, self._timing, self._stack, owner)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        around, owner = self._open()
        self._around = None
        try:
            ending = tuple(self._watches.values())
            for watch in tuple(self._watches):
                watch.abandon()
            if ending:
                # What they had in hand goes to the reports before these get their last try.
                await asyncio.wait(ending)
            if around.link is not None:
                await around.link.close(_CLOSE_SECONDS)
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
        """Submits a task of the provider's; `body` may be a path, bytes, or base64. Nothing is submitted twice.

        Cancelling it leaves open whether the task was made; with a receiver it is followed all the same.

        Raises:
            BadArgumentError: the task or an argument is wrong; nothing was sent.
            WrongKeyError, NoBalanceError, ProviderRefusedError: the provider refused it.
            TaskFailedError, UnsolvableError: the provider took it and failed it at once.
            ProviderUnreachableError: there was no answer, or none that can be understood; a task may have been made.
            ReceiverRefusedError: the receiver refused the registration, mostly because of its key; nothing was sent.
            ClientClosedError: the client is not open.
        """
        watch = await self._submit(task, tags, metadata, timeout_seconds)
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
    ) -> protocol.Task:
        """Submits a task and waits for it: the finished task with its solution.

        Cancelling it, or the end of `timeout`, leaves the task to be followed to its end and stored by the receiver;
        without a receiver it abandons the task.

        Raises:
            TimeoutError: `timeout` seconds passed.
            CallbackReceiverError: as `submit` and `Task.result`.
        """
        async with asyncio.timeout(timeout):
            watch = await self._submit(task, tags, metadata, timeout_seconds)
            await self._accepted(watch)
            try:
                return await watch.answer()
            except asyncio.CancelledError:
                self._give_up_on(watch)
                raise

    async def attach(self, task_id: TaskId) -> Task:
        """A task that exists already at the provider, submitted by whomever, by the provider's id.

        Raises:
            BadArgumentError: this is no id.
            ReceiverRefusedError: the receiver refused to register it.
            ClientClosedError: the client is not open.
        """
        if isinstance(task_id, bool) or not isinstance(task_id, int | str) or not task_id:
            raise BadArgumentError(f"task_id: expected an integer or a text, got {task_id!r}")
        registration = self._arguments.registration(timeout_seconds=None, tags=(), task_id=task_id)
        watch = self._start(registration, None)
        await self._accepted(watch)
        return Task(watch)

    async def as_completed(self, tasks: Iterable[Task]) -> AsyncIterator[Task]:
        """The tasks in the order in which they end, failed ones too; `result` of each is there at once.

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

    async def balance(self) -> float:
        """What the provider says is left in the account, in its unit.

        Raises:
            WrongKeyError, ProviderRefusedError: it refused to say.
            ProviderUnreachableError: there was no answer.
            ClientClosedError: the client is not open.
        """
        around, _ = self._open()
        match (await around.provider.get_balance()).said:
            case float() as balance:
                return balance
            case Refused() | Failed() | Unknown() as said:
                raise refusal_of(around.dialect.provider, said)
            case _:
                raise ProviderUnreachableError(f"{around.dialect.provider}: getBalance was not answered with a balance")

    async def _submit(
        self,
        task: Mapping[str, Any],
        tags: Iterable[str],
        metadata: Mapping[str, Any] | None,
        timeout_seconds: float | None,
    ) -> Watch:
        self._open()
        encoded = await with_encoded_body(task)
        self._arguments.check_task(encoded)
        registration = self._arguments.registration(
            timeout_seconds=timeout_seconds, tags=tags, metadata=dict(metadata or {}), type=encoded["type"]
        )
        return self._start(registration, encoded)

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

    def _give_up_on(self, watch: Watch) -> None:
        """Without a receiver nobody can get an answer any more that its only waiter does not wait for."""
        if self._arguments.receiver_url is None:
            watch.abandon()

    def _open(self) -> tuple[Surroundings, asyncio.TaskGroup]:
        if self._around is None or self._owner is None:
            raise ClientClosedError("the client is not open: use `async with TaskClient(...)`")
        return self._around, self._owner


async def _surroundings(
    arguments: ClientArguments, timing: Timing, stack: AsyncExitStack, owner: asyncio.TaskGroup
) -> Surroundings:
    session = await stack.enter_async_context(open_provider_session())
    provider = ProviderApi(session, arguments.dialect, arguments.client_key, arguments.provider_url)
    gate = KeyGate(arguments.requests_per_second, timing.clock)
    link = None
    if arguments.receiver_url is not None:
        session = await stack.enter_async_context(open_receiver_session())
        link = ReceiverLink(ReceiverApi(session, arguments.receiver_url, arguments.receiver_key), owner, timing)
    return Surroundings(
        dialect=arguments.dialect,
        provider=provider,
        submitter=Submitter(provider, arguments.dialect, gate, timing, app_id=arguments.app_id),
        link=link,
        gate=gate,
        timing=timing,
        first_poll_seconds=arguments.first_poll_seconds,
    )
