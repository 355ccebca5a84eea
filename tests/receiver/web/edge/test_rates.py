"""Limits on the rate of requests: what each owner may send, for how long it waits, and the memory that it takes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from receiver.app import new_ref
from receiver.domain.tokens import Kind, make_token
from receiver.web.edge.edge import Edge, EdgeLimits
from receiver.web.edge.rates import RateLimit
from receiver.web.edge.refusals import RefusalLog
from tests.faults.wire import wired
from tests.receiver.web.edge.test_addresses import request_from
from tests.support import ADMIN, READ_ONLY, eventually, running_receiver

SIGNING_KEY = "tests-only-signing-key-0123456789abcdef"


class Clock:
    """A clock set by the test."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def test_a_burst_and_then_the_rate() -> None:
    """The burst is there at once, and then one more for each interval."""
    clock = Clock()
    limit = RateLimit(2.0, 3, clock=clock)

    first = [limit.take("a") for _ in range(4)]
    other = limit.take("b")
    clock.now += 0.5
    second = [limit.take("a") for _ in range(2)]

    assert first == [0.0, 0.0, 0.0, pytest.approx(0.5)]
    assert other == 0.0
    assert second == [0.0, pytest.approx(0.5)]


@given(
    st.floats(0.1, 1e5),
    st.integers(1, 50),
    st.lists(st.floats(0.0, 100.0), max_size=100),
)
def test_never_more_than_the_burst_and_the_rate(per_second: float, burst: int, waits: list[float]) -> None:
    """At no time more were taken than the burst and the rate since the start. Waiting as told is always enough."""
    clock = Clock()
    started = clock.now
    limit = RateLimit(per_second, burst, clock=clock)
    for taken, wait in enumerate(waits, start=1):
        clock.now += wait / per_second
        told = limit.take("a")
        if told:
            clock.now += told * (1 + 1e-6) + 1e-6
            assert limit.take("a") == 0.0
        assert taken <= burst + (clock.now - started) * per_second + 1


def test_memory_is_bounded() -> None:
    """The owner that asked longest ago is forgotten. One that goes on asking is not."""
    limit = RateLimit(1.0, 1, most_owners=10, clock=Clock())
    for number in range(1000):
        limit.take(number)
        limit.take("busy")

    assert len(limit) == 10
    assert limit.take("busy") > 0
    assert limit.take(0) == 0.0


def test_no_limit() -> None:
    """A rate of 0 limits nothing and keeps nothing."""
    limit = RateLimit(0.0, 0.0)

    assert [limit.take("a") for _ in range(100)] == [0.0] * 100
    assert len(limit) == 0


def test_an_ipv6_address_stands_for_its_network() -> None:
    """Addresses of one /64 share a rate, and others don't."""
    edge = Edge(EdgeLimits(per_address=0.1), clock=Clock())

    def admitted(peer: str) -> bool:
        try:
            edge.admit_stranger(request_from(peer))
        except Exception:
            return False
        return True

    peers = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.1", "192.0.2.2"]

    assert [admitted(peer) for peer in peers] == [True, False, True, True, True]


async def test_refusals_beyond_the_limit_are_counted_in_one_line() -> None:
    """One address can't use up the lines of the others, and the suppressed lines are told once."""
    clock = Clock()
    log = RefusalLog(of_each=RateLimit(0.1, 3, clock=clock), of_all=RateLimit(1.0, 5, clock=clock))
    with capture_logs() as lines:
        loud = [log.takes("loud", lambda: "192.0.2.1") for _ in range(10)]
        quiet = [log.takes("quiet", lambda: "192.0.2.2") for _ in range(3)]
        log.report()
        log.report()

    assert loud == [True] * 3 + [False] * 7
    assert quiet == [True, True, False]
    assert lines == [{"event": "refusals.suppressed", "log_level": "warning", "count": 8, "lastAddress": "192.0.2.2"}]


async def test_strangers_get_429(tmp_path: Path) -> None:
    """Beyond its rate an address without key or token gets 429 on every route. Whoever has one notices nothing."""
    async with running_receiver(tmp_path / "receiver.db", max_requests_per_address=1.0) as api:
        task = await api.register()
        guesses = [await api.send("POST", "/callback/capsolver/forged", key=None) for _ in range(12)]
        others = [
            await api.send("GET", "/v1/tasks/1", key="not-a-key-of-this-receiver"),
            await api.send("GET", "/nowhere", key=None),
            await api.send("GET", "/openapi.json", key=None),
            await api.send("GET", "/v1/results/stream", key=None),
        ]
        probes = [await api.send("GET", path, key=None) for path in ("/healthz", "/readyz")]
        fetched = await api.send("GET", f"/v1/tasks/{task['ref']}")
        delivered = await api.call_back(task["callbackUrl"])
        metrics = (await api.send("GET", "/metrics")).body

    assert [answer.status for answer in guesses].count(429) >= 1
    assert guesses[0].status == 404
    assert [answer.status for answer in others] == [429] * 4
    assert others[0].json["errorCode"] == "RECEIVER_TOO_MANY_REQUESTS"
    for refused in (guesses[-1], others[0]):
        seconds = int(refused.headers["Retry-After"])
        assert seconds >= 1
        assert refused.headers["RateLimit"] == f'"address";r=0;t={seconds}'
        assert refused.headers["RateLimit-Policy"] == '"address";q=10;w=10'
    assert [answer.status for answer in probes] == [200, 200]
    assert (fetched.status, delivered.status) == (202, 200)
    limited = [answer.status for answer in (*guesses, *others)].count(429)
    assert f'callback_receiver_requests_limited_total{{by="address"}} {limited:.1f}'.encode() in metrics


