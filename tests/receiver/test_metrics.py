"""The metrics: correct counts, no private labels, and access by scope."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client.providers import DIALECTS
from receiver.domain.records import SECOND, WaitingTasks
from receiver.errors import CannotStartError
from receiver.metrics import Metrics, Moment
from receiver.settings import Settings
from tests.support import READ_ONLY, Api, eventually, free_port, running_receiver

READY = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}


def samples(text: str) -> dict[str, float]:
    """Return each sample by its name and the values of its labels, without the prefix."""
    return {
        "/".join((sample.name.removeprefix("callback_receiver_"), *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def asked(api: Api) -> dict[str, float]:
    """Return the metrics of a receiver."""
    answer = await api.send("GET", "/metrics")
    assert answer.status == 200, answer.body
    return samples(answer.body.decode())


def moment(*waiting: WaitingTasks, now: int) -> Moment:
    """Return a quiet moment with these waiting tasks."""
    return Moment(waiting=waiting, waiters=0, streams=0, queued=0, is_failing=False, now=now)


async def test_every_delivery_is_counted_by_its_verdict(tmp_path: Path) -> None:
    """Accepted, repeated, unreadable and refused deliveries have counts of their own."""
    async with running_receiver(tmp_path / "receiver.db", max_body_bytes=1024) as api:
        url = (await api.register())["callbackUrl"]
        for _ in range(2):
            await api.call_back(url)
        await api.send("POST", url, key=None, data=b"<html>")
        await api.send("POST", url, key=None, data=b" " * 2000)
        await api.send("PUT", url, key=None)
        await api.send("GET", f"{url}?a=b", key=None)
        await api.send("POST", "/callback/capsolver/forged", key=None)
        await api.send("POST", "/callback/a-stranger-wrote-this/forged", key=None)

        counted = await asked(api)

    assert {
        name: value for name, value in counted.items() if name.startswith(("deliveries_total", "refused_total"))
    } == {
        "deliveries_total/capsolver/accepted": 1,
        "deliveries_total/capsolver/duplicate": 1,
        "deliveries_total/capsolver/unreadable": 1,
        "refused_total/capsolver/413": 1,
        "refused_total/capsolver/405": 1,
        "refused_total/capsolver/404": 1,
        "refused_total/unknown/404": 1,
    }


async def test_outcomes_tell_lost_and_late_callbacks_apart(tmp_path: Path) -> None:
    """A poll brought two answers, and one of their callbacks came later, twice. The latency is that of a third."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        lost, late, fine = [await api.register() for _ in range(3)]
        report = {"source": "poll", "answer": READY, "polls": 4}
        for task in (lost, late):
            await api.send("PUT", f"/v1/tasks/{task['ref']}/outcome", json=report)
        for task in (late, late, fine):
            await api.call_back(task["callbackUrl"])

        counted = await asked(api)

    assert counted["outcomes_total/capsolver/poll/ready"] == 2
    assert counted["outcomes_total/capsolver/callback/ready"] == 1
    assert counted["polled_answers_total/capsolver"] == 2
    assert counted["late_callbacks_total/capsolver"] == 1
    assert counted["deliveries_total/capsolver/late"] == 2
    assert counted["callback_latency_seconds_count/capsolver"] == 1
    assert (counted["polls_total/capsolver"], counted["polls_allowed_total/capsolver"]) == (8, 3 * 120)


async def test_what_is_so_now_is_told(tmp_path: Path) -> None:
    """The figures of waiting tasks, waiting requests and the store are current."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        ref = (await api.register())["ref"]
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(api.send("GET", f"/v1/tasks/{ref}?wait=50"))
            await eventually(lambda: api.waiting == 1)
            during = await asked(api)
            await api.send("DELETE", f"/v1/tasks/{ref}")
        after = await asked(api)

    assert waiting.result().status == 404
    assert (during["waiting_tasks/capsolver"], during["waiters"], during["store_failing"]) == (1, 1, 0)
    assert during["oldest_overdue_seconds/capsolver"] == 0
    assert "waiting_tasks/capsolver" not in after
    assert during["commands_total"] == 1


async def test_a_stale_answer_is_counted_when_it_is_fetched(tmp_path: Path) -> None:
    """The answers of the provider live two minutes, and this one is reported after an hour."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        report = {"source": "poll", "answer": READY, "finishedAt": an_hour_ago.isoformat()}
        await api.send("POST", "/v1/tasks", json={"provider": "onecaptcha", "taskId": 7, "outcome": report})
        before = await asked(api)
        await api.task(7)

        counted = await asked(api)

    assert "stale_answers_total/onecaptcha" not in before
    assert counted["stale_answers_total/onecaptcha"] == 1


