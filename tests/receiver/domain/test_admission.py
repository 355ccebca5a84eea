"""Concurrency limits: the slots of a key, those of all keys, and their return."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from receiver.domain.admission import ConcurrencyLimit
from receiver.errors import ReceiverError
from tests.support import READ_ONLY, RunningReceiver, eventually, running_receiver


def test_a_key_has_so_many_slots() -> None:
    """One key cannot take the slots of another. The error names the key."""
    room = ConcurrencyLimit("too-many-waiters", most=3, most_each=2)

    with room.admitted("a"), room.admitted("a"):
        with pytest.raises(ReceiverError, match="key a") as refused:
            room.admitted("a").__enter__()
        with room.admitted("b"):
            assert len(room) == 3

    assert (refused.value.slug, refused.value.retry_after_seconds, len(room)) == ("too-many-waiters", 5, 0)


def test_all_together_have_so_many_slots() -> None:
    """If all slots are taken, then no key gets one, even one with few."""
    room = ConcurrencyLimit("too-many-waiters", most=2, most_each=2)

    with room.admitted("a"), room.admitted("a"), pytest.raises(ReceiverError) as refused, room.admitted("b"):
        pass

    assert refused.value.slug == "receiver-full"


def test_a_slot_is_given_back_after_an_error() -> None:
    """Every end of a wait frees its slot."""
    room = ConcurrencyLimit("too-many-waiters", most=1, most_each=1)

    with pytest.raises(ZeroDivisionError), room.admitted("a"):
        raise ZeroDivisionError

    with room.admitted("a"):
        assert len(room) == 1


async def test_a_key_that_waits_too_often_gets_429(tmp_path: Path) -> None:
    """Both kinds of waits count; another key is not disturbed."""
    async with running_receiver(tmp_path / "receiver.db", max_waiters_per_key=2) as api, asyncio.TaskGroup() as group:
        registered = await api.register()
        path = f"/v1/tasks/{registered['ref']}?wait=40"
        held = [group.create_task(api.send("GET", waited)) for waited in (path, "/v1/results?wait=40")]
        await eventually(lambda: api.waiting == 2)

        refused = await refused_wait(api, path)
        other = group.create_task(api.send("GET", path, key=READ_ONLY))
        await eventually(lambda: api.waiting == 3)
        await api.call_back(registered["callbackUrl"])

    assert (refused, [wait.result().status for wait in (*held, other)]) == ((429, "too-many-waiters"), [200] * 3)


async def refused_wait(api: RunningReceiver, path: str) -> tuple[int, str]:
    """Return the status and the problem of a further wait."""
    answer = await api.send("GET", path)
    assert int(answer.headers["Retry-After"]) > 0
    return answer.status, answer.json["type"].rpartition(":")[2]
