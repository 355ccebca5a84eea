"""deploy/proxies: callbacks and readers of a receiver behind the real Caddy and the real nginx, with TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs
from yarl import URL

from receiver.app import microseconds_now, new_ref
from receiver.settings import Settings
from receiver.web.canary.probe import STAGES, run_canary
from tests.deploy.files import ENVIRONMENT, settings_in
from tests.deploy.proxies import HOST, PROXIES, Proxied, running_proxy
from tests.raw import events_request, poll_request
from tests.receiver.web.sockets import Socket
from tests.support import ADMIN, RunningReceiver, eventually, running_receiver

POLL_SECONDS = 50


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver whose callback URLs lead to the proxy."""
    async with running_receiver(tmp_path / "receiver.db", public_url=f"https://{HOST}") as running:
        yield running


@pytest.fixture(params=PROXIES)
async def api(request: pytest.FixtureRequest, receiver: RunningReceiver, tmp_path: Path) -> AsyncIterator[Proxied]:
    """Yield each proxy in front of it."""
    async with running_proxy(request.param, urlsplit(receiver.url).port or 0, tmp_path / "proxy") as proxied:
        yield proxied


async def callback_path(api: Proxied) -> tuple[Any, str]:
    """Return a new task and the path of its callback URL, with its token."""
    registered = await api.register()
    return registered, urlsplit(registered["callbackUrl"]).path


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_callback_ends_its_task(api: Proxied, scheme: str) -> None:
    """It is stored and answered by the receiver, on port 80 too, and a waiting request gets it."""
    registered, path = await callback_path(api)

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(api.send("GET", f"/v1/tasks/{registered['ref']}?wait=30"))
        answer = await api.call_back((api.url if scheme == "https" else api.plain_url) + path)

    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["Cache-Control"] == "no-store"
    assert waiting.result().json["status"] == "ready"


async def test_no_callback_is_redirected(api: Proxied) -> None:
    """Odd spellings reach the receiver as they came, because a provider may look only at the first answer."""
    _, path = await callback_path(api)
    spellings = {
        "/callback": 404,
        "/callback/": 404,
        path[:-4]: 404,
        path + "/": 200,
        path.replace("/callback", "//callback"): 200,
    }

    for url in (api.url, api.plain_url):
        for spelling, status in spellings.items():
            assert (await api.call_back(url + spelling)).status == status, spelling


@pytest.mark.parametrize("host", ["other.example", f"{HOST}.", HOST.upper(), f"{HOST}:8443"])
async def test_every_host_header_leads_to_the_receiver(api: Proxied, host: str) -> None:
    """Caddy answers a name that it does not know with an empty 200, and its sender would not repeat the callback."""
    _, path = await callback_path(api)

    for url in (api.url, api.plain_url):
        assert (await api.call_back(url + path, host=host)).body == b"ok"


async def test_all_else_comes_by_tls(api: Proxied) -> None:
    """On port 80 other requests are sent to the public name, with their path."""
    answer = await api.send("GET", f"{api.plain_url}/v1/tasks/1?wait=1")

    assert (answer.status, answer.headers["Location"]) == (308, f"https://{HOST}/v1/tasks/1?wait=1")


async def test_providers_can_verify_the_host(receiver: RunningReceiver, api: Proxied) -> None:
    """The receiver answers for the file of 2captcha on both ports. Here it has none."""
    for url in (api.url, api.plain_url):
        answer = await api.send("GET", f"{url}/2captcha.txt", key=None)
        assert (answer.status, "problem+json" in answer.headers["Content-Type"]) == (404, True)


async def test_the_receiver_sees_what_is_too_large_for_it(receiver: RunningReceiver, api: Proxied) -> None:
    """Such a body is its own 413, and a hint. Only a flood is stopped by the proxy."""
    registered, path = await callback_path(api)

    answer = await api.send("POST", path, key=None, data=b"x" * (Settings(_env_file=None).max_body_bytes + 1))
    entries = (await api.log())["results"]

    assert (answer.status, answer.headers["Cache-Control"]) == (413, "no-store")
    assert [(entry["ref"], entry["hint"]) for entry in entries] == [(registered["ref"], True)]


async def test_a_websocket_gets_results_at_once(receiver: RunningReceiver, api: Proxied) -> None:
    """It is opened through the proxy, and its end reaches the receiver."""
    async with api.socket() as socket:
        assert (await socket.ask(type="subscribe", id="s"))["type"] == "subscribed"
        registered, path = await callback_path(api)
        await api.call_back(api.url + path)
        frame = await socket.next()
    await eventually(lambda: receiver.streams == 0)

    assert (frame["type"], frame["task"]["ref"]) == ("result", registered["ref"])


