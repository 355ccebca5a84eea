"""The rows read and changed by the decisions of a batch, in memory only.

A store runs a batch of commands on one `Transaction`. It decides them in order, fetches the rows missing for a
decision, decides again, and writes all changes at the end. So a decision runs any number of times and does no I/O.

States of a command and its races:

* *deciding*: rows fetched or changed before answer every read. A read of anything else raises `RowsNeeded`.
* *dropped*: the decision raised. Its changes are undone, and the changes of earlier commands stay.
* *decided*: its changes are visible to later commands of the batch.
* *written*: after all decisions. Only then a new task has its row and a new log entry has its position.

A row fetched late may be older than a change of the batch. Therefore a row in memory always wins over a fetched one. A
query by another condition than a key sees the database alone. So all changes are written before one runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from client.provider_api.unlisted import UnlistedRow
from receiver.domain.next_poll import Settled, next_poll
from receiver.domain.records import (
    DELIVERIES_KEPT,
    POLLS_KEPT,
    Horizon,
    Outcome,
    PollRecord,
    Removed,
    StandingUrl,
    StoredDelivery,
    TaskKey,
    TaskRecord,
    UnlistedCode,
)
from receiver.domain.shapes import ShapeRecord

__all__ = [
    "CLOCK",
    "QUERIES",
    "Command",
    "Forget",
    "IdempotencyRecord",
    "Key",
    "LogAppend",
    "OneTaskCommand",
    "Operation",
    "Prune",
    "PruneCanary",
    "RowKind",
    "RowsNeeded",
    "TaskIdKey",
    "Transaction",
]

Answer = TypeVar("Answer")
Decided = TypeVar("Decided", covariant=True)

RowKind = Literal[
    "task",
    "task_id",
    "forgotten_ref",
    "forgotten_id",
    "deliveries",
    "delivery",
    "verdict",
    "stray",
    "poll",
    "unlisted_row",
    "quota",
    "standing_url",
    "idempotency",
    "released_id",
    "meta",
    "due",
    "overdue",
    "held",
    "joined",
    "clock",
    "lease",
    "key_budget",
    "ticket",
    "ticket_count",
]
Key = tuple[Any, ...]
"""The kind of a row, and its own key: `("task", ref)`, `("task_id", provider, id_text)`, `("quota", name)`, …"""

QUERIES: frozenset[RowKind] = frozenset({"due", "overdue", "held", "joined"})
"""Kinds with a query, and its limit, as their key. The answer is several tasks, as the database has them."""

CLOCK: Key = ("clock",)
"""The time of the database, in microseconds since 1970. It is one time for a whole batch."""

_UNREAD = object()


class TaskIdKey(NamedTuple):
    """A provider's id. It is unique among the tasks of that provider."""

    provider: str
    id_text: str


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """The first request with an Idempotency-Key: the digest of its body, and the task that it made or found."""

    body_digest: bytes
    ref: str
    is_new: bool


class LogAppend(NamedTuple):
    """A new entry of the log: a result or a hint, with the task as the command left it.

    `delivery` became this result. It is the newest of the task, and the entry keeps it.
    """

    kind: Literal["result", "hint"]
    task: TaskRecord
    delivery: StoredDelivery | None = None


class RowsNeeded(Exception):  # noqa: N818  (a request to the store, not an error)
    """A decision read rows before they were fetched. The store fetches them and decides again."""

    def __init__(self, keys: Sequence[Key]) -> None:
        super().__init__(keys)
        self.keys = keys


class Command(Protocol[Decided]):
    """A use case. It decides on the rows of a transaction and changes them only through it.

    `refs` are the tasks that it will read, so that a store can fetch them for a whole batch at once. `weight` is
    roughly its size in bytes.
    """

    @property
    def refs(self) -> Sequence[str]:
        """Refs of tasks."""

    @property
    def weight(self) -> int:
        """Bytes."""

    def decide(self, transaction: Transaction) -> Decided:
        """Return the answer.

        It may be called several times, so it changes nothing but the transaction.

        Raises:
            ReceiverError: the reason for the caller. All changes of the command are dropped.
            RowsNeeded: rows have to be fetched first.
        """


