"""The same requests with and without the front: the same bytes, rows and log lines."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from receiver.domain.deliveries import DeliverToTask
from receiver.domain.tokens import Kind, make_token
from receiver.errors import StoreBusyError
from receiver.service.callbacks import Callbacks
from receiver.storage.shared import SharedStore
from receiver.web.middleware import Handler, request_middleware
from tests.dialects import ALL_DIALECTS
from tests.support import running_receiver

pytestmark = pytest.mark.sqlite

KEY = "a key that signs the tokens of these tests"
SECRET = "what the provider signs with"
READY = b'{"errorId":0,"status":"ready","solution":{"text":"44795sds"},"taskId":"37223a89"}'
OTHER = b'{"errorId":0,"status":"ready","solution":{"text":"other"},"taskId":"37223a89"}'
FAILED = b'{"errorId":1,"errorCode":"ERROR_CAPTCHA_UNSOLVABLE"}'
EVENT = b'{"event":"task.completed","taskId":"7","solution":{"text":"x"}}'
CODED = b"id=70000000010&code=abc"
_STANDING, _REVOKED, _LOST = UUID(int=1 << 80), UUID(int=2 << 80), UUID(int=3 << 80)
_COUNTS = (b"callback_receiver_deliveries_total", b"callback_receiver_refused_total")
_TIME = re.compile(r"\b1[0-9]{15}\b")
_MADE_REF = re.compile(r"\b01[0-9a-f]{6}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")


def path(provider: str, token_id: UUID, kind: Kind = Kind.TASK) -> str:
    """Return the path of a callback URL of the receivers."""
    return f"/callback/{provider}/{make_token(kind, token_id, provider, KEY.encode())}"


def request(target: str, body: bytes | None = READY, *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    """Return a request as bytes."""
    length = () if body is None else (f"Content-Length: {len(body)}",)
    head = (f"{method} {target} HTTP/{version}", "Host: 127.0.0.1", *length, *lines, "", "")
    return "\r\n".join(head).encode("utf-8", "surrogateescape") + (body or b"")


def requests(task: str, form: str, asked: str, signed: str) -> Sequence[bytes]:
    """Return requests on the URLs of four tasks, of which the last two are called back by GET and with a signature."""
    signature = hmac.new(SECRET.encode(), EVENT, hashlib.sha256).hexdigest()
    standing, revoked = path("capsolver", _STANDING, Kind.STANDING), path("capsolver", _REVOKED, Kind.STANDING)
    lost = path("capsolver", _LOST)
    squeezed = gzip.compress(FAILED)
    return [
        # Verdicts.
        request(task, b""),
        request(task, b'{"errorId":0,"status":"processing"}'),
        request(task, READY),
        request(task, READY),
        request(task, OTHER),
        request(task, OTHER.replace(b"37223a89", b"another one")),
        request(task, b"no JSON"),
        request(task, b'{"errorId":0,"status":"ready","solution":"\\ud800"}'),
        request(task, b"\xef\xbb\xbf" + READY),
        request(lost, FAILED),
        request(form, CODED, "Content-Type: application/x-www-form-urlencoded"),
        request(form, CODED, "Content-Type: caf\udce9"),
        request(signed, EVENT),
        request(signed, EVENT, f"X-Capsolution-Signature: {signature}", f"X-Signature: {signature}"),
        request(standing, READY.replace(b"37223a89", b"a new one")),
        request(standing, b"{}"),
        request(revoked, READY),
        request(revoked, None, method="GET"),
        # Methods.
        *(request(url, None, method="GET") for url in (task, f"{asked}?id=7&code=abc", asked, f"{asked}?")),
        *(request(task, None, method=method) for method in ("HEAD", "OPTIONS")),
        *(request(task, READY, method=method) for method in ("PUT", "DELETE", "PATCH", "post", "GET")),
        request(asked, READY),
        request(f"{asked}?id=7&code=abc", READY),
        # Spellings of the path.
        *(request(spelling, READY) for spelling in (f"/{task}", f"{task}/", task.replace("/", "//"), f"{task}?x=1")),
        *(
            request(spelling, READY)
            for spelling in (f"{task}#x", f"{task}?", f"/x/..{task}", f"http://127.0.0.1{task}")
        ),
        *(request(spelling, READY) for spelling in (task.replace("callback", "call%62ack"), f"{task[:-1]}%41")),
        *(request(spelling, READY) for spelling in (f"{task[:-1]}\udcff", f"{task}/x", "/callback/capsolver")),
        *(request(spelling, READY) for spelling in ("/callback//", "/Callback/capsolver/x", "/callback/capsolver/x")),
        # Tokens.
        *(request(token, READY) for token in (task[:-1], f"{task}A", task.replace("capsolver", "anticaptcha"))),
        *(request(token, READY) for token in (task.replace("capsolver", "nobody"), f"{task[:-4]}AAAA")),
        request(task.replace("capsolver", "nobody"), READY, "Connection: close"),
        # Bodies.
        request(task, squeezed, "Content-Encoding: gzip"),
        request(task, squeezed[:-3], "Content-Encoding: gzip"),
        request(task, READY, "Content-Encoding: br"),
        request(task, READY, "Content-Encoding: UTF-8"),
        request(task, b" " * 5000),
        request(task, None, "Content-Length: 5000000"),
        request(task, None, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(READY), READY),
        request(task, None, "Transfer-Encoding: chunked") + b"1388\r\n" + b" " * 5000 + b"\r\n0\r\n\r\n",
        request(task, None, "Transfer-Encoding: chunked") + b"zz\r\n",
        request(task, READY, "Transfer-Encoding: chunked"),
        request(task, None, "Content-Length: -1"),
        request(task, None, "Content-Length: 1", "Content-Length: 2") + READY,
        request(task, None, "Content-Length: 5") + READY,
        request(task, None),
        # Connections.
        request(task, READY, "Expect: 100-continue"),
        request(task, READY, "Expect: something else"),
        request(task, READY, "Connection: close"),
        request(task, READY, "Connection: Upgrade", "Upgrade: websocket"),
        request(task, READY, version="1.0"),
        request(task, READY, "Connection: keep-alive", version="1.0"),
        request(task, READY) * 3 + request(task, b"no JSON") + request(task, OTHER),
        request(task, READY) + request("/healthz", None, method="GET") + request(task, FAILED),
        request(task, READY).replace(b"Host: 127.0.0.1\r\n", b""),
        request(task, READY).replace(b"HTTP/1.1", b"HTTP/9.9"),
    ]


def hostile_requests(task: str, _form: str, asked: str, _signed: str) -> Sequence[bytes]:
    """Return requests of strangers: forged headers, foreign addresses, floods, tricks with paths, and odd bytes."""
    forged, answer = "/callback/capsolver/forged", f"{asked}?id=7&code=abc"
    addresses = ("198.51.100.1", "192.0.2.1", "198.51.100.1, 192.0.2.1", "192.0.2.1, 198.51.100.1", "unknown", "")
    deep = b"[" * 2000 + b"]" * 2000
    return [
        *(request(answer, None, f"X-Forwarded-For: {address}", method="GET") for address in addresses),
        *(request(forged, READY, f"X-Forwarded-For: {address}") for address in addresses),
        request(answer, None, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 198.51.100.1", method="GET"),
        request(answer, None, "X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 192.0.2.1", method="GET"),
        request(answer, None, "Forwarded: for=192.0.2.1", "CF-Connecting-IP: 192.0.2.1", method="GET"),
        request(forged, READY, f"X-Forwarded-For: {'1, ' * 2000}"),
        # Bodies.
        *(request(task, body) for body in (deep, b"\x00" * 64, b"\xff\xfe{\x00}\x00", b'{"errorId":1e999}')),
        request(task, b'{"errorId":0,"status":"ready","solution":%b}' % deep),
        request(task, b'{"taskId":%b}' % (b"9" * 3000)),
        request(task, gzip.compress(b" " * 5_000_000), "Content-Encoding: gzip"),
        request(task, gzip.compress(b"") * 100, "Content-Encoding: gzip"),
        request(forged, gzip.compress(b" " * 5_000_000), "Content-Encoding: gzip"),
        # Heads.
        *(request(task, READY, *[f"X-{number}: x" for number in range(count)]) for count in (100, 200)),
        *(request(task, READY, f"X: {'x' * size}") for size in (8000, 9000)),
        *(request(f"{task}?{'x' * size}", READY) for size in (7000, 9000)),
        *(request(task, READY, line) for line in ("X: \x00", "X : x", " X: x", "X\udcff: x", "Content-Length: +10")),
        *(request(task, READY, line) for line in ("Authorization: Bearer x", "Cookie: a=b", "Host: other")),
        # Paths.
        *(
            request(path, READY)
            for path in (f"/..{task}", f"/%2e%2e{task}", f"{task}%00", f"{task}\x00", f"{task}/..", f"{task};x", "*")
        ),
        *(request(path, None, method="GET") for path in ("/v1/tasks/..", "/v1/tasks/%00", "/.env", "//", "/%")),
        request("/v1/tasks/1", None, "Authorization: Bearer forged", method="GET"),
        request("/v1/tasks/1", None, "Authorization: Bearer \udcff", method="GET"),
    ]


async def exchange(url: str, sent: bytes, *, pause_at: int | None = None) -> bytes:
    """Send bytes, in two parts if asked to. Return what comes until the end, without its date.

    If the receiver refuses a request before it has read all of it, the reset that follows may overtake the answer.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        if pause_at is not None:
            writer.write(sent[:pause_at])
            await asyncio.sleep(0.05)
        # The last answer of the connection comes after all others.
        last = request("/healthz", None, "Connection: close", method="GET")
        writer.write(sent[pause_at or 0 :] + last)
        async with asyncio.timeout(30):
            received = await reader.read()
    except ConnectionError:
        received = b"reset"
    finally:
        writer.transport.abort()
    return re.sub(rb"Date: [^\r]*", b"Date: now", received)


