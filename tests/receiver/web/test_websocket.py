"""The websocket: its requests, its frames, and its end by either side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from receiver.web.streaming.streams import StreamRules
from tests.receiver.web.sockets import open_events, open_socket, problem_of, subscribed
from tests.support import ADMIN, READ_ONLY, SUBMIT_ONLY, RunningReceiver, eventually, running_receiver

_QUICK = StreamRules(send_seconds=5, heartbeat_seconds=0.1, ping_seconds=0.4, subscribe_seconds=0.3)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with short heartbeats, pings and limits."""
    async with running_receiver(tmp_path / "quick.db", rules=_QUICK) as running:
        yield running


async def ended(api: RunningReceiver, **fields: Any) -> str:
    """Return the ref of an ended task."""
    registered = await api.register(**fields)
    await api.call_back(registered["callbackUrl"])
    return str(registered["ref"])


async def test_tells_what_comes(api: RunningReceiver) -> None:
    """A subscription to everything brings each result once, with the cursor behind it."""
    async with subscribed(api) as socket:
        first, second = await ended(api), await ended(api)

        frames = [await socket.next(), await socket.next()]

    assert [(frame["type"], frame["task"]["ref"]) for frame in frames] == [("result", first), ("result", second)]
    assert [frame["cursor"] for frame in frames] == [frame["task"]["cursor"] for frame in frames]


async def test_goes_on_from_a_cursor(api: RunningReceiver) -> None:
    """Results from the time without a connection come, and nothing before them."""
    async with subscribed(api) as socket:
        await ended(api)
        cursor = (await socket.next())["cursor"]
    missed = await ended(api)

    async with subscribed(api, cursor=cursor) as socket:
        assert (await socket.next())["task"]["ref"] == missed


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ({}, "abc"),
        ({"provider": "onecaptcha"}, "c"),
        ({"tags": ["x"]}, "ab"),
        ({"tags": ["x", "y"]}, "b"),
        ({"provider": "onecaptcha", "tags": ["x"]}, ""),
    ],
)
async def test_filters(api: RunningReceiver, only: dict[str, Any], expected: str) -> None:
    """Results are of the provider and have all tags."""
    names = {}
    for name, fields in (
        ("a", {"tags": ["x"]}),
        ("b", {"tags": ["x", "y"]}),
        ("c", {"provider": "onecaptcha", "taskId": "c", "outcome": REPORT}),
    ):
        names[(await (ended(api, **fields) if "outcome" not in fields else reported(api, **fields)))] = name
    last = await api.register(tags=["last"])

    async with subscribed(api, cursor="start", tasks=[last["ref"]], **(only or {"tags": []})) as socket:
        await api.call_back(last["callbackUrl"])
        got = ""
        while (ref := (await socket.next())["task"]["ref"]) != last["ref"]:
            got += names[ref]

    assert got == (expected if only else "")


REPORT = {"source": "poll", "answer": {"errorId": 0, "status": "ready", "solution": {"text": "x"}}}


async def reported(api: RunningReceiver, **fields: Any) -> str:
    """Return the ref of a task with a reported outcome."""
    return str((await api.register(**fields))["ref"])


async def test_named_tasks_come_at_once_and_later(api: RunningReceiver) -> None:
    """Ended tasks come right behind the answer, by ref or by the provider's id. Others come at their end."""
    done = await ended(api)
    by_id = await reported(api, taskId="abc", outcome=REPORT)
    later = await api.register()

    async with subscribed(api, tasks=[done, {"provider": "capsolver", "taskId": "abc"}, later["ref"]]) as socket:
        at_once = {(await socket.next())["task"]["ref"] for _ in range(2)}
        await api.call_back(later["callbackUrl"])
        then = (await socket.next())["task"]["ref"]

    assert (at_once, then) == ({done, by_id}, later["ref"])


async def test_tasks_are_added_and_removed(api: RunningReceiver) -> None:
    """Each request is answered with its id. Removed tasks do not come."""
    done, one, two = await ended(api), await api.register(), await api.register()
    async with subscribed(api, tasks=[]) as socket:
        added = await socket.ask(type="add", id=7, tasks=[done, one["ref"], two["ref"]])
        at_once = await socket.next()
        removed = await socket.ask(type="remove", id="r", tasks=[one["ref"], str(uuid4())])
        await api.call_back(one["callbackUrl"])
        await api.call_back(two["callbackUrl"])
        then = await socket.next()

    assert [(added["type"], added["id"]), (removed["type"], removed["id"])] == [("added", 7), ("removed", "r")]
    assert (at_once["task"]["ref"], then["task"]["ref"]) == (done, two["ref"])