@pytest.mark.parametrize("has_front", [False, True])
async def test_a_key_gets_429(tmp_path: Path, *, has_front: bool) -> None:
    """Beyond its rate a key gets 429, whatever it asks for, and other keys don't."""
    async with running_receiver(tmp_path / "receiver.db", has_front=has_front, max_requests_per_key=0.1) as api:
        task = await api.register()
        first = await api.send("GET", f"/v1/tasks/{task['ref']}")
        second = [await api.send("GET", f"/v1/tasks/{task['ref']}") for _ in range(2)]
        listed = await api.send("GET", "/v1/tasks")
        streamed = await api.send("GET", "/v1/results/stream")
        other = await api.send("GET", f"/v1/tasks/{task['ref']}", key=READ_ONLY)

    assert (first.status, other.status) == (202, 202)
    assert [answer.status for answer in (*second, listed, streamed)] == [429] * 4
    assert "the key admin sends more than 0.1 requests a second" in second[0].json["detail"]
    assert int(second[0].headers["Retry-After"]) == pytest.approx(10, abs=2)
    assert second[0].headers["RateLimit-Policy"] == '"key";q=2;w=20'
    assert ADMIN not in str(second[0].json)


async def test_a_fetch_is_counted_once(tmp_path: Path) -> None:
    """A task that the front doesn't find is answered by the application, and still is one request."""
    async with running_receiver(tmp_path / "receiver.db", max_requests_per_key=0.1) as api:
        statuses = [(await api.send("GET", "/v1/tasks/unknown")).status for _ in range(3)]

    assert statuses == [404, 404, 429]


@pytest.mark.parametrize("has_front", [False, True])
async def test_a_refused_fetch_is_counted_once(tmp_path: Path, *, has_front: bool) -> None:
    """The front leaves the refusal to the application, and only that counts it."""
    async with running_receiver(tmp_path / "receiver.db", has_front=has_front, max_requests_per_key=0.1) as api:
        task = await api.register()
        fetches = [(await api.send("GET", f"/v1/tasks/{task['ref']}", key=READ_ONLY)).status for _ in range(5)]
        metrics = (await api.send("GET", "/metrics")).body

    assert fetches == [202, 202, 429, 429, 429]
    assert b'callback_receiver_requests_limited_total{by="key"} 3.0' in metrics


async def test_a_proxy_that_is_not_named_is_logged(tmp_path: Path) -> None:
    """A peer inside the network that forwards is named once, unless it is trusted."""
    forwarded = {"X-Forwarded-For": "198.51.100.1"}
    with capture_logs() as logs:
        for proxies in ("", "127.0.0.1"):
            async with running_receiver(tmp_path / f"receiver{proxies}.db", trusted_proxies=proxies) as api:
                for _ in range(2):
                    await api.send("GET", "/nowhere", key=None, headers=forwarded)

    assert [line["address"] for line in logs if line["event"] == "proxy.not_trusted"] == ["127.0.0.1"]


async def test_a_flood_of_guesses_writes_few_lines(tmp_path: Path) -> None:
    """The log has a bounded number of lines about guesses, with and without the callback's path."""
    with capture_logs() as logs:
        async with running_receiver(tmp_path / "receiver.db") as api:
            for number in range(150):
                await api.send("POST", f"/callback/capsolver/forged{number}", key=None)
                await api.send("GET", f"/nowhere/{number}", key=None)
    lines = [line for line in logs if line["event"] in ("callback.refused", "request.completed")]
    (suppressed,) = [line for line in logs if line["event"] == "refusals.suppressed"]

    # The rest is counted at the end at the latest.
    assert len(lines) + suppressed["count"] == 300
    assert 100 <= len(lines) <= 100 + math.ceil(0.1 * 60)
    assert {line["address"] for line in lines} == {"127.0.0.1"}


async def test_a_flood_on_a_revoked_url_writes_few_lines(tmp_path: Path) -> None:
    """Its token is valid, so that no rate limits it. Every request gets its 404."""
    with capture_logs() as logs:
        async with running_receiver(tmp_path / "receiver.db", signing_keys=SIGNING_KEY) as api:
            # A URL of the reserved provider makes no task, as a revoked one does.
            url = f"/callback/canary/{make_token(Kind.TASK, new_ref(), 'canary', SIGNING_KEY.encode())}"
            statuses = [(await api.send("POST", url, key=None)).status for _ in range(150)]
    lines = [line for line in logs if line["event"] == "callback.refused"]

    assert statuses == [404] * 150
    assert 100 <= len(lines) <= 120


async def test_documents_for_anyone_write_few_lines(tmp_path: Path) -> None:
    """They need no key, so that anybody could fill the log by asking for them."""
    with capture_logs() as logs:
        async with running_receiver(tmp_path / "receiver.db") as api:
            statuses = [(await api.send("GET", "/asyncapi.json", key=None)).status for _ in range(150)]
    lines = [line for line in logs if line["event"] == "request.completed"]

    assert statuses == [200] * 150
    assert 100 <= len(lines) <= 120


async def test_hanging_up_before_the_refusal_is_no_way_around(tmp_path: Path) -> None:
    """Guesses whose senders hang up during the delay write no more lines than others."""
    with capture_logs() as logs:
        async with running_receiver(tmp_path / "receiver.db") as api:
            for _ in range(150):
                async with wired(api.url) as guess:
                    await guess.send(b"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    await eventually(lambda: api.delayed == 1)
                await eventually(lambda: api.delayed == 0)
    lines = [line for line in logs if line["event"] == "request.completed"]
    (suppressed,) = [line for line in logs if line["event"] == "refusals.suppressed"]

    assert {line["status"] for line in lines} == {None}
    assert len(lines) + suppressed["count"] == 150
    assert len(lines) <= 120