def rows(database: Path) -> dict[str, list[str]]:
    """Return all rows of a database, without times and ids made meanwhile.

    Sampling by time decides which shapes are counted, and each copy of a log has a name of its own.
    """
    with closing(sqlite3.connect(database)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: [_masked(str(row)) for row in connection.execute(f"SELECT * FROM {name}")]  # noqa: S608
            for name in names
            if name not in ("shape", "meta")
        }


def _masked(text: str) -> str:
    return _TIME.sub("time", _MADE_REF.sub("ref", text))


def lines(logs: Sequence[Any]) -> list[str]:
    """Return log lines without durations, and without the one that names a copy of the database."""
    kept = [
        {name: value for name, value in line.items() if name != "milliseconds"}
        for line in logs
        if line["event"] != "database.restored"
    ]
    return [_masked(json.dumps(line, default=str, sort_keys=True)) for line in kept]


@pytest.fixture
async def prepared(tmp_path: Path) -> tuple[Path, Sequence[str]]:
    """Return a database with four tasks and a revoked standing URL, and the paths of the tasks' callback URLs."""
    database = tmp_path / "prepared.db"
    async with receiver(database) as api:
        tasks = [
            await api.register(provider=provider, type="ImageToTextTask")
            for provider in ("capsolver", "twocaptcha", "ucaptcha", "capsolution")
        ]
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO standing_url (id, provider, label, created_at, revoked_at) VALUES (?, 'capsolver', '', 1, 2)",
            (str(_REVOKED),),
        )
    return database, [urlsplit(task["callbackUrl"]).path for task in tasks]


