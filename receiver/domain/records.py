"""What the receiver remembers: frozen records, as the store gives and takes them. Times are µs since 1970, UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from client.protocol.models import NO_ANSWER, PROVISIONAL, SUBMIT_UNKNOWN
from client.provider_api.unlisted import UnlistedRow
from client.providers.readings import TaskId
from client.providers.values import task_id_text
from receiver.domain.verdicts import VERDICTS

__all__ = [
    "CUT_OFF",
    "DELIVERIES_KEPT",
    "POLLS_KEPT",
    "SECOND",
    "SUBMITTING",
    "AboutTask",
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
"""The longest time, in µs, that a task usually stands in line for its createTask and waits for the answer."""

DELIVERIES_KEPT = 8
"""This many deliveries of a task keep their bytes, and the newest; the rest are counted."""

POLLS_KEPT = 14
"""The same for the polls that the receiver made."""

CUT_OFF = "cut off"
"""What is kept of a poll whose process was killed, or held up for longer than its lease: nobody knows what it said."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_view(microseconds: int) -> datetime:
    """Return the time, aware, in UTC; exact."""
    return _EPOCH + timedelta(microseconds=microseconds)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended. `solution` is JSON text, None where it failed (or was removed by retention)."""

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
        """Whether it is ours, so that the first outcome of the provider replaces it."""
        is_given_up = self.source == "deadline" and self.error_code in (NO_ANSWER, SUBMIT_UNKNOWN)
        return is_given_up or self.trust == PROVISIONAL


class Numbered:
    """An answer with rows or positions that are numbers of its batch until the batch is written."""

    __slots__ = ()

    def number(self, head: int, last_row: int) -> None:
        """Put in the numbers of the database, which ended at this position and this row before the batch."""
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

    `has_url`: it was given a URL of its own; `open_to_standing`: a standing URL may end it; `standing_id`: the standing
    URL that created it. `bound_by` is "create" or "callback" for the road by which `task_id` became known, at
    `bound_at`. `quota` and `kept_bytes`: what it is counted under, if a delivery made it. `joined_ref`: its id went to
    that task, under which it is found. `is_polled_here`: the receiver polls it, at `next_poll_at`; who does has a
    `lease`, a growing number, until `leased_until`. `polled_at`: when the last poll ended. `held_until`: a callback
    came and is the outcome then, unless the provider, which is being asked, says something else before.
    """

    row: int
    ref: str
    provider: str
    type: str | None
    tags: tuple[str, ...]
    metadata: str
    created_by: str | None
    client_key_id: str | None
    has_url: bool
    open_to_standing: bool
    standing_id: str | None
    task_id: TaskId | None
    bound_by: str | None
    registered_at: int
    created_at: int
    poll_after: int
    next_poll_at: int | None
    deadline_at: int
    hinted_at: int | None = None
    is_disputed: bool = False
    deliveries: int = 0
    polls: int = 0
    quota: str | None = None
    kept_bytes: int = 0
    joined_ref: str | None = None
    position: int | None = None
    is_polled_here: bool = False
    lease: int = 0
    leased_until: int | None = None
    polled_at: int | None = None
    held_until: int | None = None
    bound_at: int | None = None
    outcome: Outcome | None = None

    @property
    def counts_from(self) -> int:
        """The moment from which the provider counts its limits: when createTask was answered, as far as is known.

        A binding that comes late says nothing of that; then it is the registration.
        """
        if self.bound_by != "create" or self.bound_at is None:
            return self.created_at
        is_late = self.bound_at - self.created_at > SUBMITTING
        return self.created_at if is_late else max(self.created_at, self.bound_at)

    @property
    def id_text(self) -> str | None:
        """The provider's id as it is compared."""
        return None if self.task_id is None else task_id_text(self.task_id)

    def evolve(self, **changes: Any) -> TaskRecord:
        """Return a copy with `changes`."""
        if not changes.keys() <= self.__dict__.keys():
            raise TypeError(f"a task has none of {sorted(changes.keys() - self.__dict__.keys())}")
        copy = object.__new__(TaskRecord)
        copy.__dict__.update(self.__dict__, **changes)
        return copy

    def number(self, head: int, last_row: int) -> None:
        """See `Numbered`; once it has its numbers, nothing is changed any more."""
        # In place, because copies would be a fifth of the work on a callback: nobody has seen the record so far.
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
    """An unreadable delivery whose bytes are kept: of the task `ref`, or stray, of its standing URL.

    `id` orders those of tasks, and those that are stray. `provider` is that of the task or of the standing URL; None if
    that is gone.
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
        """Whether no task is known of it."""
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
    """The number of times that a provider sent a code on no list, with the first and the last of them."""

    provider: str
    code: str
    times: int
    first_seen: int
    last_seen: int


@dataclass(frozen=True, slots=True)
class History:
    """What is kept of a task beside its record, each oldest first; the last of `outcomes` is the one that stands."""

    deliveries: tuple[StoredDelivery, ...] = ()
    polls: tuple[PollRecord, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class StandingUrl:
    """A long-lived callback URL of one provider; `label` is the operator's."""

    id: str
    provider: str
    label: str | None
    created_at: int
    revoked_at: int | None


