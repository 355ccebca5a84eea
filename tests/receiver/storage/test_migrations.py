"""Databases of older schemas, with rows in them, become current without any loss."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from client.providers import DIALECTS
from client.providers.readings import Failed, Pending, Reading
from receiver.domain.access.api_keys import AddKey, StoredKey
from receiver.domain.deliveries import HintTask
from receiver.domain.next_poll import limits_of
from receiver.domain.polls import FinishPoll
from receiver.domain.reading import Origin, ReportedAnswer
from receiver.domain.records import SECOND, PollRecord, Removed, TaskRecord, UnlistedCode
from receiver.domain.registrations import Bind
from receiver.domain.shapes import Shape, ShapeRecord
from receiver.domain.transaction import Forget, Prune, PruneCanary
from receiver.settings import Settings
from receiver.storage.sqlite.diagnostics import read_recent
from receiver.storage.sqlite.retention import BODIES_FLOOR, read_floor
from receiver.storage.sqlite.rows import LOG_DELIVERY_COLUMNS
from receiver.storage.survey import survey
from receiver.upkeep.shapes import AddShapes, AddUnlisted
from tests.receiver.storage.stores import (
    NOW,
    a_delivery,
    a_ref,
    a_registration,
    kept_deliveries,
    running_store,
    whole_log,
)
from tests.receiver.upkeep.pruning import found, horizon, pruned

pytestmark = pytest.mark.sqlite

BACK_TO_11 = ("DROP TABLE lease", "DROP TABLE ticket", "DROP TABLE key_budget", "PRAGMA user_version = 11")
"""Statements to take a database back to the schema before receivers shared leases, tickets and budgets."""

BACK_TO_10 = (*BACK_TO_11, "DROP INDEX task_of_canary", "PRAGMA user_version = 10")
"""Statements to take a database back to the schema before callbacks of the receiver to itself."""

BACK_TO_9 = (*BACK_TO_10, "ALTER TABLE task DROP COLUMN traceparent", "PRAGMA user_version = 9")
"""Statements to take a database back to the schema before traces."""

BACK_TO_8 = (*BACK_TO_9, "DROP TABLE api_key", "PRAGMA user_version = 8")
"""Statements to take a database back to the schema before API keys."""

BACK_TO_7 = (*BACK_TO_8, "ALTER TABLE signing_key DROP COLUMN accepted_until", "PRAGMA user_version = 7")
"""Statements to take a database back to the schema before signing keys had an end."""

BACK_TO_6 = (
    *BACK_TO_7,
    """
    INSERT INTO delivery (id, received_at, verdict, method, content_type, body, size, task_id, standing_id)
    SELECT task * 16 + slot, finished_at, verdict, method, content_type, body, size, task_id, standing_id FROM log
    WHERE slot IS NOT NULL
    """,
    *(f"ALTER TABLE log DROP COLUMN {name}" for name in LOG_DELIVERY_COLUMNS),
    "DELETE FROM meta WHERE name = 'bodies_floor'",
    "PRAGMA user_version = 6",
)
"""Statements to take a database back to the schema before outcomes kept their deliveries."""

BACK_TO_5 = (
    *BACK_TO_6,
    "DROP INDEX task_by_second_look",
    "ALTER TABLE poll DROP COLUMN unlisted_code",
    "ALTER TABLE poll DROP COLUMN unlisted_times",
    "ALTER TABLE poll DROP COLUMN unlisted_since",
    "DROP TABLE unlisted_code",
    "PRAGMA user_version = 5",
)
"""Statements to take a database back to the schema before unlisted codes."""

BACK_TO_4 = (*BACK_TO_5, "ALTER TABLE task DROP COLUMN bound_at", "PRAGMA user_version = 4")
"""Statements to take a database back to the schema before the time of a binding."""

BACK_TO_3 = (*BACK_TO_4, "DROP TABLE shape", "PRAGMA user_version = 3")
"""Statements to take a database back to the schema before shapes."""

BACK_TO_2 = (
    *BACK_TO_3,
    "DROP INDEX task_by_position",
    "DROP INDEX delivery_by_age",
    "UPDATE log SET finished_at = NULL WHERE kind <> 'result'",
    "PRAGMA user_version = 2",
)
"""Statements to take a database back to the schema before retention."""


def take_back(path: Path, statements: Iterable[str]) -> None:
    """Make the database one of an older schema."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


