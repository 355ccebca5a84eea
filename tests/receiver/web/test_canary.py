"""The receiver's callback to itself: its way there and back, its failures by stage, and nobody else notices it."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web

from client.protocol.filters import CANARY
from client.protocol.frames import SUBPROTOCOL
from client.sandbox.serving import serving
from receiver.app import microseconds_now, new_ref
from receiver.domain.records import SECOND
from receiver.domain.tokens import Kind, make_token
from receiver.domain.transaction import PruneCanary
from receiver.health.findings import CanaryFailure
from receiver.metrics import Metrics, Moment
from receiver.service.signing_keys import SigningKeys
from receiver.storage.sqlite.store import SqliteStore
from receiver.web.canary.loop import Canary
from receiver.web.canary.probe import CanaryRun, run_canary
from tests.faults.commands import KEY, run_command
from tests.receiver.web.sockets import open_events, open_socket, subscribed
from tests.support import API_KEYS, RunningReceiver, free_port, receiver_process, running_receiver
from tests.tools import tool

DATABASE = "receiver.db"
SIGNING = "a signing key of these tests with many bytes"


@asynccontextmanager
async def running(tmp_path: Path, **settings: Any) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with a known signing key. Its own canary is off."""
    async with running_receiver(tmp_path / DATABASE, signing_keys=SIGNING, canary_minutes=0, **settings) as api:
        yield api


async def send(api: RunningReceiver, url: str) -> CanaryRun:
    """Send one callback to the receiver below this public URL."""
    return await run_canary(url, SIGNING.encode(), api.runtime.store, now=microseconds_now, new_ref=new_ref)


