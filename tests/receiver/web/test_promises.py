"""The promises of the receiver, each under its worst order of steps."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from receiver.storage.sqlite.database import connect_writer, make_file, on_thread, prepare
from tests.receiver.storage.stores import kept_deliveries
from tests.support import Api, RunningReceiver, eventually, running_receiver

READY = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the path of the database."""
    return tmp_path / "receiver.db"


def stored(database: Path, statement: str) -> list[Any]:
    """Return the rows that another connection reads."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


async def report(api: Api, registered: Any, text: str) -> Any:
    """Return a client's report of a polled answer."""
    answer = {**READY, "solution": {"text": text}}
    return await api.send("PUT", f"/v1/tasks/{registered['ref']}/outcome", json={"source": "poll", "answer": answer})


@pytest.mark.sqlite
async def test_acknowledged_means_durable(database: Path) -> None:
    """1: when the provider has its 200, another connection to the file reads outcome, delivery and log entry."""
    async with running_receiver(database) as api:
        registered = await api.register()

        answer = await api.call_back(registered["callbackUrl"])

        assert answer.status == 200
        assert stored(database, "SELECT status FROM task") == [("ready",)]
        assert kept_deliveries(database, "SELECT verdict FROM kept_delivery") == [("accepted",)]
        assert stored(database, "SELECT kind, solution FROM log") == [("result", '{"text":"44795sds"}')]


async def test_every_commit_is_synced(database: Path) -> None:
    """1: the writing connection is in WAL mode with synchronous=FULL."""
    make_file(database)
    connection = connect_writer(database)
    async with connection:
        await on_thread(connection, lambda writer: prepare(writer, database, 0))
        pragmas = [await connection.execute_fetchall(f"PRAGMA {name}") for name in ("journal_mode", "synchronous")]

    assert [[tuple(row) for row in rows] for rows in pragmas] == [[("wal",)], [(2,)]]


async def test_stored_before_woken(database: Path) -> None:
    """2: a woken waiter finds the result in the store, every time."""
    async with running_receiver(database) as api:
        registered = [await api.register() for _ in range(20)]
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            waits = [group.create_task(api.send("GET", f"/v1/tasks/{one['ref']}?wait=40")) for one in registered]
            await eventually(lambda: api.waiting == 20)
            for one in registered:
                group.create_task(api.call_back(one["callbackUrl"]))

    assert [wait.result().status for wait in waits] == [200] * 20


async def test_poll_and_callback_at_the_same_instant(database: Path) -> None:
    """4: of two different answers in a race, one wins. Both get a response, and the log has one entry."""
    async with running_receiver(database) as api:
        registered = [await api.register() for _ in range(30)]
        async with asyncio.TaskGroup() as group:
            callbacks = [group.create_task(api.call_back(one["callbackUrl"])) for one in registered]
            reports = [group.create_task(report(api, one, "polled")) for one in registered]
        tasks = [await api.task(one["ref"]) for one in registered]
        log = await api.log()

    assert {callback.result().status for callback in callbacks} == {200}
    verdicts = {"callback": "disagreed", "poll": "accepted"}
    assert [answer.result().json["verdict"] for answer in reports] == [verdicts[task["source"]] for task in tasks]
    assert len(log["results"]) == 30


async def test_our_deadline_just_before_the_real_answer(database: Path) -> None:
    """4: our own outcome is provisional. The provider's replaces it once, in an entry with `supersedes`."""
    async with running_receiver(database) as api:
        registered = await api.register(timeoutSeconds=0.05)
        given_up = await api.send("GET", f"/v1/tasks/{registered['ref']}?wait=50")

        first = await api.call_back(registered["callbackUrl"], taskId="T")
        second = await api.send("POST", registered["callbackUrl"], key=None, json={"errorId": 1, "errorCode": "X"})
        entries = (await api.log())["results"]

    assert (given_up.json["status"], given_up.json["source"]) == ("failed", "deadline")
    assert (given_up.json["errorCode"], given_up.json["errorId"]) == ("RECEIVER_SUBMIT_UNKNOWN", 1)
    assert (first.status, second.status) == (200, 200)
    assert [entry["task"]["status"] for entry in entries] == ["failed", "ready"]
    assert entries[1]["task"]["supersedes"] == entries[0]["cursor"]


