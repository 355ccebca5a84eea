"""The use cases of the receiver: the only place where the store and the hub meet.

What writes goes to the store as a command and is answered after its commit; wake-ups come from `Store.commits` alone.
Who waits registers in the hub, then reads the store, then waits.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar
from uuid import UUID

from pydantic_core import to_json

from client.errors import UnreadableError
from client.protocol import FirstOutcome, OutcomeReport, Registration
from client.providers import Dialect
from client.providers.readings import Callback, TaskId
from receiver.decisions import Origin
from receiver.deliveries import Arrival, Delivered, DeliverToStanding, DeliverToTask, HintTask, NewTask, Quotas
from receiver.errors import ReceiverError, StoreBusyError
from receiver.hub import EVERYTHING, Hub, Waiter
from receiver.ledger import Command
from receiver.records import SECOND, Entry, Page, ResultFilter, TaskRecord
from receiver.registrations import Answered, Bind, Expire, Forget, Register, RegisteredTask, Report, ReportedTask
from receiver.storage.protocol import Store, TaskQuery
from receiver.tokens import CallbackToken, Kind, make_token

__all__ = ["Inbox", "InboxRules", "Incoming"]

Answer = TypeVar("Answer")

_ACKNOWLEDGE_SECONDS = 1.5
_WRITE_SECONDS = 10.0
_MAX_LOOKS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxRules:
    """What the settings say that the use cases need."""

    public_url: str | None
    signing_key: bytes
    callback_secrets: Mapping[str, bytes]
    quotas: Quotas


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A callback as it came over HTTP; `query` is raw."""

    method: str
    headers: Mapping[str, str]
    query: bytes
    body: bytes


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
    ) -> None:
        self._store = store
        self._hub = hub
        self._dialects = dialects
        self._rules = rules
        self._now = now
        self._new_ref = new_ref

    async def relay(self) -> None:
        """Wakes waiters after each commit that made the log grow, until the store is closed."""
        async for growth in self._store.commits():
            self._hub.wake(growth.tasks)

    # Callbacks

    async def deliver(self, dialect: Dialect, token: CallbackToken, incoming: Incoming) -> Delivered:
        """The verdict, once the delivery is durable.

        Raises:
            ReceiverError: `not-found` for a revoked URL, `quota-full`.
            StoreFailedError: nothing was stored.
            StoreBusyError: not stored within 1.5 s; it may still be.
        """
        now = self._now()
        reading, is_signed = self._read(dialect, incoming)
        trust = "signed" if is_signed else "token" if token.kind is Kind.TASK else "standing"
        arrival = Arrival(
            provider=dialect.provider,
            method=incoming.method,
            content_type=incoming.headers.get("Content-Type", "")[:200] or None,
            body=incoming.query if incoming.method == "GET" else incoming.body,
            reading=reading,
            origin=Origin("callback", trust, now, dialect.answer_life_seconds),
            received_at=now,
        )
        command: Command[Delivered]
        if token.kind is Kind.TASK:
            ref = str(token.id)
            times = self._new_task(dialect, ref, now)
            command = DeliverToTask(ref=ref, arrival=arrival, new_task=times, quotas=self._rules.quotas)
        else:
            times = self._new_task(dialect, str(self._new_ref()), now)
            command = DeliverToStanding(
                url_id=str(token.id), arrival=arrival, new_task=times, quotas=self._rules.quotas
            )
        return await self._write(command, _ACKNOWLEDGE_SECONDS)

    async def hint(self, token: CallbackToken) -> None:
        """Notes that something came for this task that could not be taken in."""
        if token.kind is Kind.TASK:
            await self._write(HintTask(ref=str(token.id), now=self._now()), _ACKNOWLEDGE_SECONDS)

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
        """The task, durable before it is answered.

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
        task = self._task_of(registration, dialect, owner, now)
        answered = None
        if registration.outcome is not None:
            _, answered = self._answered(dialect, registration.outcome, now, is_after_the_fact=True)
        digest = hashlib.sha256(registration.model_dump_json(by_alias=True).encode()).digest()
        idempotency = None if idempotency_key is None else (idempotency_key, digest)
        return await self._write(Register(task=task, answered=answered, idempotency=idempotency))

    async def bind(self, ref: str, task_id: TaskId) -> TaskRecord:
        """The task with its id; raises `unknown-task`, `task-id-taken`, `task-id-mismatch`."""
        return await self._write(Bind(ref=ref, task_id=task_id, now=self._now()))

    async def report(self, ref: str, report: OutcomeReport) -> ReportedTask:
        """What became of a provider's answer that a client reports; raises as `bind`, and `unreadable-answer`."""
        task = await self._store.task(ref)
        if task is None:
            raise ReceiverError("unknown-task", "no task has this ref")
        now = self._now()
        given_id, answered = self._answered(self._dialects[task.provider], report, now)
        task_id = given_id if report.task_id is None else report.task_id
        return await self._write(Report(ref=ref, task_id=task_id, answered=answered, now=now))

    async def forget(self, ref: str) -> None:
        """Deletes the task; raises `unknown-task`."""
        await self._write(Forget(ref=ref, now=self._now()))

    async def give_up_overdue(self, limit: int) -> int:
        """Ends tasks whose deadline has come; the answer is how many."""
        return await self._write(Expire(now=self._now(), limit=limit))

    async def find(self, task_or_ref: str, provider: str | None) -> TaskRecord | None:
        """The task with this ref (which wins) or provider's id.

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

    async def wait_for(self, task_or_ref: str, provider: str | None, seconds: float) -> TaskRecord | None:
        """The task as it is once it has an outcome, or after `seconds`; also for an id that is not known yet.

        Cancelling the wait leaves nothing behind.
        """
        deadline = _loop_time() + seconds
        with self._hub.waiting(task_or_ref) as waiter:
            while True:
                waiter.clear()
                task = await self.find(task_or_ref, provider)
                if (task is not None and task.outcome is not None) or not await self._waits(waiter, deadline):
                    return task

    async def tasks(self, query: TaskQuery, *, page: str | None, limit: int) -> tuple[Sequence[TaskRecord], str | None]:
        """Tasks, newest first, and the next page."""
        return await self._store.tasks(query, page=page, limit=limit)

    # The log of results

    async def results(self, after: str | None, only: ResultFilter, *, limit: int, seconds: float) -> Page:
        """The next page of the log behind `after` (None: from the oldest kept), once there is something in it.

        Named tasks that are finished come at once, whatever the cursor. After `seconds`, or when the receiver shuts
        down, the page is empty and its cursor says how far was looked. Raises `CursorGoneError`.
        """
        deadline = _loop_time() + seconds
        with self._hub.waiting(EVERYTHING) as waiter:
            while True:
                waiter.clear()
                page = await self._look(after, only, limit)
                page = replace(page, entries=(*await self._named(only, page), *page.entries))
                if page.entries or page.more or not await self._waits(waiter, deadline):
                    return page
                after = page.cursor

    async def head(self) -> str:
        """The cursor of "from now"."""
        return await self._store.head()

    def cursor_at(self, position: int) -> str:
        """The cursor of a position that a record names."""
        return self._store.cursor_at(position)

    async def next_deadline(self) -> int | None:
        """When the next task is to be given up."""
        return await self._store.next_deadline()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._hub)

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
        return page

    async def _named(self, only: ResultFilter, page: Page) -> Sequence[Entry]:
        """The finished ones of the tasks that the filter names, but for those on the page."""
        on_page = {entry.ref for entry in page.entries}
        found = [await self._store.task(ref) for ref in only.refs or ()]
        for provider, id_text in only.task_ids:
            found.extend(await self._store.tasks_by_id(id_text, provider))
        finished = {task.ref: task for task in found if task is not None and task.outcome is not None}
        return [
            Entry(self._store.cursor_at(task.position), "result", ref, task)
            for ref, task in finished.items()
            if ref not in on_page and task.position is not None
        ]

    async def _waits(self, waiter: Waiter, deadline: float) -> bool:
        """Waits for a wake-up until `deadline`; whether it is worth looking again."""
        seconds = deadline - _loop_time()
        return seconds > 0 and not self._hub.is_closed and await waiter.wait(seconds) and not self._hub.is_closed

    async def _write(self, command: Command[Answer], seconds: float = _WRITE_SECONDS) -> Answer:
        try:
            async with asyncio.timeout(seconds):
                return await self._store.write(command)
        except TimeoutError:
            raise StoreBusyError("it was not stored in time; it may still be") from None

    def _read(self, dialect: Dialect, incoming: Incoming) -> tuple[Callback | str, bool]:
        """The reading, or the verdict that says why there is none; and whether a signature was verified."""
        rule = dialect.callback
        secret = self._rules.callback_secrets.get(dialect.provider)
        is_signed = False
        if rule is not None and rule.signature is not None and secret is not None:
            is_signed = rule.signature.verifies(incoming.headers, incoming.body, secret)
            if not is_signed:
                return "badSignature", False
        try:
            return dialect.read_callback(query=incoming.query, body=incoming.body, task_type=None), is_signed
        except UnreadableError:
            return "unreadable", is_signed

    def _answered(
        self, dialect: Dialect, report: FirstOutcome, now: int, *, is_after_the_fact: bool = False
    ) -> tuple[TaskId | None, Answered]:
        """The id that a createTask answer gave, and the answer as it is read."""
        task_id = None
        try:
            if report.source == "submit":
                submitted = dialect.read_create_task(report.answer)
                task_id, reading = submitted.task_id, submitted.reading
            else:
                reading = dialect.read_task_result(report.answer)
        except UnreadableError as error:
            raise ReceiverError("unreadable-answer", f"answer: {error}") from None
        finished_at = now if report.finished_at is None else min(now, round(report.finished_at.timestamp() * SECOND))
        grace = dialect.polls.window_seconds + dialect.polls.grace_seconds
        return task_id, Answered(
            reading=reading,
            origin=Origin(report.source, "reported", finished_at, dialect.answer_life_seconds),
            polls=report.polls,
            reported_at=now,
            unknown_final_after=0 if is_after_the_fact else round(grace * SECOND),
        )

    def _task_of(self, registration: Registration, dialect: Dialect, owner: str, now: int) -> TaskRecord:
        is_attached = registration.task_id is not None
        has_url = dialect.callback is not None and self._rules.public_url is not None and not is_attached
        plan = dialect.polls
        seconds = registration.timeout_seconds or plan.window_seconds + plan.grace_seconds
        poll_after = now + round((plan.first_after_callback_seconds if has_url else plan.first_after_seconds) * SECOND)
        return TaskRecord(
            row=0,
            ref=str(self._new_ref()),
            provider=dialect.provider,
            type=registration.type,
            tags=registration.tags,
            metadata=to_json(registration.metadata).decode(),
            created_by=owner,
            client_key_id=registration.client_key_id,
            has_url=has_url,
            open_to_standing=is_attached,
            standing_id=None,
            task_id=registration.task_id,
            bound_by="create" if is_attached else None,
            registered_at=0,
            created_at=now,
            poll_after=poll_after,
            next_poll_at=poll_after,
            deadline_at=now + round(seconds * SECOND),
        )

    @staticmethod
    def _new_task(dialect: Dialect, ref: str, now: int) -> NewTask:
        plan = dialect.polls
        return NewTask(
            ref=ref,
            poll_after=now + round(plan.first_after_callback_seconds * SECOND),
            deadline_at=now + round((plan.window_seconds + plan.grace_seconds) * SECOND),
        )


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
