"""The API keys of a running receiver: those of the settings, and those of the store, which a command may change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from client.protocol.filters import CANARY
from receiver.domain.access.api_keys import KeyRing, NoteKeysUsed, StoredKey
from receiver.domain.access.tickets import fingerprint
from receiver.errors import CannotStartError, ReceiverError
from receiver.settings import SCOPES, ApiKey, digest_of, no_keys_error
from receiver.storage.store import Store

__all__ = ["ANONYMOUS", "CANARY_KEY", "Keys"]

ANONYMOUS = ApiKey("anonymous", b"", frozenset(SCOPES))
"""Stands for the key of each request to a receiver without keys."""

CANARY_KEY = ApiKey(CANARY, b"", frozenset({"read"}), frozenset({CANARY}))
"""Stands for the key of a request by the receiver itself. It has no secret: a signed token takes its place."""

_READ_SECONDS = 1.0
"""Time after which a change of the table is noticed."""
_NOTE_SECONDS = 60.0
_WRITE_SECONDS = 2.0

_log = structlog.get_logger()


class Keys:
    """Finds the key of a request. Run `run` beside it: once a second it reads the keys of the store again.

    All keys are replaced at once, so a request finds either the old ones or the new ones. A read of a few keys costs
    some 45 µs, that of a thousand 3 ms, most of it on a thread. To read a version instead would save little, and each
    writer would have to keep it.

    `now` returns microseconds since 1970. With `allows_anonymous`, a receiver that never had a key needs none.
    """

    def __init__(
        self, store: Store, given: Sequence[ApiKey], *, now: Callable[[], int], allows_anonymous: bool
    ) -> None:
        self._store = store
        self._given = given
        self._now = now
        self._allows_anonymous = allows_anonymous
        self._stored: Sequence[StoredKey] = ()
        self._ring = KeyRing(given)
        # All that were valid since `run` looked last.
        self._valid = self._valid_now()
        self._used: dict[str, int] = {}
        self._is_unread = False

    async def open(self) -> None:
        """Read the keys of the store for the first time.

        Raises:
            CannotStartError: there are no keys, though the settings demand some. Or they cannot be read.
        """
        try:
            stored = await self._store.api_keys()
        except ReceiverError as error:
            raise CannotStartError(f"the API keys cannot be read: {error.detail}", passes=True) from None
        self._replace(self._given, stored)

    @property
    def is_anonymous(self) -> bool:
        """True if requests need no key. Keys that are revoked or expired do not open the receiver again."""
        return self._allows_anonymous and self._ring.is_empty

    def find(self, secret: str) -> ApiKey | None:
        """Return the valid key with this secret, and note its use."""
        now = self._now()
        key = self._ring.find(digest_of(secret), now)
        if key is not None and key.key_id is not None:
            self._used[key.key_id] = now
        return key

    def find_by_fingerprint(self, digest: bytes) -> ApiKey | None:
        """Return the valid key with this fingerprint, see `receiver.domain.access.tickets`."""
        return next((key for key in self._valid_now() if fingerprint(key) == digest), None)

    def is_valid(self, key: ApiKey) -> bool:
        """Return True if the key, found earlier, may still do the same."""
        if key is CANARY_KEY:
            return True
        if key is ANONYMOUS:
            return self.is_anonymous
        return self._ring.find(key.digest, self._now()) == key

    async def run(self, ended: Callable[[], None]) -> None:
        """Keep the keys up to date, and call `ended` when one has become invalid. Never return."""
        loop = asyncio.get_running_loop()
        note_at = loop.time() + _NOTE_SECONDS
        while True:
            await asyncio.sleep(_READ_SECONDS)
            await self._read()
            valid, self._valid = self._valid, self._valid_now()
            # Some may have expired as well.
            if valid - self._valid:
                ended()
            if loop.time() >= note_at:
                await self.save()
                note_at = loop.time() + _NOTE_SECONDS

    async def save(self) -> None:
        """Store the times at which keys were last used. What cannot be stored now is kept for the next time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._store.write(NoteKeysUsed(times=used), within_seconds=_WRITE_SECONDS)
        except ReceiverError:
            self._used = used | self._used

    async def reload(self, load: Callable[[], Sequence[ApiKey]]) -> None:
        """Replace the keys of the settings by those that `load` returns, and read those of the store again.

        Streams of keys that are gone end within a second. If `load` raises CannotStartError, the store cannot be read,
        or no key would be left, then all keys stay. One line of the log says what happened. The environment of a
        process cannot change: new keys come from the `.env` file, the folder of secrets or the store.
        """
        try:
            given = load()
            self._replace(given, await self._store.api_keys())
        except CannotStartError as error:
            _log.error("keys.not_reloaded", reason=str(error))
        except ReceiverError as error:
            _log.error("keys.not_reloaded", reason=error.detail)
        else:
            _log.info("keys.reloaded", settings=len(given), store=len(self._stored))

    async def _read(self) -> None:
        try:
            stored = await self._store.api_keys()
        except ReceiverError as error:
            # The keys stay as they are: a store that cannot be read must not lock out everyone.
            if not self._is_unread:
                _log.warning("keys.not_read", reason=error.detail)
            self._is_unread = True
            return
        self._is_unread = False
        if stored != self._stored and _without_use(stored) != _without_use(self._stored):
            self._use(self._given, stored)
            _log.info("keys.changed", valid=len(self._ring.valid(self._now())))
        self._stored = stored

    def _replace(self, given: Sequence[ApiKey], stored: Sequence[StoredKey]) -> None:
        if KeyRing(given, stored).is_empty and not self._allows_anonymous:
            raise no_keys_error()
        self._use(given, stored)

    def _use(self, given: Sequence[ApiKey], stored: Sequence[StoredKey]) -> None:
        self._given, self._stored, self._ring = given, stored, KeyRing(given, stored)
        self._valid |= self._valid_now()

    def _valid_now(self) -> frozenset[ApiKey]:
        valid = self._ring.valid(self._now())
        return valid | {ANONYMOUS} if self.is_anonymous else valid


def _without_use(stored: Sequence[StoredKey]) -> Sequence[StoredKey]:
    return [replace(key, last_used_at=None) for key in stored]
