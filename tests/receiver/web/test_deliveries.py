"""Stored deliveries: their bytes, their quotas, and no effect of a log that fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import structlog

from tests.receiver.storage.stores import kept_deliveries
from tests.support import running_receiver

READY = b'{"errorId": 0, "status": "ready", "solution": {"text": "%d"}}'


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the path of the database."""
    return tmp_path / "receiver.db"


@pytest.fixture
def log_settings() -> Iterator[None]:
    """Put the log back as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def no_space(*_: object) -> NoReturn:
    """Fail as a log does on a full disk."""
    raise OSError("no space left on device")


def stored(database: Path, statement: str) -> list[Any]:
    """Return the rows that another connection reads."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


@pytest.mark.sqlite
async def test_the_first_eight_deliveries_and_the_newest_keep_their_bytes(database: Path) -> None:
    """The first eight deliveries and the newest keep their bytes, and the rest are counted."""
    async with running_receiver(database) as api:
        registered = await api.register()
        for number in range(12):
            await api.send("POST", registered["callbackUrl"], key=None, data=READY % number)

        bodies = [body for (body,) in kept_deliveries(database, "SELECT body FROM kept_delivery ORDER BY id")]
        counted = stored(database, "SELECT deliveries FROM task")

    assert bodies == [READY % number for number in (0, 1, 2, 3, 4, 5, 6, 7, 11)]
    assert counted == [(12,)]


@pytest.mark.sqlite
async def test_verdicts_are_written_down(database: Path) -> None:
    """Each kept delivery has its verdict, its method and its size."""
    async with running_receiver(database) as api:
        registered = await api.register()
        await api.call_back(registered["callbackUrl"], taskId="T")
        await api.call_back(registered["callbackUrl"], taskId="T")
        await api.call_back(registered["callbackUrl"], taskId="U")
        await api.call_back(registered["callbackUrl"], solution={"text": "other"})
        await api.send("POST", registered["callbackUrl"], key=None, data=b"?")

        verdicts = kept_deliveries(
            database, "SELECT verdict, method, size = length(body) FROM kept_delivery ORDER BY id"
        )

    expected = ["accepted", "duplicate", "mismatched", "disagreed", "unreadable"]
    assert verdicts == [(verdict, "POST", 1) for verdict in expected]


@pytest.mark.sqlite
async def test_a_delivery_that_named_the_wrong_id_becomes_mismatched(database: Path) -> None:
    """If createTask names another id, the delivery with the first id becomes `mismatched`."""
    async with running_receiver(database) as api:
        registered = await api.register()
        await api.call_back(registered["callbackUrl"], taskId="wrong")
        await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "right"})

        verdicts = kept_deliveries(database, "SELECT verdict FROM kept_delivery")

    assert verdicts == [("mismatched",)]


@pytest.mark.sqlite
async def test_unreadable_bytes_are_kept_under_a_quota(database: Path) -> None:
    """Beyond it only the fact is kept; deleting the task gives the quota back."""
    async with running_receiver(database, unreadable_max_bytes=1100) as api:
        first, second, third = [await api.register() for _ in range(3)]
        for registered in (first, second, third):
            await api.send("POST", registered["callbackUrl"], key=None, data=b"?" * 550)
        kept = stored(database, "SELECT length(body) FROM delivery ORDER BY id")
        await api.send("DELETE", f"/v1/tasks/{first['ref']}")
        await api.send("POST", third["callbackUrl"], key=None, data=b"!" * 550)

        again = stored(database, "SELECT length(body) FROM delivery ORDER BY id")

    assert kept == [(550,), (550,), (None,)]
    assert again == [(550,), (None,), (550,)]


@pytest.mark.usefixtures("log_settings")
async def test_a_log_that_cannot_be_written_changes_no_answer(database: Path) -> None:
    """Errors after the commit, as in the log, do not change the response."""
    async with running_receiver(database) as api:
        registered = await api.register()
        structlog.configure(processors=[no_space])

        answer = await api.call_back(registered["callbackUrl"])

    assert answer.status == 200
