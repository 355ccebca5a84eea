"""The figures of `callback-receiver doctor`, compared with `/metrics`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import aiohttp

from receiver.commands.doctor.figures import figure_values
from receiver.commands.doctor.probes import read_facts
from receiver.health.findings import judge
from receiver.settings import Settings
from tests.faults.commands import KEY, run_command
from tests.faults.test_doctor import READY, twelve_polled
from tests.receiver.test_metrics import asked
from tests.support import API_KEYS, PLACES, Api, free_port, receiver_process, running_receiver


async def test_the_figures_equal_the_metrics(tmp_path: Path) -> None:
    """Both count lost and late callbacks, duplicates, refusals by verdict, latency and polls of one hour."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        await twelve_polled(api)
        await mixed_callbacks(api)
        port = int(api.url.rpartition(":")[2])
        settings = Settings(database=PLACES[tmp_path / "receiver.db"], api_keys=API_KEYS, port=port, _env_file=None)
        counted = await asked(api)

        figures = figure_values(await read_facts(settings, now=time.time_ns() // 1000))

    hour = figures["providers"]["capsolver"]["hour"]
    assert figures["providers"]["capsolver"]["day"] == hour
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
    assert figures["providers"]["onecaptcha"]["hour"]["lostCallbacks"] == 0


async def test_an_unreadable_delivery_on_a_standing_url_is_among_the_refused(tmp_path: Path) -> None:
    """The delivery belongs to no known task, and its provider may have no task at all."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        made = await run_command(tmp_path, "callback-url", "hardcaptcha", API_KEYS=KEY, PUBLIC_URL=api.url)
        await api.send("POST", made.out.split()[0], key=None, data=b"<html>")
        place = PLACES[tmp_path / "receiver.db"]
        settings = Settings(database=place, api_keys=API_KEYS, port=free_port(), _env_file=None)

        facts = await read_facts(settings, now=time.time_ns() // 1000)
        later = await read_facts(settings, now=2**62)

    assert figure_values(later)["providers"] == {}
    assert figure_values(facts)["providers"]["hardcaptcha"]["day"]["refused"] == {"unreadable": 1}
    assert "hardcaptcha: 1 callbacks of the last hour were refused as unreadable" in [
        found.says for found in judge(facts)
    ]


async def test_the_command_prints_its_figures(tmp_path: Path) -> None:
    """The text has lines beside the findings, the JSON has one object for each provider."""
    async with receiver_process(tmp_path / "receiver.db", port=free_port()) as receiver:
        async with aiohttp.ClientSession() as session:
            await twelve_polled(Api(receiver.url, session))
        here = {"PORT": receiver.url.rpartition(":")[2], "API_KEYS": API_KEYS}
        lines = await run_command(tmp_path, "doctor", **here)
        values = await run_command(tmp_path, "doctor", "--json", **here)

    assert "\ncapsolver: 0 tasks wait, no poll overdue\n  last hour  12 tasks ended, of 12 " in lines.out
    assert "refused: 1 unreadable, polls: 48 of 1440 allowed" in lines.out
    assert json.loads(values.out)["providers"]["capsolver"]["hour"]["lostCallbacks"] == 10


async def mixed_callbacks(api: Api) -> None:
    """Send four callbacks to one task and two with different ids to another. Report an answer of a third by a poll."""
    first, second = [await api.register() for _ in range(2)]
    for _ in range(4):
        await api.call_back(first["callbackUrl"], taskId="a1")
    for task_id in ("a1", "b2"):
        await api.call_back(second["callbackUrl"], taskId=task_id)
    report = {"source": "poll", "answer": READY}
    await api.send("POST", "/v1/tasks", json={"provider": "onecaptcha", "taskId": 7, "outcome": report})
