"""The records of the receiver, as the store reads and writes them. Times are µs since 1970, UTC.

Nothing changes a record but `Numbered.number`, once, when its batch is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, NamedTuple, TypeVar

from client.protocol.models import NO_ANSWER, PROVISIONAL, SUBMIT_UNKNOWN
from client.provider_api.unlisted import UnlistedRow
from client.providers.readings import TaskId
from client.providers.values import task_id_text
from receiver.domain.verdicts import VERDICTS

__all__ = [
    "CUT_OFF",
    "DELIVERIES_KEPT",
    "IGNORED",
    "POLLS_KEPT",
    "SECOND",
    "SUBMITTING",
    "TOMBSTONE_LIFE",
    "AboutTask",
    "Constant",
    "Entry",
    "Growth",
    "History",
    "Horizon",
    "Latency",
    "Numbered",
    "Outcome",
    "Page",
    "PollRecord",
    "RecentTasks",
    "Removed",
    "StandingUrl",
    "StoredDelivery",
    "Survey",
    "TaskKey",
    "TaskRecord",
    "UnlistedCode",
    "UnreadableDelivery",
    "WaitingTasks",
    "time_view",
]

SECOND = 1_000_000
"""Microseconds in a second."""

SUBMITTING = 60 * SECOND
"""The longest usual time from the registration of a task to the answer of its createTask, in µs."""

TOMBSTONE_LIFE = 90 * 24 * 3600 * SECOND
"""The time for which a deleted task is remembered, in µs. Then its tombstone is removed."""

DELIVERIES_KEPT = 8
"""The first deliveries of a task are kept, this many, and the newest one. The others are only counted."""

POLLS_KEPT = 14
"""The first polls by the receiver are kept, this many, and the newest one."""

CUT_OFF = "cut off"
"""Kept in place of the answer to a poll. Its process was killed, or was held up for longer than its lease."""

IGNORED = "ignored: "
"""Kept before the answer to a poll. It was about an id that createTask replaced meanwhile."""

_Value = TypeVar("_Value")
Constant = Annotated[_Value, "constant"]
"""The type of a field that stays as it was when its task was stored."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def time_view(microseconds: int) -> datetime:
    """Return the time, aware, in UTC; exact."""
    return _EPOCH + microseconds * _MICROSECOND


# Not frozen, as one is made for each callback. Nothing changes one.
@dataclass(slots=True)
class Outcome:
    """The end of a task. `solution` is JSON text. It is None if the task failed, or if retention removed it.

    `supersedes` is the log position of the provisional outcome that this one replaced. After `valid_until` the solution
    is stale.
    """

    status: str
    solution: str | None
    error_id: int
    error_code: str | None
    error_description: str | None
    source: str
    trust: str
    finished_at: int
    valid_until: int | None
    supersedes: int | None = None

    @property
    def is_provisional(self) -> bool:
        """True for an outcome of the receiver. The first outcome of the provider replaces it."""
        is_given_up = self.source == "deadline" and self.error_code in (NO_ANSWER, SUBMIT_UNKNOWN)
        return is_given_up or self.trust == PROVISIONAL


class Numbered:
    """An answer with provisional rows and log positions, until its batch is written."""

    __slots__ = ()

    def number(self, head: int, last_row: int) -> None:
        """Put in the numbers of the database. Before the batch, it ended at this position and this row."""
        raise NotImplementedError


class AboutTask(Numbered):
    """An answer about one task."""

    __slots__ = ()
    task: Any

    def number(self, head: int, last_row: int) -> None:
        """See `Numbered`."""
        if self.task is not None:
            self.task.number(head, last_row)