class TaskKey(NamedTuple):
    """By what a waiter may know a task."""

    ref: str
    provider: str
    id_text: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One place in the log: `kind` is "result", "deleted" or "hint"; `task` carries the outcome of this place.

    `position` orders entries of one log; `cursor` is what a reader goes on from. There is no task in a deletion.
    """

    cursor: str
    position: int
    kind: str
    ref: str
    task: TaskRecord | None


@dataclass(frozen=True, slots=True)
class Growth:
    """The log grew from behind one position up to another.

    `tasks` are those that somebody may wait for in vain until they are looked at, None where they are too many to name;
    `entries` is what came into the log, None where the log itself has to be read for it.
    """

    after: int
    until: int
    tasks: tuple[TaskKey, ...] | None
    entries: tuple[Entry, ...] | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the log; `cursor` (at `position`) is how far it has looked, `more` that the log goes on behind it."""

    entries: tuple[Entry, ...]
    cursor: str
    position: int
    more: bool


class Latency(NamedTuple):
    """How long so many callbacks took, in seconds: `median`, and `p95`, which 95 % of them did not exceed."""

    callbacks: int
    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class RecentTasks:
    """What became of a provider's tasks of some time.

    Of those with a callback URL (`with_url`): how many got an answer (`answered`), how many of those by a poll before
    which nothing had come (`polled`), for how many of those the callback came afterwards (`late`). Of all: how many
    ended, the polls of those, how many of them used up nearly all that a task may have (`most_polls`, None: no limit
    is known); the deliveries that are kept, by verdict; how long callbacks took, None where there are none.
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
    latency: Latency | None = None

    @property
    def lost(self) -> int:
        """How many answers a poll alone brought: their callbacks never came."""
        return self.polled - self.late

    @property
    def refused(self) -> Mapping[str, int]:
        """The deliveries that were refused, by verdict."""
        refused = (row.name for row in VERDICTS.values() if row.is_refused)
        return {verdict: self.verdicts[verdict] for verdict in refused if verdict in self.verdicts}


class WaitingTasks(NamedTuple):
    """How many tasks of a provider have no outcome yet.

    `oldest_due`: when the first poll is due of those still to be made, as far as is known; None: there is none.
    """

    provider: str
    tasks: int
    oldest_due: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """What retention takes: all that is not younger than these times, and of some kinds all but so many of the newest.

    `now` is when tombstones are dated.
    """

    now: int
    results: int
    solutions: int
    deliveries: int
    tombstones: int
    most_finished: int
    most_tombstones: int


class Removed(NamedTuple):
    """How much retention took: finished tasks, places in the log, solutions and bodies of what stays, and the rest."""

    tasks: int = 0
    entries: int = 0
    solutions: int = 0
    bodies: int = 0
    strays: int = 0
    tombstones: int = 0

    def plus(self, other: Removed) -> Removed:
        """Both together."""
        return Removed(*map(int.__add__, self, other))


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What retention would take: how much of each kind, how many bytes of answers and bodies, and the ends of tasks."""

    removed: Removed
    size: int
    oldest: int | None
    newest: int | None