def test_silence_lasts_from_the_last_callback() -> None:
    """A refused callback ends it as well. Before the first callback, the oldest registration counts."""
    metrics, now = Metrics(DIALECTS), time.time_ns() // 1000
    waiting = WaitingTasks("capsolver", 3, None, called_since=now - 3600 * SECOND)

    before = samples(metrics.rendered(moment(waiting, now=now)).decode())
    metrics.delivered("capsolver", "unreadable", None)
    after = samples(metrics.rendered(moment(waiting, now=now + 60 * SECOND)).decode())

    assert before["callback_silence_seconds/capsolver"] == 3600
    assert after["callback_silence_seconds/capsolver"] <= 60


def test_silence_needs_a_task_that_waits_for_a_callback() -> None:
    """A younger task shortens it, and without a callback URL no callback is missed."""
    metrics, now = Metrics(DIALECTS), time.time_ns() // 1000
    metrics.delivered("capsolver", "accepted", None)
    young = WaitingTasks("capsolver", 1, None, called_since=now + 100 * SECOND)
    later = now + 160 * SECOND

    with_url = samples(metrics.rendered(moment(young, now=later)).decode())
    without = samples(metrics.rendered(moment(young._replace(called_since=None), now=later)).decode())

    assert with_url["callback_silence_seconds/capsolver"] == 60
    assert "callback_silence_seconds/capsolver" not in without


async def test_the_oldest_task_with_a_url_is_read_from_the_store(tmp_path: Path) -> None:
    """A task registered by its id has no callback URL."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        await api.send("POST", "/v1/tasks", json={"provider": "capsolver", "taskId": "attached"})
        attached = await asked(api)
        url = (await api.register())["callbackUrl"]
        registered = await asked(api)
        await api.call_back(url)
        called = await asked(api)

    assert [shown["waiting_tasks/capsolver"] for shown in (attached, registered, called)] == [1, 2, 1]
    assert 0 <= registered["callback_silence_seconds/capsolver"] < 60
    assert not {name for shown in (attached, called) for name in shown if name.startswith("callback_silence")}


@pytest.mark.parametrize(("due_in", "overdue"), [(-90, 90), (20, 0), (None, 0)])
def test_a_task_is_overdue_from_its_next_poll_on(due_in: int | None, overdue: int) -> None:
    """The first poll may be long past. Without a next poll, nothing is late."""
    metrics = Metrics(DIALECTS)
    due = None if due_in is None else (1000 + due_in) * SECOND

    shown = samples(metrics.rendered(moment(WaitingTasks("capsolver", 3, due), now=1000 * SECOND)).decode())

    assert (shown["waiting_tasks/capsolver"], shown["oldest_overdue_seconds/capsolver"]) == (3, overdue)


async def test_the_scope_is_admin(tmp_path: Path) -> None:
    """The counts are confidential: they show the amount of business."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        statuses = [(await api.send("GET", "/metrics", key=key)).status for key in (None, READ_ONLY)]

    assert statuses == [401, 403]


async def test_they_have_an_address_of_their_own(tmp_path: Path) -> None:
    """The address for metrics asks for no key and serves nothing else."""
    port = free_port()
    async with running_receiver(tmp_path / "receiver.db", metrics_address=f"127.0.0.1:{port}") as api:
        there = f"http://127.0.0.1:{port}"
        answer = await api.send("GET", f"{there}/metrics", key=None)
        other = await api.send("GET", f"{there}/v1/tasks")

    assert (answer.status, other.status) == (200, 404)
    assert samples(answer.body.decode())["store_failing"] == 0


async def test_an_address_in_use_is_refused_by_name(tmp_path: Path) -> None:
    """The error for an address in use names the setting."""
    async with running_receiver(tmp_path / "one.db") as other:
        address = other.url.removeprefix("http://")
        with pytest.raises(CannotStartError, match="RECEIVER_METRICS_ADDRESS: cannot listen on"):
            async with running_receiver(tmp_path / "two.db", metrics_address=address):
                pass


@pytest.mark.parametrize("address", ["9101", "localhost:", ":9101", "localhost:99999", "localhost:http"])
def test_a_wrong_address_is_refused(tmp_path: Path, address: str) -> None:
    """An address for metrics needs both host and port."""
    with pytest.raises(ValueError, match="expected host:port"):
        Settings(database=tmp_path / "receiver.db", metrics_address=address, _env_file=None)