async def test_the_cursor_of_a_task_named_late_is_that_of_the_stream(api: RunningReceiver) -> None:
    """A frame's cursor is the place to go on from, even if the outcome itself has another place."""
    early = await ended(api)
    async with subscribed(api, tags=["none"]) as socket:
        await ended(api)
        await socket.send(type="add", id=1, tasks=[early])
        added, result = await socket.next(), await socket.next()

    assert result["task"]["ref"] == early
    assert result["cursor"] == added["cursor"] != result["task"]["cursor"]


async def test_hints_and_deletions_are_told(api: RunningReceiver) -> None:
    """A hint comes only with `hints`, a deletion always."""
    one = await api.register()
    async with subscribed(api, hints=True) as asked, subscribed(api) as silent:
        await api.send("POST", one["callbackUrl"], key=None, data=b"<html>")
        await api.send("DELETE", f"/v1/tasks/{one['ref']}")

        frames = [await asked.next(), await asked.next(), await silent.next()]

    assert [(frame["type"], frame["ref"]) for frame in frames] == [
        ("hint", one["ref"]),
        ("deleted", one["ref"]),
        ("deleted", one["ref"]),
    ]


async def test_a_cursor_of_another_log_is_a_gap(api: RunningReceiver) -> None:
    """The gap has the cursor to go on from. Then everything kept comes."""
    done = await ended(api)
    async with subscribed(api, cursor="0123456789ab-4") as socket:
        gap, result = await socket.next(), await socket.next()

    assert (gap["type"], gap["reason"], result["task"]["ref"]) == ("gap", "other-log", done)


@pytest.mark.parametrize(
    ("sent", "slug", "detail"),
    [
        ("nonsense", "not-json", ""),
        ("[1]", "not-json", ""),
        ('{"type": "unsubscribe", "id": 1}', "wrong-field", "type:"),
        ('{"type": "subscribe"}', "wrong-field", "id:"),
        (f'{{"type": "subscribe", "id": "{"x" * 65}"}}', "wrong-field", "id:"),
        ('{"type": "subscribe", "id": 1, "cursor": "yesterday"}', "wrong-field", "after, cursor:"),
        ('{"type": "subscribe", "id": 1, "tags": "x"}', "wrong-field", "tags:"),
        ('{"type": "subscribe", "id": 1, "tasks": ["x"]}', "wrong-field", "tasks:"),
        ('{"type": "subscribe", "id": 1, "tasks": [{"provider": "capsolver"}]}', "wrong-field", "tasks.0"),
        ('{"type": "subscribe", "id": 1, "filter": 1}', "wrong-field", "filter:"),
        ('{"type": "add", "id": 1, "tasks": []}', "wrong-field", "type:"),
    ],
)
async def test_what_cannot_be_read_is_told_and_ends_nothing(
    api: RunningReceiver, sent: str, slug: str, detail: str
) -> None:
    """A problem names the field, and the socket goes on."""
    async with open_socket(api) as socket:
        await socket.ws.send_str(sent)
        answer = await socket.next()
        then = await socket.ask(type="subscribe", id=2)

    assert problem_of(answer)[1] == slug
    assert answer["problem"]["detail"].startswith(detail)
    assert then["type"] == "subscribed"


async def test_a_second_subscription_is_refused(api: RunningReceiver) -> None:
    """Each socket has one subscription. The first one goes on."""
    async with subscribed(api) as socket:
        answer = await socket.ask(type="subscribe", id=2, tags=["x"])
        await ended(api)

        assert (problem_of(answer), (await socket.next())["type"]) == ((2, "wrong-field"), "result")


async def test_binary_frames_end_it(api: RunningReceiver) -> None:
    """The close code is 1003."""
    async with open_socket(api) as socket:
        await socket.ws.send_bytes(b"{}")

        assert await socket.close_code() == 1003


async def test_a_frame_that_is_too_large_ends_it(api: RunningReceiver) -> None:
    """The close code is 1009."""
    async with open_socket(api) as socket:
        await socket.ws.send_str(" " * (1024 * 1024 + 1))

        assert await socket.close_code() == 1009


async def test_who_does_not_subscribe_is_closed(quick: RunningReceiver) -> None:
    """The close code is 1008, after a while."""
    async with open_socket(quick) as socket:
        assert await socket.close_code() == 1008