# Without slots: `evolve` runs several times for each callback, and copying a dictionary takes a seventh of replace().
@dataclass(frozen=True, kw_only=True)
class TaskRecord(Numbered):
    """One task. `position` is its outcome's place in the log, `registered_at` the head of the log when it was made.

    `has_url`: it has a URL of its own. `open_to_standing`: a standing URL may end it. `standing_id`: the standing URL
    that created it. `task_id` became known at `bound_at`, from createTask or from a callback: `bound_by` is "create" or
    "callback". If a delivery made the task, it counts as `kept_bytes` under `quota`. `joined_ref`: its id went to that
    other task, and readers find the other one. `is_polled_here`: the receiver polls it at `next_poll_at`. A poller has
    a `lease`, a growing number, until `leased_until`. `polled_at`: the end of the last poll. `held_until`: a callback
    came and becomes the outcome at that time. Until then the provider is asked, and its answer wins. `traceparent`: the
    span that submitted it, as the header of W3C Trace Context.
    """

    row: Constant[int]
    ref: Constant[str]
    provider: Constant[str]
    type: Constant[str | None]
    tags: Constant[tuple[str, ...]]
    metadata: Constant[str]
    created_by: Constant[str | None]
    client_key_id: Constant[str | None]
    has_url: Constant[bool]
    open_to_standing: bool
    standing_id: Constant[str | None]
    task_id: TaskId | None
    bound_by: str | None
    registered_at: Constant[int]
    created_at: Constant[int]
    poll_after: int
    next_poll_at: int | None
    deadline_at: Constant[int]
    hinted_at: int | None = None
    is_disputed: bool = False
    deliveries: int = 0
    polls: int = 0
    quota: Constant[str | None] = None
    kept_bytes: Constant[int] = 0
    joined_ref: str | None = None
    position: int | None = None
    is_polled_here: bool = False
    lease: int = 0
    leased_until: int | None = None
    polled_at: int | None = None
    held_until: int | None = None
    bound_at: int | None = None
    traceparent: Constant[str | None] = None
    outcome: Outcome | None = None

    @property
    def counts_from(self) -> int:
        """The start of the provider's limits: the answer to createTask, as far as its time is known.

        A late binding tells nothing about that time. Then it is the registration.
        """
        if self.bound_by != "create" or self.bound_at is None:
            return self.created_at
        is_late = self.bound_at - self.created_at > SUBMITTING
        return self.created_at if is_late else max(self.created_at, self.bound_at)

    @cached_property
    def id_text(self) -> str | None:
        """The provider's id as text, for comparisons. It is asked for seven times for each callback."""
        return None if self.task_id is None else task_id_text(self.task_id)

    @property
    def task_id_is_integer(self) -> bool:
        """True if the provider gave the id as a number."""
        return isinstance(self.task_id, int)

    @property
    def status(self) -> str:
        """The status for readers, or `joined`."""
        if self.joined_ref is not None:
            return "joined"
        return "processing" if self.outcome is None else self.outcome.status

    @staticmethod
    def of(values: dict[str, Any]) -> TaskRecord:
        """Return the record with these values, one for each field. The dictionary is its own from then on."""
        # A fifth of the time of the constructor, which sets each field of a frozen class through a function.
        task = object.__new__(TaskRecord)
        object.__setattr__(task, "__dict__", values)
        return task

    def evolve(self, **changes: Any) -> TaskRecord:
        """Return a copy with `changes`."""
        if not changes.keys() <= self.__dict__.keys():
            raise TypeError(f"a task has none of {sorted(changes.keys() - self.__dict__.keys())}")
        values = {**self.__dict__, **changes}
        if "task_id" in changes:
            values.pop("id_text", None)
        return TaskRecord.of(values)

    def number(self, head: int, last_row: int) -> None:
        """See `Numbered`. Once the record has its numbers, nothing changes any more."""
        # In place: nothing outside the batch has seen it so far. Copies would be a fifth of the work on a callback.
        if self.row < 0:
            self.__dict__["row"] = last_row - self.row
        if self.position is not None and self.position < 0:
            self.__dict__["position"] = head - self.position
            outcome = self.outcome
            if outcome is not None and outcome.supersedes is not None and outcome.supersedes < 0:
                self.__dict__["outcome"] = replace(outcome, supersedes=head - outcome.supersedes)


