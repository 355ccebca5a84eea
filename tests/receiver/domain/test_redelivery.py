"""Kept unreadable bodies, read again: the verdicts of a trial, and the same verdicts stored."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.providers import DIALECTS, Dialect
from client.providers.readings import Ready, TaskId
from receiver.domain.deliveries import (
    ROW_BYTES,
    DeliverToStanding,
    DeliverToTask,
    DeliveryRules,
    Quotas,
    delivery_rules,
)
from receiver.domain.reading import Origin, ReportedAnswer
from receiver.domain.records import DELIVERIES_KEPT, SECOND, StandingUrl, StoredDelivery
from receiver.domain.redelivery import Redeliver, Redelivered, read_redelivery
from receiver.domain.registrations import CreateStandingUrl, Report, RevokeStandingUrl
from receiver.domain.transaction import Command, Forget, Operation
from receiver.domain.verdicts import UnreadVerdict
from receiver.storage.sqlite.batch import DryRun
from receiver.storage.sqlite.database import open_read_only
from receiver.storage.sqlite.store import SqliteStore
from receiver.storage.store import PAGE_BYTES
from tests.receiver.storage.stores import (
    NOW,
    QUOTAS,
    a_delivery,
    a_ref,
    a_registration,
    a_standing_delivery,
    delivery_to_standing,
    delivery_to_task,
    running_store,
    whole_log,
)

LATER = NOW + 100 * SECOND
STANDING = a_ref(0)


def body(**fields: Any) -> bytes:
    """Return a CapSolver callback: ready by default."""
    return json.dumps({"errorId": 0, "status": "ready", "solution": {"text": "answer"}, **fields}).encode()


def kept_for_task(number: int, content: bytes, reading: UnreadVerdict = "unreadable") -> DeliverToTask:
    """Return an unreadable delivery on the URL of the task with this number."""
    return delivery_to_task(a_ref(number), reading, content)


def kept_for_standing(content: bytes) -> DeliverToStanding:
    """Return an unreadable delivery on a standing URL."""
    return delivery_to_standing(STANDING, "unreadable", content, ref=a_ref(99))


def a_polled_answer(number: int, text: str, task_id: TaskId) -> Report:
    """Return the answer of a poll for the task with this number."""
    answer = ReportedAnswer(
        reading=Ready({"text": text}),
        origin=Origin("poll", "reported", NOW),
        polls=1,
        reported_at=NOW,
        unknown_final_after=0,
        size=10,
    )
    return Report(ref=a_ref(number), task_id=task_id, answer=answer, now=NOW)


def rules(
    *,
    quotas: Quotas = QUOTAS,
    confirm: str = "mismatched",
    dialects: Mapping[str, Dialect] = DIALECTS,
    signed: Sequence[str] = (),
    polled: Sequence[str] = (),
) -> Mapping[str, DeliveryRules]:
    """Return rules, by default those of the shipped providers."""
    return delivery_rules(dialects, quotas, secrets=dict.fromkeys(signed, b"secret"), confirm=confirm, polled=polled)


async def redelivered(
    store: SqliteStore | DryRun, given: Mapping[str, DeliveryRules] | None = None
) -> Sequence[Redelivered]:
    """Deliver all kept bodies again. Return their new verdicts."""
    chosen = given or rules()
    decided: list[Redelivered] = []
    after = None
    while kept := await store.unreadable(after, limit=100):
        after = kept[-1]
        redeliveries = [read_redelivery(chosen, body_kept, now=LATER, new_ref=lambda: a_ref(50)) for body_kept in kept]
        decided += await store.write(Redeliver(redeliveries))
    return decided


def verdicts(found: Sequence[Redelivered] | Sequence[StoredDelivery]) -> list[str]:
    """Return the verdicts, in order."""
    return [one.verdict for one in found]


def dump(path: Path) -> list[str]:
    """Return the whole database as SQL, except for the writer's own notes."""
    with sqlite3.connect(path) as connection:
        return [line for line in connection.iterdump() if not line.startswith('INSERT INTO "meta"')]


TASK = a_registration(1)
BOUND = a_registration(1, task_id="t-1", bound_by="create")
URL = CreateStandingUrl(url=StandingUrl(STANDING, "capsolver", None, NOW, None))