def receiver(database: Path, *, has_front: bool = True, **settings: Any) -> Any:
    """Return a receiver with small limits."""
    return running_receiver(
        database,
        has_front=has_front,
        dialects=ALL_DIALECTS,
        callback_secrets={"capsolution": SECRET},
        signing_keys=KEY,
        max_body_bytes=4096,
        unreadable_max_bytes=3000,
        trusted_proxies="127.0.0.1",
        # Requests without the header come from the proxy itself.
        callback_addresses={"ucaptcha": "127.0.0.1, 192.0.2.0/24"},
        **settings,
    )


@pytest.mark.parametrize("sets", [requests, hostile_requests])
async def test_the_front_changes_nothing(
    prepared: tuple[Path, Sequence[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sets: Callable[..., Sequence[bytes]],
) -> None:
    """Each request gets the same bytes, at once or in two parts, and leaves the same rows and log lines."""
    # All refusals come from one address, and all are compared.
    monkeypatch.setattr("receiver.web.edge.edge._LINES_AT_ONCE", 1000)
    database, urls = prepared
    results = []
    for has_front in (True, False):
        copy = tmp_path / f"front-{has_front}.db"
        shutil.copy(database, copy)
        answers = []
        with capture_logs() as logs:
            async with receiver(copy, has_front=has_front) as api:
                for sent in sets(*urls):
                    answers.append((sent, await exchange(api.url, sent)))
                    answers.append((sent, await exchange(api.url, sent, pause_at=len(sent) - 3)))
                metrics = (await api.send("GET", "/metrics")).body
        counts = [line for line in metrics.splitlines() if line.startswith(_COUNTS)]
        results.append((answers, counts, lines(logs), rows(copy)))

    (answers, counts, logged, stored), (other_answers, other_counts, other_logged, other_stored) = results
    for (sent, answer), (_, other) in zip(answers, other_answers, strict=True):
        assert answer == other or b"reset" in (answer, other), sent
    assert logged == other_logged
    assert counts == other_counts
    assert stored == other_stored
    assert not [answer for _, answer in answers if b"HTTP/1.1 5" in answer]
    secrets = [url.rpartition("/")[2] for url in urls] + ["forged"]
    assert not [line for line in logged if any(secret in line for secret in secrets)]


async def test_strangers_are_limited_alike(prepared: tuple[Path, Sequence[str]], tmp_path: Path) -> None:
    """Beyond the rate of an address both ways refuse it, and take what has a valid token."""
    database, (url, *_) = prepared
    results = []
    for has_front in (True, False):
        copy = tmp_path / f"front-{has_front}.db"
        shutil.copy(database, copy)
        with capture_logs() as logs:
            async with receiver(copy, has_front=has_front, max_requests_per_address=0.001) as api:
                sent = [request("/callback/capsolver/forged")] * 2 + [request(url)]
                answers = [re.sub(rb"[0-9]{3,4}\r", b"seconds\r", await exchange(api.url, raw)) for raw in sent]
        results.append((answers, lines(logs)))

    assert [answer[:12] for answer in results[0][0]] == [b"HTTP/1.1 404", b"HTTP/1.1 429", b"HTTP/1.1 200"]
    assert b'RateLimit: "address";r=0;t=seconds' in results[0][0][1]
    assert results[0] == results[1]


@pytest.mark.parametrize("error", [StoreBusyError("the store is busy"), RuntimeError("a fault of ours")])
@pytest.mark.parametrize(("owner", "name"), [(SharedStore, "begin"), (DeliverToTask, "decide"), (Callbacks, "end")])
async def test_an_error_is_answered_alike(
    prepared: tuple[Path, Sequence[str]], monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Exception
) -> None:
    """A store without room for the callback, and an error of the program, are answered as by the route."""

    def fail(*_: object, **__: object) -> None:
        raise error

    database, (url, *_) = prepared
    monkeypatch.setattr(owner, name, fail)
    results = []
    for has_front in (True, False):
        with capture_logs() as logs:
            async with receiver(database, has_front=has_front) as api:
                answer = await exchange(api.url, request(url))
        results.append((answer, lines(logs)))

    assert results[0] == results[1]


async def test_a_slow_body_is_answered_alike(
    prepared: tuple[Path, Sequence[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A body that does not end in time is 408 and a hint."""
    database, (url, *_) = prepared
    monkeypatch.setattr("receiver.web.server.bodies._READ_SECONDS", 0.1)
    results = []
    for has_front in (True, False):
        copy = tmp_path / f"front-{has_front}.db"
        shutil.copy(database, copy)
        with capture_logs() as logs:
            async with receiver(copy, has_front=has_front) as api:
                address = urlsplit(api.url)
                reader, writer = await asyncio.open_connection(address.hostname, address.port)
                writer.write(request(url)[:-3])
                async with asyncio.timeout(30):
                    answer = await reader.readuntil(b"\r\n")
                writer.transport.abort()
        results.append((answer, lines(logs), rows(copy)))

    assert results[0] == results[1]
    assert b"408" in results[0][0]


async def test_only_plain_callbacks_pass_the_application_by(
    prepared: tuple[Path, Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application sees no callback that is acknowledged as usual, and every other request."""
    database, (url, *_) = prepared
    seen = []

    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        seen.append((request.method, request.raw_path))
        return await request_middleware(request, handler)

    monkeypatch.setattr("receiver.app.request_middleware", web.middleware(record))
    async with receiver(database) as api:
        for sent in (request(url), request(f"/{url}"), request(url, method="PUT"), request(url, b"no JSON")):
            await exchange(api.url, sent)

    others = [("POST", f"/{url}"), ("PUT", url), ("POST", url)]
    assert [line for line in seen if "callback" in line[1]] == others
