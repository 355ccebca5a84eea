"""The commands behind callback URLs: what becomes of a delivery on a task URL or a standing URL. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from client.providers.readings import Bare, CallbackReading, Failed, Notice, Pending, Ready, TaskId
from client.providers.values import task_id_text
from receiver.domain.outcomes import Origin, bind_from_callback, hint, is_open, make_outcome, settle, weigh
from receiver.domain.records import (
    DELIVERIES_KEPT,
    SECOND,
    AboutTask,
    StandingUrl,
    StoredDelivery,
    TaskRecord,
    UnreadableDelivery,
)
from receiver.domain.transaction import Key, TaskIdKey, Transaction
from receiver.domain.verdicts import UNREAD, UnreadVerdict, Verdict
from receiver.errors import ReceiverError

__all__ = [
    "HOLD",
    "ROW_BYTES",
    "UNREADABLE_QUOTA",
    "Arrival",
    "DeliverToStanding",
    "DeliverToTask",
    "DeliveryResult",
    "HintTask",
    "NewTask",
    "Quotas",
    "bodies_quota",
    "held_from",
]

UNREADABLE_QUOTA = "unreadable"
RESTORED_QUOTA = "restored"
HOLD = 10 * SECOND
"""A callback that is to be confirmed is held back for so long after the provider was to be asked, in µs."""
ROW_BYTES = 512
"""A kept delivery counts for at least this many bytes of a quota, so that empty ones are bounded too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Bounds on what strangers' bytes may take: tasks and bytes for each standing URL, bytes of unreadable bodies."""

    standing_rows: int
    standing_bytes: int
    unreadable_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """The times of a task that a delivery makes."""

    ref: str
    poll_after: int
    deadline_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One delivery as it came: its bytes, what the dialect read in them, and what it would be as an outcome.

    `standing_id` is the standing URL that it came on, if it was one. `solution_of` is the dialect's. `confirm` says
    which callbacks the provider is asked about: "never" any, "mismatched" ones, or "always" all that are not signed.
    `can_poll`: the receiver has a key, so that it can ask. `again`: it was kept before, and is judged anew now.
    """

    provider: str
    method: str
    content_type: str | None
    body: bytes
    reading: CallbackReading | UnreadVerdict
    origin: Origin
    received_at: int
    standing_id: str | None = None
    solution_of: Callable[[str, str | None], Any | None] | None = None
    confirm: str = "mismatched"
    can_poll: bool = False
    again: UnreadableDelivery | None = None

    def must_be_confirmed(self, task: TaskRecord) -> bool:
        """Whether it is the outcome of this task only once the provider was asked, or could not be."""
        is_doubtful = self.confirm == "always" and self.origin.trust != "signed"
        return is_doubtful and task.is_polled_here and task.task_id is not None and is_open(task)

    def says(self, task_type: str | None) -> Ready | Bare | Failed | Pending | Notice | UnreadVerdict:
        """What it says of a task of this type; a bare answer stays one where a poll would bring more than that."""
        if isinstance(self.reading, str):
            return self.reading
        said = self.reading.reading
        if not isinstance(said, Bare) or self.solution_of is None:
            return said
        solution = self.solution_of(said.code, task_type)
        return said if solution is None else Ready(solution)

    @property
    def id_text(self) -> str | None:
        """The id in the delivery, as text."""
        task_id = self.task_id
        return None if task_id is None else task_id_text(task_id)

    @property
    def task_id(self) -> TaskId | None:
        """The id in the delivery."""
        return self.reading.task_id if isinstance(self.reading, CallbackReading) else None

    def delivery(self, verdict: Verdict, *, keep_body: bool = True) -> StoredDelivery:
        """What is kept of it."""
        again = self.again
        return StoredDelivery(
            received_at=self.received_at if again is None else again.delivery.received_at,
            verdict=verdict,
            method=self.method,
            content_type=self.content_type,
            body=self.body if keep_body else None,
            size=len(self.body),
            id_text=self.id_text,
            standing_id=self.standing_id,
            slot=None if again is None else again.slot,
        )


@dataclass(frozen=True, slots=True)
class DeliveryResult(AboutTask):
    """What became of a delivery, and of which task."""

    verdict: Verdict
    task: TaskRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverToTask:
    """A delivery on a task URL."""

    ref: str
    arrival: Arrival
    new_task: NewTask
    quotas: Quotas

    @property
    def refs(self) -> Sequence[str]:
        """The task of the URL."""
        return (self.ref,)

    @property
    def weight(self) -> int:
        """The size of the body."""
        return len(self.arrival.body)

    def decide(self, transaction: Transaction) -> DeliveryResult:
        """Return the verdict of design 5."""
        task = transaction.task(self.ref)
        if task is None:
            return self._to_unseen_task(transaction)
        return _deliver(transaction, task, self.arrival, self.quotas)

    def _to_unseen_task(self, transaction: Transaction) -> DeliveryResult:
        """The token is ours, so the task was registered here once: deleted since, or lost with a restored backup."""
        arrival = self.arrival
        if transaction.is_forgotten(self.ref, None):
            return DeliveryResult("forgotten", None)
        if isinstance(arrival.reading, str):
            return DeliveryResult(arrival.reading, None)
        outcome = arrival.says(None)
        if not isinstance(outcome, Ready | Failed):
            return DeliveryResult("notice" if isinstance(outcome, Notice) else "notFinal", None)
        if (
            arrival.id_text is not None
            and transaction.task_by_id(TaskIdKey(arrival.provider, arrival.id_text)) is not None
        ):
            return DeliveryResult("mismatched", None)
        return _create(transaction, arrival, outcome, self.new_task, self.quotas)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverToStanding:
    """A delivery on a standing URL; the task is told by the id in the body alone."""

    url_id: str
    arrival: Arrival
    new_task: NewTask
    quotas: Quotas
    refs: Sequence[str] = ()

    @property
    def weight(self) -> int:
        """The size of the body."""
        return len(self.arrival.body)

    def rows_read(self) -> Sequence[Key]:
        """Return the keys of what it reads first."""
        id_text = self.arrival.id_text
        url: Key = ("standing_url", self.url_id)
        return (url,) if id_text is None else (url, ("task_id", self.arrival.provider, id_text))

    def decide(self, transaction: Transaction) -> DeliveryResult:
        """Return the verdict of design 5.

        Raises:
            ReceiverError: `not-found` for a revoked URL, `quota-full`.
        """
        transaction.require(*self.rows_read())
        url = transaction.standing_url(self.url_id)
        if url is not None and url.revoked_at is not None:
            raise ReceiverError("not-found", "no such callback URL")
        delivered = self._deliver(transaction)
        if url is None:
            # Made after the backup that this database was restored from: its signature says that it is ours.
            transaction.save_standing_url(
                StandingUrl(self.url_id, self.arrival.provider, "restored", self.arrival.received_at, None)
            )
        return delivered

    def _deliver(self, transaction: Transaction) -> DeliveryResult:
        arrival = self.arrival
        if isinstance(arrival.reading, CallbackReading) and isinstance(arrival.reading.reading, Notice):
            return DeliveryResult("notice", None)
        if isinstance(arrival.reading, str) or arrival.id_text is None:
            return self._keep_stray(transaction, arrival.reading if isinstance(arrival.reading, str) else "unreadable")
        key = TaskIdKey(arrival.provider, arrival.id_text)
        task = transaction.task_by_id(key)
        if task is not None:
            return self._to_known_task(transaction, task)
        transaction.require(("forgotten_id", *key), ("quota", self.url_id))
        if transaction.is_forgotten(None, key):
            return DeliveryResult("forgotten", None)
        outcome = arrival.says(None)
        if isinstance(outcome, Pending) and outcome.has_solution:
            # There is no task that could be polled. It is kept until a newer dialect may know the state.
            return self._keep_stray(transaction, "unreadable")
        if not isinstance(outcome, Ready | Failed):
            return DeliveryResult("notFinal", None)
        return _create(transaction, arrival, outcome, self.new_task, self.quotas)

    def _keep_stray(self, transaction: Transaction, verdict: Verdict) -> DeliveryResult:
        if self.arrival.again is None:
            delivery = _within_quota(transaction, self.arrival, verdict, self.quotas)
            if delivery.body is not None:
                transaction.store_stray(delivery)
        return DeliveryResult(verdict, None)

    def _to_known_task(self, transaction: Transaction, task: TaskRecord) -> DeliveryResult:
        if task.open_to_standing:
            return _deliver(transaction, task, self.arrival, self.quotas)
        # A task with a URL of its own: ids can be guessed, so this is only a hint.
        task = hint(transaction, task, self.arrival.received_at)
        return DeliveryResult("mismatched", _store(transaction, task, self.arrival.delivery("mismatched"), self.quotas))


@dataclass(frozen=True, slots=True, kw_only=True)
class HintTask:
    """Something came for this task that was not taken in: the next poll is due now."""

    ref: str
    now: int

    @property
    def refs(self) -> Sequence[str]:
        """The task."""
        return (self.ref,)

    @property
    def weight(self) -> int:
        """Nothing to speak of."""
        return 0

    def decide(self, transaction: Transaction) -> None:
        """Nothing; an unknown task is no error."""
        task = transaction.task(self.ref)
        if task is not None:
            hint(transaction, task, self.now)


def held_from(task: TaskRecord, asked_at: int) -> TaskRecord:
    """The task with its callback held back until the provider, to be asked then, did not answer; never for longer."""
    return task.evolve(held_until=min(asked_at + HOLD, task.deadline_at))


def _deliver(transaction: Transaction, task: TaskRecord, arrival: Arrival, quotas: Quotas) -> DeliveryResult:
    now = arrival.received_at
    says = arrival.says(task.type)
    if isinstance(says, str):
        task = hint(transaction, task, now)
        delivery = _within_quota(transaction, arrival, says, quotas)
        return DeliveryResult(says, _store(transaction, task, delivery, quotas))
    if isinstance(says, Notice):
        return DeliveryResult("notice", _store(transaction, task, arrival.delivery("notice"), quotas))
    bound = bind_from_callback(transaction, task, arrival.task_id, now)
    if bound is None:
        task = task if arrival.confirm == "never" else hint(transaction, task, now)
        return DeliveryResult("mismatched", _store(transaction, task, arrival.delivery("mismatched"), quotas))
    if isinstance(says, Pending) and not says.has_solution:
        return DeliveryResult("notFinal", _store(transaction, bound, arrival.delivery("notFinal"), quotas))
    if isinstance(says, Pending | Bare):
        if task.outcome is not None and not task.outcome.is_provisional:
            return DeliveryResult("late", _store(transaction, bound, arrival.delivery("late"), quotas))
        # Only a poll tells the answer, or all of it: it is due now.
        return DeliveryResult(
            "notFinal", _store(transaction, hint(transaction, bound, now), arrival.delivery("notFinal"), quotas)
        )
    if arrival.must_be_confirmed(bound):
        return DeliveryResult("held", _hold(transaction, bound, arrival, quotas))
    new = make_outcome(says, arrival.origin)
    verdict = weigh(bound.outcome, new)
    task = _store(transaction, bound, arrival.delivery(verdict), quotas)
    return DeliveryResult(verdict, settle(transaction, task, new)[1])


def _create(
    transaction: Transaction, arrival: Arrival, outcome: Ready | Failed, new_task: NewTask, quotas: Quotas
) -> DeliveryResult:
    """Return the task, its outcome and its log entry, in this one transaction."""
    size = max(len(arrival.body), ROW_BYTES)
    quota = arrival.standing_id or RESTORED_QUOTA
    rows_used, bytes_used = transaction.quota(quota)
    if rows_used >= quotas.standing_rows or bytes_used + size > quotas.standing_bytes:
        raise ReceiverError("quota-full", "this callback URL has made all the tasks it may", retry_after_seconds=60)
    transaction.add_to_quota(quota, 1, size)
    task = transaction.add(
        TaskRecord(
            row=0,
            ref=new_task.ref,
            provider=arrival.provider,
            type=None,
            tags=(),
            metadata="{}",
            created_by=None,
            client_key_id=None,
            has_url=arrival.standing_id is None,
            open_to_standing=arrival.standing_id is not None,
            standing_id=arrival.standing_id,
            task_id=arrival.task_id,
            bound_by="callback" if arrival.task_id is not None else None,
            bound_at=arrival.origin.finished_at if arrival.task_id is not None else None,
            registered_at=0,
            # Of what is delivered again, when it came.
            created_at=arrival.origin.finished_at,
            poll_after=new_task.poll_after,
            next_poll_at=None,
            deadline_at=new_task.deadline_at,
            quota=quota,
            kept_bytes=size,
            is_polled_here=arrival.can_poll,
        )
    )
    if arrival.must_be_confirmed(task):
        return DeliveryResult("held", _hold(transaction, task, arrival, quotas))
    task = _store(transaction, task, arrival.delivery("accepted"), quotas)
    return DeliveryResult("accepted", settle(transaction, task, make_outcome(outcome, arrival.origin))[1])


def _hold(transaction: Transaction, task: TaskRecord, arrival: Arrival, quotas: Quotas) -> TaskRecord:
    """Asks the provider first; after a while the callback is the outcome all the same."""
    task = _store(transaction, task, arrival.delivery("held"), quotas)
    if task.held_until is None:
        now = arrival.received_at
        task = task.evolve(held_until=now + HOLD, hinted_at=now, next_poll_at=now)
        transaction.change(task)
        transaction.append_hint(task)
    return task


def bodies_quota(name: str) -> str:
    """Return the quota under which bodies count that came under another one's name without making a task."""
    return f"{name}/bodies"


