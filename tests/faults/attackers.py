"""Attacks on a receiver, run by a process of their own: `python -m tests.faults.attackers NAME[,NAME] URL SECONDS`.

Every attack has a fixed number of connections and ends by itself. It sends to loopback only.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import uvloop

from receiver.commands.serve import raise_file_limit
from tests.faults.http_attackers import HTTP_ATTACKS
from tests.faults.peers import ANSWERS, Attack, address, connect, send_slowly, together
from tests.faults.wire import chunked, request
from tests.raw import text_frame, websocket_request
from tests.support import READ_ONLY

__all__ = ["ATTACKS", "FINISHED_TASKS", "LENGTHS", "SOLUTION_BYTES"]

FINISHED_TASKS = 20
SOLUTION_BYTES = 200_000
"""The finished tasks in the log before the attack "unread answers" begins, and the size of each solution."""

_INFLATED_MEGABYTES = 256
_COMPRESSED_CONNECTIONS = 30
_COMPRESSED_PER_SECOND = 3.5
_SOCKETS = 5
_NAMING_SOCKETS = 20
_CHUNKING_PEERS = 20
_SILENT_PEERS = 100
_GUESSING_PEERS = 20
_AT_ONCE = 100
_SLOW_PEERS = 1_000
_IDLE_PEERS = 10_000
_NAMES = 5_000
_RECONNECT_SECONDS = 0.05
_SMALL_BUFFER = 4096


async def compressed_bodies(url: str) -> None:
    """Send bodies of 260 kB to routes with small limits: first 30 at once, then 0.9 MB/s. Each inflates to 256 MB."""
    callback_url = f"{url}/callback/capsolver/{'A' * 60}"
    bodies = {"gzip": _bomb(31), "deflate": _bomb(15)}
    requests = [
        request(method, target, body, Content_Encoding=encoding, Content_Type="application/json")
        for method, target in (("POST", callback_url), ("POST", f"{url}/v1/tasks"), ("PUT", f"{url}/nowhere"))
        for encoding, body in bodies.items()
    ]
    whole = chunked(bodies["gzip"]) + b"0\r\n\r\n"
    requests.append(request("POST", callback_url, Content_Encoding="gzip", Transfer_Encoding="chunked") + whole)
    turns = itertools.cycle(requests)

    async def send_one() -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await connect(url)
            try:
                writer.write(next(turns))
                await writer.drain()
                await reader.read(1)
            finally:
                writer.transport.abort()

    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            group.create_task(send_one())
            if number >= _COMPRESSED_CONNECTIONS:
                await asyncio.sleep(1 / _COMPRESSED_PER_SECOND)


async def tiny_chunks(url: str) -> None:
    """Send bodies without an end, in chunks of one byte, over 20 connections to a URL with a bad token."""
    head = request("POST", f"{url}/callback/capsolver/{'A' * 60}", Transfer_Encoding="chunked")
    await together(_send_over_and_over(url, head, b"1\r\nx\r\n" * 10_000) for _ in range(_CHUNKING_PEERS))


async def changing_names(url: str) -> None:
    """Add and remove 5,000 names again and again over five websockets."""
    frames = []
    for start in range(0, 50_000, _NAMES):
        names = [f"01890000-0000-7000-8000-{number:012d}" for number in range(start, start + _NAMES)]
        frames += [text_frame({"type": kind, "id": 1, "tasks": names}) for kind in ("add", "remove")]
    await _flood(url, frames)


async def pings(url: str) -> None:
    """Send pings over five websockets as fast as the receiver takes them."""
    await _flood(url, [b"\x89\xfd" + bytes(4) + b"p" * 125] * 500)


async def empty_fragments(url: str) -> None:
    """Send empty fragments of one message over five websockets as fast as the receiver takes them."""
    await _flood(url, [b"\x00\x80" + bytes(4)] * 10_000, first=b"\x01\x80" + bytes(4))


async def small_requests(url: str) -> None:
    """Send the shortest frames with an answer over five websockets."""
    await _flood(url, [text_frame({"type": "add", "id": 1, "tasks": []})] * 1_000)


async def long_names(url: str) -> None:
    """Name the most tasks with the longest ids over 20 websockets, and keep them open."""

    def frames(number: int) -> Iterator[bytes]:
        yield websocket_request(READ_ONLY, tasks=[])
        for size in (900_000, 256, 100):
            for turn in range(20):
                ids = (f"{number}-{turn}-{name}-".ljust(size, "x") for name in range(min(_NAMES, 900_000 // size)))
                tasks = [{"provider": "capsolver", "taskId": task_id} for task_id in ids]
                yield text_frame({"type": "add", "id": 1, "tasks": tasks})

    await together(_send_over_one_connection(url, frames(number), stays=True) for number in range(_NAMING_SOCKETS))


async def unread_answers(url: str) -> None:
    """Ask for a large page of results over 100 connections, and read nothing."""
    path = "/v1/results?after=start&limit=1000"
    asked = request("GET", f"{url}{path}", Authorization=f"Bearer {READ_ONLY}")
    await together(_ask_and_read_nothing(url, asked) for _ in range(_SILENT_PEERS))


async def unread_documents(url: str) -> None:
    """Ask for the API document over 100 connections, and read nothing. It needs no key."""
    asked = request("GET", f"{url}/openapi.json") * 20
    await together(_ask_and_read_nothing(url, asked) for _ in range(_SILENT_PEERS))


async def forged_tokens(url: str) -> None:
    """Send callbacks with forged tokens over 20 connections, each a hundred at once."""
    forged = (request("POST", f"{url}/callback/capsolver/{number:060d}", b"{}") for number in range(_AT_ONCE))
    written = b"".join(forged)
    await together(_send_over_and_over(url, b"", written) for _ in range(_GUESSING_PEERS))


async def guessed_keys(url: str) -> None:
    """Ask for tasks with wrong keys over 20 connections, each a hundred at once."""
    asked = (
        request("GET", f"{url}/v1/tasks/{number}", Authorization=f"Bearer {number:032d}") for number in range(_AT_ONCE)
    )
    written = b"".join(asked)
    await together(_send_over_and_over(url, b"", written) for _ in range(_GUESSING_PEERS))


async def long_heads(url: str) -> None:
    """Send heads without an end over 20 connections, in lines of 1 kB."""
    lines = b"X-Padding: %b\r\n" % (b"x" * 1000)
    opening = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    await together(_send_over_and_over(url, opening, lines * 100) for _ in range(_GUESSING_PEERS))


async def slow_heads(url: str) -> None:
    """Send one byte of a head every second over 1,000 connections."""
    head = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Padding: " + b"x" * 1000
    await together(_send_slowly(url, b"", head) for _ in range(_SLOW_PEERS))


async def slow_bodies(url: str) -> None:
    """Send one byte of a body every second over 1,000 connections, with a forged token or a wrong key."""
    targets = (f"{url}/callback/capsolver/{'A' * 60}", f"{url}/v1/tasks")
    heads = itertools.cycle(request("POST", target, Content_Length=100_000) for target in targets)
    await together(_send_slowly(url, next(heads), b"x" * 1000) for _ in range(_SLOW_PEERS))


async def idle_connections(url: str) -> None:
    """Open 10,000 connections and send nothing. One that is closed is opened again."""
    await together(_send_slowly(url, b"", b"") for _ in range(_IDLE_PEERS))


ATTACKS: Mapping[str, Attack] = {
    "compressed bodies": compressed_bodies,
    "tiny chunks": tiny_chunks,
    "changing names": changing_names,
    "pings": pings,
    "empty fragments": empty_fragments,
    "small requests": small_requests,
    "long names": long_names,
    "unread answers": unread_answers,
    "unread documents": unread_documents,
    "forged tokens": forged_tokens,
    "guessed keys": guessed_keys,
    "long heads": long_heads,
    "slow heads": slow_heads,
    "slow bodies": slow_bodies,
    "idle connections": idle_connections,
    **HTTP_ATTACKS,
}
"""The attacks by name. None of them ends before it is cancelled."""

LENGTHS = {"forged tokens of many": 6, "schemathesis": 8}
"""Attacks that last longer than the others, and the factor."""


def _bomb(window_bits: int) -> bytes:
    compressor = zlib.compressobj(level=9, wbits=window_bits)
    megabyte = bytes(1024 * 1024)
    return b"".join([*(compressor.compress(megabyte) for _ in range(_INFLATED_MEGABYTES)), compressor.flush()])


async def _flood(url: str, frames: Iterable[bytes], *, first: bytes = b"") -> None:
    opening = websocket_request(READ_ONLY, tasks=[]) + first
    written = b"".join(frames)
    await together(_send_over_and_over(url, opening, written) for _ in range(_SOCKETS))


async def _send_over_and_over(url: str, opening: bytes, written: bytes) -> None:
    while True:
        await _send_over_one_connection(url, itertools.chain([opening], itertools.repeat(written)))
        await asyncio.sleep(_RECONNECT_SECONDS)


async def _send_over_one_connection(url: str, parts: Iterable[bytes], *, stays: bool = False) -> None:
    """Send the parts and pass over all answers, until the receiver hangs up; `stays`: go on reading behind the last."""
    with suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await connect(url)

        async def write(parts: Iterator[bytes]) -> None:
            with suppress(OSError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()

        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(write(iter(parts)))
                # Caught inside the task group, which would wrap it in an exception group.
                with suppress(OSError):
                    while await reader.read(65_536):
                        pass
                writing.cancel()
        finally:
            writer.transport.abort()
    if stays:
        await asyncio.Event().wait()


async def _send_slowly(url: str, opening: bytes, rest: bytes) -> None:
    """Send the rest byte by byte, one a second, until the receiver hangs up; then again."""
    while True:
        await send_slowly(connect(url), opening, rest, seconds=1)
        await asyncio.sleep(_RECONNECT_SECONDS)


async def _ask_and_read_nothing(url: str, asked: bytes) -> None:
    loop = asyncio.get_running_loop()
    while True:
        peer = socket.socket()
        try:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            peer.setblocking(False)
            with suppress(OSError):
                await loop.sock_connect(peer, address(url))
                await loop.sock_sendall(peer, asked)
                await asyncio.sleep(3)
        finally:
            peer.close()


async def _attack(names: str, url: str, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await together(ATTACKS[name](url) for name in names.split(","))


def main() -> None:
    """Run the attacks at once. Print the number of their answers by HTTP status, as JSON."""
    names, url, seconds = sys.argv[1:]
    # The honest peer and the receiver come first, as they would if the attacker were on another machine.
    os.nice(5)
    raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_attack(names, url, float(seconds)))
    sys.stdout.write(json.dumps(ANSWERS))


if __name__ == "__main__":
    main()
