"""Callbacks to be confirmed by a poll: the provider's answer wins, and no task waits for it forever."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from receiver.app import new_ref
from receiver.commands.doctor.figures import figure_values
from receiver.commands.doctor.probes import read_facts
from receiver.domain import deliveries
from receiver.domain.records import SECOND
from receiver.domain.schedule import ENOUGH
from receiver.domain.tokens import Kind, make_token
from receiver.errors import CannotStartError
from receiver.health.findings import judge
from receiver.settings import Settings
from tests.client.support import fast
from tests.receiver.test_metrics import asked
from tests.receiver.upstream.test_reconciler import (
    KEY,
    QUICK,
    READY,
    Provider,
    ended,
    provider,
    reconciling,
    submitted,
    with_plan,
)
from tests.support import API_KEYS, RunningReceiver, eventually, running_receiver

__all__ = ["provider"]

SIGNING_KEY = "a key that signs the tokens of these tests"
OTHER = {"errorId": 0, "status": "ready", "solution": {"text": "other"}}
SLOW = fast(first_after_callback_seconds=15.0, first_after_seconds=0.1, interval_seconds=0.1)


@pytest.fixture(autouse=True)
def short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks are held back for a second, not for ten."""
    monkeypatch.setattr(deliveries, "HOLD", SECOND)


@asynccontextmanager
async def confirming(database: Path, provider: Provider, **settings: Any) -> AsyncIterator[RunningReceiver]:
    """Yield a receiver that confirms every unsigned callback."""
    async with reconciling(database, provider, SLOW, **{"confirm_callbacks": "always", **settings}) as api:
        yield api


async def test_what_the_provider_says_is_the_outcome(tmp_path: Path, provider: Provider) -> None:
    """The callback is acknowledged and brings the poll to now; its answer counts as confirmed."""
    provider.answers["a1"] = READY
    async with confirming(tmp_path / "receiver.db", provider) as api:
        registered = await submitted(api, "a1")
        answer = await api.call_back(registered["callbackUrl"], taskId="a1")
        task = await ended(api, registered["ref"])
        again = await api.call_back(registered["callbackUrl"], taskId="a1")

    assert (answer.status, again.status) == (200, 200)
    assert (task["solution"], task["source"], task["trust"]) == ({"text": "44795sds"}, "poll", "confirmed")