async def test_the_canary_comes_back(
    receiver: RunningReceiver, api: Proxied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver's callback to itself passes the proxy, and so does its websocket. Every stage has a time."""
    authorities = tmp_path / "authorities.pem"
    authorities.write_text("".join(map(ssl.DER_cert_to_PEM_cert, api.context.get_ca_certs(binary_form=True))))
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *arguments: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host == HOST else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    key = receiver.runtime.signing_keys.current

    run = await run_canary(api.url, key, receiver.runtime.store, now=microseconds_now, new_ref=new_ref)

    assert (run.failed, run.reason) == (None, "")
    assert tuple(run.seconds) == STAGES


async def test_event_streams_are_not_buffered(api: Proxied) -> None:
    """Each event comes when it is sent."""
    async with api.events() as events:
        first, _, _ = await events.next()
        registered, path = await callback_path(api)
        await api.call_back(api.url + path)
        second, _, frame = await events.next()

    assert (first, second, frame["task"]["ref"]) == ("heartbeat", "result", registered["ref"])


async def test_who_hangs_up_is_gone_at_the_receiver(receiver: RunningReceiver, api: Proxied) -> None:
    """The proxy ends a long poll or a stream at the receiver when the connection of its client has ended."""
    registered, _ = await callback_path(api)
    for request in (poll_request(ADMIN, registered["ref"]), events_request(ADMIN)):
        async with api.sent_raw(request) as transport:
            await eventually(lambda: receiver.waiting + receiver.streams > 0)
            transport.abort()
            await eventually(lambda: receiver.waiting + receiver.streams == 0)


async def test_silence_of_50_seconds_is_no_end(receiver: RunningReceiver, tmp_path: Path) -> None:
    """A long poll without news comes back after 50 s, and a silent websocket lasts longer."""

    async def ended_task(socket: Socket) -> Any:
        while (frame := await socket.next())["type"] == "heartbeat":
            pass
        return frame["task"]

    async def be_silent(name: str) -> tuple[int, float, bool]:
        async with (
            running_proxy(name, urlsplit(receiver.url).port or 0, tmp_path / name) as api,
            api.socket() as socket,
        ):
            registered, path = await callback_path(api)
            await socket.ask(type="subscribe", id="s", tasks=[registered["ref"]])
            async with asyncio.TaskGroup() as readers:
                reader = readers.create_task(ended_task(socket))
                started = time.monotonic()
                answer = await api.send("GET", f"/v1/tasks/{registered['ref']}?wait={POLL_SECONDS}")
                seconds = time.monotonic() - started
                await api.call_back(api.url + path)
            return answer.status, seconds, reader.result()["ref"] == registered["ref"]

    # Both at once, because it takes so long.
    async with asyncio.TaskGroup() as group:
        silent = [group.create_task(be_silent(name)) for name in PROXIES]

    for status, seconds, is_ended in (task.result() for task in silent):
        assert (status, is_ended) == (202, True)
        assert seconds > POLL_SECONDS - 1


@pytest.mark.parametrize("client", ["127.0.0.7", "::1"])
@pytest.mark.parametrize("name", PROXIES)
async def test_the_receiver_knows_its_clients(tmp_path: Path, name: str, client: str) -> None:
    """With the setting of the example, a client's address is its own, whatever it writes into its headers."""
    trusted = settings_in(ENVIRONMENT, active=True)["RECEIVER_TRUSTED_PROXIES"]
    forged = dict.fromkeys(("X-Forwarded-For", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP"), "203.0.113.9")
    forged["Forwarded"] = "for=203.0.113.9"
    async with (
        running_receiver(tmp_path / "receiver.db", public_url=f"https://{HOST}", trusted_proxies=trusted) as receiver,
        running_proxy(name, urlsplit(receiver.url).port or 0, tmp_path / "proxy", client=client) as api,
    ):
        with capture_logs() as lines:
            for headers in ({}, forged):
                for url in (api.url, api.plain_url):
                    await api.send("POST", f"{url}/callback/capsolver/x", key=None, json={}, headers=headers)
                await api.send("GET", "/v1/results", key=None, headers=headers)

    assert [line.get("address") for line in lines] == [client] * 6


async def test_no_log_holds_a_secret(receiver: RunningReceiver, api: Proxied) -> None:
    """Neither log of the proxy shows a token, a ticket or a key, whatever becomes of the request."""
    ticket = (await api.send("POST", "/v1/tickets")).json["ticket"]
    secrets = [ADMIN, ticket]
    for url in (api.url, api.plain_url):
        for odd in ("", "/", "?code=1", "%20x"):
            _, path = await callback_path(api)
            secrets.append(path.rpartition("/")[2])
            for spelling in (path, path.replace("/callback", "//callback"), path.replace("callback", "%63allback")):
                await posted(api, url + spelling + odd)
            await posted(api, url + path, host="other.example")
        await posted(api, url + path, data=BytesIO(bytes(18 * 1024 * 1024)))
        await api.send("GET", f"{url}/v1/results?after=start&ticket={ticket}", key=None)
    for text in (
        f"POST {path}",
        f"POST {path} HTTP/1.0\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nBad Header: {path}\r\n\r\n",
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100\r\n\r\n{{",
    ):
        async with api.sent_raw(text.encode()):
            await asyncio.sleep(0.1)
    await receiver.stop()
    assert [await posted(api, url + path) for url in (api.url, api.plain_url)] == [502, 502]
    await eventually(lambda: api.logged().count("502") >= 2)

    logged = api.logged()
    assert [secret for secret in secrets if secret in logged] == []
    assert "/callback/" in logged


async def posted(api: Proxied, url: str, *, data: bytes | BytesIO = b"{}", host: str = HOST) -> int:
    """Return the status of the answer to this spelling of an address; the proxy itself may give it."""
    async with api.session.post(
        URL(url, encoded=True), data=data, headers={"Host": host}, allow_redirects=False
    ) as response:
        return response.status