VERDICTS: dict[str, tuple[list[Command[Any] | Operation[Any]], str, str]] = {
    "first": ([TASK, kept_for_task(1, body())], "ready", "accepted"),
    "failure": ([TASK, kept_for_task(1, body(errorId=1, status="failed", errorCode="E"))], "failed", "accepted"),
    "again": ([TASK, kept_for_task(1, body()), a_delivery(1)], "ready", "duplicate"),
    "polled": ([BOUND, kept_for_task(1, body()), a_polled_answer(1, "answer", "t-1")], "ready", "late"),
    "another": ([TASK, kept_for_task(1, body()), a_delivery(1, "other")], "ready", "disagreed"),
    "working": ([TASK, kept_for_task(1, body(status="processing", solution=None))], "pending", "notFinal"),
    "unknown state": ([TASK, kept_for_task(1, body(status="done"))], "pending", "notFinal"),
    "other id": ([BOUND, kept_for_task(1, body(taskId="t-2"))], "ready", "mismatched"),
    "joins another": (
        [TASK, URL, kept_for_task(1, body(taskId="t-9")), a_standing_delivery(7, "t-9")],
        "ready",
        "duplicate",
    ),
    "nonsense": ([TASK, kept_for_task(1, b"nonsense")], "unreadable", "unreadable"),
    "unknown id": ([URL, kept_for_standing(body(taskId="t-9"))], "ready", "accepted"),
    "its own task": (
        [URL, kept_for_standing(body(taskId="t-9")), a_standing_delivery(7, "t-9")],
        "ready",
        "duplicate",
    ),
    "task with a URL": ([URL, BOUND, kept_for_standing(body(taskId="t-1"))], "ready", "mismatched"),
    "standing, working": (
        [URL, kept_for_standing(body(taskId="t-9", status="processing", solution=None))],
        "pending",
        "notFinal",
    ),
    "standing, unknown state": (
        [URL, kept_for_standing(body(taskId="t-9", status="done"))],
        "pending",
        "unreadable",
    ),
    "no id": ([URL, kept_for_standing(body())], "ready", "unreadable"),
    "revoked": (
        [URL, kept_for_standing(body(taskId="t-9")), RevokeStandingUrl(url_id=STANDING, now=NOW)],
        "ready",
        "unreadable",
    ),
    "forgotten": (
        [URL, BOUND, kept_for_standing(body(taskId="t-1")), Forget(ref=a_ref(1), now=NOW)],
        "ready",
        "forgotten",
    ),
}


@pytest.mark.sqlite
@pytest.mark.parametrize("name", VERDICTS)
async def test_each_verdict_is_foretold_and_comes(tmp_path: Path, name: str) -> None:
    """The trial writes nothing and foretells the decisions. A second run finds only bodies still unreadable."""
    given, reading, verdict = VERDICTS[name]
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        for command in given:
            await store.write(command)
        before = dump(path)
        with open_read_only(path) as connection:
            trial = DryRun(connection)
            foretold = await redelivered(trial)
        after_trial = dump(path)
        decided = await redelivered(store)
        decided_later = await redelivered(store)

    assert after_trial == before
    assert foretold == decided
    assert [(redelivery.reading, redelivery.verdict) for redelivery in decided] == [(reading, verdict)]
    assert verdicts(decided_later) == [verdict for _ in decided if verdict == "unreadable"]


