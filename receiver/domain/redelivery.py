"""The command behind `redeliver`: what becomes of kept bodies that a dialect can read now. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import chain

from client.providers import Dialect
from client.providers.readings import Bare, Failed, Notice, Pending, Ready
from receiver.domain.deliveries import (
    ROW_BYTES,
    UNREADABLE_QUOTA,
    Arrival,
    DeliverToStanding,
    DeliverToTask,
    DeliveryResult,
    Quotas,
    bodies_quota,
)
from receiver.domain.reading import read_again, times_of_new_task
from receiver.domain.records import UnreadableDelivery
from receiver.domain.transaction import Key, Transaction
from receiver.domain.verdicts import Verdict
from receiver.errors import ReceiverError

__all__ = ["Redeliver", "Redelivered", "Redelivery", "RedeliveryRules", "read_redelivery"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedeliveryRules:
    """What the settings say of deliveries; `signed` and `polled` are the providers with a secret and with a key."""

    dialects: Mapping[str, Dialect]
    signed: AbstractSet[str]
    polled: AbstractSet[str]
    quotas: Quotas
    confirm: str


@dataclass(frozen=True, slots=True)
class Redelivery:
    """A kept body, what is read in it in a word, and the delivery that it would be; without one, `why` it is none."""

    kept: UnreadableDelivery
    reading: str
    delivery: DeliverToTask | DeliverToStanding | None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Redelivered:
    """What became of a kept body, and of which task; one that is still `unreadable` is kept as it was."""

    kept: UnreadableDelivery
    reading: str
    verdict: Verdict
    ref: str | None
    why: str | None = None


def read_redelivery(
    rules: RedeliveryRules, kept: UnreadableDelivery, *, now: int, new_ref: Callable[[], str]
) -> Redelivery:
    """Return the kept body as its provider's dialect reads it now.

    Where a signature would be asked for, none is read: whether these bytes were signed is not known any more.
    """
    dialect = None if kept.provider is None else rules.dialects.get(kept.provider)
    if dialect is None:
        return Redelivery(kept, "unreadable", None, "its provider is not known")
    rule = dialect.callback
    if rule is not None and rule.signature is not None and dialect.provider in rules.signed:
        return Redelivery(kept, "unreadable", None, "its signature is not kept")
    arrival = read_again(dialect, kept, now, confirm=rules.confirm, can_poll=dialect.provider in rules.polled)
    reading = _reading(arrival)
    if reading == "unreadable":
        return Redelivery(kept, reading, None)
    if kept.ref is not None:
        times = times_of_new_task(dialect, kept.ref, now)
        return Redelivery(
            kept, reading, DeliverToTask(ref=kept.ref, arrival=arrival, new_task=times, quotas=rules.quotas)
        )
    if arrival.standing_id is None or (arrival.id_text is None and reading != "notice"):
        return Redelivery(kept, reading, None, "it has no taskId")
    times = times_of_new_task(dialect, new_ref(), now)
    return Redelivery(
        kept,
        reading,
        DeliverToStanding(url_id=arrival.standing_id, arrival=arrival, new_task=times, quotas=rules.quotas),
    )


@dataclass(frozen=True, slots=True)
class Redeliver:
    """Delivers kept bodies again, each as if it came now on the URL on which it came then."""

    redeliveries: Sequence[Redelivery]

    @property
    def refs(self) -> Sequence[str]:
        """The tasks of the URLs."""
        return [each.kept.ref for each in self.redeliveries if each.delivery is not None and each.kept.ref is not None]

    @property
    def weight(self) -> int:
        """The size of the bodies."""
        return sum(each.kept.delivery.size for each in self.redeliveries)

    def decide(self, transaction: Transaction) -> Sequence[Redelivered]:
        """What became of each, but for those that somebody else took meanwhile."""
        transaction.require(*chain.from_iterable(map(_rows_read, self.redeliveries)))
        decided = [_redeliver(transaction, each) for each in self.redeliveries]
        return [each for each in decided if each is not None]


def _redeliver(transaction: Transaction, redelivery: Redelivery) -> Redelivered | None:
    kept, reading = redelivery.kept, redelivery.reading
    if redelivery.delivery is None:
        return Redelivered(kept, reading, "unreadable", kept.ref, redelivery.why)
    if not _is_still_unreadable(transaction, kept):
        return None
    try:
        delivered = transaction.attempt(redelivery.delivery)
    except ReceiverError as error:
        # A revoked URL, a full quota: it would be refused now, so it stays what it is.
        return Redelivered(kept, reading, "unreadable", kept.ref, error.detail)
    if delivered.verdict == "unreadable":
        return Redelivered(kept, reading, "unreadable", kept.ref, "its state is not known, and it has no task to poll")
    transaction.add_to_quota(UNREADABLE_QUOTA, -1, -max(kept.delivery.size, ROW_BYTES))
    if kept.is_stray:
        judged = replace(kept.delivery, verdict=delivered.verdict, body=None) if delivered.task is None else None
        transaction.change_stray(kept.id, judged)
    return Redelivered(kept, reading, delivered.verdict, _ref_of(kept, delivered))


def _rows_read(redelivery: Redelivery) -> Iterator[Key]:
    """Yield the keys of what it reads, as far as that can be told: many are read together."""
    kept, delivery = redelivery.kept, redelivery.delivery
    if delivery is None:
        return
    yield ("quota", UNREADABLE_QUOTA)
    yield ("stray", kept.id) if kept.is_stray else ("deliveries", kept.ref)
    arrival = delivery.arrival
    if isinstance(delivery, DeliverToStanding):
        yield from delivery.rows_read()
        yield from (("quota", delivery.url_id), ("quota", bodies_quota(delivery.url_id)))
        yield ("forgotten_id", arrival.provider, arrival.id_text)
    elif arrival.id_text is not None:
        yield ("task_id", arrival.provider, arrival.id_text)


def _is_still_unreadable(transaction: Transaction, kept: UnreadableDelivery) -> bool:
    """Return True if nobody else took it meanwhile: slots are used again, so its time has to be the same, too."""
    if kept.is_stray:
        delivery = transaction.stray(kept.id)
    else:
        task = transaction.task(kept.ref or "")
        delivery = None if task is None else transaction.deliveries(task).get(kept.slot or 0)
    return (
        delivery is not None
        and delivery.verdict == "unreadable"
        and delivery.body is not None
        and delivery.received_at == kept.delivery.received_at
    )


def _ref_of(kept: UnreadableDelivery, delivered: DeliveryResult) -> str | None:
    return kept.ref if delivered.task is None else delivered.task.ref


def _reading(arrival: Arrival) -> str:
    if isinstance(arrival.reading, str):
        return "unreadable"
    match arrival.reading.reading:
        case Ready():
            return "ready"
        case Bare():
            return "answer"
        case Failed():
            return "failed"
        case Pending():
            return "pending"
        case Notice():
            return "notice"
