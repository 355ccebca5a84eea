"""Callbacks in undocumented forms, sent as bytes to a real receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from client.providers import DIALECTS
from tests.support import Api, running_receiver

_CODED = sorted(name for name, dialect in DIALECTS.items() if dialect.callback and dialect.callback.shape == "code")
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
    """Yield a receiver of the shipped providers."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


async def send_fields(url: str, provider: str, fields: bytes) -> int:
    """Send the fields as they are, by the provider's method. Return the HTTP status."""
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
    """Two ids are ambiguous, so the callback gets 422. The task goes on, and its next poll is due now."""
    task = await api.register(provider=provider, type=_TYPES.get(provider))

    status = await send_fields(task["callbackUrl"], provider, b"id=70000000010&code=abc&id=70000000011")

    log = await api.log()
    assert (status, (await api.task(task["ref"]))["status"]) == (422, "processing")
    assert [entry.get("hint") for entry in log["results"]] == [True]


_SOLUTION = b'"solution":{"text":"t"}'
_BESIDE_A_SOLUTION = [
    ("capsolver", b'{"errorId":0,"status":"processing",' + _SOLUTION + b',"taskId":"a1"}'),
    ("capsolver", b'{"errorId":0,"status":"done",' + _SOLUTION + b',"taskId":"a1"}'),
    ("anticaptcha", b'{"errorId":0,"state":"ready",' + _SOLUTION + b',"taskId":7}'),
    ("capmonster", b'{"status":"Ready",' + _SOLUTION + b"}"),
    ("nextcaptcha", b"{" + _SOLUTION + b',"taskId":7}'),
    ("ucaptcha", b"captcha_id=a1&status=2&code=abc"),
    ("ucaptcha", b"captcha_id=a1&state=1&code=abc"),
    ("capsolution", b'{"event":"task.solved","taskId":"task_x","status":"ready",' + _SOLUTION + b"}"),
    ("capsolution", b'{"event":"task.completed","taskId":"task_x","status":"processing",' + _SOLUTION + b"}"),
    ("scrapeless", b'{"taskId":"a1","state":"running","success":true,' + _SOLUTION + b"}"),
    ("scrapeless", b'{"taskId":"a1","state":"finished","response":{"data":"dA=="}}'),
    ("scrapeless", b'{"task_id":"a1","status":"done","task_result":{"answer":"t"}}'),
]
_STATE_ALONE = [
    ("capsolver", b'{"errorId":0,"status":"renamed","taskId":"a1"}'),
    ("ucaptcha", b"captcha_id=a1&status=2"),
    ("hardcaptcha", b'{"id":"h1","status":"QUEUED","result":{"token":null}}'),
    ("capsolution", b'{"event":"task.created","taskId":"task_x"}'),
    ("scrapeless", b'{"taskId":"a1","state":"running","success":true}'),
    ("scrapeless", b'{"task_id":"a1","status":"queued"}'),
]


async def deliver(api: Api, url: str, provider: str, fields: bytes) -> int:
    """Deliver the fields as they are, by the provider's method. Return the HTTP status."""
    rule = DIALECTS[provider].callback
    assert rule is not None
    if "GET" in rule.methods:
        return (await api.send("GET", f"{url}?{fields.decode()}", key=None)).status
    return (await api.send("POST", url, key=None, data=fields)).status


@pytest.mark.parametrize(("provider", "fields"), _BESIDE_A_SOLUTION)
async def test_an_unknown_state_beside_a_solution_is_a_hint(api: Api, provider: str, fields: bytes) -> None:
    """It is acknowledged and not taken for the outcome; the next poll is due now, once. Words get renamed.

    (AndreiDrang/python3-capsolver#150)
    """
    task = await api.register(provider=provider)

    statuses = [await deliver(api, task["callbackUrl"], provider, fields) for _ in range(2)]

    log = await api.log()
    timeline = (await api.send("GET", f"/v1/tasks/{task['ref']}/timeline")).json
    assert (statuses, (await api.task(task["ref"]))["status"]) == ([200, 200], "processing")
    assert [entry.get("hint") for entry in log["results"]] == [True]
    assert [step["verdict"] for step in timeline["steps"] if step.get("verdict")] == ["notFinal"] * 2


@pytest.mark.parametrize("word", [b'"status":"SOLVED"', b'"state":"SUCCESS"'])
async def test_an_unknown_state_is_kept_where_nobody_can_poll(api: Api, word: bytes) -> None:
    """HardCaptcha cannot be polled, so the refusal makes it call again, and the body is kept."""
    task = await api.register(provider="hardcaptcha")

    status = await deliver(api, task["callbackUrl"], "hardcaptcha", b'{"id":"h1",' + word + b',"result":{"token":"t"}}')

    timeline = (await api.send("GET", f"/v1/tasks/{task['ref']}/timeline")).json
    assert (status, (await api.task(task["ref"]))["status"]) == (422, "processing")
    assert [step["verdict"] for step in timeline["steps"] if step.get("verdict")] == ["unreadable"]


@pytest.mark.parametrize(("provider", "fields"), _STATE_ALONE)
async def test_an_unknown_state_alone_is_no_hint(api: Api, provider: str, fields: bytes) -> None:
    """An unknown state alone is no hint, because it is no sign of an answer."""
    task = await api.register(provider=provider)

    status = await deliver(api, task["callbackUrl"], provider, fields)

    log = await api.log()
    assert (status, (await api.task(task["ref"]))["status"], log["results"]) == (200, "processing", [])


async def test_an_unknown_state_behind_the_answer_is_late(api: Api) -> None:
    """Behind the answer of a poll, an unknown state is late, and no poll is due."""
    report = {"source": "poll", "answer": {"errorId": 0, "status": "ready", "solution": {"text": "t"}}}
    called = await api.register()
    await api.send("PUT", f"/v1/tasks/{called['ref']}/outcome", json={**report, "taskId": "a2"})

    answer = await api.call_back(called["callbackUrl"], taskId="a2", status="done")

    timeline = (await api.send("GET", f"/v1/tasks/{called['ref']}/timeline")).json
    assert answer.status == 200
    assert [step["verdict"] for step in timeline["steps"] if step.get("verdict")] == ["late"]


@pytest.mark.parametrize("provider", ["twocaptchav1", "rucaptchav1", "captchaai"])
async def test_points_have_one_shape_by_each_way(api: Api, provider: str) -> None:
    """A callback brings points as text, a poll as a list; behind it the callback is late, and does not disagree.

    (APITest in astubbs/captcha-fun)
    """
    called, polled = [await api.register(provider=provider, type="base64") for _ in range(2)]
    points = [{"x": "49", "y": "235"}, {"x": "52", "y": "31"}]
    report = {"source": "poll", "taskId": "2", "answer": {"status": 1, "request": points}}
    await api.send("PUT", f"/v1/tasks/{polled['ref']}/outcome", json=report)

    statuses = [
        await send_fields(task["callbackUrl"], provider, b"id=%d&code=coordinates:x=49,y=235;x=52,y=31" % number)
        for number, task in ((1, called), (2, polled))
    ]

    timeline = (await api.send("GET", f"/v1/tasks/{polled['ref']}/timeline")).json
    tasks = [await api.task(task["ref"]) for task in (called, polled)]
    assert statuses == [200, 200]
    assert [(task["source"], task["solution"]) for task in tasks] == [("callback", points), ("poll", points)]
    assert [step["verdict"] for step in timeline["steps"] if step.get("verdict")] == ["late"]
