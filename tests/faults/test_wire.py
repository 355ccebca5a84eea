"""Broken, slow, huge and cut-off requests: nothing of them is stored, and the receiver goes on serving."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.wire import ANSWER, Wire, chunked, connected, request, wired
from tests.support import ADMIN, Api, RunningReceiver, eventually, running_receiver

LIMIT = 4096
CHUNKED: dict[str, Any] = {"Transfer_Encoding": "chunked"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with a small limit for bodies and room for one wait."""
    async with running_receiver(tmp_path / "receiver.db", max_body_bytes=LIMIT, max_waiters=1) as running:
        yield running


async def entries(api: Api) -> list[str]:
    """Return the entries of the log: "hint", or the text of an answer."""
    log = await api.log()
    return ["hint" if entry.get("hint") else entry["task"]["solution"]["text"] for entry in log["results"]]


async def cut(wire: Wire, *, is_reset: bool) -> None:
    """End the connection, politely or not."""
    if is_reset:
        wire.reset()
    else:
        await wire.hang_up()


@pytest.mark.parametrize(
    ("part", "headers"),
    [
        pytest.param(ANSWER, {"Content_Length": len(ANSWER) + 10}, id="content-length"),
        pytest.param(ANSWER[:20], {"Content_Length": len(ANSWER)}, id="half"),
        pytest.param(b"", {"Content_Length": len(ANSWER)}, id="nothing"),
        pytest.param(chunked(ANSWER), CHUNKED, id="no-last-chunk"),
        pytest.param(chunked(ANSWER)[:-30], CHUNKED, id="half-a-chunk"),
    ],
)
@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
async def test_a_body_that_is_cut_off_is_not_stored(
    api: Api, part: bytes, headers: dict[str, Any], *, is_reset: bool
) -> None:
    """An incomplete body is no delivery, even if the received part is an answer. The complete one then counts."""
    registered = await api.register()
    url = registered["callbackUrl"]
    wire = await connected(url)
    await wire.send(request("POST", url, **headers), part)

    await cut(wire, is_reset=is_reset)

    assert "44795sds" not in await entries(api)
    assert (await api.task(registered["ref"]))["status"] == "processing"
    assert (await api.call_back(url, solution={"text": "whole"})).status == 200
    assert "whole" in await entries(api)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b"x" * (LIMIT + 1), {}, id="content-length"),
        pytest.param(b"", {"Content_Length": 10**15}, id="announced"),
        pytest.param(chunked(b"x" * 1000, b"x" * 1000, b"x" * 3000), CHUNKED, id="chunked"),
        pytest.param(gzip.compress(b" " * 10_000_000), {"Content_Encoding": "gzip"}, id="compressed-ten-million"),
    ],
)
async def test_a_body_over_the_limit_is_413_and_a_hint(api: Api, body: bytes, headers: dict[str, Any]) -> None:
    """However it is framed, it is counted while it is read, refused before its end, and the next poll is due."""
    registered = await api.register()
    async with wired(api.url) as wire:
        await wire.send(request("POST", registered["callbackUrl"], body, **headers))

        response = await wire.response()

    assert (response.status, response.headers["cache-control"], response.body) == (413, "no-store", b"refused")
    assert await entries(api) == ["hint"]
    assert (await api.task(registered["ref"]))["status"] == "processing"


async def test_a_body_of_just_the_limit_is_taken(api: Api) -> None:
    """The limit itself is within it, with a length and in chunks."""
    body = ANSWER.ljust(LIMIT)
    whole, in_chunks = [(await api.register())["callbackUrl"] for _ in range(2)]
    async with wired(api.url) as wire:
        await wire.send(request("POST", whole, body))
        first = await wire.response()
        await wire.send(request("POST", in_chunks, chunked(body[:100], body[100:], b""), **CHUNKED))
        second = await wire.response()

    assert (first.status, second.status) == (200, 200)


async def test_a_body_that_cannot_be_decoded_is_400_and_a_hint(api: Api) -> None:
    """A body in contradiction to its headers is refused as the mistake of the sender."""
    registered = await api.register()
    async with wired(api.url) as wire:
        await wire.send(request("POST", registered["callbackUrl"], b"no gzip", Content_Encoding="gzip"))

        response = await wire.response()

    assert response.status == 400
    assert await entries(api) == ["hint"]


async def test_a_slow_body_is_taken(api: Api) -> None:
    """A body and headers in single bytes are a delivery like any other."""
    url = (await api.register())["callbackUrl"]
    whole = request("POST", url, ANSWER)
    async with wired(url) as wire:
        for place in range(0, len(whole), 16):
            await wire.send(whole[place : place + 16])
            await asyncio.sleep(0.005)

        response = await wire.response()

    assert response.status == 200
    assert await entries(api) == ["44795sds"]


async def test_a_body_that_never_ends_is_given_up(api: Api) -> None:
    """After ten seconds without its end, or with a broken one, it is 408 and a hint; others were served meanwhile."""
    stalled, broken, other = [(await api.register())["callbackUrl"] for _ in range(3)]
    async with wired(api.url) as one, wired(api.url) as two, wired(api.url) as silent:
        await one.send(request("POST", stalled, Content_Length=len(ANSWER)), ANSWER[:-1])
        # The request has begun before its body turns out to be wrong.
        await two.send(request("POST", broken, Expect="100-continue", **CHUNKED))
        asked = await two.response()
        await two.send(b"zz\r\nno chunk\r\n")
        await silent.send(b"POST /callback/")
        served = await api.call_back(other)

        statuses = [(await wire.response()).status for wire in (one, two)]

    assert (asked.status, served.status, statuses) == (100, 200, [408, 408])
    assert await entries(api) == ["44795sds", "hint", "hint"]


