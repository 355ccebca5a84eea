"""Compressed bodies: taken as before, and inflated only after the proof and only up to the limit of a body.

A gzip body of 260 kB can hold 256 MB. aiohttp inflates while it parses, before any handler and after the answer.
"""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from client.sandbox.serving import serving
from receiver.mounting import mount
from receiver.settings import Settings
from tests.faults.wire import ANSWER, Raw, chunked, request, wired
from tests.support import ADMIN, API_KEYS, RunningReceiver, running_receiver

LIMIT = 4096
BOMB = gzip.compress(bytes(32 * 1024 * 1024))
BAD_TOKEN = "/callback/capsolver/no-token"


def raw_deflate(body: bytes) -> bytes:
    """Deflate without the header of zlib, as some senders write it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


class Inflated:
    """A count of all bytes inflated by zlib in this process."""

    def __init__(self) -> None:
        self.size = 0
        self._decompressobj = zlib.decompressobj

    def decompressobj(self, *args: Any, **options: Any) -> Any:
        """Return a counting decompressor."""
        inner, count = self._decompressobj(*args, **options), self

        class Counting:
            def decompress(self, *args: Any, **options: Any) -> bytes:
                part = inner.decompress(*args, **options)
                count.size += len(part)
                return part

            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

        return Counting()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Inflated:
    """Return the count of bytes inflated from now on."""
    count = Inflated()
    monkeypatch.setattr(zlib, "decompressobj", count.decompressobj)
    return count


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with a small limit for bodies."""
    async with running_receiver(tmp_path / "receiver.db", max_body_bytes=LIMIT) as running:
        yield running


async def sent(api_url: str, url: str, body: bytes, *, in_chunks: bool = False, **headers: Any) -> Raw:
    """Return the answer to one POST."""
    async with wired(api_url) as wire:
        if in_chunks:
            parts = chunked(body[:7], body[7:100], *([body[100:]] if len(body) > 100 else []), b"")
            await wire.send(request("POST", url, Transfer_Encoding="chunked", **headers), parts)
        else:
            await wire.send(request("POST", url, body, **headers))
        return await wire.response()


async def hints(api: RunningReceiver) -> int:
    """Return the number of hints in the log."""
    return sum(entry.get("hint", False) for entry in (await api.log())["results"])


@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("coding", "body"),
    [
        pytest.param("gzip", gzip.compress(ANSWER), id="gzip"),
        pytest.param("x-gzip", gzip.compress(ANSWER), id="x-gzip"),
        pytest.param("GZIP", gzip.compress(ANSWER), id="upper-case"),
        pytest.param("gzip, identity", gzip.compress(ANSWER), id="and-identity"),
        pytest.param("gzip", gzip.compress(ANSWER[:20]) + gzip.compress(ANSWER[20:]), id="two-members"),
        pytest.param("deflate", zlib.compress(ANSWER), id="deflate"),
        pytest.param("deflate", raw_deflate(ANSWER), id="deflate-without-a-header"),
        pytest.param("identity", ANSWER, id="identity"),
        pytest.param("UTF-8", ANSWER, id="a-charset"),
        pytest.param("gzip, utf-8", gzip.compress(ANSWER), id="and-a-charset"),
    ],
)
async def test_a_compressed_callback_is_taken(
    api: RunningReceiver, coding: str, body: bytes, *, in_chunks: bool
) -> None:
    """All usual codings are accepted, with a length and in chunks."""
    task = await api.register()

    answer = await sent(api.url, task["callbackUrl"], body, in_chunks=in_chunks, Content_Encoding=coding)

    assert (answer.status, (await api.task(task["ref"]))["solution"]) == (200, {"text": "44795sds"})


