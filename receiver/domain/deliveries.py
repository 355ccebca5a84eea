"""The commands behind callback URLs: they decide the verdict on a delivery. Pure.

A delivery on a task URL is about that task. A delivery on a standing URL is about the task with the id in the body.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from client.providers import Dialect
from client.providers.readings import Bare, CallbackReading, Failed, Notice, Pending, Ready
from receiver.domain.next_poll import Hinted, next_poll
from receiver.domain.outcomes import accept, bind_from_callback, hint, is_open, weigh
from receiver.domain.reading import (
    CallbackRequest,
    Origin,
    make_outcome,
    meaning_for_type,
    read_callback,
    undecided_delivery,
)
from receiver.domain.records import (
    DELIVERIES_KEPT,
    SECOND,
    AboutTask,
    Outcome,
    StandingUrl,
    StoredDelivery,
    TaskRecord,
)
from receiver.domain.tokens import CallbackToken, Kind
from receiver.domain.transaction import Key, OneTaskCommand, TaskIdKey, Transaction
from receiver.domain.verdicts import UNREAD, UnreadVerdict, Verdict
from receiver.errors import ReceiverError

__all__ = [
    "HOLD",
    "ROW_BYTES",
    "UNREADABLE_QUOTA",
    "DeliverToStanding",
    "DeliverToTask",
    "DeliveryResult",
    "DeliveryRules",
    "HintTask",
    "Quotas",
    "bodies_quota",
    "delivery_command",
    "delivery_rules",
    "held_from",
]

UNREADABLE_QUOTA = "unreadable"
RESTORED_QUOTA = "restored"
HOLD = 10 * SECOND
"""The longest wait for the provider to confirm a callback, in µs, from the time when the poll is due."""
ROW_BYTES = 512
"""A kept delivery counts for at least this many bytes of a quota, so that empty ones are bounded too."""


_FINAL = (Ready, Failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Bounds on strangers' data: tasks and bytes of each standing URL, bytes of all unreadable bodies."""

    standing_rows: int
    standing_bytes: int
    unreadable_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRules:
    """The dialect and the settings for the callbacks of one provider.

    With a `secret`, callbacks have to be signed. `confirm` selects the callbacks that a poll confirms: "never" any,
    "mismatched" ones, or "always" all that are not signed. `can_poll`: the receiver has a key of the provider.
    """

    dialect: Dialect
    quotas: Quotas
    secret: bytes | None = field(default=None, repr=False)
    confirm: str = "mismatched"
    can_poll: bool = False


def delivery_rules(
    dialects: Mapping[str, Dialect],
    quotas: Quotas,
    *,
    secrets: Mapping[str, bytes],
    confirm: str,
    polled: Container[str],
) -> Mapping[str, DeliveryRules]:
    """Return the rules of each provider. `polled` are the providers whose key the receiver has."""
    return {
        provider: DeliveryRules(
            dialect=dialect,
            quotas=quotas,
            secret=secrets.get(provider),
            confirm=confirm,
            can_poll=provider in polled,
        )
        for provider, dialect in dialects.items()
    }


# Not frozen, as one is made for each callback. Nothing changes it.
@dataclass(slots=True)
class DeliveryResult(AboutTask):
    """The verdict on a delivery, and its task."""

    verdict: Verdict
    task: TaskRecord | None