def _store(transaction: Transaction, task: TaskRecord, delivery: StoredDelivery, quotas: Quotas) -> TaskRecord:
    slot = delivery.slot
    if slot is None:
        task = task.evolve(deliveries=task.deliveries + 1)
        slot = min(task.deliveries, DELIVERIES_KEPT + 1)
    counted = _counted(transaction, task, delivery, quotas)
    if delivery.slot is None and task.deliveries > DELIVERIES_KEPT + 1:
        _give_back(transaction, task, transaction.deliveries(task).get(slot))
    transaction.store_delivery(task, slot, counted)
    transaction.change(task)
    return task


def _give_back(transaction: Transaction, task: TaskRecord, replaced: StoredDelivery | None) -> None:
    """Return what the bytes of a delivery that makes room for a newer one take of a quota."""
    if replaced is None or replaced.body is None:
        return
    name = replaced.standing_id or task.quota
    quota = UNREADABLE_QUOTA if replaced.verdict in UNREAD else None if name is None else bodies_quota(name)
    if quota is not None:
        transaction.add_to_quota(quota, -1, -max(replaced.size, ROW_BYTES))


def _counted(transaction: Transaction, task: TaskRecord, delivery: StoredDelivery, quotas: Quotas) -> StoredDelivery:
    """Return the delivery with its bytes, counted for the URL that it came on; without them where they are used up.

    On a task URL that is only so for tasks that a delivery made: of others few bodies are kept. What makes a task is
    counted as such, what is unreadable under that quota.
    """
    name = delivery.standing_id or task.quota
    if name is None or delivery.body is None or delivery.verdict in UNREAD:
        return delivery
    makes_task = task.quota is not None and task.deliveries == 1
    size = 0 if makes_task else max(delivery.size, ROW_BYTES)
    used = transaction.quota(name)[1] + transaction.quota(bodies_quota(name))[1]
    # The outcome of a task whose callback is held back is read from these bytes.
    is_needed = delivery.verdict == "held" and task.held_until is None
    if used + size > quotas.standing_bytes and not is_needed:
        return replace(delivery, body=None)
    if not makes_task:
        transaction.add_to_quota(bodies_quota(name), 1, size)
    return delivery


def _within_quota(transaction: Transaction, arrival: Arrival, verdict: Verdict, quotas: Quotas) -> StoredDelivery:
    """Return the delivery with its bytes, or without them where the quota of unreadable bytes is used up."""
    size = max(len(arrival.body), ROW_BYTES)
    fits = transaction.quota(UNREADABLE_QUOTA)[1] + size <= quotas.unreadable_bytes
    if fits:
        transaction.add_to_quota(UNREADABLE_QUOTA, 1, size)
    return arrival.delivery(verdict, keep_body=fits)