async def test_it_was_finished_when_it_came(tmp_path: Path) -> None:
    """The outcome enters the log now, with the time of its delivery. The delivery keeps its place and counts once."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(TASK)
        await store.write(kept_for_task(1, body(taskId="t-1")))
        await redelivered(store)
        task = await store.task(a_ref(1))
        assert task is not None
        deliveries = await store.deliveries(task)
        log = await whole_log(store)

    assert task.outcome is not None
    assert (task.outcome.finished_at, task.outcome.trust, task.outcome.solution) == (
        NOW,
        "token",
        '{"text":"answer"}',
    )
    assert (task.deliveries, task.id_text) == (1, "t-1")
    assert [(delivery.received_at, delivery.verdict, delivery.id_text) for delivery in deliveries] == [
        (NOW, "accepted", "t-1")
    ]
    assert log[-1].kind == "result"


async def test_an_answer_is_no_fresher_than_it_came(tmp_path: Path) -> None:
    """Its life counts from its delivery, so an old answer is stale at once."""
    living = replace(DIALECTS["yescaptcha"], provider="mine", callback=DIALECTS["capsolver"].callback)
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1, provider="mine"))
        await store.write(kept_for_task(1, body()))
        await redelivered(store, rules(dialects={"mine": living}))
        task = await store.task(a_ref(1))

    assert living.answer_life_seconds == 120
    assert task is not None
    assert task.outcome is not None
    assert task.outcome.valid_until == NOW + 120 * SECOND


@pytest.mark.sqlite
async def test_a_standing_url_makes_the_task(tmp_path: Path) -> None:
    """An unknown id makes a task with the delivery. The stray delivery is gone."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        await store.write(URL)
        await store.write(kept_for_standing(body(taskId="t-9")))
        (became,) = await redelivered(store)
        (task,) = await store.tasks_by_id("t-9", "capsolver")
        deliveries = await store.deliveries(task)

    assert became.ref == task.ref == a_ref(50)
    assert task.outcome is not None
    assert task.outcome.trust == "standing"
    assert [(delivery.received_at, delivery.verdict) for delivery in deliveries] == [(NOW, "accepted")]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM stray_delivery").fetchone() == (0,)


@pytest.mark.sqlite
async def test_a_stray_one_that_becomes_no_delivery_keeps_its_verdict_alone(tmp_path: Path) -> None:
    """If it came now, it would be acknowledged and not kept. So its body goes."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        await store.write(URL)
        await store.write(kept_for_standing(body(taskId="t-9", status="processing", solution=None)))
        await redelivered(store)

    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT verdict, body FROM stray_delivery").fetchall() == [("notFinal", None)]


@pytest.mark.sqlite
async def test_two_bodies_of_one_task_are_foretold_in_order(tmp_path: Path) -> None:
    """The trial knows its earlier decisions: the first body is the outcome, the second is its duplicate."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        await store.write(TASK)
        await store.write(kept_for_task(1, body()))
        await store.write(kept_for_task(1, body()))
        with open_read_only(path) as connection:
            trial = DryRun(connection)
            foretold = await redelivered(trial)
        decided = await redelivered(store)

    assert verdicts(foretold) == verdicts(decided) == ["accepted", "duplicate"]


@pytest.mark.sqlite
async def test_its_bytes_no_longer_count_as_unreadable(tmp_path: Path) -> None:
    """The quota of unreadable bytes gets them back. Bodies that are still unreadable count."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        for command in (TASK, URL, kept_for_task(1, body()), kept_for_standing(body(taskId="t-9"))):
            await store.write(command)
        await store.write(kept_for_task(1, b"nonsense"))
        await redelivered(store)

    with sqlite3.connect(path) as connection:
        used = connection.execute("SELECT used_rows, used_bytes FROM quota WHERE name = 'unreadable'").fetchone()
    assert used == (1, ROW_BYTES)


@pytest.mark.sqlite
async def test_an_answer_of_unknown_state_and_task_stays_kept(tmp_path: Path) -> None:
    """There is no task to poll for it. Its bytes are kept once and count once, however often it is read again."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        await store.write(URL)
        await store.write(kept_for_standing(body(taskId="t-9", status="done")))
        for _ in range(2):
            (became,) = await redelivered(store)
        assert became.why == "its state is not known, and it has no task to poll"

    with sqlite3.connect(path) as connection:
        used = connection.execute("SELECT used_rows, used_bytes FROM quota WHERE name = 'unreadable'").fetchone()
        kept = connection.execute("SELECT verdict, body IS NULL FROM stray_delivery").fetchall()
    assert (used, kept) == ((1, ROW_BYTES), [("unreadable", 0)])


