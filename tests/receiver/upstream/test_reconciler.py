"""The receiver's own polls: each task of its key ends, within the provider's limits, through all faults."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from client.protocol.models import client_key_id
from client.providers import Dialect, KeyLimits
from client.sandbox import FaultRates, Sandbox, SandboxSettings
from client.sandbox.serving import serving
from receiver.errors import CannotStartError
from receiver.settings import Settings as ReceiverSettings
from receiver.storage.sqlite.store import open_sqlite_store
from receiver.upstream.accounts import open_accounts
from receiver.upstream.reconciler import Reconciler
from receiver.upstream.schedules import Schedules
from tests.client.support import fast, image_task, open_client
from tests.receiver.storage.stores import NOW, a_registration, running_store
from tests.support import API_KEYS, Api, RunningReceiver, eventually, free_port, running_receiver

KEY = "the-client-key-of-the-operator"
READY = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}}
PROCESSING = {"errorId": 0, "status": "processing"}
QUICK = fast(first_after_callback_seconds=0.3, first_after_seconds=0.1, interval_seconds=0.1, window_seconds=20.0)


@dataclass
class Provider:
    """A provider with scripted answers to getTaskResult, by id. It records the ids in `asked`."""

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0

    async def get_task_result(self, request: web.Request) -> web.Response:
        """Answer getTaskResult once `gate` is set."""
        asked = await request.json()
        self.asked.append(asked["taskId"])
        self.under_way += 1
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        answer = self.answers.get(asked["taskId"], PROCESSING) if asked["clientKey"] == KEY else {"errorId": 1}
        return web.json_response(answer)


@asynccontextmanager
async def running_provider(port: int = 0) -> AsyncIterator[Provider]:
    """Yield a provider on loopback. It answers at once."""
    running = Provider()
    running.gate.set()
    app = web.Application()
    app.router.add_post("/getTaskResult", running.get_task_result)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    with socket.create_server(("127.0.0.1", port)) as listener:
        async with serving(runner, listener) as running.url:
            yield running


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """Yield a provider on loopback. It answers at once."""
    async with running_provider() as running:
        yield running


@asynccontextmanager
async def reconciling(
    database: Path | str, provider: Provider, dialects: Any = QUICK, **settings: Any
) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver with the key of the provider."""
    settings = {"provider_keys": {"capsolver": KEY}, "provider_urls": {"capsolver": provider.url}, **settings}
    async with running_receiver(database, dialects=dialects, **settings) as api:
        yield api


async def cut_off(database: Path, provider: Provider) -> Any:
    """Stop a receiver during the first poll of a task. Return the task; its answer is ready afterwards."""
    provider.gate.clear()
    async with reconciling(database, provider) as api:
        registered = await submitted(api, "a1")
        await eventually(lambda: provider.under_way == 1)
    provider.gate.set()
    provider.answers["a1"] = READY
    return registered


async def submitted(api: Api, task_id: str, **fields: Any) -> Any:
    """Register a task and bind its id from createTask."""
    registered = await api.register(**fields)
    await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": task_id})
    return registered


async def ended(api: RunningReceiver, ref: str) -> Any:
    """Return the task once it has an outcome."""
    return (await api.send("GET", f"/v1/tasks/{ref}", params={"wait": "50"})).json


def with_plan(**changes: Any) -> Callable[[Dialect], Dialect]:
    """Return a dialect with another plan."""
    return lambda dialect: replace(dialect, polls=replace(dialect.polls, **changes))


async def test_a_lost_callback_costs_time_and_not_the_answer(tmp_path: Path, provider: Provider) -> None:
    """The registration names the receiver as the one to poll, and the poll brings the outcome."""
    provider.answers["a1"] = READY
    async with reconciling(tmp_path / "receiver.db", provider) as api:
        registered = await submitted(api, "a1")
        task = await ended(api, registered["ref"])

    assert registered["fallback"] == "receiver"
    assert (task["status"], task["solution"], task["source"], task["trust"]) == (
        "ready",
        {"text": "44795sds"},
        "poll",
        "polled",
    )
    assert task["nextPollAt"] is None
    assert provider.asked == ["a1"]


