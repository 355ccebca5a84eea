"""The numbers of `callback-receiver doctor`: those of `/metrics`, or why one is not known."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from client.sandbox.serving import serving
from receiver.commands.doctor.command import examined
from receiver.commands.doctor.figures import number_lines, number_values
from receiver.commands.doctor.findings import Counted, judge
from receiver.settings import Settings
from tests.faults.commands import KEY, SECRET, run_command
from tests.faults.test_doctor import READY, twelve_polled
from tests.receiver.storage.stores import NOW, running_store
from tests.receiver.test_metrics import asked
from tests.support import API_KEYS, Api, free_port, receiver_process, running_receiver


async def test_the_numbers_are_those_of_metrics(tmp_path: Path) -> None:
    """Lost and late callbacks, duplicates, refusals by verdict, latency, polls and stale answers, of one hour."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        await twelve_polled(api)
        await mixed_callbacks(api)
        port = int(api.url.rpartition(":")[2])
        settings = Settings(database=tmp_path / "receiver.db", api_keys=API_KEYS, port=port, _env_file=None)
        counted = await asked(api)

        told = number_values(await examined(settings, now=time.time_ns() // 1000))

    hour = told["providers"]["capsolver"]["hour"]
    assert told["providers"]["capsolver"]["day"] == hour
    assert hour["answersWithUrl"] == 12 + 2
    assert (
        hour["lostCallbacks"] == counted["polled_answers_total/capsolver"] - counted["late_callbacks_total/capsolver"]
    )
    assert (hour["lostCallbacks"], hour["lateCallbacks"]) == (10, counted["late_callbacks_total/capsolver"])
    assert hour["duplicates"] == counted["deliveries_total/capsolver/duplicate"] == 3
    assert hour["refused"] == {"mismatched": 1, "unreadable": 1}
    assert counted["deliveries_total/capsolver/mismatched"] == counted["deliveries_total/capsolver/unreadable"] == 1
    assert hour["callbackLatency"]["callbacks"] == counted["callback_latency_seconds_count/capsolver"] == 2
    assert 0 < hour["callbackLatency"]["medianSeconds"] <= hour["callbackLatency"]["p95Seconds"] < 20
    assert (hour["ended"], hour["polls"], hour["pollsAllowed"]) == (14, 12 * 4, 14 * 120)
    assert (hour["polls"], hour["pollsAllowed"]) == (
        counted["polls_total/capsolver"],
        counted["polls_allowed_total/capsolver"],
    )
    assert told["providers"]["onecaptcha"]["staleAnswers"] == counted["stale_answers_total/onecaptcha"] == 2
    assert told["providers"]["onecaptcha"]["hour"]["lostCallbacks"] == 0
    assert told["providers"]["capsolver"]["staleAnswers"] == 0
    assert told["staleAnswersUnknown"] is None


async def test_an_unreadable_delivery_on_a_standing_url_is_among_the_refused(tmp_path: Path) -> None:
    """No task is known of it, and its provider may have none at all."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        made = await run_command(tmp_path, "callback-url", "hardcaptcha", API_KEYS=KEY, PUBLIC_URL=api.url)
        await api.send("POST", made.out.split()[0], key=None, data=b"<html>")
        settings = Settings(database=tmp_path / "receiver.db", api_keys=API_KEYS, port=free_port(), _env_file=None)

        facts = await examined(settings, now=time.time_ns() // 1000)
        later = await examined(settings, now=2**62)

    assert number_values(later)["providers"] == {}
    assert number_values(facts)["providers"]["hardcaptcha"]["day"]["refused"] == {"unreadable": 1}
    assert "hardcaptcha: 1 callbacks of the last day were refused as unreadable" in [
        found.says for found in judge(facts)
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"api_keys": f"{KEY}:submit+read"}, "no key has the scope admin, and RECEIVER_METRICS_ADDRESS is not set"),
        ({"api_keys": f"{KEY}:submit+read+admin"}, "/metrics answers 401"),
        ({"api_keys": API_KEYS, "port": 1}, "no receiver answers that it is ready"),
        ({"metrics_address": "127.0.0.1:1"}, "/metrics: cannot connect (Connection refused)"),
    ],
    ids=["no admin", "another key", "nothing runs", "nothing at its address"],
)
async def test_where_stale_answers_are_not_known_it_is_said_why(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    """It is no failure, and all other numbers are told."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        await api.register()
        given: dict[str, Any] = {"api_keys": API_KEYS, "port": int(api.url.rpartition(":")[2])} | fields
        facts = await examined(
            Settings(database=tmp_path / "receiver.db", _env_file=None, **given), now=time.time_ns() // 1000
        )

    assert facts.counted == Counted(None, reason)
    assert "stale" not in {finding.about for finding in judge(facts)}
    assert number_values(facts)["providers"]["capsolver"]["staleAnswers"] is None
    assert f"stale answers are not known: {reason}" in list(number_lines(facts))
    assert SECRET not in str(facts.counted)


async def test_the_address_of_the_numbers_is_asked_without_a_key(tmp_path: Path) -> None:
    """Also where the receiver itself cannot be found."""
    address = f"127.0.0.1:{free_port()}"
    async with running_receiver(tmp_path / "receiver.db", metrics_address=address) as api:
        await api.register()
        settings = Settings(
            database=tmp_path / "receiver.db", api_keys=KEY, port=1, metrics_address=address, _env_file=None
        )
        facts = await examined(settings, now=time.time_ns() // 1000)

    assert facts.counted == Counted({}, "")


async def test_the_key_that_may_is_taken_among_several(tmp_path: Path) -> None:
    """Wherever it stands."""
    async with running_receiver(tmp_path / "receiver.db", api_keys=f"{KEY}:read, {API_KEYS}") as api:
        port = int(api.url.rpartition(":")[2])
        settings = Settings(
            database=tmp_path / "receiver.db", api_keys=f"{KEY}:read, {API_KEYS}", port=port, _env_file=None
        )
        facts = await examined(settings, now=time.time_ns() // 1000)

    assert facts.counted == Counted({}, "")


async def test_a_program_that_is_no_receiver_is_not_given_the_key(tmp_path: Path) -> None:
    """Another one listens on the port, and would answer; it does not say that it is ready."""
    async with running_store(tmp_path / "receiver.db"):
        pass
    async with answering(b"") as address:
        port = int(address.rpartition(":")[2])
        settings = Settings(database=tmp_path / "receiver.db", api_keys=API_KEYS, port=port, _env_file=None)
        facts = await examined(settings, now=NOW)

    assert facts.counted == Counted(None, "no receiver answers that it is ready")


@pytest.mark.parametrize("body", [b"", b"\xff", b"<html>", b"up 1\n", b"# TYPE a counter\na_total{ 1"])
async def test_what_is_no_receiver_is_not_believed(tmp_path: Path, body: bytes) -> None:
    """Any bytes give numbers or a reason."""
    async with running_store(tmp_path / "receiver.db"):
        pass
    async with answering(body) as address:
        settings = Settings(
            database=tmp_path / "receiver.db", api_keys=KEY, port=1, metrics_address=address, _env_file=None
        )
        facts = await examined(settings, now=NOW)

    assert facts.counted == Counted(None, "what answers /metrics is no receiver")


async def test_the_command_prints_its_numbers(tmp_path: Path) -> None:
    """In lines beside what it found, and by provider in JSON, which holds nothing of the keys."""
    async with receiver_process(tmp_path / "receiver.db", port=free_port()) as receiver:
        async with aiohttp.ClientSession() as session:
            await twelve_polled(Api(receiver.url, session))
        here = {"PORT": receiver.url.rpartition(":")[2], "API_KEYS": API_KEYS}
        lines = await run_command(tmp_path, "doctor", **here)
        values = await run_command(tmp_path, "doctor", "--json", **here)

    assert (
        "\ncapsolver: 0 tasks wait, no poll overdue; stale answers: 0\n  last hour  12 tasks ended, of 12 " in lines.out
    )
    assert "refused: 1 unreadable, polls: 48 of 1440 allowed" in lines.out
    assert json.loads(values.out)["providers"]["capsolver"]["hour"]["lostCallbacks"] == 10


async def mixed_callbacks(api: Api) -> None:
    """Two answers that callbacks brought, one of which came four times; one for another task; a stale answer, twice."""
    first, second = [await api.register() for _ in range(2)]
    for _ in range(4):
        await api.call_back(first["callbackUrl"], taskId="a1")
    for task_id in ("a1", "b2"):
        await api.call_back(second["callbackUrl"], taskId=task_id)
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    report = {"source": "poll", "answer": READY, "finishedAt": an_hour_ago.isoformat()}
    await api.send("POST", "/v1/tasks", json={"provider": "onecaptcha", "taskId": 7, "outcome": report})
    for _ in range(2):
        await api.task(7)


@asynccontextmanager
async def answering(body: bytes) -> AsyncIterator[str]:
    """Yield the address of a server that gives these bytes for its numbers."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    async with serving(web.AppRunner(app)) as url:
        yield url.removeprefix("http://")
