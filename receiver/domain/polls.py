"""The commands behind the receiver's own polls: take due tasks, store the end of a poll, adopt tasks. Pure.

A poll is taken under a lease. Its number grows with each lease of the task. If a lease runs out before the end of its
poll is stored, then the poll may have been sent, so it counts. Thus the provider's limit on the polls of a task holds
over any number of crashes.

A poller that returns with an expired lease was held up, and the task is polled twice. That is harmless. Its answer is
kept, because the provider gave it, but it does not plan the next poll.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from client.provider_api.unlisted import UnlistedRow, row_after
from client.providers.readings import Failed, Pending, Ready
from receiver.domain.deliveries import held_from
from receiver.domain.next_poll import (
    MOST_DELAY_SECONDS,
    Adopted,
    CameDue,
    GivenBack,
    Polled,
    PollLimits,
    next_poll,
)
from receiver.domain.outcomes import is_open, settle, weigh
from receiver.domain.reading import ReportedAnswer, make_outcome
from receiver.domain.records import (
    CUT_OFF,
    IGNORED,
    SECOND,
    AboutTask,
    Numbered,
    Outcome,
    PollRecord,
    StoredDelivery,
    TaskRecord,
)
from receiver.domain.sharing.budgets import KeyUse, SharedBudget, poll_gap, poll_turns, read_budget, save_budget
from receiver.domain.transaction import OneTaskCommand, Transaction
from receiver.domain.verdicts import Verdict

__all__ = [
    "LEASE_SECONDS",
    "Adopt",
    "FinishPoll",
    "GiveBack",
    "PolledTask",
    "Read",
    "ReleaseHeld",
    "Remember",
    "TakeDue",
    "Taken",
    "is_hinted_since",
]

Read = Callable[[TaskRecord, StoredDelivery], Outcome | None]
"""Returns the outcome in a kept callback of a task; None if there is none, or none any more."""

LEASE_SECONDS = 30.0
"""The time for which nobody else takes the same poll. It is longer than a poll and its wait for a turn may take.

