"""Keys and their money. Pure: amounts are whole millionths, so that sums come out even."""

from __future__ import annotations

from collections.abc import Container

__all__ = ["Accounts"]

_MILLION = 1_000_000
_MOST_KEYS = 10_000


class Accounts:
    """The accounts of a sandbox. Without `keys` any key that is not empty is right.

    Of the accounts that were charged, the 10,000 newest are remembered; a forgotten one has its first balance again.
    """

    def __init__(self, *, keys: Container[str], balance: float, cost: float) -> None:
        self._keys = keys or None
        self._first_balance = round(balance * _MILLION)
        self._cost = round(cost * _MILLION)
        self._balances: dict[str, int] = {}

    def is_known(self, key: object) -> bool:
        """Whether `key` opens an account."""
        return isinstance(key, str) and key != "" and (self._keys is None or key in self._keys)

    def balance(self, key: str) -> float:
        """What is left."""
        return self._left(key) / _MILLION

    def charge(self, key: str) -> bool:
        """Take the price of one task; False, and nothing taken, where too little or nothing is left."""
        left = self._left(key)
        if left < max(self._cost, 1):
            return False
        self._set(key, left - self._cost)
        return True

    def give_back(self, key: str) -> None:
        """Return the price of one task."""
        self._set(key, self._left(key) + self._cost)

    def _left(self, key: str) -> int:
        return self._balances.get(key, self._first_balance)

    def _set(self, key: str, left: int) -> None:
        self._balances[key] = left
        if len(self._balances) > _MOST_KEYS:
            del self._balances[next(iter(self._balances))]