async def test_the_schema_before_the_canary_gets_its_index(tmp_path: Path) -> None:
    """Tasks of a provider that was called canary before are found by it, and removed after an hour."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        await store.write(a_registration(1, provider="canary"))
        await store.write(a_registration(2))
        for number in (1, 2):
            await store.write(a_delivery(number))
    take_back(path, BACK_TO_10)

    async with running_store(path) as store:
        await store.write(PruneCanary(before=NOW + 1))
        left = [task.ref for number in (1, 2) if (task := await store.task(a_ref(number))) is not None]

    assert left == [a_ref(2)]


async def test_the_schema_before_traces_has_tasks_without_one(tmp_path: Path) -> None:
    """Earlier tasks go on and end without a trace. Later ones keep theirs."""
    path, traceparent = tmp_path / "receiver.db", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with running_store(path) as store:
        await store.write(a_registration(1))
    take_back(path, BACK_TO_9)

    async with running_store(path) as store:
        await store.write(a_delivery(1))
        await store.write(a_registration(2, traceparent=traceparent))
        await store.write(a_delivery(2))
        earlier, later = [await store.task(a_ref(number)) for number in (1, 2)]

    assert earlier is not None
    assert later is not None
    assert (earlier.traceparent, later.traceparent) == (None, traceparent)
    assert earlier.outcome is not None
    assert later.outcome is not None


async def test_the_schema_before_signing_keys_ended_keeps_its_keys(tmp_path: Path) -> None:
    """The keys stay in their order, without an end."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        keys = store.signing_keys
    take_back(path, BACK_TO_7)

    async with running_store(path) as store:
        records = await store.read_signing_keys()

    assert [(record.key, record.accepted_until) for record in records] == [(key, None) for key in keys]
    assert keys


async def test_the_schema_before_api_keys_takes_some(tmp_path: Path) -> None:
    """Earlier rows stay, and keys are stored beside them."""
    key = StoredKey(
        id="1", name="worker", digest=b"1", scopes=frozenset({"read"}), providers=None, created_at=NOW, expires_at=NOW
    )
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        await store.write(a_delivery(1))
        before = await whole_log(store)
    take_back(tmp_path / "receiver.db", BACK_TO_8)

    async with running_store(tmp_path / "receiver.db") as store:
        none = await store.api_keys()
        await store.write(AddKey(key=key))

        assert (await whole_log(store), none, await store.api_keys()) == (before, [], [key])


async def test_the_schema_before_outcomes_kept_deliveries_leaves_them_in_their_table(tmp_path: Path) -> None:
    """No row moves. Later deliveries are kept with their outcomes, and every reader finds both."""
    database = tmp_path / "receiver.db"
    async with running_store(database) as store:
        for number in range(1, 6):
            await store.write(a_registration(number))
        await store.write(a_delivery(1, task_id="t-1"))
        await store.write(a_delivery(1))
        await store.write(a_delivery(2))
        before = await whole_log(store), await store.history(await found(store, 1))
    take_back(database, BACK_TO_6)

    async with running_store(database) as store:
        with closing(sqlite3.connect(database)) as connection:
            places = connection.execute("SELECT id FROM delivery").fetchall(), read_floor(connection, BODIES_FLOOR)
        after = await whole_log(store), await store.history(await found(store, 1))
        await store.write(a_delivery(2))
        await store.write(a_delivery(3, task_id="t-3"))
        await store.write(a_delivery(3))
        for number in (1, 3):
            await store.write(Bind(ref=a_ref(number), task_id=f"new-{number}", now=NOW))
        deliveries = [await store.deliveries(await found(store, number)) for number in (1, 2, 3)]
        with closing(sqlite3.connect(database)) as connection:
            (recent,) = read_recent(connection, NOW, {})
        surveyed = survey(Settings(database=database, _env_file=None), horizon(deliveries=NOW)).removed
        removed = await pruned(store, deliveries=NOW)
        again = survey(Settings(database=database, _env_file=None), horizon(deliveries=NOW)).removed
        bodies = [[delivery.body for delivery in await store.deliveries(await found(store, n))] for n in (1, 2, 3)]
        for number in (1, 2, 3):
            await store.write(Forget(ref=a_ref(number), now=NOW))
        left = kept_deliveries(database, "SELECT * FROM kept_delivery")

    assert places == ([(17,), (18,), (33,)], len(before[0]))
    assert after == before
    assert [[delivery.verdict for delivery in kept] for kept in deliveries] == [
        ["mismatched", "duplicate"],
        ["accepted", "duplicate"],
        ["mismatched", "duplicate"],
    ]
    assert recent.verdicts == {"accepted": 1, "duplicate": 3, "mismatched": 2}
    assert (surveyed, removed, again) == (Removed(bodies=6), Removed(bodies=6), Removed())
    assert bodies == [[None, None]] * 3
    assert left == []


