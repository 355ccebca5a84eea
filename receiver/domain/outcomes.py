"""How an outcome is decided: which of two wins, what a delivery is worth, what binds an id. Pure, on a `Transaction`.

Kept here: the first outcome of the provider wins, by whatever road it came, and ours are provisional; what createTask
said about the id beats what a callback said.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic_core import from_json, to_json

from client.protocol.models import PROVISIONAL
from client.provider_api.errors import failure_at_deadline
from client.provider_api.unlisted import is_provisional
from client.providers.readings import Failed, Ready, TaskId
from client.providers.values import same_value, task_id_text
from receiver.domain.records import SECOND, Outcome, TaskRecord
from receiver.domain.transaction import TaskIdKey, Transaction
from receiver.domain.verdicts import Verdict
from receiver.errors import ReceiverError

__all__ = ["Origin", "bind", "bind_from_callback", "give_up", "hint", "is_open", "make_outcome", "settle", "weigh"]


@dataclass(frozen=True, slots=True)
class Origin:
    """By what road an outcome came, how far it is trusted, and when it was finished."""

    source: str
    trust: str
    finished_at: int
    answer_life_seconds: float | None = None


def make_outcome(reading: Ready | Failed, origin: Origin) -> Outcome:
    """Return the outcome that a reading is; of a poll, an error with an unlisted code is a provisional one."""
    life = origin.answer_life_seconds

    is_ready = isinstance(reading, Ready)
    return Outcome(
        status="ready" if is_ready else "failed",
        solution=to_json(reading.solution).decode() if isinstance(reading, Ready) else None,
        error_id=0 if isinstance(reading, Ready) else reading.error_id,
        error_code=None if isinstance(reading, Ready) else reading.error_code,
        error_description=None if isinstance(reading, Ready) else reading.error_description,
        source=origin.source,
        trust=PROVISIONAL if is_provisional(reading, origin.source) else origin.trust,
        finished_at=origin.finished_at,
        valid_until=origin.finished_at + round(life * SECOND) if is_ready and life is not None else None,
    )


def weigh(known: Outcome | None, new: Outcome) -> Verdict:
    """What `new` is beside what is known: `accepted` where nothing, or only an outcome of ours, stands."""
    if known is None or known.is_provisional:
        return "accepted"
    if not _says_the_same(known, new):
        return "disagreed"
    return "duplicate" if known.source == new.source else "late"


def is_open(task: TaskRecord) -> bool:
    """Whether the next outcome of the provider would be the task's."""
    return task.outcome is None or task.outcome.is_provisional


def settle(transaction: Transaction, task: TaskRecord, new: Outcome) -> tuple[Verdict, TaskRecord]:
    """Lets the first outcome of the provider win, and gives the task as it now is.

    A poll or report that says the same as a disputed outcome ends the dispute. A provisional outcome is one only where
    there is none: it neither replaces nor doubts what is there, nor a callback that is held back.
    """
    if new.is_provisional and (task.outcome is not None or task.held_until is not None):
        return "notFinal", task
    verdict = weigh(task.outcome, new)
    if verdict == "accepted":
        return verdict, transaction.append_outcome(task, new, next_poll_at=None, held_until=None)
    if task.is_disputed and new.source == "poll":
        task = task.evolve(is_disputed=verdict == "disagreed", next_poll_at=None)
        transaction.change(task)
    return verdict, task


def give_up(transaction: Transaction, task: TaskRecord, now: int) -> TaskRecord:
    """End a task at its deadline with a provisional outcome of ours."""
    outcome = make_outcome(failure_at_deadline(task.task_id), Origin("deadline", "reported", now))
    return transaction.append_outcome(task, outcome, next_poll_at=None)


