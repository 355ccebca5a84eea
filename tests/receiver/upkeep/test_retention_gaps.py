"""Readers with a pruned cursor get a gap, over every transport, and no other reader does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from receiver.domain.records import SECOND
from receiver.domain.transaction import Prune
from receiver.errors import CursorGoneError
from receiver.feed.tail import Tail
from receiver.storage.sqlite.store import SqliteStore
from tests.receiver.feed.test_feed import end, following, reader_of, results
from tests.receiver.storage.stores import NOW, a_ref, running_store
from tests.receiver.upkeep.pruning import horizon
from tests.receiver.web.sockets import open_events, subscribed
from tests.support import RunningReceiver, eventually, running_receiver

pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    """Yield a running receiver."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        yield api


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Yield the store of the receiver, opened by another process."""
    async with running_store(tmp_path / "receiver.db") as store:
        yield store


async def prune_until(store: SqliteStore, position: int) -> None:
    """Prune the log up to this position."""
    taken = horizon()
    await store.write(Prune(horizon=taken, until=position))


async def finish(api: RunningReceiver, number: int) -> list[str]:
    """End new tasks, and return their refs."""
    refs = []
    for _ in range(number):
        task = await api.register()
        await api.call_back(task["callbackUrl"])
        refs.append(task["ref"])
    return refs


def cursors(store: SqliteStore, *positions: int) -> list[str]:
    """Return the cursors of these positions."""
    return [store.cursor_at(position) for position in positions]


async def test_a_page_behind_a_pruned_cursor_is_refused(api: RunningReceiver, store: SqliteStore) -> None:
    """A pruned cursor gets 410 with the reason and the oldest cursor kept, from which reading goes on."""
    refs = await finish(api, 3)
    await prune_until(store, 2)
    before, oldest = cursors(store, 1, 2)

    gone = await api.send("GET", "/v1/results", params={"after": before})
    page = await api.send("GET", "/v1/results", params={"after": oldest})
    whole = await api.log()

    assert (gone.status, gone.json["type"].rpartition(":")[2]) == (410, "cursor-gone")
    assert (gone.json["reason"], gone.json["resumesAt"]) == ("pruned", oldest)
    assert [entry["task"]["ref"] for entry in page.json["results"]] == refs[2:]
    assert [entry["task"]["ref"] for entry in whole["results"]] == refs[2:]


async def test_events_behind_a_pruned_cursor_begin_with_a_gap(api: RunningReceiver, store: SqliteStore) -> None:
    """A pruned cursor gets a gap event first. The oldest cursor kept and the start get none."""
    refs = await finish(api, 3)
    await prune_until(store, 2)
    before, oldest = cursors(store, 1, 2)

    async with open_events(api, headers={"Last-Event-ID": before}) as events:
        name, event_id, frame = await events.next()
        result = (await events.next())[2]
    assert (name, event_id, frame["reason"], frame["resumesAt"]) == ("gap", oldest, "pruned", oldest)
    assert result["task"]["ref"] == refs[2]
    for after in (oldest, "start"):
        async with open_events(api, after=after) as events:
            assert (await events.next())[2]["task"]["ref"] == refs[2]


async def test_a_websocket_behind_a_pruned_cursor_begins_with_a_gap(api: RunningReceiver, store: SqliteStore) -> None:
    """A pruned cursor gets a gap frame first. The oldest cursor kept and the start get none."""
    refs = await finish(api, 3)
    await prune_until(store, 2)
    before, oldest = cursors(store, 1, 2)

    async with subscribed(api, cursor=before) as socket:
        gap, result = await socket.next(), await socket.next()
    assert (gap["type"], gap["reason"], gap["resumesAt"]) == ("gap", "pruned", oldest)
    assert result["task"]["ref"] == refs[2]
    for cursor in (oldest, "start"):
        async with subscribed(api, cursor=cursor) as socket:
            assert (await socket.next())["task"]["ref"] == refs[2]


async def test_a_removed_solution_is_told_as_such(api: RunningReceiver, store: SqliteStore) -> None:
    """By every transport the task is ready, without solution, and `solutionRemoved`. Late callbacks change nothing."""
    registered = await api.register()
    await api.call_back(registered["callbackUrl"])
    far = 2 * NOW
    taken = horizon(solutions=far)
    await store.write(Prune(horizon=taken, until=0))
    late = await api.call_back(registered["callbackUrl"], solution={"text": "another"})

    tasks = [await api.task(registered["ref"]), (await api.log())["results"][0]["task"]]
    async with open_events(api, after="start") as events, subscribed(api, tasks=[registered["ref"]]) as socket:
        tasks.append((await events.next())[2]["task"])
        tasks.append((await socket.next())["task"])

    assert late.status == 200
    assert [task["status"] for task in tasks] == ["ready"] * 4
    assert [(task["solution"], task.get("solutionRemoved")) for task in tasks] == [(None, True)] * 4


async def test_who_follows_the_tail_gets_no_gap(store: SqliteStore) -> None:
    """A slow reader gets pruned entries from the tail, as long as the tail has them."""
    async with following(store) as feed:
        reader = await reader_of(feed)
        await end(store, 1, 2, 3)
        await eventually(lambda: feed.tail.end == 3)
        await prune_until(store, 2)

        assert await reader.read() == results(1, 2, 3)
        await end(store, 4)
        assert await reader.next() == results(4)


async def test_who_has_read_all_gets_no_gap(store: SqliteStore) -> None:
    """An idle reader's place moves with the log, so that pruning never overtakes it."""
    async with following(store, Tail(most_entries=1)) as feed:
        reader = await reader_of(feed)
        await end(store, 1, 2, 3)
        assert await reader.next() == results(1, 2, 3)
        await prune_until(store, 3)
        await end(store, 4)

        assert await reader.next() == results(4)


async def test_who_falls_behind_both_gets_a_gap(store: SqliteStore) -> None:
    """A reader gets a gap for entries that neither the tail nor the store has, and then the rest."""
    async with following(store, Tail(most_entries=1)) as feed:
        reader = await reader_of(feed)
        await end(store, 1, 2, 3)
        await eventually(lambda: feed.tail.end == 3)
        await prune_until(store, 2)

        assert await reader.read() == [("gap", "pruned"), *results(3)]


async def test_old_answers_leave_the_memory(store: SqliteStore) -> None:
    """Old solutions leave the tail in time. Its readers read the store instead, without a gap."""
    async with following(store) as feed:
        reader = await reader_of(feed)
        await end(store, 1, 2)
        await eventually(lambda: feed.tail.end == 2)

        feed.tail.drop_older(NOW - SECOND)
        assert feed.tail.result(a_ref(2)) is not None
        feed.tail.drop_older(NOW)

        assert feed.tail.result(a_ref(2)) is None
        assert await reader.read() == results(1, 2)


async def test_a_cursor_that_was_good_may_go(store: SqliteStore) -> None:
    """A valid cursor may be pruned later, and the oldest position kept never moves back."""
    await end(store, 1, 2, 3)
    await prune_until(store, 2)
    await prune_until(store, 1)

    with pytest.raises(CursorGoneError) as caught:
        await store.position(store.cursor_at(1))
    assert caught.value.resumes_at == store.cursor_at(2)
    assert await store.position(None) == 2
