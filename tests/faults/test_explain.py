"""`callback-receiver explain`: tells of a task from the database file, whether a receiver runs or not."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import aiohttp
import pytest

from receiver.domain.records import SECOND
from tests.faults.commands import KEY, run_command
from tests.receiver.storage.stores import NOW, a_registration, running_store
from tests.support import Api, receiver_process


async def test_a_waiting_task_is_explained_without_a_receiver(tmp_path: Path) -> None:
    """The command shows its steps and its next event in words, and changes nothing in the folder."""
    async with running_store(tmp_path / "receiver.db") as store:
        made = await store.write(a_registration(7, task_id="37223a89", bound_by="create", created_at=NOW + SECOND))

    finished = await run_command(tmp_path, "explain", "37223a89", API_KEYS=KEY)

    assert (finished.code, made.task.ref in finished.out.splitlines()[0]) == (0, True)
    assert "waits: it waits for a callback on its own URL, or for a poll" in finished.out


async def test_a_running_receiver_is_not_disturbed(tmp_path: Path) -> None:
    """The command reads the stored data of the server, and its JSON equals the answer of the route."""
    database = tmp_path / "receiver.db"
    async with receiver_process(database, port=0) as receiver, aiohttp.ClientSession() as session:
        api = Api(receiver.url, session)
        ref = (await api.register())["ref"]

        finished = await run_command(tmp_path, "explain", ref, "--json", API_KEYS=KEY)
        answer = await api.send("GET", f"/v1/tasks/{ref}/timeline")

    assert json.loads(finished.out)["steps"] == answer.json["steps"]


async def test_an_id_that_is_too_long_is_exit_code_two(tmp_path: Path) -> None:
    """No task can have such an id. The error does not repeat it."""
    async with running_store(tmp_path / "receiver.db"):
        pass

    finished = await run_command(tmp_path, "explain", "a" * 257, API_KEYS=KEY)

    assert (finished.code, finished.err) == (2, "callback-receiver: ID: expected at most 256 characters\n")


async def test_an_unknown_task_is_exit_code_one(tmp_path: Path) -> None:
    """Scripts can tell it from an unreadable database."""
    async with running_store(tmp_path / "receiver.db"):
        pass

    finished = await run_command(tmp_path, "explain", "nobody", API_KEYS=KEY)

    assert (finished.code, finished.err) == (1, "callback-receiver: no task has this ref or taskId\n")


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("version", "refusal"),
    [
        (1, "receiver.db: the database has schema 1, this program"),
        (99, "receiver.db: the database is newer (schema 99)"),
    ],
)
async def test_another_schema_is_refused(tmp_path: Path, version: int, refusal: str) -> None:
    """The command only reads, so it does not migrate a database."""
    async with running_store(tmp_path / "receiver.db"):
        pass
    with sqlite3.connect(tmp_path / "receiver.db") as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()

    assert (await run_command(tmp_path, "explain", "any", API_KEYS=KEY)).refusal.startswith(refusal)


@pytest.mark.sqlite
async def test_without_a_database_it_refuses(tmp_path: Path) -> None:
    """The command makes no database."""
    assert (await run_command(tmp_path, "explain", "any", API_KEYS=KEY)).refusal.startswith("receiver.db: there is no")
    assert not (tmp_path / "receiver.db").exists()
