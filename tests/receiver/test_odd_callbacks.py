"""Callbacks that are written otherwise than documented, sent as bytes to a real receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from client.providers import DIALECTS
from tests.support import Api, running_receiver

_CODED = sorted(name for name, each in DIALECTS.items() if each.callback and each.callback.shape == "code")
_ASKED = ("captchaai", "ucaptcha")
_TYPES = {"twocaptcha": "ImageToTextTask", "rucaptcha": "ImageToTextTask"}
_ODD = [
    b"id=70000000010&code=abc&",
    b"id=70000000010&code=abc&worker",
    b"id=70000000010&code=abc&worker=%zz",
    b"id=70000000010&code=abc&worker=%ff",
    b"id=70000000010&code=abc" + b"&worker=1" * 60,
    b"id=70000000010&id=70000000010&code=abc",
]
# In the line of a request such a byte is no HTTP any more.
_ODD_IN_BODIES = b"id=70000000010&code=abc&worker=\xe6"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A receiver of the shipped providers."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


async def send_fields(url: str, provider: str, fields: bytes) -> int:
    """Send the fields as they are, by the provider's method; return the HTTP status."""
    rule = DIALECTS[provider].callback
    assert rule is not None
    fields = fields.replace(b"id=", rule.id_field.encode() + b"=")
    if rule.status_field is not None:
        fields = rule.status_field.encode() + b"=1&" + fields
    address = urlsplit(url)
    if "GET" in rule.methods:
        line, body = b"GET %s?%s HTTP/1.1" % (address.path.encode(), fields), b""
    else:
        line, body = b"POST %s HTTP/1.1" % address.path.encode(), fields
    head = b"%s\r\nHost: %s\r\nConnection: close\r\n" % (line, address.netloc.encode())
    if body:
        head += b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n" % len(body)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(head + b"\r\n" + body)
        async with asyncio.timeout(30):
            answer = await reader.readline()
    finally:
        writer.transport.abort()
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("provider", "fields"),
    [
        *((provider, fields) for provider in _CODED for fields in _ODD),
        *((provider, _ODD_IN_BODIES) for provider in _CODED if provider not in _ASKED),
    ],
)
async def test_an_odd_field_does_not_cost_the_answer(api: Api, provider: str, fields: bytes) -> None:
    """By form and by query alike, only the id, the answer and the status count.

    (dotnet/aspnetcore#12381, spray/spray#32)
    """
    # Of uCaptcha nobody knows the solution by the answer alone, unless the type of the task is not known either.
    task = await api.register(provider=provider, type=_TYPES.get(provider))

    status = await send_fields(task["callbackUrl"], provider, fields)

    ended = await api.task(task["ref"])
    solution = {"text" if provider in _TYPES else "code": "abc"}
    assert (status, ended["status"], ended["solution"]) == (200, "ready", solution)
    assert str(ended["taskId"]) == "70000000010"


@pytest.mark.parametrize("provider", _CODED)
async def test_two_ids_stay_refused(api: Api, provider: str) -> None:
    """Nobody knows which task is meant: 422, the task goes on, and its next poll is due now."""
    task = await api.register(provider=provider, type=_TYPES.get(provider))

    status = await send_fields(task["callbackUrl"], provider, b"id=70000000010&code=abc&id=70000000011")

    log = await api.log()
    assert (status, (await api.task(task["ref"]))["status"]) == (422, "processing")
    assert [entry.get("hint") for entry in log["results"]] == [True]
