"""Connections without requests: they are closed in time, and never take the room of a callback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.faults.wire import ANSWER, Wire, chunked, connected, request, wired
from tests.raw import poll_request, websocket_request
from tests.support import ADMIN, Api, eventually, free_port, receiver_process, running_receiver

MOST = 8


@asynccontextmanager
async def many_wires(url: str, count: int) -> AsyncIterator[Sequence[Wire]]:
    """Yield this many connections, opened one after the other."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(wired(url)) for _ in range(count)]


async def closed(api: Api, reason: str) -> float:
    """Return the number of connections closed for this reason, as /metrics tells."""
    lines = (await api.send("GET", "/metrics")).body.decode().splitlines()
    name = f'callback_receiver_connections_closed_total{{reason="{reason}"}} '
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)


async def test_those_without_a_request_give_way(tmp_path: Path) -> None:
    """The oldest are closed first, and counted. Waiting requests and callbacks notice nothing."""
    async with running_receiver(tmp_path / "receiver.db", most_connections=MOST) as api, wired(api.url) as waiting:
        task = await api.register()
        await waiting.send(poll_request(ADMIN, task["ref"]))
        await eventually(lambda: api.waiting == 1)
        with capture_logs() as logs:
            async with many_wires(api.url, 3 * MOST) as idle:
                first = [await wire.rest() for wire in idle[:MOST]]
                async with wired(api.url) as provider:
                    await provider.send(request("POST", task["callbackUrl"], ANSWER))
                    stored = await provider.response()
                waited = await waiting.response()
                await idle[-1].send(request("GET", f"{api.url}/healthz"))
                last = await idle[-1].response()
                count = await closed(api, "full")

    assert first == [b""] * MOST
    assert (stored.status, waited.status, last.status) == (200, 200, 200)
    assert count >= 2 * MOST
    assert [line["most"] for line in logs if line["event"] == "connections.full"] == [MOST]


async def test_one_that_was_used_is_without_a_request_afterwards(tmp_path: Path) -> None:
    """After its request a connection counts as idle again."""
    async with running_receiver(tmp_path / "receiver.db", most_connections=MOST) as api, wired(api.url) as used:
        await used.send(request("GET", f"{api.url}/healthz"))
        first = await used.response()
        async with many_wires(api.url, 2 * MOST):
            rest = await used.rest()

    assert (first.status, rest) == (200, b"")


async def test_where_all_have_requests_the_new_one_is_closed(tmp_path: Path) -> None:
    """A waiting request is not closed in favour of a later one."""
    async with running_receiver(tmp_path / "receiver.db", most_connections=3) as api:
        task = await api.register()
        async with many_wires(api.url, 2) as waiting:
            for wire in waiting:
                await wire.send(poll_request(ADMIN, task["ref"]))
            await eventually(lambda: api.waiting == 2)
            # The third connection is the test session's own. It has no request now, and gives way.
            async with wired(api.url) as third, asyncio.TaskGroup() as group:
                await third.send(poll_request(ADMIN, task["ref"]))
                await eventually(lambda: api.waiting == 3)
                async with wired(api.url) as fourth:
                    rest = await fourth.rest()
                still_waiting = api.waiting
                await third.hang_up()
                await eventually(lambda: api.waiting == 2)
                group.create_task(api.call_back(task["callbackUrl"]))
                answers = [(await wire.response()).status for wire in waiting]

    assert (rest, still_waiting, answers) == (b"", 3, [200, 200])