After a crash the task waits for so long.
"""

_LEASE = round(LEASE_SECONDS * SECOND)


@dataclass(frozen=True, slots=True)
class Taken(Numbered):
    """Tasks to poll, oldest first. For `doubled` of them the poll before was cut off, sent or not.

    `waits` are the waits in µs until the turns of the key that are reserved for them. Any of them may have any turn.
    """

    tasks: Sequence[TaskRecord]
    doubled: int
    waits: Sequence[int] = ()

    def number(self, head: int, last_row: int) -> None:
        """See `Numbered`."""
        for task in self.tasks:
            task.number(head, last_row)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeDue:
    """A claim on at most `limit` due tasks, each under a lease. Tasks with no polls left are not due any more.

    With a `use` of the key, there are no more tasks than free turns of the key. A task that the provider's limit on all
    polls leaves no poll is due again an interval later.
    """

    provider: str
    now: int
    limit: int
    limits: PollLimits
    use: KeyUse | None = None
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> Taken:
        """Return the tasks."""
        if self.use is None:
            return self._take(transaction, self.limit, None)
        budget, now = read_budget(transaction, self.use)
        waits = poll_turns(budget, self.use.limits, now, self.limit)
        if not waits:
            return Taken((), 0)
        count = _PollCount(budget, self.use)
        taken = self._take(transaction, len(waits), count)
        waits = waits[: len(taken.tasks)]
        if waits:
            next_poll_at = now + waits[-1] + poll_gap(self.use.limits)
            changed = replace(budget, next_poll_at=next_poll_at, polls=count.polls, tasks=count.tasks)
            save_budget(transaction, self.use, changed, now)
        return replace(taken, waits=waits)

    def _take(self, transaction: Transaction, limit: int, count: _PollCount | None) -> Taken:
        taken, doubled = [], 0
        longest_lease = _LEASE + round(MOST_DELAY_SECONDS * SECOND)
        found = transaction.due(self.provider, self.now, limit, reach=self.limits.reach, lease=longest_lease)
        transaction.require(*(("unlisted_row", due.ref) for due in found if due.leased_until is not None))
        for due in found:
            was_cut_off = due.leased_until is not None
            counted = _count_cut_off(transaction, due) if was_cut_off else due
            if next_poll(counted, CameDue(self.limits)) is None:
                # The new lease keeps a poller that returns with the old one from counting its poll twice.
                transaction.change(counted.evolve(next_poll_at=None, lease=due.lease + 1))
                continue
            doubled += was_cut_off
            task = counted.evolve(lease=due.lease + 1, leased_until=self.now + _LEASE)
            if count is not None and not count.add(task):
                given_back = GivenBack(self.now, self.limits)
                transaction.change(task.evolve(leased_until=None, next_poll_at=next_poll(task, given_back)))
                continue
            transaction.change(task)
            taken.append(task)
        return Taken(taken, doubled)


class _PollCount:
    """The polls of all tasks of a key so far."""

    def __init__(self, budget: SharedBudget, use: KeyUse) -> None:
        self.polls, self.tasks = budget.polls, budget.tasks
        self._limits = use.limits

    def add(self, task: TaskRecord) -> bool:
        """Count a poll of the task. Return False if the limit leaves none."""
        is_first, is_hinted = task.polls == 0, is_hinted_since(task)
        if not self._limits.allows_poll(self.polls, self.tasks, is_first=is_first, is_hinted=is_hinted):
            return False
        self.polls += 1
        self.tasks += is_first
        return True


def is_hinted_since(task: TaskRecord) -> bool:
    """Return True if a hint came after the last poll of the task."""
    return task.hinted_at is not None and task.hinted_at > (task.polled_at or 0)


def _count_cut_off(transaction: Transaction, task: TaskRecord) -> TaskRecord:
    """Count the poll of a lease that ran out. Its process was killed or sleeps, and the poll may have been sent."""
    ran_out_at = task.leased_until or 0
    counted = task.evolve(polls=task.polls + 1, leased_until=None)
    poll = PollRecord(ran_out_at - _LEASE, ran_out_at, task.lease, CUT_OFF, transaction.unlisted_row(task))
    transaction.store_poll(counted, poll)
    return counted


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack(OneTaskCommand):
    """The return of a poll that was taken but not sent. It does not count, and is due again an interval after `now`."""

    ref: str
    lease: int
    now: int
    limits: PollLimits
    use: KeyUse | None = None
    weight: int = 0

    def decide(self, transaction: Transaction) -> None:
        """Plan the poll again, unless another lease was given out."""
        task = transaction.task(self.ref)
        if task is None or task.lease != self.lease:
            return
        if self.use is not None and self.use.limits.polls_for_each is not None:
            # Its next poll would be counted as the first one once more, and would add to the allowance.
            budget, now = read_budget(transaction, self.use)
            uncounted = replace(budget, polls=max(budget.polls - 1, 0), tasks=max(budget.tasks - (task.polls == 0), 0))
            save_budget(transaction, self.use, uncounted, now)
        given_back = GivenBack(self.now, self.limits)
        transaction.change(task.evolve(leased_until=None, next_poll_at=next_poll(task, given_back)))


@dataclass(frozen=True, slots=True)
class PolledTask(AboutTask):
    """The result of a poll. `is_doubled`: the task was taken under another lease meanwhile.

    `is_contradicted`: the provider contradicted a callback that had been held back.
    """

    verdict: Verdict
    task: TaskRecord
    is_doubled: bool
    is_contradicted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishPoll(OneTaskCommand):
    """The end of a poll. A poll that was not sent does not count.

    `asked_id` is the id in the request. If createTask has bound the task to another id since, then the answer is about
    another task and is ignored. `answer` is None if nothing was learned. `wait` is the time until the next poll by the
    schedule, in µs; None if it has no further one. `read` reads a callback that was held back until the provider was
    asked.
    """

    ref: str
    poll: PollRecord
    asked_id: str | None
    answer: ReportedAnswer | None
    wait: int | None
    limits: PollLimits
    read: Read
    is_sent: bool = True

    @property
    def weight(self) -> int:
        """The size of the answer."""
        return 0 if self.answer is None else self.answer.size

    def decide(self, transaction: Transaction) -> PolledTask | None:
        """Return the result; None if the task was deleted meanwhile."""
        task = transaction.joined_task(self.ref)
        if task is None:
            return None
        if self.answer is not None and task.id_text != self.asked_id:
            ignored = replace(self.poll, summary=IGNORED + self.poll.summary)
            return replace(self, answer=None, poll=ignored).decide(transaction)
        is_doubled = task.lease != self.poll.lease
        row = None if is_doubled else self._row(transaction, task)
        task = task.evolve(polled_at=max(self.poll.ended_at, task.polled_at or 0))
        if is_doubled:
            # The poll was counted when the task was taken anew.
            transaction.complete_poll(task, self.poll)
        else:
            task = self._count(transaction, task, row)
        transaction.change(task)
        outcome = self._outcome(task, row)
        if self.answer is None or outcome is None:
            return PolledTask("notFinal", task, is_doubled)
        if task.held_until is not None:
            return self._confirm(
                transaction, task, make_outcome(outcome, replace(self.answer.origin, trust="confirmed"))
            )
        verdict, task = settle(transaction, task, make_outcome(outcome, self.answer.origin))
        return PolledTask(verdict, task, is_doubled)

    def _count(self, transaction: Transaction, task: TaskRecord, row: UnlistedRow | None) -> TaskRecord:
        """Return the task with this poll counted and the next one planned."""
        counted = task.evolve(polls=task.polls + 1, leased_until=None)
        poll = replace(self.poll, unlisted=row)
        transaction.store_poll(counted, poll)
        task = counted if self.is_sent else counted.evolve(polls=task.polls)
        reading = None if self.answer is None else self.answer.reading
        next_poll_at = next_poll(task, Polled(poll=poll, reading=reading, wait=self.wait, limits=self.limits))
        task = task.evolve(next_poll_at=next_poll_at)
        if task.held_until is not None and next_poll_at is not None and isinstance(reading, Pending):
            # The provider does not confirm the callback yet. A forged one must not win by being early.
            task = held_from(task, next_poll_at)
        return task

    def _row(self, transaction: Transaction, task: TaskRecord) -> UnlistedRow | None:
        """Return the row of answers with one unlisted code. No answer about the task leaves it as it was."""
        before = transaction.unlisted_row(task)
        if before is not None and round(before.since * SECOND) < (task.bound_at or 0) <= self.poll.ended_at:
            # Those answers were about an id that createTask replaced. The clock was not set back meanwhile.
            before = None
        if self.answer is None:
            return before
        return row_after(before, self.answer.reading, self.poll.ended_at / SECOND)

    def _outcome(self, task: TaskRecord, row: UnlistedRow | None) -> Ready | Failed | None:
        """Return the outcome in the answer. An unlisted code is one only after a row, and if nothing else is known."""
        outcome = None if self.answer is None else self.answer.outcome_of(task)
        if not isinstance(outcome, Failed) or outcome.is_listed:
            return outcome
        is_alone = task.outcome is None and task.held_until is None
        return outcome if is_alone and row is not None and row.is_enough(self.poll.ended_at / SECOND) else None

    def _confirm(self, transaction: Transaction, task: TaskRecord, polled: Outcome) -> PolledTask:
        """Settle the task with the provider's answer. The callback that was held back gets its verdict from it."""
        held = _held_outcome(transaction, task, self.read)
        is_contradicted = held is not None and weigh(polled, held) == "disagreed"
        transaction.set_verdict(task, "disagreed" if is_contradicted else "late", was="held")
        verdict, settled = settle(transaction, task, polled)
        return PolledTask(verdict, settled, task.lease != self.poll.lease, is_contradicted)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHeld:
    """The end of the hold on callbacks of at most `limit` tasks. Each becomes the outcome of its task.

    `read` reads them as their provider writes them.
    """

    now: int
    limit: int
    read: Read
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> int:
        """Return the number of tasks."""
        tasks = transaction.overdue_held(self.now, self.limit)
        transaction.require(*(("deliveries", task.ref) for task in tasks))
        for task in tasks:
            # A standing URL made it, and since then another task may have got its id.
            target = task if task.joined_ref is None else transaction.joined_task(task.ref) or task
            held = _held_outcome(transaction, task, self.read) if is_open(target) else None
            transaction.set_verdict(task, "accepted" if held is not None else "notFinal", was="held")
            if held is None or target is not task:
                transaction.change(task.evolve(held_until=None))
            if held is not None:
                settle(transaction, target, held)
        return len(tasks)


def _held_outcome(transaction: Transaction, task: TaskRecord, read: Read) -> Outcome | None:
    kept = transaction.deliveries(task).values()
    delivery = next((delivery for delivery in kept if delivery.verdict == "held" and delivery.body is not None), None)
    return None if delivery is None else read(task, delivery)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """A text to keep under a name, in place of the one before."""

    name: str
    text: str
    refs: Sequence[str] = ()

    @property
    def weight(self) -> int:
        """The size of the text."""
        return len(self.text)

    def decide(self, transaction: Transaction) -> None:
        """Keep it."""
        transaction.save_text(self.name, self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """The tasks to poll from now on, unless they have ended: the receiver was given the key of their provider."""

    refs: Sequence[str]
    weight: int = 0

    def decide(self, transaction: Transaction) -> None:
        """Plan their polls."""
        for ref in self.refs:
            task = transaction.task(ref)
            if task is not None and task.outcome is None and task.joined_ref is None:
                transaction.change(task.evolve(is_polled_here=True, next_poll_at=next_poll(task, Adopted())))
