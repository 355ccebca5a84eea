"""The prebuilt acknowledgement on the wire, as HTTP requires it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time

import pytest
from aiohttp import web

from client.sandbox.serving import serving
from receiver.web.server.prebuilt import PrebuiltResponse
from tests.support import running_receiver

BODY = b'{"errorId":0,"status":"ready","solution":{"text":"44795sds"}}'


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a connection to the host of the URL."""
    host, port = url.split("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(30):
            yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


def post(url: str, *lines: str, version: str = "1.1") -> bytes:
    """Return a callback as bytes."""
    path = "/" + url.split("/", 3)[3]
    head = (f"POST {path} HTTP/{version}", "Host: 127.0.0.1", f"Content-Length: {len(BODY)}", *lines, "", "")
    return "\r\n".join(head).encode() + BODY


def get(*lines: str) -> bytes:
    """Return a request for nothing in particular."""
    return "\r\n".join(("GET / HTTP/1.1", "Host: 127.0.0.1", *lines, "", "")).encode()


async def read_answer(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Return the status line, the headers by their names in small letters, and the body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
    return head[0], headers, await reader.readexactly(int(headers["content-length"]))


async def test_one_connection_carries_many(tmp_path: Path) -> None:
    """Callbacks sent at once on one connection are answered in order, and the connection stays open."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        url = (await api.register())["callbackUrl"]
        async with connected(url) as (reader, writer):
            writer.write(post(url) * 3)

            answers = [await read_answer(reader) for _ in range(3)]

    assert [(status, body) for status, _, body in answers] == [("HTTP/1.1 200 OK", b"ok")] * 3
    assert {headers["cache-control"] for _, headers, _ in answers} == {"no-store"}
    assert "connection" not in answers[0][1]


async def test_its_date_is_now(tmp_path: Path) -> None:
    """The answer says when it was made."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        answer = await api.call_back((await api.register())["callbackUrl"])

    assert abs(parsedate_to_datetime(answer.headers["Date"]).timestamp() - time()) < 5


@pytest.mark.parametrize(
    ("lines", "version"), [(("Connection: close",), "1.1"), ((), "1.0")], ids=["asked-to-close", "old-http"]
)
async def test_a_connection_that_does_not_last_is_closed(tmp_path: Path, lines: tuple[str, ...], version: str) -> None:
    """If the request asks for the end of the connection, or is HTTP/1.0, the connection ends after the response."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        url = (await api.register())["callbackUrl"]
        async with connected(url) as (reader, writer):
            writer.write(post(url, *lines, version=version))

            status, _, body = await read_answer(reader)
            rest = await reader.read()

    assert (status.split()[1], body, rest) == ("200", b"ok", b"")


async def test_an_old_client_that_stays_is_told_so(tmp_path: Path) -> None:
    """HTTP/1.0 with keep-alive needs the word in the answer."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        url = (await api.register())["callbackUrl"]
        async with connected(url) as (reader, writer):
            writer.write(post(url, "Connection: keep-alive", version="1.0"))

            _, headers, _ = await read_answer(reader)

    assert headers["connection"].lower() == "keep-alive"


@asynccontextmanager
async def answering(times: Iterable[float]) -> AsyncIterator[str]:
    """Yield the URL of a server with one prebuilt response, and with a clock that shows these times."""
    clock = iter(times)
    answer = PrebuiltResponse("fine", lambda: next(clock))

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        return answer if PrebuiltResponse.fits(request) else web.Response(text="made for it")

    runner = web.ServerRunner(web.Server(respond))
    async with serving(runner) as url:
        yield f"{url}/"


async def test_the_date_goes_on() -> None:
    """With each second the answer has another date, and nothing else changes."""
    async with answering([0.0, 0.9, 1.0]) as url, connected(url) as (reader, writer):
        writer.write(get() * 3)
        answers = [await read_answer(reader) for _ in range(3)]

    dates = [headers.pop("date") for _, headers, _ in answers]
    assert dates == ["Thu, 01 Jan 1970 00:00:00 GMT"] * 2 + ["Thu, 01 Jan 1970 00:00:01 GMT"]
    assert answers[0] == answers[2]


async def test_it_does_not_fit_every_request() -> None:
    """A request that needs headers about the connection gets a response of its own."""
    async with answering([]) as url, connected(url) as (reader, writer):
        writer.write(get("Connection: close"))
        _, headers, body = await read_answer(reader)

    assert (headers["connection"], body) == ("close", b"made for it")