async def test_a_connection_without_a_request_is_closed(tmp_path: Path) -> None:
    """It is closed without a head, and gets 408 with half of one. Later it stays open as long as the settings say."""
    async with running_receiver(tmp_path / "receiver.db", head_seconds=2.0) as api, many_wires(api.url, 3) as wires:
        silent, half, used = wires
        await half.send(b"POST /callback/capsolver/")
        await used.send(request("GET", f"{api.url}/healthz"))
        first = await used.response()

        rest = await silent.rest()
        refused, end = await half.response(), await half.rest()

        await used.send(request("GET", f"{api.url}/healthz"))
        second = await used.response()
        counts = [await closed(api, reason) for reason in ("silent", "head")]

    assert (first.status, rest, second.status, counts) == (200, b"", 200, [1, 1])
    assert (refused.status, refused.headers["connection"], end) == (408, "close", b"")
    assert json.loads(refused.body)["detail"] == "head: expected all of it within 2 s"


async def test_a_second_head_has_its_time_too(tmp_path: Path) -> None:
    """A used connection may be silent, but not in the middle of a head. One that waits for its answer may be."""
    async with running_receiver(tmp_path / "receiver.db", head_seconds=1.0) as api, wired(api.url) as waiting:
        task = await api.register()
        await waiting.send(poll_request(ADMIN, task["ref"]))
        await eventually(lambda: api.waiting == 1)
        used = await connected(api.url)
        await used.send(request("GET", f"{api.url}/healthz"))
        first = await used.response()
        await asyncio.sleep(1.5)
        await waiting.send(b"GET /healthz HTT")
        await used.send(b"GET /healthz HTT")
        refused, end = await used.response(), await used.rest()
        await api.call_back(task["callbackUrl"])
        waited = await waiting.response()
        await waiting.send(b"P/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        last = await waiting.response()
        used.reset()

    assert (first.status, refused.status, end) == (200, 408, b"")
    assert (waited.status, last.status) == (200, 200)


async def test_an_address_has_a_limited_number(tmp_path: Path) -> None:
    """Beyond it the oldest idle one is closed, or else the new one. A trusted proxy has no limit."""
    async with running_receiver(tmp_path / "receiver.db", max_connections_per_address=4) as api:
        with capture_logs() as logs:
            task = await api.register()
            async with many_wires(api.url, 3) as wires:
                for wire in wires:
                    await wire.send(poll_request(ADMIN, task["ref"]))
                await eventually(lambda: api.waiting == 3)
                # The fourth is the test session's, without a request.
                async with wired(api.url) as fifth:
                    await fifth.send(poll_request(ADMIN, task["ref"]))
                    await eventually(lambda: api.waiting == 4)
                    async with wired(api.url) as sixth:
                        rest = await sixth.rest()
                    still_waiting = api.waiting
            await eventually(lambda: api.connections == 0)
        count = await closed(api, "address")
    async with (
        running_receiver(
            tmp_path / "proxied.db", max_connections_per_address=1, trusted_proxies="127.0.0.1"
        ) as proxied,
        many_wires(proxied.url, 5) as wires,
    ):
        for wire in wires:
            await wire.send(request("GET", f"{proxied.url}/healthz"))
        statuses = [(await wire.response()).status for wire in wires]

    assert (rest, still_waiting, count) == (b"", 4, 2)
    assert [line["address"] for line in logs if line["event"] == "connections.address_full"] == ["127.0.0.1"] * 2
    assert statuses == [200] * 5


async def test_reads_leave_a_lane_for_callbacks(tmp_path: Path) -> None:
    """A quarter of the connections is left when reads wait on all others. Reads get 503, and callbacks are stored."""
    async with running_receiver(tmp_path / "receiver.db", most_connections=MOST) as api, AsyncExitStack() as stack:
        task = await api.register()
        for _ in range(3 * MOST // 4):
            wire = await stack.enter_async_context(wired(api.url))
            await wire.send(poll_request(ADMIN, task["ref"]))
        await eventually(lambda: api.waiting == 3 * MOST // 4)
        refused = [
            await api.send("GET", path) for path in (f"/v1/tasks/{task['ref']}", "/v1/results", "/v1/results/stream")
        ]
        probes = [await api.send("GET", path) for path in ("/healthz", "/readyz", "/metrics")]
        # Idle connections give way to the callback's, and the waiting ones don't.
        idle = [await stack.enter_async_context(wired(api.url)) for _ in range(2 * MOST)]
        async with wired(api.url) as provider:
            await provider.send(request("POST", task["callbackUrl"], ANSWER))
            stored = await provider.response()
        await eventually(lambda: api.waiting == 0)
        fetched = await api.send("GET", f"/v1/tasks/{task['ref']}")

    assert [answer.status for answer in refused] == [503] * 3
    assert refused[0].json["detail"] == "6 requests are being handled, and the other connections are for callbacks"
    assert refused[0].headers["Retry-After"] == "5"
    assert [answer.status for answer in probes] == [200] * 3
    assert (stored.status, fetched.status, len(idle)) == (200, 200, 2 * MOST)


@pytest.mark.parametrize("is_used", [False, True])
async def test_a_head_without_an_end_is_cut_off(tmp_path: Path, *, is_used: bool) -> None:
    """Many short lines are too long together: 431. A connection after its first request is no exception."""
    async with running_receiver(tmp_path / "receiver.db") as api, wired(api.url) as wire:
        if is_used:
            await wire.send(request("GET", f"{api.url}/healthz"))
            assert (await wire.response()).status == 200
        await wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        with suppress(ConnectionError):
            for number in range(120):
                await wire.send(f"X-{number}: {'y' * 1000}\r\n".encode())
        refused, end = await wire.response(), await wire.rest()
        count = await closed(api, "head")

    assert (refused.status, end, count) == (431, b"", 1)
    assert json.loads(refused.body)["errorCode"] == "RECEIVER_HEAD_TOO_LARGE"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-A: a\r\n" * 200 + b"\r\n",
    ],
)
async def test_a_line_that_is_too_long(tmp_path: Path, head: bytes) -> None:
    """One long line, or many lines, get 431 and a problem that shows nothing of them. The log names the address."""
    with capture_logs() as logs:
        async with running_receiver(tmp_path / "receiver.db") as api, wired(api.url) as wire:
            await wire.send(head)
            refused = await wire.response()

    assert (refused.status, refused.headers["content-type"]) == (431, "application/problem+json")
    assert b"aaaa" not in refused.body
    assert [line["address"] for line in logs if line["event"] == "request.malformed"] == ["127.0.0.1"]


async def test_bytes_that_belong_to_no_head_do_not_count_as_one(tmp_path: Path) -> None:
    """Large bodies in pieces, read or refused, and pipelined requests are not taken for a long head."""
    body = b'{"provider": "capsolver", "metadata": {"a": "' + b"x" * 3000 + b'"}}' + b" " * 200_000
    async with running_receiver(tmp_path / "receiver.db") as api, wired(api.url) as wire:
        statuses = []
        for key, expected in ((ADMIN, 201), ("nobody", 401), (ADMIN, 201)):
            asked = request(
                "POST", f"{api.url}/v1/tasks", body, Authorization=f"Bearer {key}", Content_Type="application/json"
            )
            for start in range(0, len(asked), 20_000):
                await wire.send(asked[start : start + 20_000])
            statuses.append(((await wire.response()).status, expected))
        await wire.send(request("GET", f"{api.url}/healthz", X_Padding="y" * 3000) * 20)
        statuses += [((await wire.response()).status, 200) for _ in range(20)]
        count = await closed(api, "head")

    assert [status for status, _ in statuses] == [expected for _, expected in statuses]
    assert count == 0


async def send_until_cut_off(wire: Wire, piece: bytes, *, most: int) -> None:
    """Send the piece again and again, a limited number of times. Fail if all of it was taken."""
    with suppress(OSError):
        for _ in range(most):
            await wire.send(piece)
        pytest.fail("nothing was cut off")


@pytest.mark.parametrize("path", ["/callback/capsolver/no-token", "/nothing", "{callback}"])
async def test_a_body_in_chunks_of_one_byte_is_cut_off(tmp_path: Path, path: str) -> None:
    """Each chunk costs as much as a kilobyte. Twenty such bodies with a bad token once stalled all callbacks."""
    async with running_receiver(tmp_path / "receiver.db") as api, wired(api.url) as wire:
        registered = await api.register()
        url = registered["callbackUrl"] if path == "{callback}" else api.url + path
        await wire.send(request("POST", url, Transfer_Encoding="chunked"))

        await send_until_cut_off(wire, b"1\r\nx\r\n" * 1000, most=20_000)
        count = await closed(api, "chunks")
        honest = await api.call_back(registered["callbackUrl"])

    assert (count, honest.status) == (1, 200)


@pytest.mark.parametrize("size", [64, 1000, 60_000])
async def test_a_body_in_small_chunks_is_taken(tmp_path: Path, size: int) -> None:
    """Senders with small buffers write such chunks. A text with short lines is accepted too."""
    body = ANSWER[:-1] + b"," + b'\r\n"a": 1, "b": "a line of text",' * 3000 + b'\r\n"c": 2}'
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    async with running_receiver(tmp_path / "receiver.db") as api, wired(api.url) as wire:
        registered = await api.register()
        await wire.send(request("POST", registered["callbackUrl"], Transfer_Encoding="chunked"), chunked(*pieces, b""))

        status = (await wire.response()).status

    assert status == 200


async def test_what_takes_long_to_parse_is_parsed_whole_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part is paced: pipelined requests, large bodies with a length and in chunks, and a websocket."""
    monkeypatch.setattr("receiver.web.server.connections._CHEAP_SECONDS", -1.0)
    large = ANSWER[:-1] + b', "a": "' + b"x" * 100_000 + b'"}'
    async with running_receiver(tmp_path / "receiver.db") as api, wired(api.url) as wire:
        urls = [(await api.register())["callbackUrl"] for _ in range(4)]
        requests = [
            request("POST", urls[0], large),
            request("POST", urls[1], Transfer_Encoding="chunked")
            + chunked(*(large[start : start + 500] for start in range(0, len(large), 500)), b""),
            request("POST", f"{api.url}/callback/capsolver/no-token", large),
            request("POST", urls[2], ANSWER),
            request("POST", urls[3], b"not JSON"),
        ]
        await wire.send(b"".join(requests))
        statuses = [(await wire.response()).status for _ in requests]
        async with wired(api.url) as socket:
            await socket.send(websocket_request(ADMIN, cursor="start"))
            head = await socket.reader.readuntil(b"\r\n\r\n")
            frame = await socket.reader.readuntil(b'"type":"subscribed"')

    assert statuses == [200, 200, 404, 200, 422]
    assert head.startswith(b"HTTP/1.1 101")
    assert frame


async def test_idle_connections_do_not_use_up_the_files(tmp_path: Path) -> None:
    """With a hard limit of 128 files and 300 idle connections, callbacks are stored and polls answered."""
    async with (
        receiver_process(tmp_path / "receiver.db", port=free_port(), file_limit="128") as receiver,
        many_wires(receiver.url, 300),
        aiohttp.ClientSession() as session,
    ):
        api = Api(receiver.url, session)
        task = await api.register()
        stored = await api.call_back(task["callbackUrl"])
        ended = await api.task(task["ref"])

    assert (stored.status, ended["status"]) == (200, "ready")


async def test_the_setting_says_how_long_a_connection_is_kept(tmp_path: Path) -> None:
    """A used connection is closed after RECEIVER_KEEPALIVE_SECONDS (litellm#19091)."""
    async with (
        receiver_process(tmp_path / "receiver.db", port=free_port(), keepalive_seconds="1") as receiver,
        wired(receiver.url) as wire,
    ):
        await wire.send(request("GET", f"{receiver.url}/healthz"))
        answer = await wire.response()
        rest = await wire.rest()

    assert (answer.status, rest) == (200, b"")