# Not frozen, as two are made for each callback. Nothing changes one.
@dataclass(slots=True, kw_only=True)
class StoredDelivery:
    """One attempt of a callback, as it is kept. Its `verdict` is empty until it is decided.

    `body` is None if only the fact is kept. `size` is that of the body that came. `slot` is its place among the
    deliveries of its task, if it is decided again.
    """

    received_at: int
    verdict: str = ""
    method: str
    content_type: str | None
    body: bytes | None
    size: int
    id_text: str | None
    standing_id: str | None = None
    slot: int | None = None

    def decided(self, verdict: str, *, is_body_kept: bool = True) -> StoredDelivery:
        """Return a copy with this verdict, and without the body if that is not kept."""
        return StoredDelivery(
            received_at=self.received_at,
            verdict=verdict,
            method=self.method,
            content_type=self.content_type,
            body=self.body if is_body_kept else None,
            size=self.size,
            id_text=self.id_text,
            standing_id=self.standing_id,
            slot=self.slot,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableDelivery:
    """An unreadable delivery with its bytes. It belongs to the task `ref`, or it is stray: its standing URL has it.

    `id` orders the deliveries of tasks, and the stray ones. `provider` is that of the task or of the standing URL. It
    is None if the URL is gone.
    """

    id: int
    provider: str | None
    ref: str | None
    delivery: StoredDelivery

    @property
    def slot(self) -> int | None:
        """Its place among the deliveries of its task."""
        return self.delivery.slot

    @property
    def is_stray(self) -> bool:
        """True if no task is known for it."""
        return self.ref is None


@dataclass(frozen=True, slots=True)
class PollRecord:
    """One poll by the receiver. `summary` is the provider's answer in a word or a code, never a solution.

    `unlisted` is the row of answers with the same unlisted code that this poll left, if there is one.
    """

    started_at: int
    ended_at: int
    lease: int
    summary: str
    unlisted: UnlistedRow | None = None


class UnlistedCode(NamedTuple):
    """An error code on no list, with the number of times that a provider sent it, the first time and the last."""

    provider: str
    code: str
    times: int
    first_seen: int
    last_seen: int


@dataclass(frozen=True, slots=True)
class History:
    """The kept events of a task, oldest first. The last of `outcomes` is the current one."""

    deliveries: tuple[StoredDelivery, ...] = ()
    polls: tuple[PollRecord, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class StandingUrl:
    """A long-lived callback URL of one provider. The operator gave it its `label`."""

    id: str
    provider: str
    label: str | None
    created_at: int
    revoked_at: int | None


class TaskKey(NamedTuple):
    """The names under which a waiter may wait for a task."""

    ref: str
    provider: str
    id_text: str | None


# Not frozen, as one is made for each callback. Nothing changes one.
@dataclass(slots=True)
class Entry:
    """One place in the log. `kind` is "result", "deleted" or "hint". A deletion has no task, but a `provider`.

    `position` orders the entries of one log. `task` has the outcome of this place, which a later one may replace. A
    reader continues from `cursor`.
    """

    cursor: str
    position: int
    kind: str
    ref: str
    task: TaskRecord | None
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """The growth of the log from one position (exclusive) to another (inclusive).

    `tasks` may have waiters, and these have to look now. It is None if there are too many tasks to name. `entries` are
    the new ones, or None if the log has to be read for them.
    """

    after: int
    until: int
    tasks: tuple[TaskKey, ...] | None
    entries: tuple[Entry, ...] | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the log, read up to `cursor`, at `position`. `more`: the log continues after it."""

    entries: tuple[Entry, ...]
    cursor: str
    position: int
    more: bool


class Latency(NamedTuple):
    """The median time of so many callbacks, in seconds, and the 95th percentile `p95`."""

    callbacks: int
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class RecentTasks:
    """The results of a provider's tasks in a period.

    `with_url` tasks had a callback URL. Of these, `answered` got an answer. Of these, `polled` got it by a poll before
    any callback. Of these, `late` got the callback afterwards.

    Of all tasks, `ended` have ended, after `polls` polls. `nearly_out` of these used up nearly all polls of a task. The
    limit is `most_polls`, or None if there is no known limit. `verdicts` counts the kept deliveries. `newest` has the
    time of the newest delivery of each verdict. `latency` is None without callbacks.
    """

    provider: str
    with_url: int = 0
    answered: int = 0
    polled: int = 0
    late: int = 0
    ended: int = 0
    polls: int = 0
    nearly_out: int = 0
    most_polls: int | None = None
    verdicts: Mapping[str, int] = field(default_factory=dict)
    newest: Mapping[str, int] = field(default_factory=dict)
    latency: Latency | None = None

    @property
    def lost(self) -> int:
        """The number of answers from a poll alone: their callbacks never came."""
        return self.polled - self.late

    @property
    def refused(self) -> Mapping[str, int]:
        """The number of refused deliveries, by verdict."""
        refused = (row.name for row in VERDICTS.values() if row.is_refused)
        return {verdict: self.verdicts[verdict] for verdict in refused if verdict in self.verdicts}


class WaitingTasks(NamedTuple):
    """The number of tasks of a provider without an outcome.

    `oldest_due` is the time of the earliest poll still to be made, as far as it is known, or None without such a poll.
    `called_since` is the registration of the oldest of them with a callback URL, or None without such a task.
    """

    provider: str
    tasks: int
    oldest_due: int | None
    called_since: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """The limits of retention: it removes everything that is not younger than these times.

    Of finished tasks and tombstones only the newest are kept, this many. New tombstones are dated `now`.
    """

    now: int
    results: int
    solutions: int
    deliveries: int
    tombstones: int
    most_finished: int
    most_tombstones: int


class Removed(NamedTuple):
    """Numbers of what retention removed. `solutions` and `bodies` are those of records that stay."""

    tasks: int = 0
    entries: int = 0
    solutions: int = 0
    bodies: int = 0
    strays: int = 0
    tombstones: int = 0

    def plus(self, other: Removed) -> Removed:
        """Return the sums."""
        return Removed(*map(int.__add__, self, other))


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A forecast of retention: the numbers, the bytes of answers and bodies, the first and the last end of a task."""

    removed: Removed
    size: int
    oldest: int | None
    newest: int | None
