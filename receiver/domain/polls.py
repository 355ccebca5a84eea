"""The commands behind the receiver's own polls: take what is due, tell what came of it, adopt tasks. Pure.

A poll is taken with a lease, a number that grows with each. Where a lease ran out and nobody told of its poll, that one
may have been sent: it counts, so that the provider's limit on the polls of a task holds over any number of crashes.
Whoever comes back with an older lease was held up, and the task is polled twice: that is harmless, and what the
provider said is true, but it does not decide when the next poll is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from client.provider_api.unlisted import WIDEST, UnlistedRow, row_after
from client.providers import PollPlan
from client.providers.readings import Failed, Pending, Ready, Unknown
from receiver.domain.deliveries import held_from
from receiver.domain.outcomes import is_open, settle, weigh
from receiver.domain.reading import ReportedAnswer, make_outcome
from receiver.domain.records import (
    CUT_OFF,
    SECOND,
    AboutTask,
    Numbered,
    Outcome,
    PollRecord,
    StoredDelivery,
    TaskRecord,
)
from receiver.domain.transaction import Transaction
from receiver.domain.verdicts import Verdict

__all__ = [
    "LEASE_SECONDS",
    "Adopt",
    "FinishPoll",
    "GiveBack",
    "PollRules",
    "PolledTask",
    "Read",
    "ReleaseHeld",
    "Remember",
    "TakeDue",
    "Taken",
    "rules_of",
]

Read = Callable[[TaskRecord, StoredDelivery], Outcome | None]
"""What a kept callback of a task says, as the outcome that it would be; None where it says none (any more)."""

# A command's time is taken before it waits for the database, so what another one took or planned meanwhile lies further
# ahead of it than it ever plans itself. Only beyond this is it a sign of a clock that was set back.
_LATE_SECONDS = 15.0

LEASE_SECONDS = 30.0
"""How long a poll that was taken is nobody else's: longer than a poll and its place in the line may take.

