"""Server-sent events: the frames of the websocket with cursors as ids, and a change of transport in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.web.streaming.streams import StreamRules
from tests.receiver.web.sockets import Events, open_events, opened_events, subscribed
from tests.support import READ_ONLY, SUBMIT_ONLY, RunningReceiver, eventually, running_receiver

_QUICK = StreamRules(send_seconds=5, heartbeat_seconds=0.1)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver."""
    async with running_receiver(tmp_path / "receiver.db") as running:
        yield running


async def ended(api: RunningReceiver, **fields: object) -> str:
    """Return the ref of an ended task."""
    registered = await api.register(**fields)
    await api.call_back(registered["callbackUrl"])
    return str(registered["ref"])


async def refs(events: Events, number: int) -> list[str]:
    """Return the refs of the next results, without heartbeats."""
    found: list[str] = []
    while len(found) < number:
        name, _, frame = await events.next()
        found += [frame["task"]["ref"]] if name == "result" else []
    return found


async def test_begins_with_its_cursor(api: RunningReceiver) -> None:
    """It begins with the time to wait before reconnecting, then a heartbeat with its first cursor."""
    await ended(api)
    head = (await api.log())["cursor"]

    async with open_events(api, after=head) as events:
        name, event_id, frame = await events.next()

    assert events.response.headers["Content-Type"] == "text/event-stream"
    assert events.response.headers["Cache-Control"] == "no-store"
    assert 1000 <= events.retry_ms <= 3000
    assert (name, event_id, frame) == ("heartbeat", head, {"type": "heartbeat", "cursor": head})


async def test_tells_what_comes_with_its_cursor(api: RunningReceiver) -> None:
    """Each result is an event of that name. Its id is the cursor to go on from."""
    async with open_events(api) as events:
        await events.next()
        ref = await ended(api)
        name, event_id, frame = await events.next()

    assert (name, frame["type"], frame["task"]["ref"]) == ("result", "result", ref)
    assert event_id == frame["cursor"] == frame["task"]["cursor"]


async def test_goes_on_from_the_last_event_id(api: RunningReceiver) -> None:
    """`Last-Event-ID` wins over `after`, because a browser repeats its first address."""
    first, second = await ended(api), await ended(api)
    async with open_events(api, after="start") as events:
        _, event_id, _ = await events.next()

    async with open_events(api, after="start", headers={"Last-Event-ID": event_id}) as events:
        assert await refs(events, 1) == [second] != [first]


@pytest.mark.parametrize("name", ["lastEventId", "lastEventID", "Last-Event-ID", "last-event-id"])
async def test_goes_on_from_the_last_event_id_in_the_query(api: RunningReceiver, name: str) -> None:
    """A polyfill resumes by its parameter as a browser does by its header (Yaffle/EventSource#162, mercure#613)."""
    first, second = await ended(api), await ended(api)
    async with open_events(api, after="start") as events:
        _, event_id, _ = await events.next()

    async with opened_events(f"{api.url}/v1/results/stream?after=start&{name}={event_id}") as events:
        assert await refs(events, 1) == [second] != [first]


async def test_of_several_last_event_ids_the_newest_counts(api: RunningReceiver) -> None:
    """A polyfill appends its parameter to that of the page (Yaffle/EventSource#167); a header is newer than both."""
    ended_refs = [await ended(api) for _ in range(3)]
    async with open_events(api, after="start") as events:
        ids = [(await events.next())[1] for _ in ended_refs]
    both = f"{api.url}/v1/results/stream?lastEventId={ids[0]}&lastEventId={ids[1]}"

    async with opened_events(both) as events:
        assert await refs(events, 1) == ended_refs[2:]
    async with opened_events(both.replace(ids[1], ids[2]), headers={"Last-Event-ID": ids[1]}) as events:
        assert await refs(events, 1) == ended_refs[2:]


async def test_an_empty_last_event_id_is_none(api: RunningReceiver) -> None:
    """A polyfill may send its parameter before the first event."""
    ref = await ended(api)

    async with open_events(api, after="start", lastEventId="") as events:
        assert await refs(events, 1) == [ref]


