"""Tasks: registered, bound to the provider's id, ended by answers, found, and waited for.

Every change is a command of the store and is answered after its commit. A request that waits for a task registers in
the hub, then reads the store, then waits.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import UUID

from client.protocol.models import OutcomeReport, Registration, TaskTimeline
from client.providers import Dialect
from client.providers.readings import TaskId
from receiver.domain.reading import ReportedAnswer, read_answer
from receiver.domain.records import TaskRecord
from receiver.domain.registrations import (
    Bind,
    Register,
    RegisteredTask,
    Report,
    ReportedTask,
    submission_lease,
    task_of_registration,
)
from receiver.domain.sharing.leases import TakeLease
from receiver.domain.timeline import timeline_of
from receiver.domain.tokens import Kind, make_token
from receiver.domain.transaction import Forget
from receiver.errors import ReceiverError
from receiver.service.providers import Providers
from receiver.service.signing_keys import SigningKeys
from receiver.service.waits import IN_PROCESS, Waits
from receiver.storage.store import Store

__all__ = ["CallbackUrls", "Tasks"]

Within = Collection[str] | None
"""The providers of a limited caller; None for all."""


@dataclass(frozen=True, slots=True)
class CallbackUrls:
    """Task URLs below the public URL, if there is one, with tokens that the key of the moment signs."""

    public_url: str | None
    signing_keys: SigningKeys

    def of(self, task: TaskRecord) -> str | None:
        """Return the callback URL of the task.

        None if the provider has no callback, if there was no public URL, or if the task was made elsewhere.
        """
        if self.public_url is None or not task.has_url:
            return None
        token = make_token(Kind.TASK, UUID(task.ref), task.provider, self.signing_keys.current)
        return f"{self.public_url}/callback/{task.provider}/{token}"


class Tasks:
    """Everything that clients do with tasks. `now` returns microseconds since 1970, `new_ref` a UUIDv7.

    For a caller that is limited to providers, `within` names them. Tasks of other providers are unknown to it.
    """

    def __init__(
        self,
        store: Store,
        providers: Providers,
        waits: Waits,
        *,
        urls: CallbackUrls,
        now: Callable[[], int],
        new_ref: Callable[[], UUID],
    ) -> None:
        self.urls = urls
        self._store = store
        self._providers = providers
        self._waits = waits
        self._now = now
        self._new_ref = new_ref

    async def register(
        self,
        registration: Registration,
        *,
        owner: str,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        submitter: str | None = None,
    ) -> RegisteredTask:
        """Return the task, once it is durable. A new one keeps `traceparent`.

        `submitter` is the receiver that will submit a new task, until `end_submission` at the latest.

        Raises:
            ReceiverError: `wrong-field`, `unreadable-answer`, `idempotency-key-reused`, `not-stored`. For a submitter
                also `idempotency-in-flight`, if another one is submitting the task.
        """
        dialect = self._dialect(registration)
        now = self._now()
        task = task_of_registration(
            registration,
            dialect,
            ref=str(self._new_ref()),
            owner=owner,
            now=now,
            is_reachable=self.urls.public_url is not None,
            is_polled_here=self._providers.polls(registration),
            first_poll=lambda task_type, expects_callback: self._providers.schedules.first_poll_seconds(
                dialect.provider, task_type, expects_callback=expects_callback
            ),
            traceparent=traceparent,
        )
        answer = None
        if registration.outcome is not None:
            _, answer = read_answer(dialect, registration.outcome, now)
            self._providers.unlisted.note(dialect, answer.reading)
        idempotency = None if idempotency_key is None else (idempotency_key, _digest(registration))
        return await self._store.write(Register(task=task, answer=answer, idempotency=idempotency, submitter=submitter))

    async def end_submission(self, ref: str, submitter: str) -> None:
        """Let other receivers give out the task, though the provider's answer to its submission is not known."""
        await self._store.write(TakeLease(name=submission_lease(ref), holder=submitter, seconds=0.0))

    def _dialect(self, registration: Registration) -> Dialect:
        dialect = self._providers.dialects.get(registration.provider)
        if dialect is None:
            names = ", ".join(sorted(self._providers.dialects))
            raise ReceiverError("wrong-field", f"provider: expected one of {names}")
        if registration.outcome is not None and registration.task_id is None:
            raise ReceiverError("wrong-field", "taskId: expected one, because an outcome is reported")
        return dialect

    async def bind(self, ref: str, task_id: TaskId, *, within: Within = None) -> TaskRecord:
        """Return the task, bound to the id that createTask gave it.

        Raises:
            ReceiverError: `unknown-task`, `task-id-taken`, `task-id-mismatch`.
        """
        await self._check_within(ref, within)
        return await self._store.write(Bind(ref=ref, task_id=task_id, now=self._now()))

    async def report(self, ref: str, report: OutcomeReport, *, within: Within = None) -> ReportedTask:
        """Return the verdict on a provider's answer that a client reports, and the task.

        Raises:
            ReceiverError: `unreadable-answer`, or as `bind`.
        """
        task = await self._store.task(ref)
        if task is None or not _is_within(task, within):
            raise _unknown_ref()
        dialect = self._providers.dialects.get(task.provider)
        if dialect is None:
            raise ReceiverError(
                "unreadable-answer", f"answer: the receiver no longer knows the provider {task.provider}"
            )
        now = self._now()
        given_id, answer = read_answer(dialect, report, now)
        self._providers.unlisted.note(dialect, answer.reading)
        task_id = given_id if report.task_id is None else report.task_id
        return await self._store.write(Report(ref=ref, task_id=task_id, answer=answer, now=now))

    async def settle(self, ref: str, task_id: TaskId | None, answer: ReportedAnswer) -> ReportedTask:
        """Return the verdict on an answer that the receiver got itself, and the task; raises as `bind`."""
        return await self._store.write(Report(ref=ref, task_id=task_id, answer=answer, now=answer.reported_at))

    async def forget(self, ref: str, *, within: Within = None) -> None:
        """Delete the task.

        Raises:
            ReceiverError: `unknown-task`.
        """
        await self._check_within(ref, within)
        await self._store.write(Forget(ref=ref, now=self._now()))

    async def _check_within(self, ref: str, within: Within) -> None:
        if within is not None:
            task = await self._store.task(ref)
            if task is None or not _is_within(task, within):
                raise _unknown_ref()

    async def find(self, task_or_ref: str, provider: str | None, *, within: Within = None) -> TaskRecord | None:
        """Return the task with this ref or provider's id; the ref wins.

        Raises:
            ReceiverError: `ambiguous-task-id` if several providers have a task with this id.
        """
        found = await self._store.find(task_or_ref, provider)
        if within is not None:
            if len(found) > 1:
                # The store gives two of all that have the id.
                found = [task for name in within for task in await self._store.tasks_by_id(task_or_ref, name)]
            found = [task for task in found if _is_within(task, within)]
        if len(found) > 1:
            raise ReceiverError(
                "ambiguous-task-id", "provider: several providers have a task with this id; name one of them"
            )
        return found[0] if found else None

    async def timeline(self, task_or_ref: str, provider: str | None, *, within: Within = None) -> TaskTimeline | None:
        """Return the history of a task and the next step it waits for; None if there is no such task.

        Raises:
            ReceiverError: as `find`.
        """
        task = await self.find(task_or_ref, provider, within=within)
        if task is None:
            return None
        dialect = self._providers.dialects.get(task.provider)
        plan = None if dialect is None else dialect.polls
        history = await self._store.history(task)
        return timeline_of(task, history, plan, now=self._now(), wakes=self._waits.hub.wakes(task.ref))

    async def wait_for(
        self,
        task_or_ref: str,
        provider: str | None,
        seconds: float,
        *,
        owner: str = IN_PROCESS,
        within: Within = None,
    ) -> TaskRecord | None:
        """Return the task once it has an outcome, or as it is after `seconds`. The id may be unknown until then.

        Cancelling the wait leaves nothing behind.

        Raises:
            ReceiverError: `too-many-waiters`, `receiver-full`, or as `find`.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        with self._waits.request_admitted(owner), self._waits.hub.waiting(task_or_ref) as waiter:
            was_found = False
            # In the tail a task stands as its outcome came: what was bound or pruned since, only the store tells. So it
            # is asked of what came during the wait alone.
            in_tail = None
            while True:
                waiter.clear()
                task = in_tail or await self.find(task_or_ref, provider, within=within)
                is_gone = was_found and task is None
                was_found = task is not None
                if is_gone or (task is not None and task.outcome is not None):
                    return task
                if not await self._waits.until_woken(waiter, deadline):
                    return await self.find(task_or_ref, provider, within=within)
                in_tail = self._waits.feed.tail.result(task_or_ref)
                if in_tail is not None and not _is_within(in_tail, within):
                    in_tail = None


def _is_within(task: TaskRecord, within: Within) -> bool:
    return within is None or task.provider in within


def _unknown_ref() -> ReceiverError:
    return ReceiverError("unknown-task", "no task has this ref")


def _digest(registration: Registration) -> bytes:
    # A field that an older version did not know must not make its bodies others.
    newer = {name for name in ("task", "app_id") if getattr(registration, name) is None}
    return hashlib.sha256(registration.model_dump_json(by_alias=True, exclude=newer).encode()).digest()