async def test_the_schema_before_unlisted_codes_counts_them(tmp_path: Path) -> None:
    """Earlier polls stay, and belong to no row. Later polls make a row, and codes are counted."""
    odd = Failed(1, "ERROR_OF_TOMORROW", is_listed=False)
    code = UnlistedCode("capsolver", "ERROR_OF_TOMORROW", 2, NOW, NOW)
    async with running_store(tmp_path / "receiver.db") as store:
        task = (await store.write(a_registration(1, task_id="t-1", bound_by="create", is_polled_here=True))).task
        await store.write(a_poll(task, Pending("processing"), NOW))
        await store.write(a_registration(2))
        await store.write(a_delivery(2))
        await store.write(a_registration(3, task_id="t-3", bound_by="create", is_polled_here=True))
        before = await whole_log(store)
    # Older programs left a task like this, if its poll ended behind the deadline.
    planned = "UPDATE task SET next_poll_at = 1, status = 'failed' WHERE task_id = 't-3'"
    take_back(tmp_path / "receiver.db", (*BACK_TO_5, planned))

    async with running_store(tmp_path / "receiver.db") as store:
        for seconds in (6, 12, 21):
            polled = await store.write(a_poll(task, odd, NOW + seconds * SECOND))
        await store.write(AddUnlisted(records=[code]))
        after, polls = await whole_log(store), await store.polls(task)
        due = await store.next_due("capsolver")
    with closing(sqlite3.connect(tmp_path / "receiver.db")) as connection:
        codes = connection.execute("SELECT * FROM unlisted_code").fetchall()

    assert due is None
    assert after[: len(before)] == before
    assert [poll.summary for poll in polls] == ["Pending", "Failed", "Failed", "Failed"]
    assert polled is not None
    assert polled.task.outcome is not None
    assert (polled.verdict, polled.task.outcome.is_provisional, codes) == ("accepted", True, [tuple(code)])


def a_poll(task: TaskRecord, reading: Reading, now: int) -> FinishPoll:
    """Return a poll with this answer and without a valid lease."""
    limits = limits_of(DIALECTS["capsolver"].polls)
    return FinishPoll(
        ref=task.ref,
        poll=PollRecord(now, now, task.lease, type(reading).__name__),
        asked_id=task.id_text,
        answer=ReportedAnswer(
            reading=reading,
            origin=Origin("poll", "polled", now),
            polls=None,
            reported_at=now,
            unknown_final_after=limits.window,
            size=0,
        ),
        wait=limits.interval,
        limits=limits,
        read=lambda _task, _delivery: None,
    )


async def test_the_schema_before_bindings_had_a_time_goes_on_without_it(tmp_path: Path) -> None:
    """Earlier tasks count from their registration. Later bindings have a time."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        await store.write(a_registration(2))
        await store.write(Bind(ref=a_ref(1), task_id="t-1", now=NOW + 5))
    take_back(tmp_path / "receiver.db", BACK_TO_4)

    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(Bind(ref=a_ref(2), task_id="t-2", now=NOW + 7))
        found = [await store.task(a_ref(number)) for number in (1, 2)]

    assert [None if task is None else (task.bound_at, task.counts_from) for task in found] == [
        (None, NOW),
        (NOW + 7, NOW + 7),
    ]


async def test_the_schema_before_shapes_learns_them(tmp_path: Path) -> None:
    """Earlier rows stay, and shapes are stored beside them."""
    record = ShapeRecord("capsolver", Shape("POST", None, "JSON {taskId: string}"), 1, 1, NOW, NOW)
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1))
        await store.write(a_delivery(1))
        before = await whole_log(store)
    take_back(tmp_path / "receiver.db", BACK_TO_3)

    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(AddShapes(records=[record]))

        assert await whole_log(store) == before
        assert await store.shapes("capsolver") == [record]


async def test_the_schema_before_retention_gets_its_times(tmp_path: Path) -> None:
    """Earlier hints and deletions get their times, so that they are pruned in their turn and no earlier."""
    async with running_store(tmp_path / "receiver.db") as store:
        for number in (1, 2):
            await store.write(a_registration(number))
        await store.write(HintTask(ref=a_ref(1), now=NOW - 20))
        await store.write(Forget(ref=a_ref(2), now=NOW - 10))
        await store.write(a_delivery(1))
        before = await whole_log(store)
    take_back(tmp_path / "receiver.db", BACK_TO_2)

    async with running_store(tmp_path / "receiver.db") as store:
        after = await whole_log(store)
        removed = [await store.write(Prune(horizon=horizon(results=NOW - age), until=0)) for age in (21, 20, 10, 0)]

    assert [entry.kind for entry in after] == [entry.kind for entry in before] == ["hint", "deleted", "result"]
    assert removed == [None, Removed(entries=1), Removed(entries=1), Removed(tasks=1, entries=1)]
