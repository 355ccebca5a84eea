"""The commands behind the API: register, bind, report, delete, expire, make and revoke standing URLs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydantic_core import to_json

from client.protocol.models import Registration
from client.providers import Dialect
from client.providers.readings import TaskId
from client.providers.values import task_id_text
from receiver.domain.next_poll import Registered, next_poll
from receiver.domain.outcomes import bind, give_up, settle
from receiver.domain.reading import ReportedAnswer, make_outcome
from receiver.domain.records import SECOND, AboutTask, StandingUrl, TaskRecord
from receiver.domain.sharing.leases import hold_lease, lease_holder
from receiver.domain.transaction import IdempotencyRecord, OneTaskCommand, TaskIdKey, Transaction
from receiver.domain.verdicts import Verdict
from receiver.errors import ReceiverError

__all__ = [
    "Bind",
    "CreateStandingUrl",
    "Expire",
    "Register",
    "RegisteredTask",
    "Report",
    "ReportedTask",
    "RevokeStandingUrl",
    "in_flight_error",
    "submission_lease",
    "task_of_registration",
]

_SUBMIT_SECONDS = 120.0
"""createTask waits for its turn and for its answer a minute each."""

FirstPoll = Callable[[str | None, bool], float | None]
"""A plan of first polls: seconds from now, for a type of task. The flag is True if a callback is expected."""


def task_of_registration(
    registration: Registration,
    dialect: Dialect,
    *,
    ref: str,
    owner: str,
    now: int,
    is_reachable: bool,
    is_polled_here: bool = False,
    first_poll: FirstPoll | None = None,
    traceparent: str | None = None,
) -> TaskRecord:
    """Return the task of a registration. It gets a URL of its own if the provider can call one back.

    `first_poll` plans the first poll if the receiver polls the task.
    """
    is_attached = registration.task_id is not None
    has_url = dialect.callback is not None and is_reachable and not is_attached
    is_account_wide = dialect.callback is not None and dialect.callback.is_account_wide
    plan = dialect.polls
    lasts_seconds = registration.timeout_seconds or plan.window_seconds + plan.grace_seconds
    first_seconds = plan.first_after_callback_seconds if has_url else plan.first_after_seconds
    task_type = registration.type if registration.task is None else str(registration.task["type"])
    if is_polled_here and first_poll is not None:
        first_seconds = first_poll(task_type, has_url or is_attached) or first_seconds
    task = TaskRecord(
        row=0,
        ref=ref,
        provider=dialect.provider,
        type=task_type,
        tags=registration.tags,
        metadata=to_json(registration.metadata).decode(),
        created_by=owner,
        client_key_id=registration.client_key_id,
        has_url=has_url,
        open_to_standing=is_attached or is_account_wide,
        standing_id=None,
        task_id=registration.task_id,
        bound_by="create" if is_attached else None,
        bound_at=now if is_attached else None,
        registered_at=0,
        created_at=now,
        poll_after=now + round(first_seconds * SECOND),
        next_poll_at=None,
        deadline_at=now + round(lasts_seconds * SECOND),
        is_polled_here=is_polled_here,
        traceparent=traceparent,
    )
    return task.evolve(next_poll_at=next_poll(task, Registered()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredTask(AboutTask):
    """A registration. `is_new`: the taskId was not known. A repeated request gets the same answer, `is_replayed`."""

    task: TaskRecord
    is_new: bool
    is_replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """Registers `task`, or finds it by its id or by `idempotency`. Its `row` and `registered_at` are filled in.

    `submitter` is a receiver that calls createTask if the task is new. As long as it may do so, other receivers refuse
    the same Idempotency-Key. If it dies, they give out the task after two minutes.
    """

    task: TaskRecord
    answer: ReportedAnswer | None
    idempotency: tuple[str, bytes] | None
    submitter: str | None = None
    refs: Sequence[str] = ()

    @property
    def weight(self) -> int:
        """The size of the metadata and of a reported answer."""
        return len(self.task.metadata) + (0 if self.answer is None else self.answer.size)

    def decide(self, transaction: Transaction) -> RegisteredTask:
        """Return the task, registered now or earlier.

        Raises:
            ReceiverError: `idempotency-key-reused`, `idempotency-in-flight`, or `unknown-task` if the first task of the
                key was deleted.
        """
        replayed = self._replayed(transaction)
        if replayed is not None:
            return replayed
        existing = None
        if self.task.id_text is not None:
            existing = transaction.task_by_id(TaskIdKey(self.task.provider, self.task.id_text))
        is_new = existing is None
        task = existing or transaction.add(self.task)
        if self.idempotency is not None:
            key, digest = self.idempotency
            transaction.add_idempotency(self.task.created_by or "", key, IdempotencyRecord(digest, task.ref, is_new))
            if self.submitter is not None and is_new:
                hold_lease(transaction, submission_lease(task.ref), self.submitter, _SUBMIT_SECONDS)
        if self.answer is not None:
            # The reporter followed a new task from its start, so its "unknown id" is final.
            answer = replace(self.answer, unknown_final_after=0) if is_new else self.answer
            _, task = _settle_answer(transaction, task, answer)
        return RegisteredTask(task=task, is_new=is_new)

    def _replayed(self, transaction: Transaction) -> RegisteredTask | None:
        if self.idempotency is None:
            return None
        key, digest = self.idempotency
        record = transaction.idempotency(self.task.created_by or "", key)
        if record is None:
            return None
        if record.body_digest != digest:
            raise ReceiverError("idempotency-key-reused", "Idempotency-Key: it came with another body before")
        task = _existing(transaction, record.ref)
        is_unknown = task.id_text is None and task.outcome is None
        if self.submitter is not None and is_unknown:
            holder = lease_holder(transaction, submission_lease(record.ref))
            if holder not in (None, self.submitter):
                raise in_flight_error()
        return RegisteredTask(task=task, is_new=record.is_new, is_replayed=True)


def submission_lease(ref: str) -> str:
    """Return the name of the lease of the receiver that submits a task."""
    return f"submit {ref}"


def in_flight_error() -> ReceiverError:
    """Return the error for a second request with an Idempotency-Key during the first one."""
    text = "Idempotency-Key: the first request with this key has not ended yet; send this one again later"
    return ReceiverError("idempotency-in-flight", text, retry_after_seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind(OneTaskCommand):
    """Binds the createTask id to a task."""

    ref: str
    task_id: TaskId
    now: int

    @property
    def weight(self) -> int:
        """The size of the id."""
        return len(task_id_text(self.task_id))

    def decide(self, transaction: Transaction) -> TaskRecord:
        """Return the task with its id. Raises as `bind` does, and `unknown-task`."""
        return bind(transaction, _existing(transaction, self.ref), self.task_id, self.now)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTask(AboutTask):
    """The verdict on a report, and the task with the outcome that won."""

    verdict: Verdict
    task: TaskRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(OneTaskCommand):
    """A client's report of a provider's answer."""

    ref: str
    task_id: TaskId | None
    answer: ReportedAnswer
    now: int

    @property
    def weight(self) -> int:
        """The size of the answer."""
        return self.answer.size

    def decide(self, transaction: Transaction) -> ReportedTask:
        """Return the verdict. Raises `unknown-task`, and as `bind` does if there is an id."""
        task = _existing(transaction, self.ref)
        if self.task_id is not None:
            task = bind(transaction, task, self.task_id, self.now)
        verdict, task = _settle_answer(transaction, task, self.answer)
        return ReportedTask(verdict=verdict, task=task)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """Ends at most `limit` tasks at their deadline."""

    now: int
    limit: int
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> int:
        """Return the number of tasks that were ended."""
        overdue = transaction.overdue(self.now, self.limit)
        for task in overdue:
            give_up(transaction, task, self.now)
        return len(overdue)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateStandingUrl:
    """Makes a standing URL valid."""

    url: StandingUrl
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> None:
        """Save the URL."""
        transaction.save_standing_url(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeStandingUrl:
    """Makes a standing URL answer 404 from now on. Revoking it again changes nothing."""

    url_id: str
    now: int
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> StandingUrl | None:
        """Return the revoked URL, or None if there is none with this id."""
        url = transaction.standing_url(self.url_id)
        if url is None or url.revoked_at is not None:
            return url
        url = StandingUrl(url.id, url.provider, url.label, url.created_at, self.now)
        transaction.save_standing_url(url)
        return url


def _existing(transaction: Transaction, ref: str) -> TaskRecord:
    task = transaction.joined_task(ref)
    if task is None:
        raise ReceiverError("unknown-task", "no task has this ref")
    return task


def _settle_answer(transaction: Transaction, task: TaskRecord, answer: ReportedAnswer) -> tuple[Verdict, TaskRecord]:
    if answer.polls is not None and answer.polls > task.polls:
        task = task.evolve(polls=answer.polls)
        transaction.change(task)
    reading = answer.outcome_of(task)
    if reading is None:
        return "notFinal", task
    return settle(transaction, task, make_outcome(reading, answer.origin))