@asynccontextmanager
async def front(api: RunningReceiver, answer: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """Yield the URL of a server in front of the receiver. What `answer` answers with None goes on to it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        answered = answer(request)
        if answered is not None:
            assert isinstance(answered, web.StreamResponse)
            return answered
        if request.headers.get("Upgrade") == "websocket":
            return await pass_socket(request, api.url)
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, api.url + request.path_qs, data=await request.read()) as response,
        ):
            return web.Response(status=response.status, body=await response.read())

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with serving(web.AppRunner(app)) as url:
        yield url


async def pass_socket(request: web.Request, url: str) -> web.StreamResponse:
    """Pass the frames of a websocket on, in both directions."""
    protocols = [part.strip() for part in request.headers["Sec-WebSocket-Protocol"].split(",")]
    outer = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}{request.path}", protocols=protocols) as inner,
        asyncio.TaskGroup() as group,
    ):
        await outer.prepare(request)

        async def back() -> None:
            async for message in inner:
                await outer.send_str(message.data)

        passing = group.create_task(back())
        async for message in outer:
            await inner.send_str(message.data)
        passing.cancel()
    return outer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_it_comes_back(tmp_path: Path, host: str) -> None:
    """Every stage has a time. A name is looked up, an address is not."""
    async with running(tmp_path) as api:
        run = await send(api, f"http://{host}:{urlsplit(api.url).port}")

    assert (run.failed, run.reason) == (None, "")
    stages = ["connect", "answer", "committed", "frame"]
    assert list(run.seconds) == (["dns", *stages] if host == "localhost" else stages)
    assert all(seconds >= 0 for seconds in run.seconds.values())


async def test_it_comes_back_through_a_proxy(tmp_path: Path) -> None:
    """A server in front that passes callbacks and frames on changes nothing."""
    async with running(tmp_path) as api, front(api, lambda _request: None) as url:
        run = await send(api, url)

    assert (run.failed, run.reason) == (None, "")


async def test_it_comes_back_without_api_keys(tmp_path: Path) -> None:
    """A receiver without keys refuses other requests through a proxy, but not its own."""
    async with (
        running(tmp_path, api_keys="", allow_anonymous=True) as api,
        front(api, lambda _request: None) as url,
    ):
        run = await send(api, url)

    assert (run.failed, run.reason) == (None, "")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Return a certificate for localhost that signs itself, and its key."""
    files = tmp_path / "localhost.pem", tmp_path / "localhost.key"
    subprocess.run(
        [
            *(
                tool("openssl", package="openssl"),
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-out", str(files[0]), "-keyout", str(files[1])),
        ],
        check=True,
        capture_output=True,
    )
    return files


@asynccontextmanager
async def tls_front(api: RunningReceiver, certificate: tuple[Path, Path]) -> AsyncIterator[str]:
    """Yield the URL of a server that ends TLS in front of the receiver."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    port = urlsplit(api.url).port

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as group:
            group.create_task(copy(reader, inner_writer))
            group.create_task(copy(inner_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"


async def test_tls_has_a_time_of_its_own(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a certificate of a known authority all stages are passed, in their order."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with running(tmp_path) as api, tls_front(api, certificate) as url:
        run = await send(api, url)

    assert (run.failed, run.reason) == (None, "")
    assert list(run.seconds) == ["dns", "connect", "tls", "answer", "committed", "frame"]


async def test_a_wrong_certificate_is_named(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """A certificate of no known authority fails at tls, with its reason."""
    async with running(tmp_path) as api, tls_front(api, certificate) as url:
        run = await send(api, url)

    assert run.failed == "tls"
    assert "self-signed certificate" in run.reason or "self signed certificate" in run.reason


async def test_a_name_that_does_not_resolve_is_named(tmp_path: Path) -> None:
    """No address for the name fails at dns."""
    async with running(tmp_path) as api:
        run = await send(api, "https://callbacks.invalid")

    assert (run.failed, run.reason) == ("dns", "the host name cannot be resolved")


async def test_a_closed_port_is_named(tmp_path: Path) -> None:
    """Nobody listens: it fails at connect."""
    async with running(tmp_path) as api:
        run = await send(api, f"http://127.0.0.1:{free_port()}")

    assert (run.failed, run.reason) == ("connect", "cannot connect: Connection refused")


def is_callback(request: web.Request) -> bool:
    """Return True for a callback."""
    return request.path.startswith("/callback/")


@pytest.mark.parametrize(
    ("answer", "stage", "reason"),
    [
        (
            lambda request: web.Response(status=502) if is_callback(request) else None,
            "answer",
            "the callback was answered 502, not 200",
        ),
        (
            lambda request: web.Response(status=302, headers={"Location": "/"}) if is_callback(request) else None,
            "answer",
            "the callback was answered 302, not 200",
        ),
        (
            lambda request: web.Response(text="ok") if is_callback(request) else None,
            "committed",
            "the callback was answered 200, but is not in the database: another server answered",
        ),
        (
            lambda request: None if is_callback(request) else web.Response(status=404),
            "frame",
            "the websocket was answered 404, not 101",
        ),
        (
            lambda _request: web.Response(status=503),
            "answer",
            "the callback was answered 503, not 200",
        ),
    ],
)
async def test_a_proxy_at_fault_is_named(
    tmp_path: Path, answer: Callable[[web.Request], Any], stage: str, reason: str
) -> None:
    """The first stage that fails is named, with what came. A 200 by another server does not pass."""
    async with running(tmp_path) as api, front(api, answer) as url:
        run = await send(api, url)

    assert (run.failed, run.reason) == (stage, reason)


async def test_a_forged_frame_does_not_pass(tmp_path: Path) -> None:
    """A websocket of another server that brings a result without the nonce fails at frame."""

    async def forged(request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse(protocols=(SUBPROTOCOL,))
        await websocket.prepare(request)
        async for message in websocket:
            asked = json.loads(message.data)
            await websocket.send_json({"type": "subscribed", "id": asked["id"], "cursor": "x"})
            await websocket.send_json({"type": "result", "task": {"solution": {"nonce": "guessed"}}})
        return websocket

    async with running(tmp_path) as api:

        async def handle(request: web.Request) -> web.StreamResponse:
            if request.path == "/v1/subscribe":
                return await forged(request)
            async with (
                aiohttp.ClientSession() as session,
                session.post(api.url + request.path, data=await request.read()) as response,
            ):
                return web.Response(status=response.status, body=await response.read())

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        async with serving(web.AppRunner(app)) as url:
            run = await send(api, url)

    assert (run.failed, run.reason) == ("frame", "the websocket brought another answer: another server answered")


async def test_nobody_else_notices_it(tmp_path: Path) -> None:
    """It is in no log of everything, no list, no metric but its own, and no stream. Who names the provider gets it."""
    async with (
        running(tmp_path) as api,
        subscribed(api) as everything,
        subscribed(api, provider=CANARY) as named,
        open_events(api) as events,
    ):
        await events.next()
        assert (await send(api, api.url)).failed is None
        task = await api.register()
        await api.call_back(task["callbackUrl"])
        log = (await api.log())["results"]
        of_canary = (await api.log(provider=CANARY))["results"]
        listed = (await api.send("GET", "/v1/tasks")).json["tasks"]
        listed_canary = (await api.send("GET", "/v1/tasks", params={"provider": CANARY})).json["tasks"]
        frame, frame_of_canary, (_, _, event) = await everything.next(), await named.next(), await events.next()
        metrics = (await api.send("GET", "/metrics")).body.decode()

    ref = frame_of_canary["task"]["ref"]
    assert frame_of_canary["task"]["provider"] == CANARY
    assert frame["task"]["ref"] == event["task"]["ref"] == task["ref"]
    assert [entry["task"]["ref"] for entry in log] == [task["ref"]]
    assert [entry["task"]["ref"] for entry in of_canary] == [ref]
    assert [entry["ref"] for entry in listed] == [task["ref"]]
    assert [entry["ref"] for entry in listed_canary] == [ref]
    assert f'"{CANARY}"' not in metrics


async def test_a_tag_does_not_bring_it(tmp_path: Path) -> None:
    """A reader of a tag, or of named tasks beside, gets no task of the receiver itself."""
    async with running(tmp_path) as api:
        assert (await send(api, api.url)).failed is None
        assert (await api.log(tags="a"))["results"] == []
        assert (await api.log(tasks=str(new_ref())))["results"] == []


async def test_callers_cannot_use_the_name(tmp_path: Path) -> None:
    """Nobody can register a task of it, and no file can declare it."""
    (tmp_path / "providers.toml").write_text('[canary]\nlike = "capsolver"\n')
    async with running(tmp_path) as api:
        registered = await api.send("POST", "/v1/tasks", json={"provider": CANARY})
    declared = await run_command(tmp_path, "serve", API_KEYS=KEY, PROVIDERS_FILE="providers.toml")

    assert registered.status == 422
    assert "canary" in declared.refusal


def reader(ref: UUID, key: str = SIGNING) -> tuple[str, ...]:
    """Return the subprotocol by which the receiver reads a task of its own."""
    return (f"{CANARY}.{make_token(Kind.READER, ref, CANARY, key.encode())}",)


async def test_its_reader_gets_nothing_else(tmp_path: Path) -> None:
    """However it asks, also as server-sent events, it gets tasks of its provider alone."""
    async with running(tmp_path) as api:
        assert (await send(api, api.url)).failed is None
        (ref,) = [entry["task"]["ref"] for entry in (await api.log(provider=CANARY))["results"]]
        other = await api.register()
        await api.call_back(other["callbackUrl"])
        async with open_socket(api, key=None, protocols=reader(UUID(ref))) as socket:
            await socket.send(type="subscribe", id="s", cursor="start", tasks=[other["ref"]], tags=["a"])
            await socket.send(type="add", id="a", tasks=[other["ref"], ref])
            frames = [await socket.next()]
            while frames[-1]["type"] != "result":
                frames.append(await socket.next())
            await api.call_back((await api.register(tags=["a"]))["callbackUrl"])
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    frames.append(await socket.next())
        refused = await refused_code(api, reader(UUID(ref)), provider="capsolver")
        headers = {"Sec-WebSocket-Protocol": f"{SUBPROTOCOL}, {reader(UUID(ref))[0]}"}
        async with open_events(api, key=None, headers=headers, after="start") as events:
            name, _, _ = await events.next()

    assert [frame["task"]["ref"] for frame in frames if frame["type"] == "result"] == [ref]
    assert refused == "provider-not-allowed"
    assert name == "heartbeat"


async def refused_code(api: RunningReceiver, protocols: tuple[str, ...], **frame: Any) -> str:
    """Return the problem of a subscription."""
    async with open_socket(api, key=None, protocols=protocols) as socket:
        answer = await socket.ask(type="subscribe", id="s", **frame)
    return str(answer["problem"]["type"].rpartition(":")[2])


@pytest.mark.parametrize("case", ["old", "other key", "callback token"])
async def test_a_wrong_reader_is_refused(tmp_path: Path, case: str) -> None:
    """A token that is old, forged or made for callbacks gets 401."""
    ref = new_ref()
    match case:
        case "old":
            protocols = reader(UUID(int=ref.int - (10 * 60 * 1000 << 80)))
        case "other key":
            protocols = reader(ref, "another signing key with many more bytes")
        case _:
            protocols = (f"{CANARY}.{make_token(Kind.TASK, ref, CANARY, SIGNING.encode())}",)
    async with running(tmp_path) as api:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with open_socket(api, key=None, protocols=protocols):
                pass

    assert refused.value.status == 401


@pytest.mark.parametrize("kind", [Kind.TASK, Kind.READER])
async def test_its_urls_make_no_task(tmp_path: Path, kind: Kind) -> None:
    """A callback for an unknown task of its provider gets 404, and a reader's token is no callback URL."""
    async with running(tmp_path) as api:
        token = make_token(kind, new_ref(), CANARY, SIGNING.encode())
        answer = await api.call_back(f"{api.url}/callback/{CANARY}/{token}")
        log = (await api.log(provider=CANARY))["results"]

    assert (answer.status, log) == (404, [])


async def test_its_tasks_are_removed_without_a_trace(tmp_path: Path) -> None:
    """Old ones go with their places in the log. Other tasks, cursors and later callbacks are not affected."""
    async with running(tmp_path) as api:
        first = await api.register()
        await api.call_back(first["callbackUrl"])
        cursor = (await api.log())["cursor"]
        assert (await send(api, api.url)).failed is None
        (entry,) = (await api.log(provider=CANARY))["results"]
        await api.runtime.store.write(PruneCanary(before=microseconds_now() - 3600 * SECOND))
        young = (await api.log(provider=CANARY))["results"]
        await api.runtime.store.write(PruneCanary(before=microseconds_now()))
        old = (await api.log(provider=CANARY))["results"]
        gone = await api.send("GET", f"/v1/tasks/{entry['task']['ref']}")
        second = await api.register()
        await api.call_back(second["callbackUrl"])
        rest = (await api.log(after=cursor))["results"]
        again = await send(api, api.url)

    assert [entry["task"]["ref"] for entry in young] == [entry["task"]["ref"]]
    assert (old, gone.status) == ([], 404)
    assert [entry["task"]["ref"] for entry in rest] == [second["ref"]]
    assert again.failed is None


async def test_the_loop_counts_and_reports(tmp_path: Path) -> None:
    """A failure is counted by its stage, the second in a row is reported with its start, and a good run ends it."""
    reported: list[CanaryFailure | None] = []
    async with running(tmp_path) as api:
        store = api.runtime.store
        keys = SigningKeys(store, [SIGNING.encode()], microseconds_now)
        metrics = Metrics({})
        canary = Canary(
            store,
            keys,
            metrics,
            now=microseconds_now,
            new_ref=new_ref,
            report=reported.append,
        )
        started = microseconds_now()
        await canary.send(f"http://127.0.0.1:{free_port()}")
        first_reported = len(reported)
        await canary.send(f"http://127.0.0.1:{free_port()}")
        await canary.send(api.url)
    text = rendered(metrics)

    failure, end = reported
    assert first_reported == 0
    assert failure is not None
    assert (failure.stage, failure.reason) == ("connect", "cannot connect: Connection refused")
    assert started < failure.since < failure.at
    assert end is None
    assert 'callback_receiver_canary_runs_total{result="connect"} 2.0' in text
    assert 'callback_receiver_canary_runs_total{result="ok"} 1.0' in text
    assert 'callback_receiver_canary_seconds{stage="frame"}' in text
    assert "callback_receiver_canary_failing 0.0" in text


def rendered(metrics: Metrics) -> str:
    """Return the text of the counters."""
    moment = Moment(waiting=(), waiters=0, streams=0, queued=0, is_failing=False, now=0)
    return metrics.rendered(moment).decode()


async def test_a_running_receiver_sends_them(tmp_path: Path) -> None:
    """With a short interval the first one comes soon, and `/metrics` shows it."""
    async with running_receiver(tmp_path / DATABASE, canary_minutes=0.01) as api, asyncio.timeout(30):
        while b'canary_runs_total{result="ok"}' not in (await api.send("GET", "/metrics")).body:
            await asyncio.sleep(0.1)


async def test_a_failure_reaches_the_doctor(tmp_path: Path) -> None:
    """With a public URL that leads nowhere, the running receiver knows the failure and its stage."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with (
        running_receiver(tmp_path / DATABASE, public_url=nowhere, canary_minutes=0.005) as api,
        asyncio.timeout(30),
    ):
        while api.runtime.monitor.canary is None:
            await asyncio.sleep(0.05)
        failure = api.runtime.monitor.canary
        await api.runtime.monitor.look()
    finished = await run_command(tmp_path, "doctor", API_KEYS=API_KEYS, PUBLIC_URL=nowhere)

    assert failure.stage == "connect"
    assert "at connect: cannot connect" in finished.out


async def test_the_command_shows_the_stages(tmp_path: Path) -> None:
    """Beside a running receiver it ends with 0. Without one it names the stage and ends with 1."""
    async with receiver_process(tmp_path / DATABASE, port=0) as receiver:
        environment = {"API_KEYS": API_KEYS, "PUBLIC_URL": receiver.url}
        passed = await run_command(tmp_path, "canary", **environment)
        as_json = await run_command(tmp_path, "canary", "--json", **environment)
    failed = await run_command(tmp_path, "canary", **environment)

    assert (passed.code, passed.err) == (0, "")
    lines = passed.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["connect", "answer", "committed", "frame"]
    assert lines[-1] == "the callback came back"
    assert (as_json.code, json.loads(as_json.out)["failed"]) == (0, None)
    assert (failed.code, failed.out) == (1, "failed at connect: cannot connect: Connection refused\n")


async def test_the_command_needs_a_public_url(tmp_path: Path) -> None:
    """Without one there is no way to try."""
    assert "RECEIVER_PUBLIC_URL: expected" in (await run_command(tmp_path, "canary", API_KEYS=KEY)).refusal


@pytest.mark.sqlite
async def test_a_store_that_fails_is_named(tmp_path: Path) -> None:
    """If the task cannot be stored, the stage is committed."""
    async with running(tmp_path) as api:
        store = api.runtime.store
        assert isinstance(store, SqliteStore)
        store.stop()
        run = await send(api, api.url)

    assert run.failed == "committed"
