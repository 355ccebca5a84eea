"""Statistics about providers: shapes of callbacks and unlisted error codes. No response waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from receiver.domain.reading import CallbackRequest
from receiver.domain.records import UnlistedCode
from receiver.domain.shapes import ShapeCounts, ShapeRecord, shape_of
from receiver.domain.transaction import Transaction
from receiver.errors import ReceiverError
from receiver.storage.store import Store

__all__ = ["AddShapes", "AddUnlisted", "Observer"]

_SAVE_SECONDS = 30.0
_GATHER_SECONDS = 1.0
_WRITE_SECONDS = 1.5

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class AddShapes:
    """Adds shapes of callbacks to those in the store."""

    records: Sequence[ShapeRecord]
    refs: Sequence[str] = ()

    @property
    def weight(self) -> int:
        """Approximate size of the shapes."""
        return sum(len(record.shape.fields) for record in self.records)

    def decide(self, transaction: Transaction) -> None:
        """Add the shapes."""
        transaction.add_shapes(self.records)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddUnlisted:
    """Adds counts of unlisted error codes to those in the store."""

    records: Sequence[UnlistedCode]
    refs: Sequence[str] = ()

    @property
    def weight(self) -> int:
        """Approximate size of the codes."""
        return sum(len(record.code) for record in self.records)

    def decide(self, transaction: Transaction) -> None:
        """Add the counts."""
        transaction.add_unlisted(self.records)


class Observer:
    """Counts shapes of callbacks and unlisted error codes, and stores the counts.

    New shapes and codes are stored within about a second, others every 30 s. `now` returns microseconds since 1970.
    Counts since the last time are lost if the process is killed.
    """

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._counts = ShapeCounts()
        self._codes: dict[tuple[str, str], UnlistedCode] = {}
        self._known_codes: set[tuple[str, str]] = set()
        self._found = asyncio.Event()

    def note(self, provider: str, incoming: CallbackRequest, *, is_readable: bool) -> None:
        """Count a callback. Its shape is computed, if necessary, after the response is on its way."""
        now = self._now()
        if self._counts.must_sample(provider, is_readable=is_readable, now=now):
            asyncio.get_running_loop().call_soon(self._count_shape, provider, incoming, is_readable, now)

    def note_code(self, provider: str, code: str) -> None:
        """Count an unlisted code. `code` is one of few names; see `client.provider_api.unlisted`."""
        now, name = self._now(), (provider, code)
        before = self._codes.get(name, UnlistedCode(provider, code, 0, now, now))
        self._codes[name] = before._replace(times=before.times + 1, last_seen=max(before.last_seen, now))
        if name not in self._known_codes:
            self._known_codes.add(name)
            self._found.set()

    async def run(self) -> None:
        """Store the counts again and again, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SAVE_SECONDS):
                    await self._found.wait()
            # New ones are gathered, so that a stream of them is not a stream of writes.
            await asyncio.sleep(_GATHER_SECONDS)
            self._found.clear()
            await self.save()

    async def save(self) -> None:
        """Store the counts. If the store cannot write now, they are stored the next time."""
        # The shapes of callbacks noted in this turn of the loop are counted first.
        await asyncio.sleep(0)
        await self._save_codes()
        records = self._counts.take()
        if not records:
            return
        try:
            await self._store.write(AddShapes(records=records), within_seconds=_WRITE_SECONDS)
        except ReceiverError as error:
            self._counts.give_back(records)
            _log.warning("shapes.not_kept", reason=error.detail)

    async def _save_codes(self) -> None:
        codes, self._codes = self._codes, {}
        if not codes:
            return
        try:
            await self._store.write(AddUnlisted(records=tuple(codes.values())), within_seconds=_WRITE_SECONDS)
        except ReceiverError as error:
            for name, lost in codes.items():
                since = self._codes.get(name, lost._replace(times=0))
                self._codes[name] = lost._replace(times=lost.times + since.times, last_seen=since.last_seen)
            _log.warning("codes.not_kept", reason=error.detail)

    def _count_shape(self, provider: str, incoming: CallbackRequest, is_readable: bool, now: int) -> None:
        shape = shape_of(incoming.method, incoming.headers.get("Content-Type"), incoming.query, incoming.body)
        if self._counts.add(provider, shape, is_readable=is_readable, now=now):
            self._found.set()