After a crash the task waits for so long.
"""

_LEASE = round(LEASE_SECONDS * SECOND)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollRules:
    """The limits of a provider on one task, in µs. No poll that was planned lies further ahead than `reach`."""

    interval: int
    window: int
    grace: int
    reach: int
    max_polls: int | None


def rules_of(plan: PollPlan) -> PollRules:
    """Return the limits in a plan."""
    last_look = WIDEST * plan.interval_seconds + plan.grace_seconds
    longest = max(plan.first_after_callback_seconds, plan.window_seconds / 2.0, last_look)
    return PollRules(
        interval=round(plan.interval_seconds * SECOND),
        window=round(plan.window_seconds * SECOND),
        grace=round(plan.grace_seconds * SECOND),
        reach=round(SECOND * (longest + _LATE_SECONDS)),
        max_polls=plan.max_polls,
    )


@dataclass(frozen=True, slots=True)
class Taken(Numbered):
    """Tasks to be polled, oldest first. `doubled`: of so many the poll before was cut off, sent or not."""

    tasks: Sequence[TaskRecord]
    doubled: int

    def number(self, head: int, last_row: int) -> None:
        """See `Numbered`."""
        for task in self.tasks:
            task.number(head, last_row)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeDue:
    """Takes at most `limit` tasks that are due, each with a lease; those with no polls left are not due any more."""

    provider: str
    now: int
    limit: int
    rules: PollRules
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> Taken:
        """Return the tasks."""
        taken, doubled = [], 0
        longest_lease = _LEASE + round(_LATE_SECONDS * SECOND)
        found = transaction.due(self.provider, self.now, self.limit, reach=self.rules.reach, lease=longest_lease)
        transaction.require(*(("unlisted_row", due.ref) for due in found if due.leased_until is not None))
        for due in found:
            was_cut_off = due.leased_until is not None
            counted = _count_cut_off(transaction, due) if was_cut_off else due
            if self.rules.max_polls is not None and counted.polls >= self.rules.max_polls:
                # With a lease of its own, so that whoever comes back with the one before does not count twice.
                transaction.change(counted.evolve(next_poll_at=None, lease=due.lease + 1))
                continue
            doubled += was_cut_off
            task = counted.evolve(lease=due.lease + 1, leased_until=self.now + _LEASE)
            transaction.change(task)
            taken.append(task)
        return Taken(taken, doubled)


def _count_cut_off(transaction: Transaction, task: TaskRecord) -> TaskRecord:
    """Count the poll of a lease that ran out: its process was killed, or sleeps, and the poll may have been sent."""
    ran_out_at = task.leased_until or 0
    counted = task.evolve(polls=task.polls + 1, leased_until=None)
    poll = PollRecord(ran_out_at - _LEASE, ran_out_at, task.lease, CUT_OFF, transaction.unlisted_row(task))
    transaction.store_poll(counted, poll)
    return counted


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack:
    """A poll that was taken was not sent: it does not count, and the task is due again at `next_poll_at`."""

    ref: str
    lease: int
    next_poll_at: int
    weight: int = 0

    @property
    def refs(self) -> Sequence[str]:
        """The task."""
        return (self.ref,)

    def decide(self, transaction: Transaction) -> None:
        """Nothing."""
        task = transaction.task(self.ref)
        if task is not None and task.lease == self.lease:
            next_poll_at = None if task.next_poll_at is None else self.next_poll_at
            transaction.change(task.evolve(leased_until=None, next_poll_at=next_poll_at))


@dataclass(frozen=True, slots=True)
class PolledTask(AboutTask):
    """What became of a poll. `is_doubled`: somebody else had taken the task meanwhile.

    `is_contradicted`: a callback that had been held back said something else than the provider.
    """

    verdict: Verdict
    task: TaskRecord
    is_doubled: bool
    is_contradicted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishPoll:
    """A poll has ended.

    `answered` is None where nothing was learned; `next_after` is when to poll again, in µs, None: never. `read` tells
    what a callback says that was held back until the provider was asked. One that was not sent does not count.
    """

    ref: str
    poll: PollRecord
    answered: ReportedAnswer | None
    next_after: int | None
    rules: PollRules
    read: Read
    is_sent: bool = True

    @property
    def refs(self) -> Sequence[str]:
        """The task."""
        return (self.ref,)

    @property
    def weight(self) -> int:
        """The size of the answer."""
        return 0 if self.answered is None else self.answered.size

    def decide(self, transaction: Transaction) -> PolledTask | None:
        """What became of it; None where the task was deleted meanwhile."""
        task = transaction.task(self.ref)
        while task is not None and task.joined_ref is not None:
            task = transaction.task(task.joined_ref)
        if task is None:
            return None
        is_doubled = task.lease != self.poll.lease
        row = None if is_doubled else self._row(transaction, task)
        task = task.evolve(polled_at=max(self.poll.ended_at, task.polled_at or 0))
        if is_doubled:
            # It was counted when the task was taken anew.
            transaction.complete_poll(task, self.poll)
        else:
            counted = task.evolve(polls=task.polls + 1, leased_until=None)
            transaction.store_poll(counted, replace(self.poll, unlisted=row))
            task = counted if self.is_sent else counted.evolve(polls=task.polls)
            task = task.evolve(next_poll_at=self._next(task, row))
            if task.held_until is not None and task.next_poll_at is not None and self._is_unfinished:
                # It was asked and does not bear the callback out: whoever forged one must not win by being early.
                task = held_from(task, task.next_poll_at)
        transaction.change(task)
        outcome = self._outcome(task, row)
        if self.answered is None or outcome is None:
            return PolledTask("notFinal", task, is_doubled)
        if task.held_until is not None:
            return self._confirm(
                transaction, task, make_outcome(outcome, replace(self.answered.origin, trust="confirmed"))
            )
        verdict, task = settle(transaction, task, make_outcome(outcome, self.answered.origin))
        return PolledTask(verdict, task, is_doubled)

    def _row(self, transaction: Transaction, task: TaskRecord) -> UnlistedRow | None:
        """Return the row of answers with one unlisted code; what says nothing about the task leaves it as it was."""
        before = transaction.unlisted_row(task)
        if self.answered is None:
            return before
        return row_after(before, self.answered.reading, self.poll.ended_at / SECOND)

    def _outcome(self, task: TaskRecord, row: UnlistedRow | None) -> Ready | Failed | None:
        """The outcome in the answer; an unlisted code is one where nothing else is known, and after a row of them."""
        outcome = None if self.answered is None else self.answered.outcome_of(task)
        if not isinstance(outcome, Failed) or outcome.is_listed:
            return outcome
        is_alone = task.outcome is None and task.held_until is None
        return outcome if is_alone and row is not None and row.is_enough(self.poll.ended_at / SECOND) else None

    @property
    def _is_unfinished(self) -> bool:
        return self.answered is not None and isinstance(self.answered.reading, Pending)

    def _confirm(self, transaction: Transaction, task: TaskRecord, polled: Outcome) -> PolledTask:
        """What the provider says wins over a callback that was held back; whether they say the same is kept."""
        held = _held_outcome(transaction, task, self.read)
        verdict_of_held = "late" if held is None or weigh(polled, held) != "disagreed" else "disagreed"
        transaction.set_verdict(task, verdict_of_held, was="held")
        is_contradicted = held is not None and weigh(polled, held) == "disagreed"
        verdict, settled = settle(transaction, task, polled)
        return PolledTask(verdict, settled, task.lease != self.poll.lease, is_contradicted)

    def _next(self, task: TaskRecord, row: UnlistedRow | None) -> int | None:
        """Return the time of the task's next poll; None: never, as things are. In a `row` the waits are doubled."""
        was_hinted = task.hinted_at is not None and task.hinted_at > self.poll.started_at
        if (
            task.outcome is not None
            and not task.is_disputed
            and not self._is_asked_again(task, task.outcome, was_hinted)
        ):
            return None
        if self.rules.max_polls is not None and task.polls >= self.rules.max_polls:
            return None
        wait = self.rules.interval if was_hinted else self.next_after
        window_ends_at = task.counts_from + self.rules.window
        if row is not None and wait is not None and not was_hinted:
            doubled = max(wait, round(row.intervals * self.rules.interval))
            # One that would go beyond the window is none: then the poll is made in time.
            wait = doubled if self.poll.ended_at + doubled < window_ends_at else wait
        if wait is not None and (at := self.poll.ended_at + max(wait, self.rules.interval)) < window_ends_at:
            return at
        # Beyond the window there is one thing left to learn: that the provider still does not know the id.
        last_at = window_ends_at + self.rules.grace
        is_unknown = self.answered is not None and isinstance(self.answered.reading, Unknown)
        return last_at if is_unknown and self.poll.ended_at < last_at else None

    def _is_asked_again(self, task: TaskRecord, outcome: Outcome, was_hinted: bool) -> bool:
        """Tell whether a hint asks about an outcome of ours, and no answer came since; after one, nothing is asked."""
        if not outcome.is_provisional or task.hinted_at is None or task.hinted_at < outcome.finished_at:
            return False
        return was_hinted or self.answered is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHeld:
    """Callbacks that were held back for long enough are the outcomes of at most `limit` tasks; the answer is how many.

    `read` tells what each of them says, by the provider.
    """

    now: int
    limit: int
    read: Read
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> int:
        """How many were released."""
        tasks = transaction.overdue_held(self.now, self.limit)
        transaction.require(*(("deliveries", task.ref) for task in tasks))
        for task in tasks:
            held = _held_outcome(transaction, task, self.read) if is_open(task) else None
            transaction.set_verdict(task, "accepted" if held is not None else "notFinal", was="held")
            if held is None:
                transaction.change(task.evolve(held_until=None))
            else:
                settle(transaction, task, held)
        return len(tasks)


def _held_outcome(transaction: Transaction, task: TaskRecord, read: Read) -> Outcome | None:
    kept = transaction.deliveries(task).values()
    delivery = next((delivery for delivery in kept if delivery.verdict == "held" and delivery.body is not None), None)
    return None if delivery is None else read(task, delivery)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """Keeps a text under a name, in place of the one before."""

    name: str
    text: str
    refs: Sequence[str] = ()

    @property
    def weight(self) -> int:
        """The size of the text."""
        return len(self.text)

    def decide(self, transaction: Transaction) -> None:
        """Nothing."""
        transaction.save_text(self.name, self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """From now on the receiver polls these tasks, unless they have ended: it was given the key of their provider."""

    refs: Sequence[str]
    weight: int = 0

    def decide(self, transaction: Transaction) -> None:
        """Nothing."""
        for ref in self.refs:
            task = transaction.task(ref)
            if task is not None and task.outcome is None and task.joined_ref is None:
                next_poll_at = task.poll_after if task.next_poll_at is None else task.next_poll_at
                transaction.change(task.evolve(is_polled_here=True, next_poll_at=next_poll_at))
