"""The command behind `redeliver`: new decisions on kept unreadable bodies, with the dialects of today. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from client.providers.readings import Bare, CallbackReading, Failed, Notice, Pending, Ready
from receiver.domain.deliveries import (
    ROW_BYTES,
    UNREADABLE_QUOTA,
    DeliverToStanding,
    DeliverToTask,
    DeliveryResult,
    DeliveryRules,
    bodies_quota,
)
from receiver.domain.reading import id_text_of, read_stored
from receiver.domain.records import UnreadableDelivery
from receiver.domain.transaction import Key, Transaction
from receiver.domain.verdicts import Verdict
from receiver.errors import ReceiverError

__all__ = ["Redeliver", "Redelivered", "Redelivery", "read_redelivery"]


@dataclass(frozen=True, slots=True)
class Redelivery:
    """A kept body, its reading in a word, and the command to decide on it. Without one, `why` is the reason."""

    kept: UnreadableDelivery
    reading: str
    delivery: DeliverToTask | DeliverToStanding | None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Redelivered:
    """The new verdict on a kept body, and its task. A body that is still `unreadable` is kept as it was."""

    kept: UnreadableDelivery
    reading: str
    verdict: Verdict
    ref: str | None
    why: str | None = None


def read_redelivery(
    all_rules: Mapping[str, DeliveryRules], kept: UnreadableDelivery, *, now: int, new_ref: Callable[[], str]
) -> Redelivery:
    """Return the kept body as its provider's dialect reads it now.

    If the provider's callbacks have to be signed, the body is not read, because its signature was not kept.
    """
    rules = None if kept.provider is None else all_rules.get(kept.provider)
    if rules is None:
        return Redelivery(kept, "unreadable", None, "its provider is not known")
    rule = rules.dialect.callback
    if rule is not None and rule.signature is not None and rules.secret is not None:
        return Redelivery(kept, "unreadable", None, "its signature is not kept")
    reading = read_stored(rules.dialect, kept.delivery)
    if isinstance(reading, str):
        return Redelivery(kept, "unreadable", None)
    delivery = replace(kept.delivery, id_text=id_text_of(reading))
    word = _word_of(reading)
    if kept.ref is not None:
        to_task = DeliverToTask(ref=kept.ref, reading=reading, delivery=delivery, rules=rules, now=now)
        return Redelivery(kept, word, to_task)
    if delivery.standing_id is None or (delivery.id_text is None and word != "notice"):
        return Redelivery(kept, word, None, "it has no taskId")
    return Redelivery(
        kept,
        word,
        DeliverToStanding(ref=new_ref(), reading=reading, delivery=delivery, rules=rules, now=now, is_kept=True),
    )


@dataclass(frozen=True, slots=True)
class Redeliver:
    """Delivers kept bodies again, each as if it came now on the URL where it came then."""

    redeliveries: Sequence[Redelivery]

    @property
    def refs(self) -> Sequence[str]:
        """The tasks of the URLs."""
        readable = (redelivery.kept for redelivery in self.redeliveries if redelivery.delivery is not None)
        return [kept.ref for kept in readable if kept.ref is not None]

    @property
    def weight(self) -> int:
        """The size of the bodies."""
        return sum(redelivery.kept.delivery.size for redelivery in self.redeliveries)

    def decide(self, transaction: Transaction) -> Sequence[Redelivered]:
        """Return the new verdicts. Bodies taken by another command meanwhile are left out."""
        transaction.require(*chain.from_iterable(map(_rows_read, self.redeliveries)))
        decided = [_redeliver(transaction, redelivery) for redelivery in self.redeliveries]
        return [redelivered for redelivered in decided if redelivered is not None]


def _redeliver(transaction: Transaction, redelivery: Redelivery) -> Redelivered | None:
    kept, reading = redelivery.kept, redelivery.reading
    if redelivery.delivery is None:
        return Redelivered(kept, reading, "unreadable", kept.ref, redelivery.why)
    if not _is_still_unreadable(transaction, kept):
        return None
    try:
        result = transaction.attempt(redelivery.delivery)
    except ReceiverError as error:
        # A revoked URL or a full quota: the callback would be refused now, so the body stays as it is.
        return Redelivered(kept, reading, "unreadable", kept.ref, error.detail)
    if result.verdict == "unreadable":
        return Redelivered(kept, reading, "unreadable", kept.ref, "its state is not known, and it has no task to poll")
    transaction.add_to_quota(UNREADABLE_QUOTA, -1, -max(kept.delivery.size, ROW_BYTES))
    if kept.is_stray:
        judged = kept.delivery.decided(result.verdict, is_body_kept=False) if result.task is None else None
        transaction.change_stray(kept.id, judged)
    return Redelivered(kept, reading, result.verdict, _ref_of(kept, result))


def _rows_read(redelivery: Redelivery) -> Iterator[Key]:
    """Yield the keys of the rows that the redelivery reads, as far as they are known. Many are fetched together."""
    kept, command = redelivery.kept, redelivery.delivery
    if command is None:
        return
    yield ("quota", UNREADABLE_QUOTA)
    yield ("stray", kept.id) if kept.is_stray else ("deliveries", kept.ref)
    provider, id_text = kept.provider, command.delivery.id_text
    if isinstance(command, DeliverToStanding):
        url_id = command.delivery.standing_id or ""
        yield from command.rows_read()
        yield from (("quota", url_id), ("quota", bodies_quota(url_id)), ("forgotten_id", provider, id_text))
    elif id_text is not None:
        yield ("task_id", provider, id_text)


def _is_still_unreadable(transaction: Transaction, kept: UnreadableDelivery) -> bool:
    """Return True if no other command took the body meanwhile. Slots are reused, so the times are compared, too."""
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


def _ref_of(kept: UnreadableDelivery, result: DeliveryResult) -> str | None:
    return kept.ref if result.task is None else result.task.ref


def _word_of(reading: CallbackReading) -> str:
    match reading.reading:
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
