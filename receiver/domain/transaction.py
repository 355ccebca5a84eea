"""What a decision sees of the store inside one transaction: the records it may read and the changes it may make.

A `Ledger` lives as long as its transaction. Reads see the changes made before them in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from client.provider_api.unlisted import UnlistedRow
from receiver.domain.records import (
    Delivery,
    Horizon,
    KeptBody,
    Outcome,
    PollRecord,
    Removed,
    StandingUrl,
    TaskRecord,
    UnlistedCode,
)
from receiver.domain.shapes import ShapeRecord

__all__ = ["Command", "IdempotencyRecord", "Ledger", "TaskIdKey"]

Answer = TypeVar("Answer", covariant=True)


class TaskIdKey(NamedTuple):
    """A provider's id; unique among the tasks of that provider."""

    provider: str
    id_text: str


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """The first request that used an Idempotency-Key: the digest of its body, and the task that it made or found."""

    body_digest: bytes
    ref: str
    is_new: bool


class Ledger(Protocol):
    """One transaction's view of the store."""

    def task(self, ref: str) -> TaskRecord | None:
        """Return the task with this ref, with its current outcome."""

    def task_by_id(self, key: TaskIdKey) -> TaskRecord | None:
        """Return the task to which the provider's id belongs."""

    def is_forgotten(self, ref: str | None, key: TaskIdKey | None) -> bool:
        """Whether a task with this ref or id was deleted, as long as its tombstone stands."""

    def head(self) -> int:
        """Return the last position of the log, the changes of this transaction included."""

    def add(self, task: TaskRecord) -> TaskRecord:
        """Insert a task; gives it back with its row."""

    def change(self, task: TaskRecord) -> None:
        """Write the state of a task that is already there."""

    def release_id(self, task: TaskRecord, joined_ref: str) -> None:
        """Take the id from `task`, which from now on is found under `joined_ref`."""

    def append_outcome(self, task: TaskRecord, outcome: Outcome) -> TaskRecord:
        """Append the outcome to the log and make it the task's; give the task back. Use in place of `change`."""

    def append_hint(self, task: TaskRecord) -> None:
        """Append a hint to the log."""

    def keep(self, task: TaskRecord | None, delivery: Delivery) -> None:
        """Keep a delivery: for a task in the slot that its count says, otherwise for its standing URL.

        One that has a row already is judged again there.
        """

    def is_unreadable(self, kept: KeptBody) -> bool:
        """Whether the row still holds these bytes with the verdict `unreadable`."""

    def judge_stray(self, kept: KeptBody, verdict: str | None) -> None:
        """Give a stray delivery its verdict and drop its bytes; None: remove it, because a task has it now."""

    def mark_mismatched(self, task: TaskRecord, id_text: str) -> None:
        """Give the kept deliveries of the task with this id the verdict `mismatched`."""

    def forget(self, task: TaskRecord, now: int) -> None:
        """Delete the task, those joined to it, their deliveries and outcomes; leave tombstones and log entries."""

    def prune(self, horizon: Horizon, until: int, limit: int) -> Removed | None:
        """Remove at most `limit` rows of one kind that the horizon takes; None: nothing was left.

        `until` is how far the log goes by the number of finished tasks, see `Store.prunable`. Tasks leave tombstones.
        """

    def overdue(self, now: int, limit: int) -> Sequence[TaskRecord]:
        """Tasks without an outcome whose `deadline_at` has come, oldest first."""

    def due(self, provider: str, now: int, limit: int, *, reach: int, lease: int) -> Sequence[TaskRecord]:
        """Tasks of this provider that are to be polled here now and that nobody polls, oldest first.

        No poll is planned for longer than `reach` ahead, and no lease lasts longer than `lease`: where one seems to,
        the clock was set back meanwhile, and it says nothing any more.
        """

    def held(self, now: int, limit: int) -> Sequence[TaskRecord]:
        """Tasks whose callback has been held back for long enough, oldest first."""

    def held_delivery(self, task: TaskRecord) -> Delivery | None:
        """Return the first delivery of the task that was held back; None where its bytes are not kept any more."""

    def judge_held(self, task: TaskRecord, verdict: str) -> None:
        """Give the deliveries of the task that were held back their verdict."""

    def remember(self, name: str, text: str) -> None:
        """Keep a text under a name, in place of the one before."""

    def add_shapes(self, records: Sequence[ShapeRecord]) -> None:
        """Add what was seen of the shapes of callbacks; of each provider's only those seen last are kept."""

    def adopt(self, rows: Sequence[int]) -> None:
        """Lets the receiver poll the tasks in these rows, but for those that have ended."""

    def keep_poll(self, task: TaskRecord, poll: PollRecord) -> None:
        """Keep a poll in the slot that the task's count of polls says."""

    def unlisted_row(self, task: TaskRecord) -> UnlistedRow | None:
        """Return the row of answers with one unlisted code that the last kept poll of the task left."""

    def add_unlisted(self, records: Sequence[UnlistedCode]) -> None:
        """Add how often unlisted codes came; of each provider's only those seen last are kept."""

    def amend_poll(self, task: TaskRecord, poll: PollRecord) -> None:
        """Replace what is kept of the poll with this lease, if anything is."""

    def idempotency(self, owner: str, key: str) -> IdempotencyRecord | None:
        """Return the record of an Idempotency-Key of one API key."""

    def add_idempotency(self, owner: str, key: str, record: IdempotencyRecord) -> None:
        """Remembers an Idempotency-Key as long as its task."""

    def standing_url(self, url_id: str) -> StandingUrl | None:
        """Return the standing URL with this id, revoked or not."""

    def save_standing_url(self, url: StandingUrl) -> None:
        """Insert a standing URL, or write its revocation."""

    def quota(self, name: str) -> tuple[int, int]:
        """Rows and bytes used of a quota."""

    def spend(self, name: str, rows: int, size: int) -> None:
        """Add to what is used of a quota; negative to give back."""


class Command(Protocol[Answer]):
    """One use case: decides inside the transaction, and changes the ledger only through it.

    `refs` are the tasks it will look up, so that a store can read them for a whole batch at once. `weight` is about how
    many bytes it holds. `decide` checks before it changes: when it raises a `ReceiverError`, it has changed nothing.
    """

    @property
    def refs(self) -> Sequence[str]:
        """Refs of tasks."""

    @property
    def weight(self) -> int:
        """Bytes."""

    def decide(self, ledger: Ledger) -> Answer:
        """Return the answer; raises `ReceiverError` for what the caller is to be told."""