# Not frozen, as one is made for each callback. Nothing changes it.
@dataclass(slots=True, kw_only=True)
class _Delivery:
    """A delivery with its reading. `now` is later than `delivery.received_at` if it is decided again.

    `ref` is that of the task, or of the task that it may make. `delivery` has no verdict yet, or the one before.
    """

    ref: str
    reading: CallbackReading | UnreadVerdict
    delivery: StoredDelivery
    rules: DeliveryRules
    now: int
    is_signed: bool = False

    @property
    def weight(self) -> int:
        """The size of the body."""
        return self.delivery.size

    def _decide(self, transaction: Transaction, task: TaskRecord) -> DeliveryResult:
        """Return the verdict on the delivery to a task that it may end."""
        reading, now = self.reading, self.now
        if isinstance(reading, str):
            return self._stored(transaction, hint(transaction, task, now), reading)
        meaning = meaning_for_type(self.rules.dialect, reading, task.type)
        if isinstance(meaning, Notice):
            return self._stored(transaction, task, "notice")
        is_progress = isinstance(meaning, Pending) and not meaning.has_solution
        bound = bind_from_callback(transaction, task, reading.task_id, now, may_join=not is_progress)
        if bound is None:
            task = task if self.rules.confirm == "never" else hint(transaction, task, now)
            return self._stored(transaction, task, "mismatched")
        if is_progress:
            return self._stored(transaction, bound, "notFinal")
        if isinstance(meaning, Pending | Bare):
            if task.outcome is not None and not task.outcome.is_provisional:
                return self._stored(transaction, bound, "late")
            # Only a poll brings the answer, or all of it. It is due now.
            return self._stored(transaction, hint(transaction, bound, now), "notFinal")
        if self._needs_confirmation(bound):
            return self._hold(transaction, bound)
        outcome = self._outcome(meaning)
        verdict = weigh(bound.outcome, outcome)
        if verdict == "accepted":
            return self._accepted(transaction, bound, outcome)
        return self._stored(transaction, bound, verdict)

    def _create(self, transaction: Transaction, meaning: Ready | Failed) -> DeliveryResult:
        """Make the task, its outcome and its log entry, in this one transaction.

        Raises:
            ReceiverError: `quota-full`.
        """
        delivery, rules = self.delivery, self.rules
        size = max(delivery.size, ROW_BYTES)
        quota = delivery.standing_id or RESTORED_QUOTA
        rows_used, bytes_used = transaction.quota(quota)
        if rows_used >= rules.quotas.standing_rows or bytes_used + size > rules.quotas.standing_bytes:
            text = "this callback URL has used up its quota of tasks or bytes"
            raise ReceiverError("quota-full", text, retry_after_seconds=60)
        transaction.add_to_quota(quota, 1, size)
        plan = rules.dialect.polls
        task_id = None if isinstance(self.reading, str) else self.reading.task_id
        task = transaction.add(
            TaskRecord(
                row=0,
                ref=self.ref,
                provider=rules.dialect.provider,
                type=None,
                tags=(),
                metadata="{}",
                created_by=None,
                client_key_id=None,
                has_url=delivery.standing_id is None,
                open_to_standing=delivery.standing_id is not None,
                standing_id=delivery.standing_id,
                task_id=task_id,
                bound_by="callback" if task_id is not None else None,
                bound_at=delivery.received_at if task_id is not None else None,
                registered_at=0,
                created_at=delivery.received_at,
                poll_after=self.now + round(plan.first_after_callback_seconds * SECOND),
                next_poll_at=None,
                deadline_at=self.now + round((plan.window_seconds + plan.grace_seconds) * SECOND),
                quota=quota,
                kept_bytes=size,
                is_polled_here=rules.can_poll,
            )
        )
        if self._needs_confirmation(task):
            return self._hold(transaction, task)
        return self._accepted(transaction, task, self._outcome(meaning))

    def _needs_confirmation(self, task: TaskRecord) -> bool:
        """Return True if the provider has to be asked first, and can be."""
        is_doubtful = self.rules.confirm == "always" and not self.is_signed
        return is_doubtful and task.is_polled_here and task.task_id is not None and is_open(task)

    def _outcome(self, meaning: Ready | Failed) -> Outcome:
        """Return the outcome. It was finished when it came, even if it is decided later."""
        delivery = self.delivery
        trust = "signed" if self.is_signed else "token" if delivery.standing_id is None else "standing"
        life = self.rules.dialect.answer_life_seconds
        return make_outcome(meaning, Origin("callback", trust, delivery.received_at, life))

    def _hold(self, transaction: Transaction, task: TaskRecord) -> DeliveryResult:
        """Ask the provider first. After `HOLD` without an answer the callback is the outcome all the same."""
        task = self._store(transaction, task, "held")
        if task.held_until is None:
            next_poll_at = next_poll(task, Hinted(self.now))
            task = task.evolve(held_until=self.now + HOLD, hinted_at=self.now, next_poll_at=next_poll_at)
            transaction.change(task)
            transaction.append_hint(task)
        return DeliveryResult("held", task)

    def _accepted(self, transaction: Transaction, task: TaskRecord, outcome: Outcome) -> DeliveryResult:
        """Make the outcome the task's. Its log entry keeps the delivery, with two exceptions.

        A delivery with a slot was kept before and stays in its place. The next delivery takes the slot of the newest.
        """
        if self.delivery.slot is not None or task.deliveries >= DELIVERIES_KEPT:
            task = self._store(transaction, task, "accepted")
            return DeliveryResult("accepted", accept(transaction, task, outcome))
        task = task.evolve(deliveries=task.deliveries + 1)
        delivery = self.delivery.decided("accepted", is_body_kept=self._count_body(transaction, task, "accepted"))
        return DeliveryResult("accepted", accept(transaction, task, outcome, delivery))

    def _stored(self, transaction: Transaction, task: TaskRecord, verdict: Verdict) -> DeliveryResult:
        return DeliveryResult(verdict, self._store(transaction, task, verdict))

    def _store(self, transaction: Transaction, task: TaskRecord, verdict: Verdict) -> TaskRecord:
        """Keep the delivery with the task. One with a slot was kept before and stays in its place."""
        slot = self.delivery.slot
        if slot is None:
            task = task.evolve(deliveries=task.deliveries + 1)
            slot = min(task.deliveries, DELIVERIES_KEPT + 1)
        replaced = None
        if self.delivery.slot is None and task.deliveries > DELIVERIES_KEPT + 1:
            replaced = transaction.deliveries(task).get(slot)
        if replaced is not None and replaced.verdict == "held" and task.held_until is not None:
            # An acknowledged answer waits there to be confirmed, so this delivery is counted and not kept.
            transaction.change(task)
            return task
        is_body_kept = self._count_body(transaction, task, verdict)
        _give_back(transaction, task, replaced)
        transaction.store_delivery(task, slot, self.delivery.decided(verdict, is_body_kept=is_body_kept))
        transaction.change(task)
        return task

    def _count_body(self, transaction: Transaction, task: TaskRecord, verdict: Verdict) -> bool:
        """Count the body for its quota. Return False if the quota is used up, so that the body is not kept.

        Bodies count for the standing URL they came on. On a task URL they count only for a task that a delivery made,
        because few bodies of other tasks are kept. The body that makes a task is counted as such.
        """
        if verdict in UNREAD:
            return self._count_unread(transaction)
        name = self.delivery.standing_id or task.quota
        if name is None:
            return True
        makes_task = task.quota is not None and task.deliveries == 1
        size = 0 if makes_task else max(self.delivery.size, ROW_BYTES)
        used = transaction.quota(name)[1] + transaction.quota(bodies_quota(name))[1]
        # The outcome of a task whose callback is held back is read from these bytes.
        is_needed = verdict == "held" and task.held_until is None
        if used + size > self.rules.quotas.standing_bytes and not is_needed:
            return False
        if not makes_task:
            transaction.add_to_quota(bodies_quota(name), 1, size)
        return True

    def _count_unread(self, transaction: Transaction) -> bool:
        size = max(self.delivery.size, ROW_BYTES)
        is_body_kept = transaction.quota(UNREADABLE_QUOTA)[1] + size <= self.rules.quotas.unreadable_bytes
        if is_body_kept:
            transaction.add_to_quota(UNREADABLE_QUOTA, 1, size)
        return is_body_kept