@pytest.mark.sqlite
async def test_callbacks_that_were_confirmed_are_not_counted_as_lost(tmp_path: Path, provider: Provider) -> None:
    """Callbacks came, once or twice, and led to polls. The doctor counts none of them as lost or late."""
    names = [f"a{number}" for number in range(12)]
    provider.answers |= dict.fromkeys(names, READY)
    async with confirming(tmp_path / "receiver.db", provider) as api:
        for name in names:
            registered = await submitted(api, name)
            await api.call_back(registered["callbackUrl"], taskId=name)
            await ended(api, registered["ref"])
            await api.call_back(registered["callbackUrl"], taskId=name)
        counted = await asked(api)
        settings = Settings(database=tmp_path / "receiver.db", api_keys=API_KEYS, _env_file=None)
        facts = await read_facts(settings, now=time.time_ns() // 1000)

    findings, hour = judge(facts), figure_values(facts)["providers"]["capsolver"]["hour"]
    assert hour["callbackLatency"]["callbacks"] == 12
    assert counted["outcomes_total/capsolver/poll/ready"] == counted["callback_latency_seconds_count/capsolver"] == 12
    assert counted.get("polled_answers_total/capsolver", 0) == counted.get("late_callbacks_total/capsolver", 0) == 0
    assert not [finding for finding in findings if finding.about in ("lost", "late")]


async def test_callbacks_that_are_confirmed_teach_when_they_come(tmp_path: Path, provider: Provider) -> None:
    """The schedule learns from confirmed callbacks, too. Otherwise it would expect all callbacks to fail."""
    names = [f"a{number}" for number in range(ENOUGH)]
    provider.answers |= dict.fromkeys(names, READY)
    async with confirming(tmp_path / "receiver.db", provider) as api:
        for name in names:
            registered = await submitted(api, name)
            await api.call_back(registered["callbackUrl"], taskId=name)
            await ended(api, registered["ref"])
        next_one = await submitted(api, "a later one")

    assert next_one["poll"]["firstAfterSeconds"] < SLOW["capsolver"].polls.first_after_callback_seconds / 2


async def test_where_they_differ_the_poll_wins(tmp_path: Path, provider: Provider) -> None:
    """A forged callback changes nothing, and the log names it."""
    provider.answers["a1"] = OTHER
    with capture_logs() as lines:
        async with confirming(tmp_path / "receiver.db", provider) as api:
            registered = await submitted(api, "a1")
            await api.call_back(registered["callbackUrl"], taskId="a1")
            task = await ended(api, registered["ref"])
            log = await api.log()

    assert (task["solution"], task["trust"]) == ({"text": "other"}, "confirmed")
    assert [entry["task"]["ref"] for entry in log["results"] if "task" in entry] == [registered["ref"]]
    assert [line["ref"] for line in lines if line["event"] == "callback.contradicted"] == [registered["ref"]]


async def test_where_the_provider_cannot_be_asked_the_callback_counts(tmp_path: Path, provider: Provider) -> None:
    """After the hold the callback is the outcome, with the trust of its URL."""
    provider.gate.clear()
    async with confirming(tmp_path / "receiver.db", provider) as api:
        registered = await submitted(api, "a1")
        await api.call_back(registered["callbackUrl"], taskId="a1")
        held = await api.task(registered["ref"])
        task = await ended(api, registered["ref"])
        provider.gate.set()

    assert held["status"] == "processing"
    assert (task["status"], task["source"], task["trust"]) == ("ready", "callback", "token")


async def test_a_callback_that_is_early_is_held_while_the_provider_says_so(tmp_path: Path, provider: Provider) -> None:
    """A provider that still works on the task has not confirmed the callback. Its final answer wins."""
    async with confirming(tmp_path / "receiver.db", provider) as api:
        registered = await submitted(api, "a1")
        await api.call_back(registered["callbackUrl"], taskId="a1")
        await asyncio.sleep(3)
        held, asked = await api.task(registered["ref"]), len(provider.asked)
        provider.answers["a1"] = OTHER
        task = await ended(api, registered["ref"])

    assert (held["status"], asked >= 2) == ("processing", True)
    assert (task["solution"], task["source"], task["trust"]) == ({"text": "other"}, "poll", "confirmed")


async def test_where_no_more_polls_are_allowed_the_callback_counts(tmp_path: Path, provider: Provider) -> None:
    """The provider can no longer be asked, so an unconfirmed callback is the outcome after the hold."""
    few = {name: with_plan(max_polls=2)(dialect) for name, dialect in SLOW.items()}
    async with reconciling(tmp_path / "receiver.db", provider, few, confirm_callbacks="always") as api:
        registered = await submitted(api, "a1")
        await api.call_back(registered["callbackUrl"], taskId="a1")
        task = await ended(api, registered["ref"])

    assert (len(provider.asked), task["source"], task["trust"]) == (2, "callback", "token")


async def test_a_restart_while_a_callback_is_held_loses_nothing(tmp_path: Path, provider: Provider) -> None:
    """The hold is in the store, so a receiver without the key still releases it."""
    provider.gate.clear()
    database = tmp_path / "receiver.db"
    async with confirming(database, provider) as api:
        registered = await submitted(api, "a1")
        await api.call_back(registered["callbackUrl"], taskId="a1")
    async with running_receiver(database, dialects=QUICK) as api:
        task = await ended(api, registered["ref"])

    assert (task["status"], task["source"], task["trust"]) == ("ready", "callback", "token")


async def test_an_unknown_id_on_a_standing_url_is_asked_about_too(tmp_path: Path, provider: Provider) -> None:
    """The task is made, and ends with the provider's answer to a poll."""
    provider.answers["b1"] = OTHER
    token = make_token(Kind.STANDING, new_ref(), "capsolver", SIGNING_KEY.encode())
    async with confirming(tmp_path / "receiver.db", provider, signing_keys=SIGNING_KEY) as api:
        url = f"{api.url}/callback/capsolver/{token}"
        answer = await api.call_back(url, taskId="b1")
        task = (await api.send("GET", "/v1/tasks/b1", params={"wait": "50"})).json

    assert answer.status == 200
    assert (task["solution"], task["trust"]) == ({"text": "other"}, "confirmed")


async def test_what_is_signed_needs_no_second_word(tmp_path: Path, provider: Provider) -> None:
    """A signed callback needs no poll."""
    secrets = {"capsolution": "the signing secret"}
    accounts = {
        "provider_keys": {"capsolution": KEY},
        "provider_urls": {"capsolution": provider.url},
        "callback_secrets": secrets,
    }
    body = b'{"event":"task.completed","taskId":"task_x","status":"ready","solution":{"token":"t"}}'
    signature = hmac.digest(secrets["capsolution"].encode(), body, "sha256").hex()
    async with confirming(tmp_path / "receiver.db", provider, **accounts) as api:
        registered = await submitted(api, "task_x", provider="capsolution")
        headers = {"X-Webhook-Signature": signature}
        await api.send("POST", registered["callbackUrl"], key=None, data=body, headers=headers)
        task = await api.task(registered["ref"])

    assert (task["status"], task["trust"]) == ("ready", "signed")
    assert provider.asked == []


@pytest.mark.parametrize(("confirm", "polls"), [("never", 0), ("mismatched", 1)])
async def test_another_tasks_id_brings_a_poll_or_not(
    tmp_path: Path, provider: Provider, confirm: str, polls: int
) -> None:
    """By default a callback with another id is a sign to look; `never` asks about none."""
    async with confirming(tmp_path / "receiver.db", provider, confirm_callbacks=confirm) as api:
        registered = await submitted(api, "a1")
        answer = await api.call_back(registered["callbackUrl"], taskId="a2")
        if polls:
            await eventually(lambda: len(provider.asked) >= polls)
        else:
            await asyncio.sleep(1)

    assert answer.status == 409
    assert bool(provider.asked) is bool(polls)


async def test_without_a_key_there_is_nobody_to_ask(tmp_path: Path) -> None:
    """`always` without any key is refused at the start."""
    with pytest.raises(CannotStartError, match="RECEIVER_CONFIRM_CALLBACKS: always needs a key"):
        async with running_receiver(tmp_path / "receiver.db", confirm_callbacks="always"):
            pass


async def test_a_held_callback_goes_to_the_task_that_got_its_id(
    tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standing URL brought it. Then a client bound the id to its own task, which has the answer after the hold."""
    # Longer than a busy machine stops this test between the two.
    monkeypatch.setattr(deliveries, "HOLD", 5 * SECOND)
    async with confirming(tmp_path / "receiver.db", provider, signing_keys=SIGNING_KEY) as api:
        url = f"{api.url}/callback/capsolver/{make_token(Kind.STANDING, new_ref(), 'capsolver', SIGNING_KEY.encode())}"
        registered = await api.register()
        held = await api.call_back(url, taskId="a1")
        await api.send("PATCH", f"/v1/tasks/{registered['ref']}", json={"taskId": "a1"})
        task = await ended(api, registered["ref"])
        log = (await api.log(hints="false"))["results"]

    assert (held.status, task["solution"], task["source"]) == (200, {"text": "44795sds"}, "callback")
    assert [entry["task"]["ref"] for entry in log] == [registered["ref"]]
