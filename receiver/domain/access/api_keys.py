"""API keys in the store, the operations on them, and all valid keys as a request finds one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from receiver.domain.records import SECOND
from receiver.domain.transaction import Operation
from receiver.settings import ApiKey

__all__ = ["MOST_KEYS", "AddKey", "KeyRing", "KeyState", "NoteKeysUsed", "RevokeKeys", "StoredKey", "ending_keys"]

MOST_KEYS = 1000
"""The most keys in the store, revoked and expired ones included."""

_ENDING_SOON = 14 * 24 * 3600 * SECOND
_ENDED_LATELY = 7 * 24 * 3600 * SECOND

KeyState = Literal["valid", "expired", "revoked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A row of the table of keys. It never held the secret. Times are in microseconds since 1970.

    `last_used_at` is at most a minute behind.
    """

    id: str
    name: str
    digest: bytes
    scopes: frozenset[str]
    providers: frozenset[str] | None
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None

    def state(self, now: int) -> KeyState:
        """Return the state of the key. A revoked key stays revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "valid"

    @property
    def api_key(self) -> ApiKey:
        """The key as requests use it."""
        return ApiKey(self.name, self.digest, self.scopes, self.providers, self.expires_at, self.id)


def ending_keys(stored: Iterable[StoredKey], given: Iterable[ApiKey], *, now: int) -> Sequence[StoredKey]:
    """Return the keys that expire within two weeks, or expired a week ago at most.

    Names with a key that lasts longer are left out, and so are revoked keys.
    """
    lasting = {key.name for key in given}
    last: dict[str, StoredKey] = {}
    for key in stored:
        if key.revoked_at is not None:
            continue
        if key.expires_at is None or key.expires_at > now + _ENDING_SOON:
            lasting.add(key.name)
        elif key.expires_at > now - _ENDED_LATELY:
            last[key.name] = max(last.get(key.name, key), key, key=lambda other: other.expires_at or 0)
    return [key for name, key in sorted(last.items()) if name not in lasting]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddKey(Operation[None]):
    """A new key. In a full table it takes the place of the oldest key that is revoked or expired.

    The store raises `quota-full` if there is none.
    """

    key: StoredKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeKeys(Operation[None]):
    """The end of the keys with these ids. A key that was revoked before keeps its time."""

    ids: tuple[str, ...]
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKeysUsed(Operation[None]):
    """The times at which keys were last used, by id."""

    times: Mapping[str, int]


class KeyRing:
    """The keys of the settings and of the store at one moment. It never changes; a new one takes its place.

    A revoked key of the store is refused even if the settings hold its secret, too.
    """

    __slots__ = ("_by_digest", "is_empty")

    def __init__(self, given: Iterable[ApiKey] = (), stored: Iterable[StoredKey] = ()) -> None:
        self._by_digest = {key.digest: key for key in given}
        self.is_empty = not self._by_digest
        """True if there was never a key, not even one that is revoked or expired by now."""
        for key in stored:
            self.is_empty = False
            if key.revoked_at is None:
                self._by_digest[key.digest] = key.api_key
            else:
                self._by_digest.pop(key.digest, None)

    def find(self, digest: bytes, now: int) -> ApiKey | None:
        """Return the valid key with this digest of its secret."""
        key = self._by_digest.get(digest)
        return None if key is None or (key.expires_at is not None and key.expires_at <= now) else key

    def valid(self, now: int) -> frozenset[ApiKey]:
        """Return all valid keys."""
        return frozenset(key for key in self._by_digest.values() if key.expires_at is None or key.expires_at > now)
