"""Leases: a holder does something alone for a limited time, and another one takes over when it dies. Pure.

All times are those of the database's clock, because the clocks of receivers differ.

States of a lease and its races:

* *free*: there is no row, or it has ended. The first one that asks gets it.
* *held*: only the holder may renew it. Two that ask at once are decided one after another, in whatever receiver.
* *ended*: its holder died, or was held up. If it goes on with its work meanwhile, two do the same for a moment. So
  leases only save work, or guard what is safe twice.
* *beyond*: the end is further off than any lease lasts, because the clock was set back. Such a lease counts as ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from receiver.domain.records import SECOND
from receiver.domain.transaction import CLOCK, Transaction

__all__ = ["Lease", "TakeLease", "hold_lease", "lease_holder"]

_LONGEST = 120 * SECOND


@dataclass(frozen=True, slots=True)
class Lease:
    """The holder of a lease, and its end."""

    holder: str
    ends_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeLease:
    """A claim on the lease `name` for `seconds`, or its renewal."""

    name: str
    holder: str
    seconds: float
    refs: Sequence[str] = ()
    weight: int = 0

    def decide(self, transaction: Transaction) -> bool:
        """Return True if `holder` has it now."""
        if lease_holder(transaction, self.name) not in (None, self.holder):
            return False
        hold_lease(transaction, self.name, self.holder, self.seconds)
        return True


def lease_holder(transaction: Transaction, name: str) -> str | None:
    """Return the holder of a lease, None if it is free."""
    transaction.require(("lease", name), CLOCK)
    lease: Lease | None = transaction.row(("lease", name))
    if lease is None or not 0 < lease.ends_at - transaction.row(CLOCK) <= _LONGEST:
        return None
    return lease.holder


def hold_lease(transaction: Transaction, name: str, holder: str, seconds: float) -> None:
    """Give the lease to `holder` for so many seconds, at most 120; 0 ends it."""
    transaction.require(("lease", name), CLOCK)
    ends_at = transaction.row(CLOCK) + round(min(seconds * SECOND, _LONGEST))
    transaction.save_row(("lease", name), Lease(holder, ends_at))
