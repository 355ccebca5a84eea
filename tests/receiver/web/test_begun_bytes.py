"""Random requests in random parts, with and without `direct_callbacks`: the same bytes, rows and log lines."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from receiver.storage.sqlite.writer import Writer
from tests.receiver.web.test_front import CODED, OTHER, READY, lines, request, rows
from tests.support import RunningReceiver, running_receiver

pytestmark = pytest.mark.sqlite

_CASES = 300
_HEALTH = request("/healthz", None, method="GET")

Parts = Sequence[tuple[bytes, int]]
"""Bytes that come together, each with the number of turns of the loop until the next ones come."""


class Peer(asyncio.Transport):
    """A transport that keeps what is written, and may take it only some turns of the loop later."""

    def __init__(self, connection: Any, chance: random.Random) -> None:
        super().__init__()
        self.received = b""
        self.is_lost = self.is_paused = False
        self._connection = connection
        self._chance = chance
        self._unsent = 0
        self._is_closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing."""

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that are not taken yet."""
        return self._unsent

    def is_closing(self) -> bool:
        """Return True from `close` on."""
        return self._is_closing

    def pause_reading(self) -> None:
        """Hold back what comes next."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Let it come."""
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep the bytes. Some are taken later."""
        self.received += data
        if self._chance.random() < 0.2 and not self._unsent:
            self._unsent = len(data)
            self._connection.pause_writing()
            self._take_in(self._chance.randrange(1, 8))

    def _take_in(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._take_in, turns - 1)
            return
        self._unsent = 0
        self._connection.resume_writing()
        if self._is_closing:
            self.abort()

    def write_eof(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """End once all bytes are taken."""
        self._is_closing = True
        if not self._unsent:
            self.abort()

    def abort(self) -> None:
        """End in the next turn of the loop."""
        self._is_closing = True
        asyncio.get_running_loop().call_soon(self._lose)

    def _lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._connection.connection_lost(None)


def cases(paths: Sequence[str]) -> Sequence[Parts]:
    """Return one to five requests for each case, mostly plain callbacks, cut at random."""
    chance = random.Random(7)
    json, form = paths
    plain = [request(json, READY), request(json, OTHER), request(json, b"{}"), request(form, CODED)]
    others = [
        request(json, b"no JSON"),
        request(json, READY, method="PUT"),
        request(json, None, method="HEAD"),
        request(json, None, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(READY), READY),
        request("/callback/capsolver/forged"),
        _HEALTH,
        b"\r\n",
    ]
    # aiohttp stops parsing behind many requests, and behind an upgrade. When it goes on depends on the time.
    # Then so do these answers: an error takes the requests with it that are parsed in the same step, and behind
    # a body in two parts it may stop for good.
    stopping = [*others, request(json, READY, "Connection: Upgrade", "Upgrade: websocket"), *[_HEALTH * 40] * 4]
    ending = [
        *others,
        request(json, READY, "Connection: close"),
        request(json, READY, "Expect: 100-continue"),
        request(json, READY, version="1.0"),
        request(json, b" " * 5000),
        b"POST / HTTP/1.1\r\nno header\r\n\r\n",
    ]
    found = []
    for number in range(_CASES):
        others = ending if number % 2 else stopping
        sent = [chance.choice(plain if chance.random() < 0.6 else others) for _ in range(chance.randrange(1, 6))]
        ends = [sum(map(len, sent[:number])) for number in range(1, len(sent) + 1)]
        # The last answer of the connection comes after all others.
        whole = b"".join([*sent, request("/healthz", None, "Connection: close", method="GET")])
        cuts = {end for end in ends if chance.random() < 0.6}
        later = [end + 5 for end in ends] if others is stopping else range(1, len(whole))
        cuts |= {chance.choice(later) for _ in range(chance.randrange(3))}
        places = [0, *sorted(cuts), len(whole)]
        found.append([(whole[start:end], chance.choice((0, 0, 0, 1, 3, 10, 30))) for start, end in pairwise(places)])
    return found


async def answers(api: RunningReceiver, parts: Parts, chance: random.Random) -> bytes:
    """Return all that a new connection answers to these parts until its end, without dates."""
    assert api._runner.server is not None
    connection: Any = api._runner.server()
    peer = Peer(connection, chance)
    connection.connection_made(peer)
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        for part, turns in parts:
            while peer.is_paused and not peer.is_closing():
                await asyncio.sleep(0.001)
            if not peer.is_closing():
                connection.data_received(part)
            for _ in range(turns):
                await asyncio.sleep(0)
        while not peer.is_lost:
            await asyncio.sleep(0)
    return re.sub(rb"Date: [^\r]*", b"Date: now", peer.received)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """Let each commit wait for a random number of turns of the loop. Return what chooses it."""
    # Parsing is not paced: that depends on the load of the machine.
    monkeypatch.setattr("receiver.web.server.connections._CHEAP_SECONDS", 60.0)
    chance, commit = random.Random(0), Writer._commit

    async def commit_later(writer: Writer, batch: Any) -> None:
        for _ in range(chance.choice((0, 1, 5, 20, 50))):
            await asyncio.sleep(0)
        await commit(writer, batch)

    monkeypatch.setattr(Writer, "_commit", commit_later)
    return chance


async def test_the_bytes_are_the_same(tmp_path: Path, turns: random.Random) -> None:
    """However they are cut, and whatever comes while a callback is being stored or its answer is not taken."""
    key = "a key that signs the tokens of these tests"
    prepared = tmp_path / "prepared.db"
    async with running_receiver(prepared, signing_keys=key) as api:
        tasks = [await api.register(provider=provider) for provider in ("capsolver", "twocaptcha")]
    paths = [urlsplit(task["callbackUrl"]).path for task in tasks]
    results = []
    for is_direct in (True, False):
        copy = tmp_path / f"direct-{is_direct}.db"
        shutil.copy(prepared, copy)
        got = []
        with capture_logs() as logs:
            async with running_receiver(
                copy, signing_keys=key, direct_callbacks=is_direct, max_requests_per_address=10_000
            ) as api:
                for number, parts in enumerate(cases(paths)):
                    turns.seed(number)
                    got.append((parts, await answers(api, parts, random.Random(number))))
                assert api.connections == 0
        results.append((got, lines(logs), rows(copy)))

    (got, logged, stored), (other_got, other_logged, other_stored) = results
    for (parts, answer), (_, other) in zip(got, other_got, strict=True):
        assert answer == other, parts
    assert sorted(logged) == sorted(other_logged)
    assert stored == other_stored
