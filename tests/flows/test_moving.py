"""A receiver moves from an SQLite file to PostgreSQL, or back, and its clients and providers notice nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from receiver.storage.copying.copy import copy_store
from tests.receiver.upstream.test_reconciler import READY, ended, reconciling, running_provider, submitted
from tests.receiver.web.sockets import subscribed
from tests.support import eventually, free_port, running_receiver

pytestmark = pytest.mark.sqlite


@pytest.fixture(params=["there", "back"])
def ends(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> tuple[Path | str, Path | str]:
    """Return source and target."""
    places: tuple[Path | str, Path | str] = tmp_path / "receiver.db", postgres_url
    return places if request.param == "there" else (places[1], places[0])


async def move(source: Path | str, target: Path | str) -> None:
    """Copy everything, as an operator does between two receivers."""
    places = [SecretStr(place) if isinstance(place, str) else place for place in (source, target)]
    await copy_store(places[0], places[1], lambda share: None, time_text="now")


async def test_cursors_urls_and_keys_outlive_the_move(ends: tuple[Path | str, Path | str]) -> None:
    """A subscriber goes on from its cursor without gap or double. The old callback URLs take callbacks.

    An Idempotency-Key finds its task, a second callback is a duplicate, and a deleted task stays deleted.
    """
    source, target = ends
    port = free_port()
    async with running_receiver(source, port=port) as old:
        tasks = [await old.register() for _ in range(12)]
        for task in tasks[:6]:
            await old.call_back(task["callbackUrl"])
        page = await old.log(limit=3)
        idempotent = await old.send(
            "POST", "/v1/tasks", json={"provider": "capsolver"}, headers={"Idempotency-Key": "once"}
        )
        await old.send("DELETE", f"/v1/tasks/{tasks[11]['ref']}")
        await old.send("POST", "/v1/tasks", json={"provider": "capsolver", "taskId": "named", "tags": ["blue"]})
    await move(source, target)

    async with running_receiver(target, port=port) as new, asyncio.TaskGroup() as group:
        async with subscribed(new, cursor=page["cursor"]) as socket:
            waiter = group.create_task(new.send("GET", f"/v1/tasks/{tasks[6]['ref']}", params={"wait": 20}))
            for task in tasks[6:11]:
                assert (await new.call_back(task["callbackUrl"])).status == 200
            frames = [await socket.next() for _ in range(9)]
        again = await new.send("POST", "/v1/tasks", json={"provider": "capsolver"}, headers={"Idempotency-Key": "once"})
        named = await new.send("GET", "/v1/tasks/named", params={"provider": "capsolver"})
        double = await new.call_back(tasks[0]["callbackUrl"], solution={"text": "other"})
        late = await new.call_back(tasks[11]["callbackUrl"])
        deleted = await new.send("GET", f"/v1/tasks/{tasks[11]['ref']}")
        rest = await new.log(after=page["cursor"])

    # The deletion is an entry, too.
    seen = [frame["task"]["ref"] if frame["type"] == "result" else frame["type"] for frame in frames]
    assert seen == [*(task["ref"] for task in tasks[3:6]), "deleted", *(task["ref"] for task in tasks[6:11])]
    assert [entry["cursor"] for entry in rest["results"]] == [frame["cursor"] for frame in frames]
    assert waiter.result().json["status"] == "ready"
    assert (again.json["ref"], again.status) == (idempotent.json["ref"], idempotent.status)
    assert named.json["tags"] == ["blue"]
    assert (double.status, late.status, deleted.status) == (200, 200, 404)


async def test_open_tasks_are_polled_after_the_move(ends: tuple[Path | str, Path | str]) -> None:
    """A task whose callback was lost gets its answer by the receiver's poll, whatever database it came from."""
    source, target = ends
    async with running_provider() as provider:
        async with reconciling(source, provider) as old:
            registered = await submitted(old, "a1")
            await eventually(lambda: len(provider.asked) >= 2)
        await move(source, target)
        provider.answers["a1"] = READY
        async with reconciling(target, provider) as new:
            task = await ended(new, registered["ref"])

    assert (task["status"], task["source"]) == ("ready", "poll")