async def test_a_bound_task_without_an_answer_says_so_at_its_deadline(database: Path) -> None:
    """9: every task ends; with a taskId its code is RECEIVER_NO_ANSWER."""
    async with running_receiver(database) as api:
        registered = await api.register(timeoutSeconds=0.05, taskId="T")

        answer = await api.send("GET", f"/v1/tasks/{registered['ref']}?wait=50")

    assert (answer.status, answer.json["errorCode"]) == (200, "RECEIVER_NO_ANSWER")


async def test_deadlines_pass_while_the_receiver_is_down(database: Path) -> None:
    """9: a task with a deadline during an outage ends after the start."""
    async with running_receiver(database) as api:
        registered = await api.register(timeoutSeconds=0.5)
    async with running_receiver(database) as api:
        answer = await api.send("GET", f"/v1/tasks/{registered['ref']}?wait=50")

    assert (answer.status, answer.json["source"]) == (200, "deadline")


async def test_a_callback_before_the_create_task_answer(database: Path) -> None:
    """6: the record is there before the provider is called; binding the id afterwards finds the outcome."""
    async with running_receiver(database) as api:
        registered = await api.register()
        await api.call_back(registered["callbackUrl"], taskId="T")

        bound = await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "T"})

    assert (bound.status, bound.json["status"], bound.json["source"]) == (200, "ready", "callback")


async def test_a_waiter_that_hangs_up_leaves_nothing(database: Path) -> None:
    """3, 9: a cancelled wait frees its place at once, and the result is there for the next one."""
    async with running_receiver(database) as api:
        registered = await api.register()
        with pytest.raises(TimeoutError):
            await hang_up(api, f"/v1/tasks/{registered['ref']}?wait=40")
        await eventually(lambda: api.waiting == 0)
        await api.call_back(registered["callbackUrl"])

        answer = await api.send("GET", f"/v1/tasks/{registered['ref']}?wait=50")

    assert answer.status == 200


async def test_a_restart_while_somebody_waits(database: Path) -> None:
    """3: after a restart the same URLs, keys and cursors go on working."""
    async with running_receiver(database) as api:
        registered = await api.register()
    async with running_receiver(database) as api:
        await api.call_back(urlsplit(registered["callbackUrl"]).path, taskId="T")
        page = (await api.send("GET", "/v1/results", params={"after": registered["cursor"]})).json

    assert [entry["task"]["ref"] for entry in page["results"]] == [registered["ref"]]


async def test_secrets_stay_out_of_the_log(database: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """10: no key, token, query or solution is in a log line, whatever the request."""
    async with running_receiver(database) as api:
        registered = await api.register()
        token = registered["callbackUrl"].rsplit("/", 1)[1]
        await api.call_back(registered["callbackUrl"])
        await api.send("GET", registered["callbackUrl"] + "?code=44795sds", key=None)
        await api.send("POST", f"/callback/capsolver/{token[:-1]}!", key=None)
        await api.send("POST", registered["callbackUrl"], key=None, data=b"44795sds")
        await api.send("GET", "/v1/tasks", key="a-wrong-key-that-is-long-enough")

    lines = "".join(capfd.readouterr())
    assert "callback.stored" in lines
    assert "callback.refused" in lines
    for secret in (token[:40], "44795sds", "a-wrong-key", "tests-only"):
        assert secret not in lines


async def hang_up(api: RunningReceiver, path: str) -> None:
    """Send a request, cut the connection once it waits, and raise TimeoutError."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(0.3):
        await session.get(api.url + path, headers=api.authorization)
