"""Attacks by requests: forged, malformed, slow, and too many. `tests.faults.attackers` runs them."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.faults.hostile import heads, hostile_requests, paths
from tests.faults.hostile_bodies import DEEP, HUGE, bodies
from tests.faults.peers import ANSWERS, Attack, connect_from_elsewhere, pipeline, send_slowly, sent_alone, together
from tests.faults.schemas import run_schemathesis
from tests.faults.wire import ANSWER, request
from tests.support import ADMIN, READ_ONLY, SUBMIT_ONLY, Api

__all__ = ["HTTP_ATTACKS", "callback_path"]

_PEERS = 10
_BATCH = 50
_PATHS = 4
_GUESSERS = 200
_SLOW_PEERS = 1_000
_SLOW_SECONDS = 0.5
_MAC_CHARS = 32


async def forged_tokens(url: str) -> None:
    """Send callbacks with tokens of the right shape and a wrong MAC from many addresses, as fast as they are taken."""
    valid = await callback_path(url)
    start, end = (
        part.encode() for part in request("POST", f"{url}{valid}", ANSWER).decode().split(valid[-_MAC_CHARS:])
    )

    def batches(seed: int) -> Iterator[bytes]:
        random_bytes = random.Random(seed).randbytes
        while True:
            macs = (base64.urlsafe_b64encode(random_bytes(_MAC_CHARS * 3 // 4)) for _ in range(_BATCH))
            yield b"".join(start + mac + end for mac in macs)

    await together(pipeline(url, batches(seed), _BATCH) for seed in range(_PEERS))


async def wrong_keys(url: str) -> None:
    """Ask with four wrong API keys from each of many addresses, 200 at once. Each refusal waits, up to 64 at once."""

    def batches(seed: int) -> Iterator[bytes]:
        for number in itertools.count():
            yield request("GET", f"{url}/v1/tasks/{number}", Authorization=f"Bearer wrong-key-{seed:04}-{number:012}")

    await together(pipeline(url, batches(seed), 1) for seed in range(_GUESSERS))


async def path_tricks(url: str) -> None:
    """Send the longest paths over 10 connections: slashes, dots, escapes, backslashes, hosts."""
    targets = list(paths(await callback_path(url)).values())

    def batches(seed: int) -> Iterator[bytes]:
        for number in itertools.count(seed):
            target = targets[number % len(targets)]
            yield f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1", "replace") * _PATHS

    await together(pipeline(url, batches(seed), _PATHS) for seed in range(_PEERS))


async def header_floods(url: str) -> None:
    """Send 10,000 headers, headers of 1 MB, and as many small ones as are taken, over 10 connections."""
    path = await callback_path(url)
    requests = [sent for name, sent in heads(path).items() if "header" in name or "long" in name]
    await together(sent_alone(url, itertools.cycle(requests[seed:] + requests[:seed])) for seed in range(_PEERS))


async def deep_and_huge_json(url: str) -> None:
    """Send JSON of 100,000 levels and keys, and numbers of a million digits, to a callback URL and with a key."""
    path = await callback_path(url)
    requests = [
        request(method, url + target, body, Authorization=f"Bearer {ADMIN}", Content_Type="application/json")
        for body in (DEEP | HUGE).values()
        for method, target in (("POST", path), ("POST", "/v1/tasks"))
    ]
    await together(sent_alone(url, itertools.cycle(requests[seed:] + requests[:seed])) for seed in range(_PEERS))


async def changed_callbacks(url: str) -> None:
    """Send changed answers with valid tokens over 10 connections: other bytes, types, encodings and compressions."""
    urls = [await callback_path(url) for _ in range(_PEERS)]

    def requests(seed: int) -> Iterator[bytes]:
        changes = random.Random(seed)
        wrong = list(bodies())
        while True:
            _, body, headers = changes.choice(wrong)
            place = changes.randrange(len(body) + 1)
            changed = body[:place] + changes.randbytes(changes.randrange(4)) + body[place + changes.randrange(4) :]
            named = {
                name.replace("-", "_"): value.encode("latin-1", "replace").decode("ascii", "replace")
                for name, value in headers.items()
            }
            yield request("POST", url + urls[seed], changes.choice((body, changed)), **named)

    await together(sent_alone(url, requests(seed)) for seed in range(_PEERS))


async def slow_bodies_of_users(url: str) -> None:
    """Send bodies byte by byte over 1,000 connections: callbacks with a valid token, and requests with a key."""
    head: dict[str, Any] = {
        "Authorization": f"Bearer {SUBMIT_ONLY}",
        "Content_Type": "application/json",
        "Content_Length": 1000,
    }
    callback = request("POST", url + await callback_path(url), Content_Length=1000)
    await together(
        [
            _slowly(url, b" " * 1000, opening=callback, peers=_SLOW_PEERS // 2),
            _slowly(url, b" " * 1000, opening=request("POST", f"{url}/v1/tasks", **head), peers=_SLOW_PEERS // 2),
        ]
    )


async def all_shapes(url: str) -> None:
    """Send every hostile request there is over 10 connections, again and again."""
    path = await callback_path(url)
    headers = {"Authorization": f"Bearer {READ_ONLY}", "Content-Type": "application/json"}
    requests = [
        sent
        for _, sent in hostile_requests(
            path, {"callback": ("POST", path, {}), "ticket": ("POST", "/v1/tickets", headers)}
        )
    ]
    await together(
        sent_alone(url, itertools.cycle(requests[seed * 20 :] + requests[: seed * 20])) for seed in range(_PEERS)
    )


async def schemathesis(url: str) -> None:
    """Run schemathesis over the API document: 600 requests with a key, then some without one. Then rest.

    Raises:
        AssertionError: it has found something. The text is its report.
    """
    # Each request without a key waits, up to 2 s.
    for name, key, length in (("with a key", ADMIN, ("--max-examples", "15")), ("without", None, ("--max-time", "10"))):
        report = await run_schemathesis(url, key, "--phases", "coverage,fuzzing", *length)
        if report.findings:
            raise AssertionError(report.text)
        ANSWERS[name] = report.cases
    await asyncio.Event().wait()


HTTP_ATTACKS: Mapping[str, Attack] = {
    "forged tokens of many": forged_tokens,
    "wrong keys of many": wrong_keys,
    "path tricks": path_tricks,
    "header floods": header_floods,
    "deep and huge JSON": deep_and_huge_json,
    "changed callbacks": changed_callbacks,
    "slow bodies of users": slow_bodies_of_users,
    "all shapes": all_shapes,
    "schemathesis": schemathesis,
}
"""The attacks by name. None of them ends before it is cancelled."""


async def callback_path(url: str) -> str:
    """Register a task, and return the path of its callback URL."""
    async with aiohttp.ClientSession() as session:
        path: str = urlsplit((await Api(url, session).register())["callbackUrl"]).path
        return path


async def _slowly(url: str, sent: bytes, *, opening: bytes = b"", peers: int = _SLOW_PEERS) -> None:
    async def peer() -> None:
        while True:
            await send_slowly(connect_from_elsewhere(url), opening, sent, seconds=_SLOW_SECONDS)
            await asyncio.sleep(_SLOW_SECONDS)

    await together(peer() for _ in range(peers))
