"""The keys that sign and check callback URLs: those of the settings, and those of the store, which a command replaces.

An earlier key of the store is accepted until its end, and only for what it signed before. So nobody with a leaked key
can make a URL for a later task, nor one for a task that does not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from client.protocol.filters import CANARY
from receiver.domain.tokens import CallbackToken, Kind, SigningKey, check_token, made_at
from receiver.errors import StoreFailedError
from receiver.storage.store import Store

__all__ = ["SigningKeys"]

_READ_SECONDS = 1.0
_READER_LIFE = 120_000_000
_SLACK = 5_000_000
"""Time in µs after a change in which a running receiver may still have signed with the earlier key."""

_log = structlog.get_logger()


class SigningKeys:
    """The keys of a running receiver. Run `run` beside it: once a second it reads those of the store again.

    `given` are the keys of the settings. `now` returns microseconds since 1970.
    """

    def __init__(self, store: Store, given: Sequence[bytes], now: Callable[[], int]) -> None:
        self._store = store
        self._given = tuple(given)
        self._now = now
        self._stored: Sequence[SigningKey] = ()
        self._lasting: tuple[bytes, ...] = self._given
        # Each with the time of its replacement and its end.
        self._ending: Sequence[tuple[bytes, int, int]] = ()

    async def open(self) -> None:
        """Read the keys of the store for the first time.

        Raises:
            StoreFailedError: they cannot be read.
        """
        self._use(await self._store.read_signing_keys())

    @property
    def current(self) -> bytes:
        """The key that signs: the first of the settings, else the newest of the store."""
        return self._lasting[0]

    def check(self, token_text: str, provider: str) -> CallbackToken | None:
        """Return the verified token of a callback URL, or None if no accepted key has signed it."""
        token = check_token(token_text, provider, self._lasting)
        if token is None and self._ending:
            token = self._check_ending(token_text, provider)
        return None if token is not None and token.kind is Kind.READER else token

    def is_reader(self, token_text: str) -> bool:
        """Return True if the token lets its holder read the receiver's own tasks. It does so for two minutes."""
        token = check_token(token_text, CANARY, self._lasting)
        return token is not None and token.kind is Kind.READER and abs(self._now() - made_at(token)) <= _READER_LIFE

    async def run(self) -> None:
        """Keep the keys up to date. Never return."""
        while True:
            await asyncio.sleep(_READ_SECONDS)
            try:
                stored = await self._store.read_signing_keys()
            except StoreFailedError:
                # The health of the store is reported elsewhere. The keys stay as they are.
                continue
            if stored != self._stored:
                self._use(stored)
                _log.info("signing_keys.changed", accepted=len(self._lasting), ending=len(self._ending))

    def _check_ending(self, token_text: str, provider: str) -> CallbackToken | None:
        now = self._now()
        for key, replaced_at, until in self._ending:
            token = check_token(token_text, provider, (key,)) if now < until else None
            if token is not None and made_at(token) < replaced_at + _SLACK:
                return token._replace(is_ending=True)
        return None

    def _use(self, stored: Sequence[SigningKey]) -> None:
        self._stored = stored
        self._lasting = (*self._given, *(key.key for key in stored if key.accepted_until is None))
        replacements = zip(stored[1:], stored, strict=False)
        self._ending = [
            (key.key, newer.created_at, key.accepted_until)
            for key, newer in replacements
            if key.accepted_until is not None
        ]