@dataclass(slots=True, kw_only=True)
class DeliverToTask(_Delivery, OneTaskCommand):
    """A delivery on a task URL."""

    def decide(self, transaction: Transaction) -> DeliveryResult:
        """Return the verdict.

        Raises:
            ReceiverError: `quota-full`.
        """
        task = transaction.task(self.ref)
        if task is None:
            return self._to_lost_task(transaction)
        return self._accept_at_once(transaction, task) or self._decide(transaction, task)

    def _accept_at_once(self, transaction: Transaction, task: TaskRecord) -> DeliveryResult | None:
        """Return the verdict on the first answer of an ordinary task; None: all of `_decide` is needed.

        It is a short way to the same result, because nearly every callback is such an answer.
        """
        reading, delivery = self.reading, self.delivery
        if isinstance(reading, str) or not isinstance(reading.reading, _FINAL) or delivery.slot is not None:
            return None
        if task.outcome is not None or task.held_until is not None or task.quota is not None:
            return None
        if task.deliveries >= DELIVERIES_KEPT or self._needs_confirmation(task):
            return None
        changes: dict[str, Any] = {"deliveries": task.deliveries + 1}
        id_text = delivery.id_text
        if id_text is not None and id_text != task.id_text:
            if task.task_id is not None or self.rules.confirm == "always":
                return None
            if transaction.task_by_id(TaskIdKey(task.provider, id_text)) is not None:
                return None
            changes |= {"task_id": reading.task_id, "bound_by": "callback", "bound_at": self.now}
        outcome = self._outcome(reading.reading)
        task = transaction.append_outcome(task, outcome, delivery.decided("accepted"), **changes)
        return DeliveryResult("accepted", task)

    def _to_lost_task(self, transaction: Transaction) -> DeliveryResult:
        """Make the task anew. The token is valid, so it was deleted here, or lost with a restored backup."""
        if transaction.is_forgotten(self.ref, None):
            return DeliveryResult("forgotten", None)
        if isinstance(self.reading, str):
            return DeliveryResult(self.reading, None)
        meaning = meaning_for_type(self.rules.dialect, self.reading, None)
        if not isinstance(meaning, Ready | Failed):
            return DeliveryResult("notice" if isinstance(meaning, Notice) else "notFinal", None)
        id_text = self.delivery.id_text
        if id_text is not None and transaction.task_by_id(TaskIdKey(self.rules.dialect.provider, id_text)) is not None:
            return DeliveryResult("mismatched", None)
        return self._create(transaction, meaning)