async def test_pipelined_callbacks_are_answered_in_order(api: Api) -> None:
    """Several requests in one packet get as many answers, each its own, on one connection."""
    urls = [(await api.register())["callbackUrl"] for _ in range(5)]
    requests = [request("POST", url, ANSWER) for url in urls]
    requests[2] = request("POST", f"{api.url}/callback/capsolver/no-token", ANSWER)
    requests[3] = request("POST", urls[3], b"not JSON")
    async with wired(api.url) as wire:
        await wire.send(b"".join(requests))

        statuses = [(await wire.response()).status for _ in requests]

    assert statuses == [200, 200, 404, 422, 200]
    assert sorted(await entries(api)) == ["44795sds"] * 3 + ["hint"]


async def test_a_connection_is_kept_until_the_peer_asks_otherwise(api: Api) -> None:
    """Providers may reuse their connections; `Connection: close` ends one after its answer."""
    url = (await api.register())["callbackUrl"]
    async with wired(url) as wire:
        await wire.send(request("POST", url, ANSWER))
        first = await wire.response()
        await wire.send(request("POST", url, ANSWER, Connection="close"))
        second = await wire.response()
        rest = await wire.rest()

    assert (first.status, second.status, rest) == (200, 200, b"")


async def test_a_body_is_asked_for_where_the_peer_waits(api: Api) -> None:
    """`Expect: 100-continue` is answered, so that such a peer sends its body."""
    url = (await api.register())["callbackUrl"]
    async with wired(url) as wire:
        await wire.send(request("POST", url, Content_Length=len(ANSWER), Expect="100-continue"))
        first = await wire.response()
        await wire.send(ANSWER)
        second = await wire.response()

    assert (first.status, second.status) == (100, 200)


async def test_head_has_no_body_and_no_effect(api: Api) -> None:
    """HEAD is 405 with the allowed methods and without a body: the next answer on the connection is read rightly."""
    url = (await api.register())["callbackUrl"]
    async with wired(url) as wire:
        await wire.send(request("HEAD", f"{url}?taskId=1") + request("GET", url) + request("POST", url, ANSWER))
        head = await wire.response(has_body=False)
        get = await wire.response()
        post = await wire.response()

    assert (head.status, get.status, get.body, post.status) == (405, 204, b"", 200)
    assert "POST" in head.headers["allow"]


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
async def test_a_peer_that_hangs_up_frees_its_place(api: RunningReceiver, *, is_reset: bool) -> None:
    """With room for one wait, the next one is refused until the peer of the first is gone."""
    ref = (await api.register())["ref"]
    key = f"Bearer {ADMIN}"
    wire = await connected(api.url)
    await wire.send(request("GET", f"{api.url}/v1/tasks/{ref}?wait=30", Authorization=key))
    await eventually(lambda: api.waiting == 1)
    while_it_lasts = await api.send("GET", f"/v1/tasks/{ref}?wait=0.01")

    await cut(wire, is_reset=is_reset)

    await eventually(lambda: api.waiting == 0)
    afterwards = await api.send("GET", f"/v1/tasks/{ref}?wait=0.01")
    assert (while_it_lasts.status, afterwards.status) == (503, 202)


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(bytes(range(256)) * 8 + b"\r\n\r\n", id="bytes"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600), id="a-tls-hello"),
        pytest.param(b"GET\r\n\r\n", id="no-target"),
        pytest.param(b"POST {path} HTTP/9.9\r\n\r\n", id="another-version"),
        pytest.param(b"POST {path} HTTP/1.1\r\nContent-Length: -1\r\n\r\n", id="negative-length"),
        pytest.param(b"POST {path} HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", id="no-length"),
        pytest.param(
            b"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="two-framings",
        ),
        pytest.param(
            b"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345", id="two-lengths"
        ),
        pytest.param(b"POST {path} HTTP/1.1\r\nno colon here\r\n\r\n", id="no-header"),
        pytest.param(b"POST {path} HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", id="a-long-header"),
        pytest.param(b"POST {path} HTTP/1.1\r\n" + b"X: xxxxxxxxxxxxxxxx\r\n" * 20_000, id="many-headers"),
        pytest.param(b"POST {path}?" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", id="a-long-target"),
    ],
)
async def test_garbage_is_refused_and_the_next_one_served(
    api: Api, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage gets 400 or 431, or is cut off. Nothing is stored, no token is logged, and others are served."""
    url = (await api.register())["callbackUrl"]
    path = url.removeprefix(api.url)
    with caplog.at_level(logging.INFO):
        answer = b""
        # A peer cut off while sending may see the reset before the end.
        async with wired(url) as wire:
            with suppress(ConnectionError):
                await wire.send(garbage.replace(b"{path}", path.encode()))
                await wire.send(b"\r\n\r\n")
                answer = await wire.rest()

    assert answer[:8] in (b"", b"HTTP/1.1", b"HTTP/1.0")
    assert answer[8:12] in (b"", b" 400", b" 431")
    assert path not in caplog.text
    assert await entries(api) == []
    assert (await api.call_back(url)).status == 200