def hint(transaction: Transaction, task: TaskRecord, now: int) -> TaskRecord:
    """Bring the next poll to now, unless the task has an outcome that nobody disputes.

    That is done once before the task has an outcome, and once more behind an outcome of ours.
    """
    outcome = task.outcome
    is_settled = outcome is not None and not outcome.is_provisional and not task.is_disputed
    is_used_up = task.hinted_at is not None and (
        outcome is None or not outcome.is_provisional or task.hinted_at >= outcome.finished_at
    )
    if is_used_up or is_settled:
        return task
    task = task.evolve(hinted_at=now, next_poll_at=now)
    transaction.change(task)
    transaction.append_hint(task)
    return task


def bind(transaction: Transaction, task: TaskRecord, task_id: TaskId, now: int) -> TaskRecord:
    """Binds the id that createTask gave.

    The bound id again changes nothing. Where only a callback had bound another one, createTask is right: an outcome
    that stands is disputed and a poll is due.

    Raises:
        ReceiverError: `task-id-taken`, with the `ref` of the task that has the id, or `task-id-mismatch` where
            createTask had given another id before.
    """
    id_text = task_id_text(task_id)
    if task.id_text == id_text:
        if task.bound_by == "callback":
            task = task.evolve(task_id=task_id, bound_by="create")
            transaction.change(task)
        return task
    if task.task_id is not None and task.bound_by == "create":
        raise ReceiverError("task-id-mismatch", f"taskId: the task is bound to another id than {id_text[:80]!r}")
    owner = transaction.task_by_id(TaskIdKey(task.provider, id_text))
    if owner is not None and owner.standing_id is None:
        text = f"taskId: {id_text[:80]!r} belongs to the task {owner.ref}"
        raise ReceiverError("task-id-taken", text, extra={"ref": owner.ref})
    if task.id_text is not None:
        transaction.set_verdict(task, "mismatched", id_text=task.id_text)
        is_disputed = task.outcome is not None and task.outcome.source == "callback"
        # A hint that was given before told of something else: this one is always given.
        task = hint(transaction, task.evolve(is_disputed=is_disputed, hinted_at=None), now)
    if owner is not None:
        return _join(transaction, task.evolve(task_id=task_id, bound_by="create", bound_at=now), owner)
    task = _postpone(task.evolve(task_id=task_id, bound_by="create", bound_at=now))
    transaction.change(task)
    return task


def _postpone(task: TaskRecord) -> TaskRecord:
    """Return the first poll is planned from the registration on, and is due so long after createTask's answer."""
    waited = task.counts_from - task.created_at
    if task.polls or task.hinted_at is not None or task.next_poll_at != task.poll_after:
        return task
    at = task.poll_after + waited
    return task.evolve(poll_after=at, next_poll_at=at)


def bind_from_callback(
    transaction: Transaction, task: TaskRecord, task_id: TaskId | None, now: int
) -> TaskRecord | None:
    """Binds the id of a delivery on the task's own URL; None where the id is another task's."""
    if task_id is None or task.id_text == task_id_text(task_id):
        return task
    if task.task_id is not None:
        return None
    bound = task.evolve(task_id=task_id, bound_by="callback", bound_at=now)
    owner = transaction.task_by_id(TaskIdKey(task.provider, task_id_text(task_id)))
    if owner is not None:
        return _join(transaction, bound, owner) if owner.standing_id is not None else None
    return bound


def _join(transaction: Transaction, task: TaskRecord, owner: TaskRecord) -> TaskRecord:
    """Make one of a task and of what a standing URL had created for its id; the outcome is copied, with an entry."""
    transaction.change(owner.evolve(task_id=None, joined_ref=task.ref))
    task = task.evolve(open_to_standing=True)
    if owner.outcome is not None and weigh(task.outcome, owner.outcome) == "accepted":
        return transaction.append_outcome(task, owner.outcome, next_poll_at=None)
    transaction.change(task)
    return task


def _says_the_same(one: Outcome, other: Outcome) -> bool:
    if one.status != other.status or one.error_code != other.error_code:
        return False
    if one.solution is None or other.solution is None:
        return one.solution == other.solution or one.status == "ready"
    return one.solution == other.solution or same_value(from_json(one.solution), from_json(other.solution))
