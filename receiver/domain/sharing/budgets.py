"""The budget of one provider key in the database, so that all receivers together keep the limits of one. Pure.

All times are those of the database's clock, in microseconds since 1970. Rules for any order of the receivers' commands:

* *Turns.* Polls need a turn, and so does createTask if the provider's rate for it is known. Turns of all receivers lie
  an interval apart. They are reserved for at most two seconds ahead, many at once, so that they cost few writes. Turns
  of a receiver that dies are lost, and the next free one is two seconds away at most. Each command brings its own
  interval, so programs with different limits share one row.
* *Polls.* If the provider counts the polls of all tasks together, then they are counted where they are taken, and
  uncounted where they are given back. Those of a receiver that died stay counted.
* *Pauses.* A pause of one receiver holds for all. The longest one wins.
* *Refusals.* `halts` and `was_banned` are those of `receiver.upstream.backoff`. Two receivers that are refused at once
  count once, because both counted from the same number. Any other answer ends the count.
* *Errors* are counted in twelve parts of the provider's time. A part ages out as a whole. At half of the limit the key
  is paused until enough of them are older.
* *Receivers* note themselves. One that was not seen for a minute is gone. The first one of all starts without pauses,
  because an operator who has mended something starts the receiver again.

If the clock is set back, a turn that seems far off is free. A pause that seems not to have begun is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from client.providers import KeyLimits
from client.providers.rules import Rate
from receiver.domain.records import SECOND
from receiver.domain.transaction import CLOCK, Transaction

__all__ = ["KeyUse", "ShareKey", "SharedBudget", "SharedKey", "poll_turns", "read_budget", "save_budget"]

_AHEAD = 2 * SECOND
_SLACK = SECOND
_GONE_AFTER = 60 * SECOND
_PARTS = 12


@dataclass(frozen=True, slots=True)
class SharedBudget:
    """The row of a key. `errors` are the starts of parts of time, with their counts.

    `receivers` are all that use the key, with the times at which they were last seen.
    """

    next_poll_at: int = 0
    next_submit_at: int = 0
    polls: int = 0
    tasks: int = 0
    paused_at: int = 0
    paused_until: int = 0
    halts: int = 0
    was_banned: bool = False
    errors: Sequence[tuple[int, int]] = ()
    receivers: Mapping[str, int] = field(default_factory=dict)

    def pause_left(self, now: int) -> int:
        """Return the time until the end of the pause, 0 without one."""
        return max(self.paused_until - now, 0) if self.paused_at <= now + _SLACK else 0


@dataclass(frozen=True, slots=True)
class KeyUse:
    """The use of a key by one receiver. `name` is that of the row; it never holds the key."""

    name: str
    receiver: str
    limits: KeyLimits


@dataclass(frozen=True, slots=True)
class SharedKey:
    """The row after a command, and the time. `submit_waits` are the waits until the reserved turns for createTask.

    `is_braked`: errors of all receivers together began a pause.
    """

    budget: SharedBudget
    now: int
    submit_waits: Sequence[int] = ()
    is_braked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareKey:
    """News of one receiver about a key, and a request for turns.

    `pause_seconds` is a new pause, `errors` the number of new errors, `submits` that of callers that wait for
    createTask. `refusals` are `halts` and `was_banned` after a refusal. `is_released` says that another answer came.
    """

    use: KeyUse
    pause_seconds: float = 0.0
    errors: int = 0
    submits: int = 0
    refusals: tuple[int, bool] | None = None
    is_released: bool = False
    is_starting: bool = False
    is_ending: bool = False
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> SharedKey:
        """Return the row."""
        before, now = read_budget(transaction, self.use)
        budget = before
        if self.is_starting and set(_present(before, now)) <= {self.use.receiver}:
            budget = replace(budget, paused_until=0, halts=0, was_banned=False)
        if self.is_released:
            budget = replace(budget, halts=0, was_banned=False)
        if self.refusals is not None:
            halts, was_banned = self.refusals
            budget = replace(budget, halts=max(budget.halts, halts), was_banned=budget.was_banned or was_banned)
        if self.pause_seconds > 0:
            budget = _paused(budget, now, now + round(self.pause_seconds * SECOND))
        is_braked = False
        if self.use.limits.errors is not None:
            budget, is_braked = _with_errors(budget, self.use.limits.errors, self.errors, now)
        waits: Sequence[int] = ()
        if self.submits and not budget.pause_left(now):
            waits, next_at = _turns(budget.next_submit_at, _submit_gap(self.use.limits), now, self.submits)
            budget = replace(budget, next_submit_at=next_at)
        budget = save_budget(transaction, self.use, budget, now, is_ending=self.is_ending)
        return SharedKey(budget, now, waits, is_braked)


def read_budget(transaction: Transaction, use: KeyUse) -> tuple[SharedBudget, int]:
    """Return the row of a key, and the time."""
    key = ("key_budget", use.name)
    transaction.require(key, CLOCK)
    return transaction.row(key) or SharedBudget(), transaction.row(CLOCK)


def save_budget(
    transaction: Transaction, use: KeyUse, budget: SharedBudget, now: int, *, is_ending: bool = False
) -> SharedBudget:
    """Keep the row of a key. Note that this receiver uses it, or not any more. Return the row."""
    present = {**_present(budget, now), use.receiver: now}
    if is_ending:
        del present[use.receiver]
    budget = replace(budget, receivers=present)
    transaction.save_row(("key_budget", use.name), budget)
    return budget


def poll_turns(budget: SharedBudget, limits: KeyLimits, now: int, most: int) -> Sequence[int]:
    """Return the waits until the next free turns for polls, at most `most`. None are free during a pause.

    The poll that takes the last of them makes the turn an interval later the next one.
    """
    return () if budget.pause_left(now) else _turns(budget.next_poll_at, poll_gap(limits), now, most)[0]


def poll_gap(limits: KeyLimits) -> int:
    """Return the time between two polls."""
    return round(SECOND / limits.requests_per_second)


def _submit_gap(limits: KeyLimits) -> int:
    """Return the time between two createTask requests, at half of the allowed rate."""
    return 1 if limits.submits is None else round(SECOND * limits.submit_gap_seconds)


def _turns(next_at: int, gap: int, now: int, most: int) -> tuple[Sequence[int], int]:
    """Return the waits until the next turns, and the time of the turn after them."""
    if next_at > now + _AHEAD + 2 * gap:
        next_at = now
    first = max(next_at, now)
    count = max(0, min(most, (now + _AHEAD - first) // gap + 1))
    return [first - now + place * gap for place in range(count)], first + count * gap


def _paused(budget: SharedBudget, now: int, until: int) -> SharedBudget:
    if until - now <= budget.pause_left(now):
        return budget
    return replace(budget, paused_at=now, paused_until=until)


def _with_errors(budget: SharedBudget, limit: Rate, errors: int, now: int) -> tuple[SharedBudget, bool]:
    """Return the row with these errors, and True if they begin a pause."""
    window = round(limit.seconds * SECOND)
    part = window // _PARTS
    counts = {at: count for at, count in budget.errors if now - window - part < at <= now}
    if errors:
        counts[now - now % part] = counts.get(now - now % part, 0) + errors
    budget = replace(budget, errors=sorted(counts.items()))
    most, total, until = max(1, limit.count // 2), sum(counts.values()), now
    for at, count in budget.errors:
        if total < most:
            break
        until, total = at + part + window, total - count
    paused = _paused(budget, now, until) if errors else budget
    return paused, paused is not budget and not budget.pause_left(now)


def _present(budget: SharedBudget, now: int) -> Mapping[str, int]:
    return {name: at for name, at in budget.receivers.items() if now - _GONE_AFTER < at <= now + _SLACK}
