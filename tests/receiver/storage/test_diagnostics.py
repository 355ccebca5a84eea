"""The figures of the newest tasks, and of their callbacks and polls."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from receiver.domain.records import SECOND, Latency, RecentTasks
from receiver.domain.registrations import Bind, Expire
from receiver.storage.sqlite.database import open_read_only
from receiver.storage.sqlite.diagnostics import read_recent
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, a_standing_delivery, running_store

pytestmark = pytest.mark.sqlite


def recent(path: Path, *, since: int = 0, **most_polls: int) -> tuple[RecentTasks, ...]:
    """Return the figures read from the database."""
    with open_read_only(path) as connection:
        return read_recent(connection, since, most_polls)


async def test_latencies_are_those_of_tasks_that_were_registered(tmp_path: Path) -> None:
    """Twenty callbacks came after 1 to 20 seconds. A task made by a delivery had no waiter, so it does not count."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        for number in range(1, 21):
            await store.write(a_registration(number, created_at=NOW - number * SECOND))
            await store.write(a_delivery(number))
        await store.write(a_standing_delivery(99, "x1"))

    (tasks,) = recent(path)

    assert tasks.latency == Latency(20, 10.5, 19.0)
    assert (tasks.with_url, tasks.answered, tasks.ended) == (20, 20, 21)
    assert (tasks.verdicts, tasks.newest) == ({"accepted": 21}, {"accepted": NOW})


@pytest.mark.parametrize(
    ("bound_after", "seconds"),
    [(20, 60), (61, 80), (-5, 80)],
    ids=["stood in line", "bound late", "clock set back"],
)
async def test_latencies_count_from_the_answer_of_create_task(tmp_path: Path, bound_after: int, seconds: int) -> None:
    """If that time is known, the figure agrees with `TaskRecord.counts_from`. The task was registered 80 s before."""
    path, made_at = tmp_path / "receiver.db", NOW - 80 * SECOND
    async with running_store(path) as store:
        await store.write(a_registration(1, created_at=made_at))
        task = await store.write(Bind(ref=a_ref(1), task_id="t-1", now=made_at + bound_after * SECOND))
        await store.write(a_delivery(1))

    (tasks,) = recent(path)

    assert tasks.latency == Latency(1, seconds, seconds)
    assert (NOW - task.counts_from) / SECOND == seconds


@pytest.mark.parametrize(
    ("polls", "most_polls", "is_answered", "nearly_out"),
    [
        (108, 120, True, 1),
        (107, 120, True, 0),
        (3, 3, True, 0),
        (3, 3, False, 1),
        (2, 3, False, 0),
    ],
)
async def test_polls_are_nearly_used_up_from_nine_of_ten_on(
    tmp_path: Path, polls: int, most_polls: int, is_answered: bool, nearly_out: int
) -> None:
    """If a task may have few, they count only without an answer: using all of them is the plan."""
    path = tmp_path / "receiver.db"
    end = a_delivery(7) if is_answered else Expire(now=NOW + 300 * SECOND, limit=1)
    async with running_store(path) as store:
        await store.write(a_registration(7, polls=polls))
        await store.write(end)
        await store.write(a_registration(8, polls=polls))

    (tasks,) = recent(path, capsolver=most_polls)
    (unlimited,) = recent(path)

    assert (tasks.ended, tasks.polls, tasks.most_polls, tasks.nearly_out) == (1, polls, most_polls, nearly_out)
    assert (unlimited.polls, unlimited.most_polls, unlimited.nearly_out) == (polls, None, 0)


async def test_older_tasks_and_their_deliveries_do_not_count(tmp_path: Path) -> None:
    """The time of their registration decides."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        await store.write(a_registration(1, created_at=NOW - 2))
        await store.write(a_registration(2, created_at=NOW - 1))
        for number in (1, 1, 2):
            await store.write(a_delivery(number))

    (tasks,) = recent(path, since=NOW - 1)

    assert (tasks.answered, tasks.verdicts) == (1, {"accepted": 1})
    assert tasks.latency == Latency(1, 1 / SECOND, 1 / SECOND)


async def test_only_the_newest_twenty_thousand_are_counted(tmp_path: Path) -> None:
    """The cost is bounded, even if a period has more."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        for number in (1, 2):
            await store.write(a_registration(number))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE task SET id = id + 20000 - 1 WHERE ref = ?", (a_ref(2),))
    connection.close()

    (tasks,) = recent(path)

    assert tasks.with_url == 1
