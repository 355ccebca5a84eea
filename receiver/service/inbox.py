"""The use cases of the receiver: the only place where the store and the hub meet.

What writes goes to the store as a command and is answered after its commit; wake-ups come from `Store.commits` alone.
Who waits for a task registers in the hub, then reads the store, then waits; who reads the log follows the feed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

from client.protocol.filters import ResultFilter, TaskSet
from client.protocol.frames import GapFrame
from client.protocol.models import OutcomeReport, Registration, TaskTimeline
from client.provider_api.unlisted import UnlistedCodes
from client.providers import Dialect
from client.providers.readings import CallbackReading, Failed, TaskId
from receiver.domain.admission import ConcurrencyLimit, Limits, Slot
from receiver.domain.deliveries import DeliveryResult, HintTask, Quotas, delivery_command, delivery_rules
from receiver.domain.polls import ReleaseHeld
from receiver.domain.reading import CallbackRequest, ReportedAnswer, read_answer, read_kept
from receiver.domain.records import Entry, Outcome, Page, StoredDelivery, TaskRecord, WaitingTasks
from receiver.domain.registrations import (
    Bind,
    Expire,
    Register,
    RegisteredTask,
    Report,
    ReportedTask,
    task_of_registration,
)
from receiver.domain.timeline import timeline_of
from receiver.domain.tokens import CallbackToken, Kind, make_token
from receiver.domain.transaction import Forget
from receiver.errors import CursorGoneError, ReceiverError
from receiver.feed.feed import Feed
from receiver.feed.hub import Hub, Waiter
from receiver.feed.subscription import Listener, Subscription
from receiver.storage.store import Store, TaskQuery
from receiver.upstream.accounts import Account
from receiver.upstream.schedules import Schedules

__all__ = ["IN_PROCESS", "Inbox", "InboxRules"]

IN_PROCESS = "in process"
"""The owner of what is asked in this process, without a key."""

_ACKNOWLEDGE_SECONDS = 1.5
_MAX_LOOKS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxRules:
    """What the settings say that the use cases need."""

    public_url: str | None
    signing_key: bytes
    callback_secrets: Mapping[str, bytes]
    quotas: Quotas
    confirm_callbacks: str = "mismatched"
    limits: Limits = field(default_factory=Limits)


class Inbox:
    """Takes deliveries, registers tasks, and lets others wait for them.

    `now` gives microseconds since 1970, `new_ref` a UUIDv7.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        dialects: Mapping[str, Dialect],
        rules: InboxRules,
        *,
        now: Callable[[], int],
        new_ref: Callable[[], UUID],
        accounts: Mapping[str, Account] | None = None,
        unlisted: UnlistedCodes | None = None,
    ) -> None:
        self._store = store
        self._accounts = accounts or {}
        self._unlisted = unlisted or UnlistedCodes()
        self.hinted: Callable[[], None] = _nothing
        self.learning: Schedules | None = None
        self._hub = hub
        limits = rules.limits
        self._feed = Feed(store, limits=limits)
        self._waits = ConcurrencyLimit("too-many-waiters", most=limits.waiters, most_each=limits.waiters_per_key)
        self._streams = ConcurrencyLimit("too-many-streams", most=limits.streams, most_each=limits.streams_per_key)
        self._dialects = dialects
        self._rules = rules
        self._delivery_rules = delivery_rules(
            dialects,
            rules.quotas,
            secrets=rules.callback_secrets,
            confirm=rules.confirm_callbacks,
            polled=self._accounts,
        )
        self._now = now
        self._new_ref = new_ref

    async def open(self) -> None:
        """To be awaited before anything else, while the store is open."""
        await self._feed.open()

    async def relay(self) -> None:
        """Wakes waiters and readers after each commit that made the log grow, until the store is closed."""
        async for growth in self._store.commits():
            await self._feed.take(growth)
            self._hub.wake(growth.tasks)
            if any(entry.kind == "hint" for entry in growth.entries or ()):
                self.hinted()

    def close(self) -> None:
        """Shuts down: no wait lasts from now on, and every stream is told to end."""
        self._hub.close()
        self._feed.close()

    @property
    def is_closing(self) -> bool:
        """Whether it is shutting down."""
        return self._hub.is_closed

    def forget_solutions(self, finished_at: int) -> None:
        """Keep nothing in memory of tasks that ended by then: what the store has of them is told from now on."""
        self._feed.tail.drop_older(finished_at)

    # Callbacks

    async def deliver(self, dialect: Dialect, token: CallbackToken, incoming: CallbackRequest) -> DeliveryResult:
        """Return the verdict, once the delivery is durable.

        Raises:
            ReceiverError: `not-found` for a revoked URL, `quota-full`.
            StoreFailedError: nothing was stored.
            StoreBusyError: not stored within 1.5 s; it may still be.
        """
        rules = self._delivery_rules[dialect.provider]
        command = delivery_command(rules, incoming, token, now=self._now(), new_ref=self._new_ref)
        delivered = await self._store.write(command, within_seconds=_ACKNOWLEDGE_SECONDS)
        if self.learning is not None:
            self.learning.delivered(delivered)
        if isinstance(command.reading, CallbackReading) and isinstance(command.reading.reading, Failed):
            # It is stored: a log that cannot be written changes nothing about the answer any more.
            with suppress(Exception):
                self._unlisted.note(dialect, command.reading.reading)
        return delivered

    async def is_revoked(self, token: CallbackToken) -> bool:
        """Whether the token is that of a standing URL which was revoked."""
        if token.kind is not Kind.STANDING:
            return False
        url = await self._store.standing_url(str(token.id))
        return url is not None and url.revoked_at is not None

    async def hint(self, token: CallbackToken) -> None:
        """Note that something came for this task that could not be taken in."""
        if token.kind is Kind.TASK:
            command = HintTask(ref=str(token.id), now=self._now())
            await self._store.write(command, within_seconds=_ACKNOWLEDGE_SECONDS)

    # Tasks

    def callback_url(self, task: TaskRecord) -> str | None:
        """The task URL; None where the provider has no callback, there was no public URL, or it was made elsewhere."""
        if self._rules.public_url is None or not task.has_url:
            return None
        token = make_token(Kind.TASK, UUID(task.ref), task.provider, self._rules.signing_key)
        return f"{self._rules.public_url}/callback/{task.provider}/{token}"

    async def register(
        self, registration: Registration, *, owner: str, idempotency_key: str | None = None
    ) -> RegisteredTask:
        """Return the task, durable before it is answered.

        Raises:
            ReceiverError: `wrong-field`, `unreadable-answer`, `idempotency-key-reused`, `not-stored`.
        """
        dialect = self._dialects.get(registration.provider)
        if dialect is None:
            known = ", ".join(sorted(self._dialects))
            raise ReceiverError("wrong-field", f"provider: expected one of {known}")
        if registration.outcome is not None and registration.task_id is None:
            raise ReceiverError("wrong-field", "taskId: a report after the fact needs it")
        now = self._now()
        task = task_of_registration(
            registration,
            dialect,
            ref=str(self._new_ref()),
            owner=owner,
            now=now,
            is_reachable=self._rules.public_url is not None,
            is_polled_here=self._polls_here(registration),
            first_poll=partial(self._first_poll, registration.provider),
        )
        answered = None
        if registration.outcome is not None:
            _, answered = read_answer(dialect, registration.outcome, now)
            self._unlisted.note(dialect, answered.reading)
        # A field that an older version did not know must not make its bodies others.
        newer = {name for name in ("task", "app_id") if getattr(registration, name) is None}
        digest = hashlib.sha256(registration.model_dump_json(by_alias=True, exclude=newer).encode()).digest()
        idempotency = None if idempotency_key is None else (idempotency_key, digest)
        return await self._store.write(Register(task=task, answer=answered, idempotency=idempotency))

    def _first_poll(self, provider: str, task_type: str | None, expects_callback: bool) -> float | None:
        if self.learning is None:
            return None
        return self.learning.first_poll_seconds(provider, task_type, expects_callback=expects_callback)

    def _polls_here(self, registration: Registration) -> bool:
        account = self._accounts.get(registration.provider)
        return account is not None and account.is_of(registration.client_key_id)

    async def bind(self, ref: str, task_id: TaskId) -> TaskRecord:
        """Return the task with its id; raises `unknown-task`, `task-id-taken`, `task-id-mismatch`."""
        return await self._store.write(Bind(ref=ref, task_id=task_id, now=self._now()))

    async def report(self, ref: str, report: OutcomeReport) -> ReportedTask:
        """What became of a provider's answer that a client reports; raises as `bind`, and `unreadable-answer`."""
        task = await self._store.task(ref)
        if task is None:
            raise ReceiverError("unknown-task", "no task has this ref")
        dialect = self._dialects.get(task.provider)
        if dialect is None:
            raise ReceiverError("unreadable-answer", f"answer: the receiver does not know {task.provider} any more")
        now = self._now()
        given_id, answered = read_answer(dialect, report, now)
        self._unlisted.note(dialect, answered.reading)
        task_id = given_id if report.task_id is None else report.task_id
        return await self._store.write(Report(ref=ref, task_id=task_id, answer=answered, now=now))

    async def settle(self, ref: str, task_id: TaskId | None, answered: ReportedAnswer) -> ReportedTask:
        """What became of an answer that the receiver got itself; raises as `bind`."""
        return await self._store.write(Report(ref=ref, task_id=task_id, answer=answered, now=self._now()))

    def now(self) -> int:
        """Return the wall clock, in µs."""
        return self._now()

    async def forget(self, ref: str) -> None:
        """Delete the task; raises `unknown-task`."""
        await self._store.write(Forget(ref=ref, now=self._now()))

    async def give_up_overdue(self, limit: int) -> int:
        """End tasks whose deadline has come; the answer is how many."""
        return await self._store.write(Expire(now=self._now(), limit=limit))

    async def release_held(self, limit: int) -> int:
        """Lets callbacks be outcomes that were held back for long enough; the answer is how many."""
        return await self._store.write(ReleaseHeld(now=self._now(), limit=limit, read=self.read_kept))

    async def next_held(self) -> int | None:
        """When the next of them is to be released."""
        return await self._store.next_held()

    def read_kept(self, task: TaskRecord, delivery: StoredDelivery) -> Outcome | None:
        """What a kept callback says, as the outcome that it would be."""
        return read_kept(self._dialects, task, delivery)

    async def find(self, task_or_ref: str, provider: str | None) -> TaskRecord | None:
        """Return the task with this ref (which wins) or provider's id.

        Raises:
            ReceiverError: `ambiguous-task-id` where several providers have one.
        """
        task = await self._store.task(task_or_ref)
        if task is not None:
            return task
        found = await self._store.tasks_by_id(task_or_ref, provider)
        if len(found) > 1:
            raise ReceiverError("ambiguous-task-id", "provider: several have a task with this id; name one")
        return found[0] if found else None

    async def timeline(self, task_or_ref: str, provider: str | None) -> TaskTimeline | None:
        """What happened to a task and what it waits for; None where there is none. Raises as `find`."""
        task = await self.find(task_or_ref, provider)
        if task is None:
            return None
        dialect = self._dialects.get(task.provider)
        plan = None if dialect is None else dialect.polls
        history = await self._store.history(task)
        return timeline_of(task, history, plan, now=self._now(), wakes=self._hub.wakes(task.ref))

    async def wait_for(
        self, task_or_ref: str, provider: str | None, seconds: float, *, owner: str = IN_PROCESS
    ) -> TaskRecord | None:
        """Return the task as it is once it has an outcome, or after `seconds`; also for an id that is not known yet.

        Cancelling the wait leaves nothing behind.

        Raises:
            ReceiverError: `too-many-waiters`, `receiver-full`, or as `find`.
        """
        deadline = _loop_time() + seconds
        with self._waits.admitted(owner), self._hub.waiting(task_or_ref) as waiter:
            is_known = False
            # In the tail a task stands as its outcome came: what was bound or pruned since, only the store tells. So it
            # is asked of what came during the wait alone.
            came = None
            while True:
                waiter.clear()
                task = came or await self.find(task_or_ref, provider)
                is_gone = is_known and task is None
                is_known = task is not None
                if is_gone or (task is not None and task.outcome is not None):
                    return task
                if not await self._waits_for(waiter, deadline):
                    return await self.find(task_or_ref, provider)
                came = self._feed.tail.result(task_or_ref)

    async def tasks(self, query: TaskQuery, *, page: str | None, limit: int) -> tuple[Sequence[TaskRecord], str | None]:
        """Tasks, newest first, and the next page."""
        return await self._store.tasks(query, page=page, limit=limit)

    # The log of results

    async def results(
        self,
        after: str | None,
        only: ResultFilter,
        *,
        limit: int,
        seconds: float,
        owner: str = IN_PROCESS,
        turn: AbstractAsyncContextManager[None] | None = None,
    ) -> Page:
        """Return the next page of the log behind `after` (None: from the oldest kept), once there is something in it.

        Named tasks that are finished come at once, whatever the cursor. After `seconds`, or when the receiver shuts
        down, the page is empty and its cursor says how far was looked. `turn` is held while what is stored is read.

        Raises:
            CursorGoneError: the cursor is of no use (any more).
            ReceiverError: `too-many-waiters`, `too-many-names`, `receiver-full`.
        """
        deadline = _loop_time() + seconds
        async with turn or nullcontext():
            page = await self._look(after, only, limit)
        if page.entries or page.more or seconds <= 0:
            return page
        with self._waits.admitted(owner):
            waiter = Waiter()
            subscription = self._feed.follow(only, page.position, waiter.wake, owner=owner)
            subscription.most = limit
            return await self._next_page(page, subscription, waiter, deadline)

    async def subscribe(
        self, only: ResultFilter, cursor: str | None, listener: Listener, *, owner: str = IN_PROCESS
    ) -> Subscription:
        """Return a reader of the log as it grows, to be closed; see `Feed.subscribe`."""
        return await self._feed.subscribe(only, cursor, listener, owner=owner)

    def stream_admitted(self, owner: str) -> Slot:
        """Room for one more stream of `owner`'s inside the block; raises `too-many-streams` or `receiver-full`."""
        return self._streams.admitted(owner)

    async def head(self) -> str:
        """Return the cursor of "from now"."""
        return await self._store.head()

    def cursor_at(self, position: int) -> str:
        """Return the cursor of a position that a record names."""
        return self._store.cursor_at(position)

    async def next_deadline(self) -> int | None:
        """When the next task is to be given up."""
        return await self._store.next_deadline()

    async def waiting_tasks(self) -> Sequence[WaitingTasks]:
        """What waits for an outcome, by provider."""
        return await self._store.waiting_tasks()

    @property
    def queued(self) -> int:
        """How many commands wait to be stored."""
        return self._store.queued

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waits)

    @property
    def streams(self) -> int:
        """How many streams are open now."""
        return len(self._streams)

    @property
    def failure(self) -> str | None:
        """Why nothing can be stored now; None while it can."""
        return self._store.failure

    async def _look(self, after: str | None, only: ResultFilter, limit: int) -> Page:
        for _ in range(_MAX_LOOKS):
            page = await self._store.results(after, limit=limit, only=only)
            if page.entries or not page.more:
                break
            after = page.cursor
        return replace(page, entries=(*await self._named(only, page), *page.entries))

    async def _named(self, only: ResultFilter, page: Page) -> Sequence[Entry]:
        """Return the finished ones of the tasks that the filter names, but for those on the page."""
        on_page = {entry.ref for entry in page.entries}
        named = only.tasks or TaskSet()
        found = [await self._store.task(ref) for ref in named.refs]
        for provider, id_text in named.task_ids:
            found.extend(await self._store.tasks_by_id(id_text, provider))
        finished = {task.ref: task for task in found if task is not None and task.outcome is not None}
        return [
            Entry(self._store.cursor_at(task.position), task.position, "result", ref, task)
            for ref, task in finished.items()
            if ref not in on_page and task.position is not None
        ]

    async def _next_page(self, page: Page, subscription: Subscription, waiter: Waiter, deadline: float) -> Page:
        """Return the next page that has entries, or an empty one at `deadline`; close the subscription."""
        try:
            while True:
                waiter.clear()
                entries = tuple(map(_entry_or_error, await subscription.read()))
                if entries or not await self._waits_for(waiter, deadline):
                    return replace(page, entries=entries, cursor=subscription.cursor, more=subscription.has_more)
        finally:
            subscription.close()

    async def _waits_for(self, waiter: Waiter, deadline: float) -> bool:
        """Wait for a wake-up until `deadline`; whether it is worth looking again."""
        seconds = deadline - _loop_time()
        return seconds > 0 and not self._hub.is_closed and await waiter.wait(seconds) and not self._hub.is_closed


def _nothing() -> None:
    """Nobody is told."""


def _entry_or_error(told: Entry | GapFrame) -> Entry:
    if isinstance(told, GapFrame):
        raise CursorGoneError(told.reason, told.resumes_at)
    return told


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
