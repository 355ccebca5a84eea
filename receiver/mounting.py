"""The receiver inside another aiohttp application. Callbacks come by HTTP, tasks are awaited in the process."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import assert_never

from aiohttp import web

from client.errors import ReceiverRefusedError, ReceiverUnavailableError
from client.protocol.connection import Attached, error_of_problem
from client.protocol.filters import ResultFilter
from client.protocol.frames import (
    NO_ROOM,
    Add,
    Added,
    GapFrame,
    Heartbeat,
    ProblemFrame,
    Remove,
    Removed,
    Request,
    StreamFrame,
    Subscribe,
    Subscribed,
    frame_of,
)
from client.protocol.models import OutcomeReport, Registered, Registration, Reported, ResultsPage, Task
from client.protocol.traceparent import current_traceparent
from client.providers import Dialect
from client.providers.readings import TaskId
from receiver.app import create_app, microseconds_now
from receiver.domain.records import SECOND, Entry, TaskRecord
from receiver.errors import PROBLEMS, CursorGoneError, ReceiverError
from receiver.feed.hub import Waiter
from receiver.feed.subscription import Subscription
from receiver.service.waits import IN_PROCESS
from receiver.settings import Settings
from receiver.web.callbacks import LENIENT_PATH, callback
from receiver.web.context import RUNTIME, Runtime
from receiver.web.filtering import exact, filter_of, tasks_of
from receiver.web.middleware import problem_fields, request_middleware
from receiver.web.views import log_entry, registered_view, task_view

__all__ = ["MountedReceiver", "mount"]

_HEARTBEAT_SECONDS = 15.0
_PAGE = 200


def mount(
    app: web.Application,
    settings: Settings,
    *,
    prefix: str = "/receiver",
    dialects: Mapping[str, Dialect] | None = None,
) -> MountedReceiver:
    """Serve the receiver below `prefix` of an application, from its startup to its cleanup.

    Example::

        app = web.Application()
        receiver = mount(app, load_settings(Path.cwd()))
        web.run_app(app, port=8080, handler_cancellation=True)

    Return a connection to it, for `TaskClient(..., receiver=receiver)`. The public URL of the settings must lead to
    `prefix`. With `handler_cancellation=True`, waits over HTTP end when their peers hang up.

    Raises:
        CannotStartError: the settings are wrong. A database that cannot be used raises it at the startup.
    """
    settings.check_exposure()
    mounted = create_app(settings, dialects)
    receiver = MountedReceiver(mounted)
    app.add_subapp(prefix, mounted)
    # The receiver accepts too many slashes below the prefix. Before the prefix, only the application can.
    answer = partial(request_middleware, handler=partial(callback, app=mounted))
    for method in ("GET", "POST"):
        app.router.add_route(method, f"/{{before:/+}}{prefix.strip('/')}/{LENIENT_PATH}", answer)
    return receiver


class MountedReceiver:
    """A `client.protocol.connection.ReceiverConnection` to a receiver in this process, without keys and HTTP.

    Every method raises `ReceiverUnavailableError` while the application is not running or the store cannot write. It
    raises `ReceiverRefusedError` if a repetition would be refused as well. A cancelled call may have been carried out.
    """

    def __init__(self, app: web.Application) -> None:
        self._running: Runtime | None = None
        app.cleanup_ctx.append(self._while_running)

    @asynccontextmanager
    async def _while_running(self, app: web.Application) -> AsyncIterator[None]:
        self._running = app[RUNTIME]
        try:
            yield
        finally:
            self._running = None

    async def register(
        self, registration: Registration, *, idempotency_key: str | None = None
    ) -> Registered | Attached:
        """Return the new task, or the one with this `taskId`."""
        runtime = self._runtime
        with _as_client_errors():
            register = runtime.tasks.register if registration.task is None else runtime.submissions.submit
            registered = await register(
                registration,
                owner=IN_PROCESS,
                idempotency_key=idempotency_key,
                traceparent=current_traceparent(),
            )
        task = registered.task
        if registered.is_new:
            plan, url = runtime.dialects[task.provider].polls, runtime.tasks.urls.of(task)
            return registered_view(task, plan, url, runtime.store.cursor_at)
        now = microseconds_now()
        age, left = (now - task.created_at) / SECOND, (task.deadline_at - now) / SECOND
        return Attached(self._view(task), max(0.0, age), max(0.0, left))

    async def bind(self, ref: str, task_id: TaskId) -> Task:
        """Return the task, bound to this id."""
        with _as_client_errors():
            return self._view(await self._runtime.tasks.bind(ref, task_id))

    async def report(self, ref: str, report: OutcomeReport) -> Reported:
        """Return the verdict on a report, with the outcome that won."""
        with _as_client_errors():
            reported = await self._runtime.tasks.report(ref, report)
        return Reported(verdict=reported.verdict, task=self._view(reported.task))

    async def task(self, ref: str) -> Task:
        """Return the task as it is now."""
        with _as_client_errors():
            task = await self._runtime.tasks.find(ref, None)
        if task is None:
            raise ReceiverRefusedError(status=404, slug="unknown-task", detail="no task has this ref or taskId")
        return self._view(task)

    async def results(self, after: str | None, only: ResultFilter, *, wait_seconds: float) -> ResultsPage | GapFrame:
        """Return the next page of the log, once it has an entry or the wait is over."""
        runtime = self._runtime
        try:
            with _as_client_errors():
                after = await runtime.store.head() if after is None else after
                cursor = None if after == "start" else after
                page = await runtime.results.page(cursor, exact(only), limit=_PAGE, seconds=wait_seconds)
        except CursorGoneError as error:
            return GapFrame(reason=error.reason, resumes_at=error.resumes_at)
        entries = tuple(log_entry(entry, runtime.store.cursor_at) for entry in page.entries)
        return ResultsPage(results=entries, cursor=page.cursor, more=page.more)

    @asynccontextmanager
    async def subscription(self) -> AsyncIterator[InProcessSubscription]:
        """Yield a subscription, as over a websocket."""
        runtime = self._runtime
        if runtime.waits.is_closing:
            # It would stay silent. The reader has to know that the receiver is gone.
            raise ReceiverUnavailableError("the receiver is shutting down")
        opened = InProcessSubscription(runtime)
        with _as_client_errors(), runtime.waits.stream_admitted(IN_PROCESS):
            try:
                yield opened
            finally:
                opened.close()

    @property
    def _runtime(self) -> Runtime:
        if self._running is None:
            raise ReceiverUnavailableError("the receiver's application is not running")
        return self._running

    def _view(self, task: TaskRecord) -> Task:
        return task_view(task, self._runtime.store.cursor_at)


class InProcessSubscription:
    """A `client.protocol.connection.OpenSubscription` on the feed itself, without JSON and without a socket."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._waiter = Waiter()
        self._subscription: Subscription | None = None
        self._frames: deque[StreamFrame] = deque()

    async def send(self, frame: Request) -> None:
        """Subscribe, once, or change the named tasks. The answer comes as a frame."""
        with _as_client_errors():
            match frame:
                case Subscribe():
                    wanted = filter_of(frame)
                    self._subscription = await self._runtime.results.subscribe(wanted, frame.cursor, self._waiter.wake)
                    self._frames.append(Subscribed(id=frame.id, cursor=self._subscription.cursor))
                case Add():
                    self._frames.append(self._add(frame))
                case Remove():
                    self._open.remove(tasks_of(frame.tasks))
                    self._frames.append(Removed(id=frame.id, cursor=self._open.cursor))
                case _:
                    assert_never(frame)
        self._waiter.wake()

    async def receive(self) -> StreamFrame:
        """Return the next frame, or a heartbeat after 15 s without one. Cancelling it is safe."""
        while not self._frames:
            if self._runtime.waits.is_closing:
                raise ReceiverUnavailableError("the receiver is shutting down")
            self._waiter.clear()
            await self._read()
            if not self._frames and not await self._waiter.wait(_HEARTBEAT_SECONDS) and self._subscription is not None:
                return Heartbeat(cursor=self._subscription.cursor)
        return self._frames.popleft()

    def close(self) -> None:
        """End the subscription."""
        if self._subscription is not None:
            self._subscription.close()

    def _add(self, frame: Add) -> Added | ProblemFrame:
        tasks = tasks_of(frame.tasks)
        try:
            self._open.add(tasks)
        except ReceiverError as error:
            if error.slug not in NO_ROOM:
                raise
            # As over a websocket, tasks named before stay named.
            return ProblemFrame(id=frame.id, problem=problem_fields(error))
        return Added(id=frame.id, cursor=self._open.cursor)

    @property
    def _open(self) -> Subscription:
        if self._subscription is None:
            raise ReceiverRefusedError(status=422, slug="wrong-field", detail="type: expected a subscription first")
        return self._subscription

    async def _read(self) -> None:
        if self._subscription is None:
            return
        with _as_client_errors():
            items = await self._subscription.read()
        self._frames.extend(map(self._frame, items))

    def _frame(self, item: Entry | GapFrame) -> StreamFrame:
        return item if isinstance(item, GapFrame) else frame_of(log_entry(item, self._runtime.store.cursor_at))


@contextmanager
def _as_client_errors() -> Iterator[None]:
    """Turn errors of the receiver into those that a client raises over HTTP, except `CursorGoneError`."""
    try:
        yield
    except CursorGoneError:
        raise
    except ReceiverError as error:
        status = PROBLEMS[error.slug].status
        ref = error.extra.get("ref")
        raise error_of_problem(status=status, slug=error.slug, detail=error.detail, ref=ref) from error