async def test_heartbeats_move_the_cursor_of_a_rare_filter(quick: RunningReceiver) -> None:
    """Other entries move the cursor along, so that a later reader looks at nothing twice."""
    async with subscribed(quick, tags=["rare"]) as socket:
        await ended(quick)
        head = (await quick.log())["cursor"]

        async with asyncio.timeout(30):
            while (frame := await socket.next())["cursor"] != head:
                assert frame["type"] == "heartbeat"


async def test_a_peer_that_answers_no_ping_is_dropped(quick: RunningReceiver) -> None:
    """A dead peer keeps its slot only until its pong is overdue."""
    async with aiohttp.ClientSession() as session:
        ws = await session.ws_connect(
            f"{quick.url}/v1/subscribe", headers={"Authorization": f"Bearer {ADMIN}"}, autoping=False
        )
        await ws.send_json({"type": "subscribe", "id": 1})
        await eventually(lambda: quick.streams == 1)

        await eventually(lambda: quick.streams == 0)


async def test_shutdown_says_goodbye(api: RunningReceiver) -> None:
    """A last frame has the cursor, then comes close code 1001. It also comes without a subscription."""
    async with subscribed(api) as socket, open_socket(api) as silent, asyncio.TaskGroup() as group:
        await ended(api)
        result = await socket.next()
        group.create_task(api.stop())

        goodbye = await socket.next()
        assert [await socket.close_code(), await silent.close_code()] == [1001, 1001]

    assert goodbye == {"type": "goodbye", "cursor": result["cursor"]}


async def test_a_peer_that_hangs_up_leaves_nothing(api: RunningReceiver) -> None:
    """Its slot is free, and nothing more is sent to it."""
    async with subscribed(api, tasks=[str(uuid4())]):
        await eventually(lambda: api.streams == 1)

    await eventually(lambda: api.streams == 0)


async def test_over_the_limit_it_is_closed_with_a_reason(tmp_path: Path) -> None:
    """The close code is 1013 with the slug: first for a key with all its slots, then for all keys."""
    async with (
        running_receiver(tmp_path / "receiver.db", max_streams=2, max_streams_per_key=1) as api,
        subscribed(api),
    ):
        async with open_socket(api) as refused:
            mine = await refused.close_code()
        async with open_socket(api, key=READ_ONLY) as other:
            await other.ask(type="subscribe", id=1)
            async with open_events(api, key=READ_ONLY) as events:
                full = events.response.status, events.response.headers["Retry-After"]
    assert (mine, full) == (1013, (503, "5"))


@pytest.mark.parametrize(
    ("key", "protocols", "status"),
    [
        (None, (), 401),
        ("wrong-key-wrong-key-wrong-key", (), 401),
        (SUBMIT_ONLY, (), 403),
        (None, ("bearer.wrong-key-wrong-key-wrong-key",), 401),
        (None, (f"bearer.{SUBMIT_ONLY}",), 403),
        (None, ("ticket.nothing",), 401),
    ],
)
async def test_strangers_are_refused_before_the_upgrade(
    api: RunningReceiver, key: str | None, protocols: tuple[str, ...], status: int
) -> None:
    """It is refused by HTTP, as everywhere else."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with open_socket(api, key=key, protocols=protocols):
            pass

    assert refused.value.status == status


async def test_a_key_may_come_as_a_subprotocol(api: RunningReceiver) -> None:
    """It opens the socket, and is not echoed."""
    async with open_socket(api, key=None, protocols=(f"bearer.{READ_ONLY}",)) as socket:
        answer = await socket.ask(type="subscribe", id=1)

    assert (answer["type"], socket.ws.protocol) == ("subscribed", "callback-receiver.v1")


async def test_a_key_without_the_subprotocol_of_the_frames_is_refused_unlogged(
    api: RunningReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a handshake does not reach aiohttp, whose warning would contain all that was sent."""
    headers = {"Sec-WebSocket-Protocol": f"bearer.{ADMIN}"}
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{api.url}/v1/subscribe", headers=headers)

    assert (refused.value.status, ADMIN in caplog.text) == (400, False)


async def test_a_request_without_an_upgrade_is_a_problem(api: RunningReceiver) -> None:
    """It is answered 400 in JSON, with the expected request."""
    answer = await api.send("GET", "/v1/subscribe")

    assert (answer.status, answer.json["type"]) == (400, "urn:callback-receiver:problem:bad-request")
    assert answer.json["detail"].startswith("expected the opening handshake of a websocket")