class OneTaskCommand:
    """A command that reads the task `ref` first."""

    __slots__ = ()

    ref: str

    @property
    def refs(self) -> Sequence[str]:
        """The task."""
        return (self.ref,)


class Operation(Generic[Answer]):
    """Work of the store itself between decisions, because it touches any number of rows."""

    __slots__ = ()

    @property
    def weight(self) -> int:
        """The size in bytes: nothing to speak of."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget(Operation[None]):
    """The deletion of a task, its joined tasks, their deliveries and outcomes. It leaves tombstones and log entries.

    The store raises `unknown-task` if no task has the ref.
    """

    ref: str
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneCanary(Operation[None]):
    """The removal of the receiver's own tasks from before a time, at most 200, with their places in the log."""

    before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune(Operation[Removed | None]):
    """The removal of at most `limit` rows of one kind beyond the horizon, of a few megabytes. Tasks leave tombstones.

    Up to the position `until` the number of finished tasks is too large, see `Store.prunable`. The answer is None if
    nothing was left to remove.
    """

    horizon: Horizon
    until: int
    limit: int = 200


class Transaction:
    """Fetched rows, with the changes of all commands decided on them.

    `head` is a position of the log before all changes. The other attributes are changes to be written. New tasks
    have the rows -1, -2, … and new log entries the positions -1, -2, … until they are written, see `Numbered`.

    Without `keeps_bodies`, for changes that are never written, the bodies of deliveries take no memory.
    """

    def __init__(self, head: int, *, keeps_bodies: bool = True) -> None:
        self.head = head
        self._keeps_bodies = keeps_bodies
        self.changed: dict[Key, None] = {}
        self.added: list[str] = []
        self.log: list[LogAppend] = []
        self.grown: list[TaskKey] = []
        self.strays: list[StoredDelivery] = []
        self.late_polls: list[tuple[str, PollRecord]] = []
        self.shapes: list[ShapeRecord] = []
        self.unlisted_codes: list[UnlistedCode] = []
        self._rows: dict[Key, Any] = {}
        self._fetched: dict[str, TaskRecord] = {}
        self._queries: dict[Key, Sequence[str]] = {}
        # Either a list to shorten by one, or a key with its row before and whether that was a change already.
        self._undo: list[tuple[list[Any]] | tuple[Key, Any, bool]] = []

    # For the store.

    @property
    def has_changes(self) -> bool:
        """True if anything has to be written."""
        return bool(self.changed or self.log or self.strays or self.late_polls or self.shapes or self.unlisted_codes)

    def decide(self, command: Command[Answer]) -> Answer:
        """Return the command's answer and keep its changes. If the command raises, keep none of them."""
        answer = self.attempt(command)
        self._undo.clear()
        # The changes may alter what a query would find.
        self._queries.clear()
        return answer

    def attempt(self, command: Command[Answer]) -> Answer:
        """Decide a command as a part of another one. If it raises, only its own changes are dropped."""
        start = len(self._undo)
        try:
            return command.decide(self)
        except BaseException:
            self._drop_changes(start)
            raise

    def rows_missing(self, command: Command[Any]) -> Sequence[Key]:
        """Return the rows missing for the command now, none if it could be decided. Keep no change of it."""
        try:
            command.decide(self)
        except RowsNeeded as needed:
            return [key for key in needed.keys if key[0] not in QUERIES]
        except Exception:
            return ()
        finally:
            self._drop_changes(0)
        return ()

    def supply(self, keys: Iterable[Key], rows: Iterable[tuple[Key, Any]]) -> None:
        """Add the rows fetched for `keys`. A key without a row counts as one without a row from now on.

        Tasks come as `("task", ref)`, and the answer to a query is a sequence of them.
        """
        for key, row in rows:
            if key[0] == "task":
                self._supply_task(row)
            elif key[0] in QUERIES:
                for task in row:
                    self._supply_task(task)
                self._queries[key] = [task.ref for task in row]
            else:
                self._rows.setdefault(key, row)
        for key in keys:
            if key[0] not in QUERIES:
                self._rows.setdefault(key, None)

    def row(self, key: Key) -> Any:
        """Return a row that was changed or required."""
        return self._rows[key]

    def before(self, ref: str) -> TaskRecord:
        """Return a fetched task as the database has it, except for an id that was taken away from it."""
        task = self._fetched[ref]
        return task.evolve(task_id=None) if ("released_id", ref) in self.changed else task

    # Reading.

    def require(self, *keys: Key) -> None:
        """Ask for several rows at once, so that they are fetched together.

        Raises:
            RowsNeeded: one of them was not fetched yet.
        """
        missing = [key for key in keys if key not in self._rows]
        if missing:
            raise RowsNeeded(missing)

    def task(self, ref: str) -> TaskRecord | None:
        """Return the task with this ref, with its current outcome."""
        found: TaskRecord | None = self._read(("task", ref))
        return found

    def joined_task(self, ref: str) -> TaskRecord | None:
        """Return the task with this ref, or the one that it was joined to."""
        task = self.task(ref)
        while task is not None and task.joined_ref is not None:
            task = self.task(task.joined_ref)
        return task

    def task_by_id(self, key: TaskIdKey) -> TaskRecord | None:
        """Return the task with this id of the provider."""
        ref = self._read(("task_id", *key))
        return None if ref is None else self.task(ref)

    def is_forgotten(self, ref: str | None, key: TaskIdKey | None) -> bool:
        """Return True if a task with this ref or id was deleted and its tombstone still stands."""
        if ref is not None and self._read(("forgotten_ref", ref)):
            return True
        return key is not None and bool(self._read(("forgotten_id", *key)))

    def deliveries(self, task: TaskRecord) -> Mapping[int, StoredDelivery]:
        """Return the kept deliveries of a task by slot, in order.

        The body of one that was not stored by this batch is empty if it is kept, unless the delivery is held back.
        """
        self._read(("deliveries", task.ref))
        slots = range(DELIVERIES_KEPT + 2)
        found = ((slot, self._rows.get(("delivery", task.ref, slot))) for slot in slots)
        return {slot: delivery for slot, delivery in found if delivery is not None}

    def stray(self, stray_id: int) -> StoredDelivery | None:
        """Return a kept delivery without a task."""
        found: StoredDelivery | None = self._read(("stray", stray_id))
        return found

    def unlisted_row(self, task: TaskRecord) -> UnlistedRow | None:
        """Return the row of answers with one unlisted code, as of the last kept poll of the task."""
        found: UnlistedRow | None = self._read(("unlisted_row", task.ref))
        return found

    def idempotency(self, owner: str, key: str) -> IdempotencyRecord | None:
        """Return the record of an Idempotency-Key of one API key."""
        found: IdempotencyRecord | None = self._read(("idempotency", owner, key))
        return found

    def standing_url(self, url_id: str) -> StandingUrl | None:
        """Return the standing URL with this id, revoked or not."""
        found: StandingUrl | None = self._read(("standing_url", url_id))
        return found

    def quota(self, name: str) -> tuple[int, int]:
        """Return the rows and bytes used of a quota."""
        used: tuple[int, int] = self._read(("quota", name)) or (0, 0)
        return used

    def overdue(self, now: int, limit: int) -> Sequence[TaskRecord]:
        """Return tasks without an outcome at their `deadline_at`, oldest first."""
        return self._query(("overdue", now, limit))

    def due(self, provider: str, now: int, limit: int, *, reach: int, lease: int) -> Sequence[TaskRecord]:
        """Return tasks of this provider with a poll due here and without a lease, oldest first.

        No poll is planned for longer than `reach` ahead, and no lease lasts longer than `lease`. If one seems to, then
        it was made before the clock was set back, and is ignored.
        """
        return self._query(("due", provider, now, limit, reach, lease))

    def overdue_held(self, now: int, limit: int) -> Sequence[TaskRecord]:
        """Return tasks with a callback held back for long enough, oldest first."""
        return self._query(("held", now, limit))

    def joined_tasks(self, task: TaskRecord) -> Sequence[TaskRecord]:
        """Return the tasks joined to this one. They have no id, because it went to this one."""
        return self._query(("joined", task.ref))

    # Changing.

    def add(self, task: TaskRecord) -> TaskRecord:
        """Insert a task. Return it with its row and with the head of the log."""
        self._append(self.added, task.ref)
        task = task.evolve(row=-len(self.added), registered_at=self.head)
        for key in (("deliveries", task.ref), ("unlisted_row", task.ref)):
            self._put(key, None, is_change=False)
        self.change(task)
        return task

    def change(self, task: TaskRecord) -> None:
        """Write the state of a task. It was read or added before."""
        before: TaskRecord | None = self._rows.get(("task", task.ref))
        self._put(("task", task.ref), task)
        if before is not None and before.task_id is task.task_id:
            return
        id_before, id_text = None if before is None else before.id_text, task.id_text
        if id_before == id_text:
            return
        if id_before is not None:
            # Taken away in the database first of all: another task may have the id before this one is written.
            self._put(("released_id", task.ref), None)
            self._put(("task_id", task.provider, id_before), None, is_change=False)
        if id_text is not None:
            self._put(("task_id", task.provider, id_text), task.ref, is_change=False)
            # Readers that wait for this id have to look: there may be an outcome already.
            self._append(self.grown, TaskKey(task.ref, task.provider, id_text))

    def append_outcome(
        self, task: TaskRecord, outcome: Outcome, delivery: StoredDelivery | None = None, **changes: Any
    ) -> TaskRecord:
        """Append the outcome to the log and make it the task's, with other changes. It ends the polls.

        The entry keeps the delivery, if one became the outcome: the newest of the task, in its slot. Return the task.
        """
        if outcome.supersedes != task.position:
            outcome = replace(outcome, supersedes=task.position)
        task = task.evolve(
            position=-len(self.log) - 1, outcome=outcome, next_poll_at=next_poll(task, Settled()), **changes
        )
        self.change(task)
        if delivery is not None:
            delivery = self._kept(delivery)
            # Not a change of its own: it is written with the entry.
            self._put(("delivery", task.ref, task.deliveries), delivery, is_change=False)
        self._append(self.log, LogAppend("result", task, delivery))
        self._append(self.grown, TaskKey(task.ref, task.provider, task.id_text))
        return task

    def append_hint(self, task: TaskRecord) -> None:
        """Append a hint to the log."""
        self._append(self.log, LogAppend("hint", task))
        self._append(self.grown, TaskKey(task.ref, task.provider, task.id_text))

    def store_delivery(self, task: TaskRecord, slot: int, delivery: StoredDelivery) -> None:
        """Keep a delivery of a task in this slot, in place of the one before."""
        delivery = self._kept(delivery)
        self._put(("delivery", task.ref, slot), delivery)
        if ("verdict", task.ref, slot) in self.changed:
            # That verdict was for the delivery before.
            self._put(("verdict", task.ref, slot), delivery.verdict)

    def store_stray(self, delivery: StoredDelivery) -> None:
        """Keep a delivery without a task."""
        self._append(self.strays, delivery)

    def change_stray(self, stray_id: int, delivery: StoredDelivery | None) -> None:
        """Replace a delivery without a task; None: remove it, because a task has it now."""
        self._put(("stray", stray_id), delivery)

    def set_verdict(
        self, task: TaskRecord, verdict: str, *, was: str | None = None, id_text: str | None = None
    ) -> None:
        """Give the kept deliveries of the task with the verdict `was`, or with this id, another verdict."""
        for slot, delivery in self.deliveries(task).items():
            if was in (None, delivery.verdict) and id_text in (None, delivery.id_text):
                # Not a change of the whole row: its body may not have been fetched.
                self._put(("delivery", task.ref, slot), replace(delivery, verdict=verdict), is_change=False)
                self._put(("verdict", task.ref, slot), verdict)

    def store_poll(self, task: TaskRecord, poll: PollRecord) -> None:
        """Keep a poll in the slot numbered by the task's count of polls."""
        self._put(("poll", task.ref, min(task.polls, POLLS_KEPT + 1)), poll)
        self._put(("unlisted_row", task.ref), poll.unlisted, is_change=False)

    def complete_poll(self, task: TaskRecord, poll: PollRecord) -> None:
        """Replace the record of the poll with this lease, if there is one."""
        self._append(self.late_polls, (task.ref, poll))

    def add_idempotency(self, owner: str, key: str, record: IdempotencyRecord) -> None:
        """Remember an Idempotency-Key as long as its task."""
        self._put(("idempotency", owner, key), record)

    def save_standing_url(self, url: StandingUrl) -> None:
        """Insert a standing URL, or write its revocation."""
        self._put(("standing_url", url.id), url)

    def add_to_quota(self, name: str, rows: int, size: int) -> None:
        """Add to the used part of a quota; negative to give back."""
        used_rows, used_bytes = self.quota(name)
        self._put(("quota", name), (max(used_rows + rows, 0), max(used_bytes + size, 0)))

    def save_text(self, name: str, text: str) -> None:
        """Keep a text under a name, in place of the one before."""
        self._put(("meta", name), text)

    def save_row(self, key: Key, row: Any, *, is_change: bool = True) -> None:
        """Keep a row of what receivers share. Without `is_change`, it is what the database has after the batch."""
        self._put(key, row, is_change=is_change)

    def add_shapes(self, records: Iterable[ShapeRecord]) -> None:
        """Add counts of the shapes of callbacks. Of each provider only the last seen are kept."""
        for record in records:
            self._append(self.shapes, record)

    def add_unlisted(self, records: Iterable[UnlistedCode]) -> None:
        """Add how often unlisted codes came. Of each provider only the last seen are kept."""
        for record in records:
            self._append(self.unlisted_codes, record)

    def _kept(self, delivery: StoredDelivery) -> StoredDelivery:
        return delivery if self._keeps_bodies or not delivery.body else replace(delivery, body=b"")

    def _read(self, key: Key) -> Any:
        row = self._rows.get(key, _UNREAD)
        if row is _UNREAD:
            raise RowsNeeded([key])
        return row

    def _query(self, key: Key) -> Sequence[TaskRecord]:
        refs = self._queries.get(key)
        if refs is None:
            raise RowsNeeded([key])
        return [self._rows["task", ref] for ref in refs]

    def _supply_task(self, task: TaskRecord) -> None:
        if ("task", task.ref) in self._rows:
            return
        self._rows["task", task.ref] = self._fetched[task.ref] = task
        if task.id_text is not None:
            self._rows.setdefault(("task_id", task.provider, task.id_text), task.ref)

    def _put(self, key: Key, row: Any, *, is_change: bool = True) -> None:
        self._undo.append((key, self._rows.get(key, _UNREAD), key in self.changed))
        self._rows[key] = row
        if is_change:
            self.changed[key] = None

    def _append(self, items: list[Any], item: Any) -> None:
        items.append(item)
        self._undo.append((items,))

    def _drop_changes(self, start: int) -> None:
        while len(self._undo) > start:
            match self._undo.pop():
                case (items,):
                    items.pop()
                case (key, row, was_changed):
                    if row is _UNREAD:
                        del self._rows[key]
                    else:
                        self._rows[key] = row
                    if not was_changed:
                        self.changed.pop(key, None)
