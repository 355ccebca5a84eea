"""Plain responses on their way: limits on the bytes that wait for peers to read them, and on the time.

A page takes a megabyte. Without these limits, a client could ask for many pages, not read them, and so fill the memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from receiver.errors import ReceiverError
from receiver.storage.store import PAGE_BYTES
from receiver.web.streaming.streams import PeerGoneError, StreamRules, send_within

__all__ = ["UNSENT_BYTES", "UNSENT_BYTES_OF_KEY", "Unsent", "send_answer", "send_small"]

UNSENT_BYTES = 32 * 1024 * 1024
"""Limit on waiting bytes in all, about thirty pages."""

UNSENT_BYTES_OF_KEY = 8 * 1024 * 1024
"""Limit for each API key, so that one key cannot take the room of all."""

# Small responses are counted and never refused: a refusal would be as large.
_SMALL_BYTES = 4096
_PART_BYTES = 64 * 1024
_RETRY_SECONDS = 5
# A page is read and rendered as a whole, so few may be in memory at once.
_PAGES_AT_ONCE = 4


class Unsent:
    """Bytes of responses that peers have not read yet, in all and by API key ("" for requests without one)."""

    def __init__(self, *, most: int = UNSENT_BYTES, most_each: int = UNSENT_BYTES_OF_KEY) -> None:
        self._most = most
        self._most_each = most_each
        self._by_owner: Counter[str] = Counter()
        self._size = 0
        self._page_turns = asyncio.Semaphore(_PAGES_AT_ONCE)

    def __len__(self) -> int:
        return self._size

    def check(self, owner: str) -> None:
        """Refuse a request, before any work is done for it, if its key leaves too much unread already.

        Raises:
            ReceiverError: `too-much-unsent`.
        """
        if self._by_owner[owner] >= self._most_each:
            raise self._too_much_of(owner)

    def check_answer(self, owner: str, size: int) -> None:
        """Refuse a response that would exceed a limit. A response that is alone is never refused, however large it is.

        Raises:
            ReceiverError: `too-much-unsent` for this key, `receiver-full` for all together.
        """
        if size <= _SMALL_BYTES:
            return
        if self._by_owner[owner] and self._by_owner[owner] + size > self._most_each:
            raise self._too_much_of(owner)
        if self._size and self._size + size > self._most:
            detail = f"{self._most} bytes of answers wait for clients that do not read them"
            raise ReceiverError("receiver-full", detail, retry_after_seconds=_RETRY_SECONDS)

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn to read a page. Its handler must not await anything between the block and the sending.

        Raises:
            ReceiverError: as `check_answer`. A page that could not be sent now is not read either.
        """
        async with self._page_turns:
            self.check_answer(owner, PAGE_BYTES)
            yield

    @contextmanager
    def counted(self, owner: str, size: int) -> Iterator[None]:
        """Count a response while it is being sent, inside the block."""
        self._size += size
        self._by_owner[owner] += size
        try:
            yield
        finally:
            self._size -= size
            self._by_owner[owner] -= size
            if not self._by_owner[owner]:
                del self._by_owner[owner]

    def _too_much_of(self, owner: str) -> ReceiverError:
        whose = f"the key {owner}" if owner else "requests without a key"
        detail = f"{self._most_each} bytes of answers to {whose} wait to be read"
        return ReceiverError("too-much-unsent", detail, retry_after_seconds=_RETRY_SECONDS)


async def send_answer(seconds: float, request: web.Request, response: web.Response) -> None:
    """Send all of the response, until the system has taken it. Cut off a peer that takes nothing for `seconds`.

    Raises:
        PeerGoneError: the peer hung up, or was cut off.
    """
    if request.transport is not None:
        # Otherwise the transport would keep up to 64 kB, and they would count as sent.
        request.transport.set_write_buffer_limits(high=0)
    writer = await response.prepare(request)
    body = response.body
    if isinstance(body, bytes) and len(body) > _PART_BYTES and writer is not None and request.method != "HEAD":
        view = memoryview(body)
        # In parts, so that a slow peer is not mistaken for one that stopped.
        for start in range(0, len(body), _PART_BYTES):
            await send_within(seconds, request, partial(_write, writer, view[start : start + _PART_BYTES]))
        await writer.write_eof()
    await send_within(seconds, request, response.write_eof)
    # aiohttp keeps the last response of each connection until the next one: 1.1 MB for each idle reader of pages.
    response.body = None


async def send_small(request: web.BaseRequest, data: bytes, unsent: Unsent, owner: str, rules: StreamRules) -> None:
    """Send the bytes of a response, as `send_answer` does. They are counted if the system does not take all at once.

    Raises:
        PeerGoneError: as `send_answer`.
    """
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=0)
    try:
        await request.writer.write(data)
    except (ConnectionError, RuntimeError) as error:
        raise PeerGoneError("the peer hung up") from error
    # A time limit costs more than the sending.
    if request.protocol.writing_paused:
        with unsent.counted(owner, len(data)):
            await send_within(rules.send_seconds, request, request.writer.drain)


async def _write(writer: AbstractStreamWriter, part: memoryview) -> None:
    await writer.write(part)
    await writer.drain()
