"""Pages of other origins in the operator's browser can neither submit nor read, with keys and without.

A page may send a POST of `text/plain` or a form to any address without asking. The browser marks such a request by
`Origin` and `Sec-Fetch-Site`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from tests.faults.wire import ANSWER, request, wired
from tests.receiver.web.sockets import open_events, open_socket
from tests.support import ADMIN, Api, RunningReceiver, running_receiver

PAGE = "https://app.example"
TASK = json.dumps({"provider": "capsolver", "type": "ImageToTextTask"}).encode()
JSON = {"Content-Type": "application/json"}
OUTCOME = {"source": "poll", "answer": {"errorId": 0, "status": "ready", "solution": {"text": "forged"}}}
ROUTES = [
    ("POST", "/v1/tasks"),
    ("GET", "/v1/tasks"),
    ("GET", "/v1/tasks/{ref}"),
    ("PATCH", "/v1/tasks/{ref}"),
    ("DELETE", "/v1/tasks/{ref}"),
    ("GET", "/v1/tasks/{ref}/timeline"),
    ("PUT", "/v1/tasks/{ref}/outcome"),
    ("GET", "/v1/results"),
    ("GET", "/v1/results/stream"),
    ("GET", "/v1/subscribe"),
    ("POST", "/v1/tickets"),
    ("GET", "/metrics"),
]


@pytest.fixture(params=["with keys", "without keys"])
async def api(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with one allowed origin."""
    anonymous: dict[str, Any] = {"api_keys": "", "allow_anonymous": True} if request.param == "without keys" else {}
    async with running_receiver(tmp_path / "receiver.db", allowed_origins=PAGE, **anonymous) as running:
        yield running


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"{PAGE}, https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
    ids=lambda headers: " ".join(f"{name}={value}" for name, value in headers.items()),
)
async def test_they_are_refused_on_every_route(
    api: RunningReceiver, method: str, path: str, headers: dict[str, str]
) -> None:
    """A page of another origin gets 403 on every route, even with a key."""
    task = await api.register()
    body = TASK if method in ("POST", "PUT", "PATCH") else None
    given = headers | (JSON if body else {})

    answer = await api.send(method, path.format(ref=task["ref"]), data=body, headers=given)

    assert (answer.status, answer.json["type"]) == (403, "urn:callback-receiver:problem:origin-refused")
    assert [listed["ref"] for listed in (await api.send("GET", "/v1/tasks")).json["tasks"]] == [task["ref"]]


@pytest.mark.parametrize("origins", [(PAGE, "https://evil.example"), ("https://evil.example", PAGE), (PAGE, PAGE)])
async def test_two_origins_are_refused(api: RunningReceiver, origins: tuple[str, str]) -> None:
    """Two origins are refused, because no browser sends two."""
    two = "\r\nOrigin: ".join(origins)
    async with wired(api.url) as wire:
        for path in ("/v1/tasks", "/v1/results/stream", "/v1/subscribe"):
            await wire.send(request("GET", api.url + path, Origin=two, Authorization=f"Bearer {ADMIN}"))
            assert (await wire.response()).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_others_are_let_in(api: RunningReceiver, headers: dict[str, str]) -> None:
    """Programs, pages of allowed origins and of the receiver's own, and typed addresses are let in."""
    own = {"Origin": api.url, "Sec-Fetch-Site": "same-origin"}

    statuses = [
        (await api.send("POST", "/v1/tasks", data=TASK, headers={**origin, **JSON})).status for origin in (headers, own)
    ]

    assert statuses == [201, 201]


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("POST", "/v1/tasks", {"provider": "capsolver"}),
        ("POST", "/v1/tasks", {"provider": "capsolver", "taskId": "T", "outcome": OUTCOME}),
        ("PATCH", "/v1/tasks/{ref}", {"taskId": "T"}),
        ("PUT", "/v1/tasks/{ref}/outcome", OUTCOME),
        ("DELETE", "/v1/tasks/{ref}", {}),
        ("POST", "/v1/tickets", {}),
    ],
)
async def test_a_body_has_to_be_said_to_be_json(
    api: RunningReceiver, method: str, path: str, fields: dict[str, Any]
) -> None:
    """A body without a JSON type, as of a form, gets 415 and changes nothing. The same body as JSON is accepted."""
    task = await api.register()
    target, body = path.format(ref=task["ref"]), json.dumps(fields).encode()
    kinds = (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=a",
        "application/jsonx",
        "",
    )

    refused = [await api.send(method, target, data=body, headers={"Content-Type": kind}) for kind in kinds]
    before = await api.task(task["ref"])
    taken = [
        (await api.send(method, target, data=body, headers={"Content-Type": kind})).status
        for kind in ("application/json; charset=utf-8", "Application/vnd.api+JSON")
    ]

    assert {answer.status for answer in refused} == {415}
    assert refused[0].json["type"] == "urn:callback-receiver:problem:unsupported-media-type"
    assert (before["status"], before["taskId"]) == ("processing", None)
    assert taken[0] in (200, 201, 204)
    assert taken[1] in (200, 201, 404)


async def test_a_request_without_a_body_needs_no_type(api: RunningReceiver) -> None:
    """A request without a body needs no type, as `curl -X POST` sends it."""
    assert (await api.send("POST", "/v1/tickets")).status == 201


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_callbacks_are_taken_from_anywhere(
    api: RunningReceiver, headers: dict[str, str], content_type: str
) -> None:
    """Callbacks are accepted from any origin and with any type, because their URL is the proof."""
    task = await api.register()

    answer = await api.send(
        "POST", task["callbackUrl"], key=None, data=ANSWER, headers={**headers, "Content-Type": content_type}
    )

    assert answer.status == 200


async def test_every_answer_is_of_the_type_it_declares(tmp_path: Path) -> None:
    """Results, refusals, acknowledgements, streams and broken HTTP have the headers that keep them from being pages."""
    async with (
        running_receiver(tmp_path / "receiver.db", verification_text="mine", metrics_address="127.0.0.1:0") as api,
        aiohttp.ClientSession() as session,
    ):
        url = (await api.register())["callbackUrl"]
        answers = [
            await api.call_back(url),
            await api.send("POST", url, key=None, data=b"<html>"),
            await api.send("GET", url, key=None),
            await api.send("PUT", url, key=None),
            await Api(api.url, session).send("POST", "/callback/capsolver/no-token", key=None),
            *[await api.send("GET", path) for path in ("/v1/results?after=start", "/metrics", "/2captcha.txt")],
            *[await api.send("GET", path) for path in ("/healthz", "/openapi.json", "/nothing", "/v1/tasks/unknown")],
        ]
        broken = []
        for head in (b"no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200, b"X: y\r\n" * 20_000):
            async with wired(api.url) as wire:
                await wire.send(head)
                broken.append((await wire.response()).headers)
        async with open_events(api) as events, open_socket(api) as socket:
            streams = [events.response.headers, socket.ws._response.headers]

    declared = [*(answer.headers for answer in answers), *streams, *map(CIMultiDict, broken)]
    assert len(declared) == 17
    for name, value in (
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
        ("Referrer-Policy", "no-referrer"),
    ):
        assert [headers.get(name) for headers in declared] == [value] * 17
