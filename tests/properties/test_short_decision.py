"""The short decision on an ordinary callback agrees with the whole one, in every batch and in any state of its task."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from client.providers import DIALECTS
from client.providers.readings import Bare, CallbackReading, Failed, Notice, Pending, Ready
from receiver.domain.deliveries import DeliverToTask, HintTask
from receiver.domain.polls import ReleaseHeld
from receiver.domain.reading import read_kept
from receiver.domain.records import SECOND
from receiver.domain.registrations import Bind, Expire
from receiver.domain.transaction import Command, Forget, Operation
from receiver.domain.verdicts import UnreadVerdict
from receiver.storage.command_queue import Decision
from receiver.storage.sqlite.batch import Batch
from receiver.storage.sqlite.database import write_transaction
from receiver.storage.sqlite.schema import migrate
from tests.client.providers.strategies import MANY
from tests.receiver.storage.stores import (
    NOW,
    QUOTAS,
    RULES,
    a_ref,
    a_registration,
    delivery_to_standing,
    delivery_to_task,
)

IDS = ("7", 7, "a", "b", None, None)
"""Few, so that they collide; 7 and "7" are the same id."""
READINGS: tuple[Ready | Bare | Failed | Pending | Notice, ...] = (
    *[Ready({"text": "x"})] * 5,
    Ready({"text": "y"}),
    Failed(1, "ERROR_CAPTCHA_UNSOLVABLE"),
    Failed(1, "ERROR_ODD", is_listed=False),
    Pending("processing"),
    Pending("done", has_solution=True),
    Notice("low"),
    Bare("x"),
)
SMALL = replace(QUOTAS, standing_rows=2, standing_bytes=2000, unreadable_bytes=600)
STEPS = ("task",) * 14 + ("standing", "standing", "bind", "bind", "hint", "expire", "release", "forget")


@MANY
@given(seed=st.integers(0, 2**32))
def test_both_decisions_write_and_answer_the_same(seed: int) -> None:
    """Verdicts, rows, entries of the log and wake-ups are the same."""
    short = _run(Random(seed))
    with patch.object(DeliverToTask, "_accept_at_once", lambda *_: None):
        whole = _run(Random(seed))

    assert short == whole


def _run(random: Random) -> tuple[list[Any], dict[str, list[Any]]]:
    """Return the results of some batches, and the rows of all tables after them."""
    told: list[Any] = []
    is_polled_here = random.random() < 0.7
    # Few tasks get many deliveries each, and many tasks only first ones.
    refs = [a_ref(number) for number in random.sample(range(7), random.randrange(1, 8))]
    unread = random.choice([0.05, 0.6])
    registrations = [
        a_registration(number, is_polled_here=is_polled_here, deadline_at=NOW + 600 * SECOND, task_id=task_id)
        for number, task_id in enumerate((None, None, None, "a", "7", "c"))
    ]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with write_transaction(connection):
            migrate(connection, Path("memory"))
            Batch(connection).run(registrations)
        now = NOW
        for _ in range(random.randrange(1, 5)):
            commands = []
            for _ in range(random.randrange(1, 25)):
                now += random.choice([0, 1, SECOND, 20 * SECOND])
                commands.append(_command(random, random.choice(refs), now, unread=unread))
            with write_transaction(connection):
                batch = Batch(connection)
                answers = [_view(decision) for decision in batch.run(commands)]
            told.append((answers, batch.appended, batch.grown, batch.position))
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}  # noqa: S608
    return told, rows


def _view(decision: Decision) -> object:
    answer, error = decision
    return answer if error is None else (type(error), str(error))


def _command(random: Random, ref: str, now: int, *, unread: float) -> Command[Any] | Operation[Any]:
    reading: CallbackReading | UnreadVerdict = "unreadable"
    if random.random() > unread:
        reading = CallbackReading(random.choice(IDS), random.choice(READINGS))
    rules = replace(
        RULES,
        confirm=random.choice(["mismatched", "mismatched", "never", "always"]),
        can_poll=random.random() < 0.5,
        quotas=random.choice([QUOTAS, SMALL]),
    )
    match random.choice(STEPS):
        case "task":
            command = delivery_to_task(ref, reading, b"body", at=now, rules=rules)
            return replace(command, is_signed=random.random() < 0.3)
        case "standing":
            return delivery_to_standing(a_ref(0), reading, ref=a_ref(random.randrange(50, 99)), at=now, rules=rules)
        case "bind":
            return Bind(ref=ref, task_id=random.choice(IDS) or "c", now=now)
        case "hint":
            return HintTask(ref=ref, now=now)
        case "release":
            return ReleaseHeld(now=now, limit=10, read=partial(read_kept, DIALECTS))
        case "forget" if random.random() < 0.3:
            return Forget(ref=ref, now=now)
        case _:
            return Expire(now=now, limit=10)