@pytest.mark.parametrize("in_chunks", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        pytest.param("br", ANSWER, 415, id="br"),
        pytest.param("zstd", ANSWER, 415, id="zstd"),
        pytest.param("compress", ANSWER, 415, id="compress"),
        pytest.param("gzip, gzip", gzip.compress(gzip.compress(ANSWER)), 415, id="twice"),
        pytest.param("gzip\r\nContent-Encoding: gzip", gzip.compress(gzip.compress(ANSWER)), 415, id="two-headers"),
        pytest.param("gzip", gzip.compress(ANSWER)[:-9], 400, id="cut-off"),
        pytest.param("gzip", gzip.compress(ANSWER) + b"garbage", 400, id="garbage-behind-it"),
        pytest.param("deflate", zlib.compress(ANSWER)[:-1], 400, id="deflate-cut-off"),
        pytest.param("gzip", ANSWER, 400, id="not-compressed"),
        pytest.param("gzip", gzip.compress(b"") * 30 + gzip.compress(ANSWER), 400, id="many-members"),
        pytest.param("gzip", gzip.compress(bytes(LIMIT + 1)), 413, id="one-byte-more"),
        pytest.param("gzip", gzip.compress(b" " * LIMIT) + gzip.compress(b"x"), 413, id="one-byte-more-in-two-members"),
        pytest.param("deflate", zlib.compress(bytes(10_000_000))[:LIMIT], 413, id="too-large"),
    ],
)
async def test_a_body_that_cannot_be_inflated_is_a_hint(
    api: RunningReceiver, coding: str, body: bytes, status: int, *, in_chunks: bool
) -> None:
    """It gets the documented status, and the next poll is due at once."""
    task = await api.register()

    answer = await sent(api.url, task["callbackUrl"], body, in_chunks=in_chunks, Content_Encoding=coding)

    assert (answer.status, answer.body, await hints(api)) == (status, b"refused", 1)
    assert (await api.task(task["ref"]))["status"] == "processing"


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        pytest.param("POST", BAD_TOKEN, None, 404, id="bad-token"),
        pytest.param("POST", "/callback/nobody/no-token", None, 404, id="unknown-provider"),
        pytest.param("GET", f"{BAD_TOKEN}?id=1", None, 404, id="get"),
        pytest.param("POST", "/nothing", None, 404, id="no-route"),
        pytest.param("PUT", "/healthz", None, 405, id="method"),
        pytest.param("POST", "/v1/tasks", None, 401, id="no-key"),
        pytest.param("POST", "/v1/tasks", "tests-only-wrong-key-0123456789", 401, id="wrong-key"),
        pytest.param("POST", "/v1/tickets", None, 401, id="no-key-for-a-ticket"),
        pytest.param("POST", "/v1/tickets", ADMIN, 413, id="too-large-for-a-ticket"),
    ],
)
async def test_nothing_is_inflated_without_a_proof(
    api: RunningReceiver, counted: Inflated, method: str, path: str, key: str | None, status: int
) -> None:
    """Nothing is inflated before or after the answer. The connection stays usable once the whole body has come."""
    headers = {"Content_Encoding": "gzip", "Content_Type": "application/json"}
    headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
    async with wired(api.url) as wire:
        await wire.send(request(method, f"{api.url}{path}", BOMB, **headers) + request("GET", f"{api.url}/healthz"))

        statuses = [(await wire.response()).status for _ in range(2)]

    assert (statuses, counted.size) == ([status, 200], 0)


async def test_a_bomb_at_a_valid_url_is_inflated_up_to_the_limit(tmp_path: Path, counted: Inflated) -> None:
    """It gets 413 and counts as a hint. It costs as much as the largest accepted body."""
    async with running_receiver(tmp_path / "receiver.db", max_body_bytes=65536) as api:
        task = await api.register()

        answer = await sent(api.url, task["callbackUrl"], BOMB, Content_Encoding="gzip")

        assert (answer.status, await hints(api)) == (413, 1)
    assert counted.size <= 65537


@pytest.mark.parametrize("path", [BAD_TOKEN, None], ids=["bad-token", "valid-url"])
async def test_a_mounted_receiver_takes_plain_bodies_only(tmp_path: Path, counted: Inflated, path: str | None) -> None:
    """A valid URL gets 415 and a hint, a bad one 404.

    The application's server inflates a little before the handler runs. After the answer it must not inflate the rest.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = web.Application()
        settings = Settings(
            database=tmp_path / "receiver.db", api_keys=API_KEYS, public_url=f"{url}/receiver", _env_file=None
        )
        mount(app, settings)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1, lingering_time=1)
        async with serving(runner, listener):
            key = f"Bearer {ADMIN}"
            async with wired(url) as wire:
                fields = json.dumps({"provider": "capsolver"}).encode()
                headers = {"Authorization": key, "Content_Type": "application/json"}
                await wire.send(request("POST", f"{url}/receiver/v1/tasks", fields, **headers))
                task = json.loads((await wire.response()).body)
            async with wired(url) as wire:
                target = task["callbackUrl"] if path is None else f"{url}/receiver{path}"
                await wire.send(request("POST", target, BOMB, Content_Encoding="gzip"))
                answer = await wire.response()
                rest = await wire.rest()
            async with wired(url) as wire:
                await wire.send(request("GET", f"{url}/receiver/v1/results?after=start&hints=true", Authorization=key))
                log = json.loads((await wire.response()).body)
            plain = await sent(url, task["callbackUrl"], ANSWER)

    assert (answer.status, answer.headers["connection"], rest) == (415 if path is None else 404, "close", b"")
    assert [entry.get("hint") for entry in log["results"]] == ([True] if path is None else [])
    assert plain.status == 200
    # aiohttp inflates up to twice its buffer, and one step more, before any check.
    assert counted.size <= 3 * 2**18
