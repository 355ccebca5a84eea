"""The commands behind the API: register, bind, report, delete, expire, make and revoke standing URLs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from client.providers.readings import Failed, Pending, Reading, Ready, Refused, TaskId, Unknown
from client.providers.values import task_id_text
from receiver.domain.outcomes import Origin, bind, give_up, make_outcome, settle
from receiver.domain.records import AboutTask, StandingUrl, TaskRecord
from receiver.domain.transaction import IdempotencyRecord, TaskIdKey, Transaction
from receiver.domain.verdicts import Verdict
from receiver.errors import ReceiverError

__all__ = [
    "Answered",
    "Bind",
    "CreateStandingUrl",
    "Expire",
    "Register",
    "RegisteredTask",
    "Report",
    "ReportedTask",
    "RevokeStandingUrl",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A provider's answer that a client reports, as our dialect read it.

    `unknown_final_after`: so many microseconds after the task was made (window and grace), the provider's "unknown id"
    is its last word. `size` is that of the answer, in bytes.
    """

    reading: Reading
    origin: Origin
    polls: int | None
    reported_at: int
    unknown_final_after: int
    size: int

    def outcome_of(self, task: TaskRecord) -> Ready | Failed | None:
        """Return the outcome in the answer, or None: an error about the request is one only at submit (promise 5)."""
        reading = self.reading
        match reading:
            case Ready() | Failed():
                return reading
            case Pending():
                return None
            case Refused() | Unknown() if self.origin.source == "submit":
                return Failed(reading.error_id, reading.error_code, reading.error_description)
            case Unknown() if self.reported_at >= task.counts_from + self.unknown_final_after:
                return Failed(reading.error_id, reading.error_code, reading.error_description)
            case _:
                return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredTask(AboutTask):
    """A registration; a repetition of it is told the same, `is_replayed`. `is_new`: the taskId was not known."""

    task: TaskRecord
    is_new: bool
    is_replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """Registers `task` (whose `row`, `registered_at` are filled in), or finds it by its id or by `idempotency`."""

    task: TaskRecord
    answered: Answered | None
    idempotency: tuple[str, bytes] | None
    refs: Sequence[str] = ()

    @property
    def weight(self) -> int:
        """The size of the metadata and of a reported answer."""
        return len(self.task.metadata) + (0 if self.answered is None else self.answered.size)

    def decide(self, transaction: Transaction) -> RegisteredTask:
        """Return the task that was there, or is there now.

        Raises:
            ReceiverError: `idempotency-key-reused`, or `unknown-task` where the first task of the key was deleted.
        """
        replayed = self._replayed(transaction)
        if replayed is not None:
            return replayed
        known = None
        if self.task.id_text is not None:
            known = transaction.task_by_id(TaskIdKey(self.task.provider, self.task.id_text))
        task = known or transaction.add(self.task)
        if self.idempotency is not None:
            key, digest = self.idempotency
            transaction.add_idempotency(
                self.task.created_by or "", key, IdempotencyRecord(digest, task.ref, known is None)
            )
        if self.answered is not None:
            # Of a task that nobody here knew, the reporter saw the whole life: its "unknown id" is the last word.
            answered = self.answered if known is not None else replace(self.answered, unknown_final_after=0)
            _, task = _settle_answer(transaction, task, answered)
        return RegisteredTask(task=task, is_new=known is None)

    def _replayed(self, transaction: Transaction) -> RegisteredTask | None:
        if self.idempotency is None:
            return None
        key, digest = self.idempotency
        record = transaction.idempotency(self.task.created_by or "", key)
        if record is None:
            return None
        if record.body_digest != digest:
            raise ReceiverError("idempotency-key-reused", "Idempotency-Key: it came with another body before")
        return RegisteredTask(task=_existing(transaction, record.ref), is_new=record.is_new, is_replayed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """Binds the createTask id to a task."""

    ref: str
    task_id: TaskId
    now: int

    @property
    def refs(self) -> Sequence[str]:
        """The task."""
        return (self.ref,)

    @property
    def weight(self) -> int:
        """The size of the id."""
        return len(task_id_text(self.task_id))

    def decide(self, transaction: Transaction) -> TaskRecord:
        """Return the task with its id; raises as `bind` does, and `unknown-task`."""
        return bind(transaction, _existing(transaction, self.ref), self.task_id, self.now)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTask(AboutTask):
    """What became of a report, and the task with the outcome that won."""

    verdict: Verdict
    task: TaskRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A client's report of what the provider answered it."""

    ref: str
    task_id: TaskId | None
    answered: Answered
    now: int

    @property
    def refs(self) -> Sequence[str]:
        """The task."""
        return (self.ref,)

    @property
    def weight(self) -> int:
        """The size of the answer."""
        return self.answered.size

    def decide(self, transaction: Transaction) -> ReportedTask:
        """Return the verdict; raises as `bind` does where an id is given, and `unknown-task`."""
        task = _existing(transaction, self.ref)
        if self.task_id is not None:
            task = bind(transaction, task, self.task_id, self.now)
        verdict, task = _settle_answer(transaction, task, self.answered)
        return ReportedTask(verdict=verdict, task=task)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expire:
    """Ends at most `limit` tasks whose deadline has come; the answer is how many."""

    now: int
    limit: int
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> int:
        """How many were ended."""
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
        """Nothing."""
        transaction.save_standing_url(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeStandingUrl:
    """Makes a standing URL answer 404 from now on; revoking it again changes nothing."""

    url_id: str
    now: int
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> StandingUrl | None:
        """Return the URL, revoked; None where there is none with this id."""
        url = transaction.standing_url(self.url_id)
        if url is None or url.revoked_at is not None:
            return url
        url = StandingUrl(url.id, url.provider, url.label, url.created_at, self.now)
        transaction.save_standing_url(url)
        return url


def _existing(transaction: Transaction, ref: str) -> TaskRecord:
    task = transaction.task(ref)
    while task is not None and task.joined_ref is not None:
        task = transaction.task(task.joined_ref)
    if task is None:
        raise ReceiverError("unknown-task", "no task has this ref")
    return task


def _settle_answer(transaction: Transaction, task: TaskRecord, answered: Answered) -> tuple[Verdict, TaskRecord]:
    if answered.polls is not None and answered.polls > task.polls:
        task = task.evolve(polls=answered.polls)
        transaction.change(task)
    reading = answered.outcome_of(task)
    if reading is None:
        return "notFinal", task
    return settle(transaction, task, make_outcome(reading, answered.origin))
