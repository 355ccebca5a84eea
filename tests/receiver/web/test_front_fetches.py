"""Tasks fetched by their ids with and without the front: the same bytes, log lines and counts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from receiver.errors import StoreFailedError
from receiver.service.tasks import Tasks
from receiver.web.middleware import Handler, request_middleware
from tests.receiver.web.test_front import exchange, lines, request
from tests.receiver.web.test_stalled_streams import narrow_socket
from tests.support import ADMIN, READ_ONLY, SUBMIT_ONLY, eventually, running_receiver

ORIGIN = "https://pages.example"
_KEY = f"Authorization: Bearer {ADMIN}"
_PATH = "/v1/tasks/"


def receiver(database: Path, *, has_front: bool = True, **settings: Any) -> Any:
    """Return a receiver that pages of one origin may use."""
    return running_receiver(database, has_front=has_front, allowed_origins=ORIGIN, **settings)


def fetch(target: str, *header_lines: str, body: bytes | None = None, **options: str) -> bytes:
    """Return a GET with a key as bytes, unless the options name another method. `target` follows the usual path."""
    return request(f"{_PATH}{target}", body, _KEY, *header_lines, **{"method": "GET", **options})


def fetches(ready: str, waiting: str, joined: str, large: str) -> Sequence[bytes]:
    """Return requests for four tasks by their refs, and for others by ids of the provider's."""
    return [
        # Tasks.
        *map(fetch, (ready, waiting, joined, large, "failed-1", "stale-1", "70000000010", "-1", ready[:-1], "x" * 64)),
        *map(fetch, ("x" * 65, "x" * 300, "twice", "twice?provider=capsolver", "twice?provider=twocaptcha")),
        *map(fetch, ("failed-1?provider=capsolver", "failed-1?provider=nobody", "failed-1?provider=")),
        # Queries.
        *(fetch(f"{ready}{query}") for query in ("?", "?wait=0", "?wait=x", "?x=1", "?provider=Nobody", "#x", "?#x")),
        *(
            fetch(f"{waiting}{query}")
            for query in ("?wait=0.01", "?provider=capsolver&wait=0", "?provider=a&provider=b")
        ),
        # Spellings of the path.
        *map(fetch, (f"{ready}/", f"/{ready}", f"{ready}/x", f"{ready}%20", f"{ready[:-1]}%{ord(ready[-1]):x}", "")),
        *map(fetch, (ready.upper(), f"../tasks/{ready}", f"{ready}\udcff", f"{ready}?provider=\udcff", "a.b", "a~b")),
        request(f"/V1/tasks/{ready}", None, _KEY, method="GET"),
        request(f"http://127.0.0.1{_PATH}{ready}", None, _KEY, method="GET"),
        # Methods.
        *(fetch(ready, method=method) for method in ("HEAD", "OPTIONS", "POST", "get")),
        # Keys.
        *(
            request(f"{_PATH}{ready}", None, *header_lines, method="GET")
            for header_lines in (
                (),
                ("Authorization: Bearer",),
                ("Authorization: Bearer of a wrong key",),
                ("Authorization: Bearer caf\udce9",),
                (f"Authorization: Basic {ADMIN}",),
                (f"authorization: bEARER   {READ_ONLY}  ",),
                (f"Authorization: Bearer {SUBMIT_ONLY}",),
                (f"Authorization: Bearer {SUBMIT_ONLY}", _KEY),
                (_KEY, f"Authorization: Bearer {SUBMIT_ONLY}"),
            )
        ),
        # Headers.
        *(
            fetch(ready, line)
            for line in (
                f"Origin: {ORIGIN}",
                "Origin: https://other.example",
                "origin: null",
                "Sec-Fetch-Site: cross-site",
                "Sec-Fetch-Site: same-origin",
                "Prefer: wait=5",
                "Prefer: return=minimal",
                "Expect: 100-continue",
                "Expect: something else",
                'If-None-Match: "x"',
                "If-Modified-Since: Fri, 27 Nov 2099 10:00:00 GMT",
                "Range: bytes=0-9",
                "Accept: text/html",
                "Accept-Encoding: gzip",
                "X-Forwarded-For: 192.0.2.1",
            )
        ),
        fetch(waiting, "prefer: wait=0.01"),
        # Bodies.
        fetch(ready, body=b""),
        fetch(ready, body=b"{}"),
        fetch(ready, "Content-Type: application/json", body=b"{}"),
        fetch(ready, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        # Connections.
        fetch(ready, "Connection: close"),
        fetch(ready, "Connection: Upgrade", "Upgrade: websocket"),
        fetch(ready, version="1.0"),
        fetch(ready, "Connection: keep-alive", version="1.0"),
        fetch(ready) * 3 + fetch(large) * 2 + fetch(waiting) + fetch("nothing") + fetch("failed-1"),
        fetch(ready).replace(b"Host: 127.0.0.1\r\n", b""),
        fetch(ready).replace(b"HTTP/1.1", b"HTTP/9.9"),
    ]


@pytest.fixture
async def prepared(tmp_path: Path) -> tuple[Path, Sequence[str]]:
    """Return a database with tasks in all states, and the refs of four: ready, waiting, joined, and a large one."""
    database = tmp_path / "prepared.db"
    async with receiver(database) as api:
        made = [await api.register(metadata={"name": "caf\u00e9"}, tags=["a"]) for _ in range(3)]
        ready, waiting, large = made
        await api.call_back(ready["callbackUrl"], taskId="ready-1")
        await api.call_back((await api.register())["callbackUrl"], taskId="failed-1", errorId=1, status="failed")
        await api.register(taskId=70000000010)
        await api.register(taskId="twice")
        await api.register(taskId="twice", provider="twocaptcha")
        stale = await api.register()
        await api.call_back(stale["callbackUrl"], taskId="stale-1")
        await api.call_back(large["callbackUrl"], solution={"text": "x" * 100_000})
    joined = "018f0000-0000-7000-8000-000000000000"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE task SET joined_ref = ?, task_id = NULL WHERE ref = ?", (ready["ref"], waiting["ref"])
        )
        connection.execute("UPDATE task SET ref = ? WHERE ref = ?", (joined, waiting["ref"]))
        connection.execute(
            "UPDATE log SET valid_until = 1 WHERE task = (SELECT id FROM task WHERE task_id = 'stale-1')"
        )
    async with receiver(database) as api:
        waiting = await api.register()
    return database, [ready["ref"], waiting["ref"], joined, large["ref"]]