@pytest.mark.sqlite
async def test_slots_stay_where_they_are(tmp_path: Path) -> None:
    """If a task has more deliveries than are kept, the kept ones get verdicts in their places. The count stays."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        await store.write(TASK)
        for _ in range(12):
            await store.write(kept_for_task(1, body()))
        decided = await redelivered(store)
        task = await store.task(a_ref(1))
        assert task is not None
        deliveries = await store.deliveries(task)

    assert verdicts(decided) == ["accepted", *["duplicate"] * DELIVERIES_KEPT]
    assert verdicts(deliveries) == ["accepted", *["duplicate"] * DELIVERIES_KEPT]
    assert task.deliveries == 12
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT used_rows, used_bytes FROM quota").fetchall() == [(0, 0)]


async def test_a_full_quota_leaves_it_as_it_is(tmp_path: Path) -> None:
    """A standing URL without quota makes no task. The body waits for the next run."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(URL)
        await store.write(kept_for_standing(body(taskId="t-9")))
        full = rules(quotas=Quotas(standing_rows=0, standing_bytes=0, unreadable_bytes=0))
        (refused,) = await redelivered(store, full)
        (taken,) = await redelivered(store)

    assert (refused.verdict, refused.why) == ("unreadable", "this callback URL has used up its quota of tasks or bytes")
    assert taken.verdict == "accepted"


async def test_what_needs_a_signature_is_not_read(tmp_path: Path) -> None:
    """Bodies of a provider with a secret are left alone, and so are those with a bad signature."""
    signing = next(
        name for name, dialect in DIALECTS.items() if dialect.callback is not None and dialect.callback.signature
    )
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1, provider=signing))
        await store.write(kept_for_task(1, body()))
        await store.write(a_registration(2))
        await store.write(kept_for_task(2, body(), "badSignature"))
        skipped = await redelivered(store, rules(signed=[signing]))

    assert [(body_skipped.verdict, body_skipped.why) for body_skipped in skipped] == [
        ("unreadable", "its signature is not kept")
    ]


async def test_a_provider_that_is_gone_is_named(tmp_path: Path) -> None:
    """A body of a provider without a declaration stays unreadable."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(a_registration(1, provider="gone"))
        await store.write(kept_for_task(1, body()))
        (skipped,) = await redelivered(store)

    assert (skipped.verdict, skipped.why) == ("unreadable", "its provider is not known")


async def test_what_is_to_be_confirmed_is_held_from_now_on(tmp_path: Path) -> None:
    """If every callback is confirmed, the provider is asked first. The time for that begins now."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store:
        await store.write(a_registration(1, task_id="t-1", bound_by="create", is_polled_here=True))
        await store.write(kept_for_task(1, body()))
        (held,) = await redelivered(store, rules(confirm="always", polled=["capsolver"]))
        task = await store.task(a_ref(1))

    assert held.verdict == "held"
    assert task is not None
    assert task.held_until is not None
    assert task.held_until > LATER


async def test_what_another_run_took_meanwhile_is_left_out(tmp_path: Path) -> None:
    """Two runs at once deliver each body once."""
    async with running_store(tmp_path / "receiver.db") as store:
        await store.write(TASK)
        await store.write(kept_for_task(1, body()))
        (kept,) = await store.unreadable(None, limit=100)
        command = Redeliver([read_redelivery(rules(), kept, now=LATER, new_ref=lambda: a_ref(50))])
        first = await store.write(command)
        second = await store.write(command)

    assert verdicts(first) == ["accepted"]
    assert second == []


async def test_pages_go_through_tasks_and_standing_urls(tmp_path: Path) -> None:
    """Each kept body comes once, whatever the size of the pages."""
    async with running_store(tmp_path / "receiver.db") as store:
        given: list[Command[Any]] = [TASK, URL, *[kept_for_task(1, b"n")] * 3, *[kept_for_standing(b"n")] * 3]
        for command in given:
            await store.write(command)
        seen, after = [], None
        while page := await store.unreadable(after, limit=2):
            after = page[-1]
            seen += [(body_kept.is_stray, body_kept.id) for body_kept in page]

    assert len(set(seen)) == len(seen) == 6


async def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Large bodies come in smaller steps, and all of them come."""
    large = b"n" * (PAGE_BYTES // 2 + 1)
    sizes, after = [], None
    async with running_store(tmp_path / "receiver.db") as store:
        given: list[Command[Any]] = [TASK, *[kept_for_task(1, large)] * 5]
        for command in given:
            await store.write(command)
        while page := await store.unreadable(after, limit=100):
            after = page[-1]
            sizes.append(len(page))

    assert sizes == [2, 2, 1]