async def test_has_the_filters_of_the_pages(api: RunningReceiver) -> None:
    """They are provider, tags, named tasks and hints."""
    named, tagged, _ = await ended(api), await ended(api, tags=["x"]), await ended(api)

    async with open_events(api, after="start", tags="x", tasks=named) as events:
        assert sorted(await refs(events, 2)) == sorted([named, tagged])


@pytest.mark.parametrize("query", [{"limit": "1"}, {"tasks": "x"}, {"hints": "perhaps"}, {"after": "yesterday"}])
async def test_wrong_parameters_are_problems(api: RunningReceiver, query: dict[str, str]) -> None:
    """The answer is 422 and names the parameter."""
    answer = await api.send("GET", "/v1/results/stream", params=query)

    assert (answer.status, next(iter(query)) in answer.json["detail"]) == (422, True)


@pytest.mark.parametrize(("key", "status"), [(None, 401), (SUBMIT_ONLY, 403), (READ_ONLY, 200)])
async def test_needs_a_key_that_may_read(api: RunningReceiver, key: str | None, status: int) -> None:
    """It does so like every other way of reading."""
    async with open_events(api, key=key) as events:
        assert events.response.status == status


async def test_a_cursor_of_another_log_is_a_gap(api: RunningReceiver) -> None:
    """It is an event of its own, and its id is the cursor to go on from."""
    ref = await ended(api)
    async with open_events(api, after="0123456789ab-4") as events:
        name, event_id, frame = await events.next()

        assert (name, event_id, frame["reason"]) == ("gap", frame["resumesAt"], "other-log")
        assert await refs(events, 1) == [ref]


async def test_heartbeats_move_the_id_of_a_rare_filter(tmp_path: Path) -> None:
    """A browser that reconnects much later looks at nothing twice."""
    async with running_receiver(tmp_path / "quick.db", rules=_QUICK) as api, open_events(api, tags="rare") as events:
        await ended(api)
        head = (await api.log())["cursor"]

        async with asyncio.timeout(30):
            while (await events.next())[1] != head:
                pass


async def test_shutdown_says_goodbye_and_ends_it(api: RunningReceiver) -> None:
    """The last event has the cursor, and the response ends regularly."""
    async with open_events(api) as events, asyncio.TaskGroup() as group:
        _, cursor, _ = await events.next()
        group.create_task(api.stop())

        assert (await events.next())[:2] == ("goodbye", cursor)
        assert await events.end() == b""


async def test_a_peer_that_hangs_up_leaves_nothing(api: RunningReceiver) -> None:
    """Its slot is free at once."""
    async with open_events(api):
        await eventually(lambda: api.streams == 1)

    await eventually(lambda: api.streams == 0)


async def test_a_reader_changes_its_transport_in_the_middle(api: RunningReceiver) -> None:
    """Websocket, server-sent events, page, long poll: with one cursor nothing is missed and nothing comes twice."""
    expected = [await ended(api) for _ in range(8)]
    read_refs = []
    async with subscribed(api, cursor="start") as socket:
        frames = [await socket.next() for _ in range(2)]
    read_refs += [frame["task"]["ref"] for frame in frames]
    async with open_events(api, after=frames[-1]["cursor"]) as events:
        read = [await events.next() for _ in range(2)]
    read_refs += [frame["task"]["ref"] for _, _, frame in read]
    page = (await api.send("GET", "/v1/results", params={"after": read[-1][1], "limit": "2"})).json
    read_refs += [entry["task"]["ref"] for entry in page["results"]]
    poll = (await api.send("GET", "/v1/results", params={"after": page["cursor"], "limit": "1", "wait": "5"})).json
    read_refs += [entry["task"]["ref"] for entry in poll["results"]]
    async with subscribed(api, cursor=poll["cursor"]) as socket:
        read_refs.append((await socket.next())["task"]["ref"])

    assert read_refs == expected