@pytest.mark.sqlite
async def test_the_front_changes_nothing(prepared: tuple[Path, Sequence[str]]) -> None:
    """Each request gets the same bytes, and leaves the same log lines and counts."""
    database, refs = prepared
    results = []
    for has_front in (True, False):
        with capture_logs() as logs:
            async with receiver(database, has_front=has_front) as api:
                answers = [(sent, await exchange(api.url, sent)) for sent in fetches(*refs)]
                metrics = (await api.send("GET", "/metrics")).body
        counts = [line for line in metrics.splitlines() if line.startswith(b"callback_receiver_stale_answers_total")]
        results.append((answers, counts, lines(logs)))

    (answers, counts, logged), (other_answers, other_counts, other_logged) = results
    for (sent, answer), (_, other) in zip(answers, other_answers, strict=True):
        assert answer == other, sent
    assert logged == other_logged
    assert counts == other_counts
    assert counts != []


@pytest.mark.sqlite
@pytest.mark.parametrize("error", [StoreFailedError("the store cannot be read"), RuntimeError("a fault of ours")])
async def test_an_error_is_answered_alike(
    prepared: tuple[Path, Sequence[str]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A store that cannot be read, and an error of the program, are answered as by the route."""

    async def fail(*_: object) -> None:
        raise error

    database, (ready, *_) = prepared
    monkeypatch.setattr(Tasks, "find", fail)
    results = []
    for has_front in (True, False):
        with capture_logs() as logs:
            async with receiver(database, has_front=has_front) as api:
                answer = await exchange(api.url, fetch(ready))
        results.append((answer, lines(logs)))

    assert results[0] == results[1]


@pytest.mark.sqlite
async def test_a_peer_that_hangs_up_is_logged_alike(
    prepared: tuple[Path, Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose peer is gone before the answer has a log line without a status."""
    is_reading = asyncio.Event()

    async def never_find(*_: object, **__: object) -> None:
        is_reading.set()
        await asyncio.Event().wait()

    database, (ready, *_) = prepared
    monkeypatch.setattr(Tasks, "find", never_find)
    results = []
    for has_front in (True, False):
        is_reading.clear()
        with capture_logs() as logs:
            async with receiver(database, has_front=has_front) as api:
                address = urlsplit(api.url)
                _, writer = await asyncio.open_connection(address.hostname, address.port)
                writer.write(fetch(ready))
                async with asyncio.timeout(30):
                    await is_reading.wait()
                writer.transport.abort()
                await eventually(lambda: any(line["event"] == "request.completed" for line in logs))
        results.append(lines(logs))

    assert results[0] == results[1]
    assert '"status": null' in results[0][0]


@pytest.mark.sqlite
async def test_a_peer_that_reads_nothing_is_cut_off(prepared: tuple[Path, Sequence[str]]) -> None:
    """Its answers count as unsent, and after the time limit it is cut off, with the same log lines."""
    database, (ready, *_) = prepared
    results = []
    for has_front in (True, False):
        with capture_logs() as logs:
            async with receiver(database, has_front=has_front, send_buffer_bytes=2048, send_timeout_seconds=1) as api:
                address = urlsplit(api.url)
                loop = asyncio.get_running_loop()
                with narrow_socket() as peer:
                    await loop.sock_connect(peer, (address.hostname, address.port))
                    await loop.sock_sendall(peer, fetch(ready) * 50)
                    await eventually(lambda: api.unsent_answers > 0)
                    await eventually(lambda: any(line["event"] == "answer.dropped" for line in logs))
                    await eventually(lambda: api.unsent_answers == 0)
        results.append({line for line in lines(logs) if "dropped" in line})

    assert results[0] == results[1]
    assert "nothing was taken for 1 s" in results[0].pop()


@pytest.mark.sqlite
async def test_only_plain_fetches_pass_the_application_by(
    prepared: tuple[Path, Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application sees no plain fetch of a task, and every other request."""
    database, (ready, waiting, joined, large) = prepared
    seen = []

    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        seen.append(request.raw_path.removeprefix(_PATH))
        return await request_middleware(request, handler)

    monkeypatch.setattr("receiver.app.request_middleware", web.middleware(record))
    others = [large, "nothing", f"{ready}?wait=0", "twice"]
    async with receiver(database) as api:
        for target in (ready, waiting, joined, "failed-1", "failed-1?provider=capsolver", *others):
            await exchange(api.url, fetch(target))
        await exchange(api.url, fetch(ready, "Prefer: wait=1"))

    assert [target for target in seen if "health" not in target] == [*others, ready]


async def test_without_keys_the_application_answers(tmp_path: Path) -> None:
    """A receiver without keys looks where a request comes from, with the front, too."""
    async with receiver(tmp_path / "receiver.db", api_keys="", allow_anonymous=True) as api:
        sent = request(f"{_PATH}x", None, _KEY, "X-Forwarded-For: 192.0.2.1", method="GET")

        assert b"401" in (await exchange(api.url, sent)).split(b"\r\n")[0]
