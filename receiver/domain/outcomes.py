"""The rules for outcomes and ids. Pure: they read and change a `Transaction`.

The first outcome of the provider wins, whatever way it came. Outcomes of the receiver are provisional. An id from
createTask replaces an id from a callback.

States of a task that a standing URL made, and its races with a task of a client:

* *alone*: it has its id and its outcome;
* *joined for now*: a final callback gave the client's task this id. It has the outcome, too, if it had none;
* *joined*: createTask gave the same id. That is final, and so is a join by createTask itself;
* *alone again*: createTask gave another id. Whatever comes for the first id from now on is about this task. A callback
  on the URL of the client's task is mismatched, and a poll that had asked for the first id is ignored. The outcome
  stays with the client's task, too, and is disputed there: readers of the log have it.
"""

from __future__ import annotations

from pydantic_core import from_json

from client.provider_api.errors import failure_at_deadline
from client.providers.readings import TaskId
from client.providers.values import same_value, task_id_text
from receiver.domain.next_poll import Bound, Hinted, Settled, next_poll
from receiver.domain.reading import Origin, make_outcome
from receiver.domain.records import Outcome, StoredDelivery, TaskRecord
from receiver.domain.transaction import TaskIdKey, Transaction
from receiver.domain.verdicts import Verdict
from receiver.errors import ReceiverError

__all__ = ["accept", "bind", "bind_from_callback", "give_up", "hint", "is_open", "settle", "weigh"]


def weigh(current: Outcome | None, new: Outcome) -> Verdict:
    """Return the verdict on `new`: `accepted` if there is no current outcome, or only a provisional one."""
    if current is None or current.is_provisional:
        return "accepted"
    if not _is_same(current, new):
        return "disagreed"
    return "duplicate" if current.source == new.source else "late"


def is_open(task: TaskRecord) -> bool:
    """Return True if the next outcome of the provider would be the task's."""
    return task.outcome is None or task.outcome.is_provisional


def accept(
    transaction: Transaction, task: TaskRecord, outcome: Outcome, delivery: StoredDelivery | None = None
) -> TaskRecord:
    """Make an outcome of the provider the task's. No poll is due any more, and no callback is held back.

    `delivery` is the newest of the task, if it is to be kept with the outcome.
    """
    return transaction.append_outcome(task, outcome, delivery, held_until=None)


def settle(transaction: Transaction, task: TaskRecord, new: Outcome) -> tuple[Verdict, TaskRecord]:
    """Return the verdict on an outcome, and the task, which has the outcome if it was accepted.

    A poll or report that repeats a disputed outcome ends the dispute. A provisional outcome is accepted only if there
    is no other. It neither replaces nor disputes an outcome, nor a callback that is held back.
    """
    if new.is_provisional and (task.outcome is not None or task.held_until is not None):
        return "notFinal", task
    verdict = weigh(task.outcome, new)
    if verdict == "accepted":
        return verdict, accept(transaction, task, new)
    if task.is_disputed and new.source == "poll":
        task = task.evolve(is_disputed=verdict == "disagreed", next_poll_at=next_poll(task, Settled()))
        transaction.change(task)
    return verdict, task


def give_up(transaction: Transaction, task: TaskRecord, now: int) -> TaskRecord:
    """End a task at its deadline with a provisional outcome of the receiver."""
    outcome = make_outcome(failure_at_deadline(task.task_id), Origin("deadline", "reported", now))
    return transaction.append_outcome(task, outcome)


def hint(transaction: Transaction, task: TaskRecord, now: int) -> TaskRecord:
    """Bring the next poll to now, unless the task has an outcome without a dispute.

    That happens once before the task has an outcome, and once more after a provisional outcome.
    """
    outcome = task.outcome
    is_settled = outcome is not None and not outcome.is_provisional and not task.is_disputed
    is_used_up = task.hinted_at is not None and (
        outcome is None or not outcome.is_provisional or task.hinted_at >= outcome.finished_at
    )
    if is_used_up or is_settled:
        return task
    task = task.evolve(hinted_at=now, next_poll_at=next_poll(task, Hinted(now)))
    transaction.change(task)
    transaction.append_hint(task)
    return task


def bind(transaction: Transaction, task: TaskRecord, task_id: TaskId, now: int) -> TaskRecord:
    """Bind the id that createTask gave, and return the task.

    Binding the same id again changes nothing. If only a callback had bound another id, createTask is right: the outcome
    is disputed and a poll is due. If a standing URL had brought that other id, its task gets the id back.

    Raises:
        ReceiverError: `task-id-taken`, with the `ref` of the task that has the id, or `task-id-mismatch` if createTask
            had given another id before.
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
    wrong_id, joined = task.task_id, transaction.joined_tasks(task) if task.bound_by == "callback" else ()
    if wrong_id is not None:
        transaction.set_verdict(task, "mismatched", id_text=task.id_text)
        is_disputed = task.outcome is not None and task.outcome.source == "callback"
        # An earlier hint was about something else. Without it, this one is always given.
        task = hint(transaction, task.evolve(is_disputed=is_disputed, hinted_at=None), now)
    task = task.evolve(task_id=task_id, bound_by="create", bound_at=now)
    if owner is not None:
        task = _join(transaction, task, owner)
    else:
        task = _postpone(task)
        transaction.change(task)
    for other in joined:
        # After the change of `task`, which has released the id.
        transaction.change(other.evolve(task_id=wrong_id, joined_ref=None))
    return task


def _postpone(task: TaskRecord) -> TaskRecord:
    """Return the task with its first poll counted from createTask's answer. It was planned from the registration on."""
    at = next_poll(task, Bound())
    return task if at == task.next_poll_at else task.evolve(poll_after=at, next_poll_at=at)


def bind_from_callback(
    transaction: Transaction, task: TaskRecord, task_id: TaskId | None, now: int, *, may_join: bool
) -> TaskRecord | None:
    """Return the task, bound to the id in a delivery on its own URL; None if the id is another task's.

    Without `may_join`, it stays without an id that a standing URL had brought.
    """
    if task_id is None or task.id_text == task_id_text(task_id):
        return task
    if task.task_id is not None:
        return None
    bound = task.evolve(task_id=task_id, bound_by="callback", bound_at=now)
    owner = transaction.task_by_id(TaskIdKey(task.provider, task_id_text(task_id)))
    if owner is None:
        return bound
    if owner.standing_id is None:
        return None
    return _join(transaction, bound, owner) if may_join else task


def _join(transaction: Transaction, task: TaskRecord, owner: TaskRecord) -> TaskRecord:
    """Give the task the id and the outcome of a task that a standing URL made. The outcome gets a log entry here."""
    transaction.change(owner.evolve(task_id=None, joined_ref=task.ref))
    task = task.evolve(open_to_standing=True)
    if owner.outcome is not None and weigh(task.outcome, owner.outcome) == "accepted":
        return transaction.append_outcome(task, owner.outcome)
    transaction.change(task)
    return task


def _is_same(one: Outcome, other: Outcome) -> bool:
    if one.status != other.status or one.error_code != other.error_code:
        return False
    if one.solution is None or other.solution is None:
        return one.solution == other.solution or one.status == "ready"
    return one.solution == other.solution or same_value(from_json(one.solution), from_json(other.solution))