@dataclass(slots=True, kw_only=True)
class DeliverToStanding(_Delivery):
    """A delivery on the standing URL `delivery.standing_id`. With `is_kept` it is kept already, without a task."""

    is_kept: bool = False
    refs: Sequence[str] = ()

    def rows_read(self) -> Sequence[Key]:
        """Return the keys of the rows that it reads first."""
        id_text = self.delivery.id_text
        url: Key = ("standing_url", self.delivery.standing_id)
        return (url,) if id_text is None else (url, ("task_id", self.rules.dialect.provider, id_text))

    def decide(self, transaction: Transaction) -> DeliveryResult:
        """Return the verdict.

        Raises:
            ReceiverError: `not-found` for a revoked URL, `quota-full`.
        """
        transaction.require(*self.rows_read())
        url_id = self.delivery.standing_id or ""
        url = transaction.standing_url(url_id)
        if url is not None and url.revoked_at is not None:
            raise ReceiverError("not-found", "no such callback URL")
        result = self._to_any_task(transaction)
        if url is None:
            # It was made after the backup that this database was restored from. Its signature is ours.
            url = StandingUrl(url_id, self.rules.dialect.provider, "restored", self.now, None)
            transaction.save_standing_url(url)
        return result

    def _to_any_task(self, transaction: Transaction) -> DeliveryResult:
        reading, id_text = self.reading, self.delivery.id_text
        if isinstance(reading, str):
            return self._keep_stray(transaction, reading)
        if isinstance(reading.reading, Notice):
            return DeliveryResult("notice", None)
        if id_text is None:
            return self._keep_stray(transaction, "unreadable")
        key = TaskIdKey(self.rules.dialect.provider, id_text)
        task = transaction.task_by_id(key)
        if task is not None and task.open_to_standing:
            return self._decide(transaction, task)
        if task is not None:
            # The task has a URL of its own. Ids can be guessed, so this is only a hint.
            return self._stored(transaction, hint(transaction, task, self.now), "mismatched")
        transaction.require(("forgotten_id", *key), ("quota", self.delivery.standing_id))
        if transaction.is_forgotten(None, key):
            return DeliveryResult("forgotten", None)
        meaning = meaning_for_type(self.rules.dialect, reading, None)
        if isinstance(meaning, Pending) and meaning.has_solution:
            # There is no task to poll. The bytes are kept for a newer dialect, which may have the state.
            return self._keep_stray(transaction, "unreadable")
        if not isinstance(meaning, Ready | Failed):
            return DeliveryResult("notFinal", None)
        return self._create(transaction, meaning)

    def _keep_stray(self, transaction: Transaction, verdict: UnreadVerdict) -> DeliveryResult:
        if not self.is_kept and self._count_unread(transaction):
            transaction.store_stray(self.delivery.decided(verdict))
        return DeliveryResult(verdict, None)


def delivery_command(
    rules: DeliveryRules, request: CallbackRequest, token: CallbackToken, *, now: int, new_ref: Callable[[], UUID]
) -> DeliverToTask | DeliverToStanding:
    """Return the command that decides on a callback. `new_ref` makes the ref of a task that a standing URL may make."""
    reading, is_signed = read_callback(rules.dialect, request, rules.secret)
    is_standing = token.kind is Kind.STANDING
    delivery = undecided_delivery(request, reading, standing_id=token.id if is_standing else None, now=now)
    command = DeliverToStanding if is_standing else DeliverToTask
    ref = str(new_ref()) if is_standing else token.id
    return command(ref=ref, reading=reading, delivery=delivery, rules=rules, now=now, is_signed=is_signed)


@dataclass(frozen=True, slots=True, kw_only=True)
class HintTask(OneTaskCommand):
    """A hint for a task, after a request that could not be read: the next poll is due now."""

    ref: str
    now: int
    weight: int = 0

    def decide(self, transaction: Transaction) -> None:
        """Give the hint. An unknown task is no error."""
        task = transaction.task(self.ref)
        if task is not None:
            hint(transaction, task, self.now)


def held_from(task: TaskRecord, asked_at: int) -> TaskRecord:
    """Return the task with its callback held back until `HOLD` after the next poll, but not beyond the deadline."""
    return task.evolve(held_until=min(asked_at + HOLD, task.deadline_at))


def bodies_quota(name: str) -> str:
    """Return the quota for bodies that came under another quota's name without making a task."""
    return f"{name}/bodies"


def _give_back(transaction: Transaction, task: TaskRecord, replaced: StoredDelivery | None) -> None:
    """Return the bytes of a delivery to its quota. A newer one takes its place."""
    if replaced is None or replaced.body is None:
        return
    name = replaced.standing_id or task.quota
    quota = UNREADABLE_QUOTA if replaced.verdict in UNREAD else None if name is None else bodies_quota(name)
    if quota is not None:
        transaction.add_to_quota(quota, -1, -max(replaced.size, ROW_BYTES))