async def test_it_asks_until_there_is_an_answer(tmp_path: Path, provider: Provider) -> None:
    """A task is polled until its outcome. A failure is an outcome too."""
    async with reconciling(tmp_path / "receiver.db", provider) as api:
        registered = await submitted(api, "a1")
        await eventually(lambda: len(provider.asked) >= 3)
        waiting = await api.task(registered["ref"])
        provider.answers["a1"] = {"errorId": 12, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE"}
        task = await ended(api, registered["ref"])

    assert (waiting["status"], waiting["nextPollAt"] is not None) == ("processing", True)
    assert (task["status"], task["errorCode"], task["source"]) == ("failed", "ERROR_CAPTCHA_UNSOLVABLE", "poll")


@pytest.mark.parametrize(
    ("keys", "urls", "text"),
    [
        ({"nobody": KEY}, {}, "RECEIVER_PROVIDER_KEYS: unknown provider 'nobody': expected one of"),
        ({"capkill": KEY}, {}, "RECEIVER_PROVIDER_URLS: the endpoint of capkill is not known"),
        ({"hardcaptcha": KEY}, {"hardcaptcha": "http://127.0.0.1:9"}, "how it is asked is not known"),
    ],
)
async def test_keys_that_are_of_no_use_are_refused_at_the_start(
    tmp_path: Path, keys: dict[str, str], urls: dict[str, str], text: str
) -> None:
    """A useless key is refused before the first poll, because a poll would end the receiver after each start."""
    with pytest.raises(CannotStartError, match=text):
        async with running_receiver(tmp_path / "receiver.db", provider_keys=keys, provider_urls=urls):
            pass


async def test_a_task_of_another_key_is_left_to_its_client(tmp_path: Path, provider: Provider) -> None:
    """The receiver polls only tasks of its own key, or of an unnamed one."""
    async with reconciling(tmp_path / "receiver.db", provider) as api:
        theirs = await submitted(api, "a1", clientKeyId="01234567")
        ours = await submitted(api, "a2", clientKeyId=client_key_id(KEY))
        other = await api.register(provider="onecaptcha")
        await eventually(lambda: provider.asked.count("a2") >= 2)

    assert [task["fallback"] for task in (theirs, ours, other)] == ["client", "receiver", "client"]
    assert "a1" not in provider.asked


async def test_a_callback_that_comes_during_a_poll_wins(tmp_path: Path, provider: Provider) -> None:
    """The answer of the poll is recorded and changes nothing, even if it differs."""
    provider.gate.clear()
    provider.answers["a1"] = {**READY, "solution": {"text": "other"}}
    async with reconciling(tmp_path / "receiver.db", provider) as api:
        registered = await submitted(api, "a1")
        await eventually(lambda: provider.under_way == 1)
        await api.call_back(registered["callbackUrl"], taskId="a1")
        provider.gate.set()
        await eventually(lambda: provider.under_way == 0)
        await asyncio.sleep(0.3)
        task = await api.task(registered["ref"])
        log = await api.log()

    assert (task["solution"], task["source"]) == ({"text": "44795sds"}, "callback")
    assert len(log["results"]) == 1
    assert len(provider.asked) == 1


async def test_a_callback_after_the_polls_answer_is_late(tmp_path: Path, provider: Provider) -> None:
    """The late callback is acknowledged, and the log has one result."""
    provider.answers["a1"] = READY
    async with reconciling(tmp_path / "receiver.db", provider) as api:
        registered = await submitted(api, "a1")
        await ended(api, registered["ref"])
        answer = await api.call_back(registered["callbackUrl"], taskId="a1")
        log = await api.log()

    assert (answer.status, len(log["results"])) == (200, 1)


async def test_a_hint_brings_the_poll_to_now(tmp_path: Path, provider: Provider) -> None:
    """An unreadable callback is no answer, but it shows that there may be one."""
    provider.answers["a1"] = READY
    slow = fast(first_after_callback_seconds=15.0, first_after_seconds=0.1, interval_seconds=0.1)
    async with reconciling(tmp_path / "receiver.db", provider, slow) as api:
        registered = await submitted(api, "a1")
        await asyncio.sleep(0.3)
        before = list(provider.asked)
        answer = await api.send("POST", registered["callbackUrl"], key=None, data=b"garbage")
        task = await ended(api, registered["ref"])

    assert (before, answer.status, task["source"]) == ([], 422, "poll")


async def test_an_unknown_state_beside_a_solution_brings_one_poll(tmp_path: Path, provider: Provider) -> None:
    """The solution is not trusted. Any number of such callbacks brings one poll, at once.

    (AndreiDrang/python3-capsolver#150)
    """
    slow = fast(first_after_callback_seconds=15.0, first_after_seconds=15.0, interval_seconds=15.0, window_seconds=60.0)
    async with reconciling(tmp_path / "receiver.db", provider, slow) as api:
        registered = await submitted(api, "a1")
        before = list(provider.asked)
        for _ in range(3):
            answer = await api.call_back(registered["callbackUrl"], taskId="a1", status="done")
            assert answer.status == 200
        await eventually(lambda: provider.asked == ["a1"])
        task = await api.task(registered["ref"])
        called_back = await api.call_back(registered["callbackUrl"], taskId="a1")
        task_then = await api.task(registered["ref"])

    assert (before, task["status"], provider.asked) == ([], "processing", ["a1"])
    assert (called_back.status, task_then["status"], task_then["source"]) == (200, "ready", "callback")


async def test_after_a_restart_it_goes_on(tmp_path: Path, provider: Provider) -> None:
    """The store has the times of polls, and a new key takes over the waiting tasks."""
    database = tmp_path / "receiver.db"
    async with running_receiver(database, dialects=QUICK) as api:
        registered = await submitted(api, "a1")
    provider.answers["a1"] = READY
    async with reconciling(database, provider) as api:
        task = await ended(api, registered["ref"])

    assert (registered["fallback"], task["source"]) == ("client", "poll")


@pytest.mark.sqlite
async def test_a_poll_that_a_stop_cut_off_is_repeated_in_time(tmp_path: Path, provider: Provider) -> None:
    """The poll counts, because it was sent. After the restart the task waits for the interval, not for a lease."""
    database = tmp_path / "receiver.db"
    registered = await cut_off(database, provider)
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT polls, leased_until FROM task").fetchall()
    async with reconciling(database, provider) as api:
        task = await ended(api, registered["ref"])
        metrics = (await api.send("GET", "/metrics")).body.decode()

    assert (rows, task["source"], len(provider.asked)) == ([(1, None)], "poll", 2)
    assert 'what="doubled"' not in metrics


@pytest.mark.sqlite
async def test_a_poll_that_stands_in_line_at_a_stop_is_given_back(tmp_path: Path, provider: Provider) -> None:
    """A poll not sent before the stop does not count."""
    slow = {
        name: replace(dialect, key_limits=replace(dialect.key_limits, requests_per_second=1.0))
        for name, dialect in QUICK.items()
    }
    database = tmp_path / "receiver.db"
    async with reconciling(database, provider, slow) as api:
        for name in ("a1", "a2", "a3"):
            await submitted(api, name)
        await eventually(lambda: len(provider.asked) >= 1)
    with closing(sqlite3.connect(database)) as connection:
        ((polls, leases),) = connection.execute("SELECT sum(polls), count(leased_until) FROM task").fetchall()

    assert (polls, leases) == (len(provider.asked), 0)


@pytest.mark.sqlite
async def test_what_is_being_taken_at_a_stop_is_given_back(tmp_path: Path, provider: Provider) -> None:
    """Tasks taken during the stop are given back. Otherwise they would wait for their leases."""
    database = tmp_path / "receiver.db"
    async with running_store(database) as store:
        row = a_registration(7, task_id="a1", bound_by="create", is_polled_here=True, next_poll_at=NOW)
        task = (await store.write(row)).task
    accounts: dict[str, Any] = {"provider_keys": {"capsolver": KEY}, "provider_urls": {"capsolver": provider.url}}
    settings = ReceiverSettings(api_keys=API_KEYS, _env_file=None, **accounts)
    async with (
        open_sqlite_store(database, now=NOW, clock=time.monotonic) as store,
        AsyncExitStack() as stack,
        asyncio.TaskGroup() as group,
    ):
        account = (await open_accounts(settings, QUICK, stack))["capsolver"]
        schedules = Schedules(store, QUICK, lambda: NOW)
        reconciler = Reconciler(account, store, schedules, lambda: NOW, lambda *_: None, lambda *_: None)
        running = group.create_task(reconciler.run())
        # That, and the first use of the key.
        await eventually(lambda: store.queued == 2)
        running.cancel()
        group.create_task(store.run())
        await asyncio.wait([running])
        left = await store.task(task.ref)
        store.stop()

    assert left is not None
    assert (left.lease, left.leased_until, provider.asked) == (1, None, [])


@pytest.mark.sqlite
async def test_a_poll_that_a_crash_cut_off_is_counted_and_told(tmp_path: Path, provider: Provider) -> None:
    """After its lease the task is polled once more. /metrics counts it as doubled, the timeline as cut off."""
    database = tmp_path / "receiver.db"
    registered = await cut_off(database, provider)
    with closing(sqlite3.connect(database)) as connection, connection:
        # As a killed process leaves it, half a minute later.
        connection.execute("DELETE FROM poll")
        connection.execute("UPDATE task SET polls = 0, leased_until = 1")
    async with reconciling(database, provider) as api:
        task = await ended(api, registered["ref"])
        timeline = (await api.send("GET", f"/v1/tasks/{registered['ref']}/timeline")).json
        metrics = (await api.send("GET", "/metrics")).body.decode()

    assert (task["source"], timeline["polls"], len(provider.asked)) == ("poll", 2, 2)
    assert [step["happened"] for step in timeline["steps"] if step["happened"].startswith("poll")] == [
        "poll.cutOff",
        "poll.completed",
    ]
    assert 'callback_receiver_own_polls_total{provider="capsolver",what="doubled"} 1.0' in metrics


@pytest.mark.sqlite
async def test_a_poll_that_a_clock_set_back_put_far_off_is_made_now(tmp_path: Path, provider: Provider) -> None:
    """No plan has a poll so far ahead, so the task does not wait for the clock to reach that time."""
    database = tmp_path / "receiver.db"
    registered = await cut_off(database, provider)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE task SET next_poll_at = next_poll_at + 3600000000")
    async with reconciling(database, provider) as api:
        task = await ended(api, registered["ref"])

    assert (task["source"], len(provider.asked)) == ("poll", 2)


async def test_two_processes_on_one_database_share_the_polls(database: Path | str, provider: Provider) -> None:
    """A task polled by one process is not polled by the other, and both take part."""
    names = [f"a{number}" for number in range(30)]
    provider.answers |= dict.fromkeys(names, READY)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(reconciling(database, provider))
        await stack.enter_async_context(reconciling(database, provider))
        registered = [await submitted(one, name) for name in names]
        tasks = [await ended(one, task["ref"]) for task in registered]

    assert {task["source"] for task in tasks} == {"poll"}
    assert sorted(provider.asked) == sorted(names)


async def test_most_polls_are_kept_to(tmp_path: Path, provider: Provider) -> None:
    """After the last allowed poll the task waits only for its callback, until its deadline."""
    few = {name: with_plan(max_polls=3)(dialect) for name, dialect in QUICK.items()}
    async with reconciling(tmp_path / "receiver.db", provider, few) as api:
        registered = await submitted(api, "a1")
        await eventually(lambda: len(provider.asked) == 3)
        await asyncio.sleep(0.5)
        waiting = await api.task(registered["ref"])
        await api.call_back(registered["callbackUrl"], taskId="a1")
        task = await api.task(registered["ref"])

    assert (len(provider.asked), waiting["nextPollAt"], task["source"]) == (3, None, "callback")


@pytest.mark.parametrize("most", [1, 2])
async def test_polls_that_found_no_connection_do_not_use_up_the_most(tmp_path: Path, most: int) -> None:
    """Polls without a connection do not count, so all polls are left when the provider is back."""
    few = {name: with_plan(max_polls=most)(dialect) for name, dialect in QUICK.items()}
    port = free_port()
    async with reconciling(tmp_path / "receiver.db", Provider(url=f"http://127.0.0.1:{port}"), few) as api:
        registered = await submitted(api, "a1")
        metrics = ""
        async with asyncio.timeout(30):
            while 'what="failed"} 4.0' not in metrics:
                metrics = (await api.send("GET", "/metrics")).body.decode()
        timeline = (await api.send("GET", f"/v1/tasks/{registered['ref']}/timeline")).json
        async with running_provider(port) as provider:
            provider.answers["a1"] = READY
            task = await ended(api, registered["ref"])

    assert (timeline["polls"], timeline["waiting"]["pollsLeft"]) == (0, most)
    assert [step["text"] for step in timeline["steps"] if step["happened"] == "poll.completed"] != []
    assert (task["source"], len(provider.asked)) == ("poll", 1)


async def test_an_unknown_id_is_final_after_the_window_alone(tmp_path: Path, provider: Provider) -> None:
    """Within the window the poll may be too early. Afterwards the answer is final."""
    provider.answers["a1"] = {"errorId": 1, "errorCode": "ERROR_TASKID_INVALID"}
    short = fast(
        first_after_callback_seconds=0.2,
        first_after_seconds=0.1,
        interval_seconds=0.2,
        window_seconds=1.0,
        grace_seconds=0.5,
    )
    async with reconciling(tmp_path / "receiver.db", provider, short) as api:
        registered = await submitted(api, "a1", timeoutSeconds=10)
        await eventually(lambda: len(provider.asked) >= 2)
        early = await api.task(registered["ref"])
        task = await ended(api, registered["ref"])

    assert early["status"] == "processing"
    assert (task["status"], task["errorCode"], task["source"]) == ("failed", "ERROR_TASKID_INVALID", "poll")


@pytest.mark.parametrize("code", ["ERROR_KEY_DENIED_ACCESS", "ERROR_ZERO_BALANCE", "ERROR_RATE_LIMIT"])
async def test_an_error_about_the_key_ends_no_task_and_pauses(tmp_path: Path, provider: Provider, code: str) -> None:
    """A refused key is not polled with again and again. A callback still ends the task."""
    names = [f"a{number}" for number in range(5)]
    provider.answers |= {name: {"errorId": 1, "errorCode": code} for name in names}
    async with reconciling(tmp_path / "receiver.db", provider) as api:
        tasks = [await submitted(api, name) for name in names]
        await eventually(lambda: len(provider.asked) >= 1)
        await asyncio.sleep(1.5)
        asked = len(provider.asked)
        states = [(await api.task(task["ref"]))["status"] for task in tasks]
        await api.call_back(tasks[0]["callbackUrl"], taskId="a0")
        first = await api.task(tasks[0]["ref"])

    assert asked <= 5
    assert set(states) == {"processing"}
    assert first["source"] == "callback"


async def test_the_client_stays_quiet_where_the_receiver_polls(tmp_path: Path, provider: Provider) -> None:
    """The receiver's poll ends the task, and the client sends none."""
    quick = SandboxSettings(latency_seconds=(0.2, 0.2), async_images=True, rates=FaultRates(callback_lost=1.0))
    async with Sandbox("capsolver", quick) as sandbox:
        keys = {"provider_keys": {"capsolver": "tests-only-client-key"}, "provider_urls": {"capsolver": sandbox.url}}
        async with (
            reconciling(tmp_path / "receiver.db", provider, **keys) as api,
            open_client(sandbox.url, api.url, dialects=QUICK) as tasks,
        ):
            task = await tasks.submit(image_task())
            solved = await task.result()
            happened = {step.happened for step in task.timeline()}

    assert (solved.source, solved.trust) == ("poll", "polled")
    assert "task.polled" not in happened


async def test_tasks_keep_to_the_rate_of_the_key(tmp_path: Path, provider: Provider) -> None:
    """Tasks due at the same time are polled one after the other, the oldest first."""
    names = [f"a{number:02}" for number in range(40)]
    provider.answers |= dict.fromkeys(names, READY)
    async with reconciling(tmp_path / "receiver.db", provider, limited_to(50.0)) as api:
        for name in names:
            await submitted(api, name)
        await eventually(lambda: len(provider.asked) >= 40)

    assert sorted(provider.asked) == names
    assert provider.asked[:5] == names[:5]


async def test_a_key_that_is_used_up_is_not_used(tmp_path: Path, provider: Provider) -> None:
    """The rate allows one request in ten minutes, so all other due tasks wait."""
    async with reconciling(tmp_path / "receiver.db", provider, limited_to(1 / 600)) as api:
        for number in range(5):
            await submitted(api, f"a{number}")
        await eventually(lambda: len(provider.asked) >= 1)
        await asyncio.sleep(0.5)

    assert len(provider.asked) == 1


def limited_to(requests_per_second: float) -> dict[str, Dialect]:
    """Return the quick providers with this rate for each key."""
    limits = KeyLimits(requests_per_second=requests_per_second)
    return {name: replace(dialect, key_limits=limits) for name, dialect in QUICK.items()}
