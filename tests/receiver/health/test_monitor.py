"""The monitor of a running receiver: its notices, and the observations that `doctor` reads."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from client.providers import DIALECTS
from client.sandbox import Sandbox, SandboxSettings
from receiver.app import create_app
from receiver.commands.doctor.probes import read_facts
from receiver.domain.records import SECOND
from receiver.errors import CannotStartError
from receiver.health import monitor as monitoring
from receiver.health.balances import Balances
from receiver.health.facts import read_local_facts
from receiver.health.findings import Balance, CanaryFailure, Finding, judge
from receiver.health.monitor import Monitor
from receiver.health.services import open_services
from receiver.settings import Settings
from receiver.storage.sqlite.store import SqliteStore
from tests.faults.commands import KEY, run_command
from tests.receiver.health.webhook import TOPIC, Webhook, running_webhook
from tests.receiver.storage.stores import NOW, a_delivery, a_ref, a_registration, delivery_to_task, running_store
from tests.receiver.test_metrics import asked
from tests.support import API_KEYS, eventually, free_port, running_receiver

MINUTE = 60 * SECOND


@dataclass
class Monitored:
    """A monitor with a clock of its own, on a store."""

    monitor: Monitor
    settings: Settings
    now: int = NOW
    counts: Counter[str] = field(default_factory=Counter)

    async def look(self, minutes: int) -> None:
        """Look once a minute."""
        for _ in range(minutes):
            self.now += MINUTE
            await self.monitor.look()

    def findings(self) -> list[Finding]:
        """Return the findings of `doctor` at this time, without its requests."""
        return judge(read_local_facts(self.settings, DIALECTS, now=self.now)[0])


@asynccontextmanager
async def monitored(store: SqliteStore, database: Path, webhook: Webhook) -> AsyncIterator[Monitored]:
    """Yield a monitor whose notices go to the webhook."""
    settings = Settings(database=database, api_keys=API_KEYS, notices=webhook.url, _env_file=None)
    watched: Monitored

    def count(what: str) -> None:
        watched.counts[what] += 1

    def now() -> int:
        return watched.now

    monitor = Monitor(
        settings,
        DIALECTS,
        store,
        balances=Balances({}, {}, now=now, count=lambda *_: None),
        services=await open_services(settings.notice_urls),
        count=count,
        now=now,
    )
    watched = Monitored(monitor, settings)
    async with asyncio.TaskGroup() as owner:
        running = owner.create_task(monitor.run())
        await monitor.restored.wait()
        yield watched
        running.cancel()


async def refuse(store: SqliteStore) -> None:
    """Store one task with two refused callbacks, which is too many of three."""
    await store.write(a_registration(1, created_at=NOW - SECOND))
    for _ in range(2):
        await store.write(delivery_to_task(a_ref(1), "unreadable", b"<html>"))
    await store.write(a_delivery(1))


@pytest.mark.sqlite
async def test_a_finding_of_the_doctor_is_noticed_and_its_end_as_well(tmp_path: Path) -> None:
    """The message has the words of `doctor`. An hour after the last refusal the problem is over."""
    path = tmp_path / "receiver.db"
    async with running_webhook() as webhook, running_store(path) as store, monitored(store, path, webhook) as watched:
        await refuse(store)
        await watched.look(2)
        await eventually(lambda: watched.counts["sent"] == 1)
        (refused,) = [finding for finding in watched.findings() if finding.about == "refused"]
        await watched.look(70)
        await eventually(lambda: watched.counts["sent"] == 2)

    began, over = webhook.messages
    assert began["title"] == "callback-receiver: action needed"
    assert began["message"] == f"wrong: {refused.says}\n→ {refused.todo}"
    assert over["title"] == "callback-receiver: a problem is over"


@pytest.mark.sqlite
async def test_a_failing_store_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state cannot be stored then. It is told once all the same."""
    path = tmp_path / "receiver.db"
    async with running_webhook() as webhook, running_store(path) as store, monitored(store, path, webhook) as watched:
        with monkeypatch.context() as patch:
            patch.setattr(SqliteStore, "failure", "database or disk is full")
            await watched.look(5)
        await eventually(lambda: watched.counts["sent"] == 1)

    (message,) = webhook.messages
    assert "the receiver reports that it cannot store: database or disk is full" in message["message"]


@pytest.mark.sqlite
async def test_a_database_that_cannot_be_read_is_noticed(tmp_path: Path) -> None:
    """Its file is gone. Other problems are not over because of that."""
    path = tmp_path / "receiver.db"
    async with running_webhook() as webhook, running_store(path) as store, monitored(store, path, webhook) as watched:
        await refuse(store)
        await watched.look(2)
        path.rename(tmp_path / "elsewhere.db")
        await watched.look(20)
        path.with_name("elsewhere.db").rename(path)
        await eventually(lambda: watched.counts["sent"] == 2)

    assert "there is no database" in webhook.messages[1]["message"]
    assert "over:" not in webhook.messages[1]["message"]


@pytest.mark.sqlite
async def test_a_restart_tells_nothing_twice(tmp_path: Path) -> None:
    """The second monitor continues from the database, and tells of the end."""
    path = tmp_path / "receiver.db"
    async with running_webhook() as webhook, running_store(path) as store:
        async with monitored(store, path, webhook) as watched:
            await refuse(store)
            await watched.look(2)
            await eventually(lambda: watched.counts["sent"] == 1)
        async with monitored(store, path, webhook) as again:
            await again.look(10)
            assert again.counts == {}
            again.now = NOW + 70 * MINUTE
            await again.look(1)
            await eventually(lambda: again.counts["sent"] == 1)

    assert [message["title"].partition(": ")[2] for message in webhook.messages] == [
        "action needed",
        "a problem is over",
    ]


async def test_a_dead_service_blocks_nothing(tmp_path: Path) -> None:
    """The monitor goes on while its notice cannot be sent."""
    path = tmp_path / "receiver.db"
    async with running_store(path) as store, monitored(store, path, Webhook(free_port())) as watched:
        await refuse(store)
        started = time.monotonic()
        with capture_logs() as lines:
            await watched.look(5)
            await eventually(lambda: any(line["event"] == "notice.failed" for line in lines))
        assert time.monotonic() - started < 60
        assert TOPIC not in str(lines)


async def test_an_error_of_the_monitor_does_not_end_the_receiver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the next round goes on."""
    looks = Counter[str]()

    async def fail(_self: Monitor) -> None:
        looks["look"] += 1
        raise ZeroDivisionError

    monkeypatch.setattr(monitoring, "_ROUND_SECONDS", 0.01)
    monkeypatch.setattr(Monitor, "look", fail)
    with capture_logs() as lines:
        async with running_receiver(tmp_path / "receiver.db") as api:
            await eventually(lambda: looks["look"] >= 2)
            assert (await api.send("GET", "/readyz", key=None)).status == 200

    assert "health.not_judged" in [line["event"] for line in lines]


@pytest.mark.sqlite
async def test_a_canary_that_fails_is_a_finding_here_and_in_the_doctor(tmp_path: Path) -> None:
    """Its stage is named. An observation of more than an hour ago is none."""
    path = tmp_path / "receiver.db"
    async with running_webhook() as webhook, running_store(path) as store, monitored(store, path, webhook) as watched:
        watched.monitor.canary = CanaryFailure("TLS", "the certificate has expired", NOW, NOW)
        await watched.look(2)
        await eventually(lambda: watched.counts["sent"] == 1)
        (found,) = [finding for finding in watched.findings() if finding.about == "canary"]
        watched.now += 60 * MINUTE
        later = [finding for finding in watched.findings() if finding.about == "canary"]

    assert found.is_wrong
    assert "at TLS: the certificate has expired" in found.says
    assert found.says in webhook.messages[0]["message"]
    assert later == []


@pytest.mark.sqlite
@pytest.mark.parametrize(("low", "is_low"), [(5.0, False), (500.0, True)])
async def test_a_low_balance_is_found_and_measured(tmp_path: Path, low: float, is_low: bool) -> None:
    """The receiver asks with its own key. `doctor` reads from the database what it answered."""
    path = tmp_path / "receiver.db"
    async with Sandbox("capsolver", SandboxSettings(balance=100.0)) as sandbox:
        accounts: dict[str, Any] = {
            "provider_keys": {"capsolver": "anything"},
            "provider_urls": {"capsolver": sandbox.url},
            "balance_low": {"capsolver": low},
        }
        async with running_receiver(path, **accounts) as api:
            await eventually(lambda: bool(api.monitor.balances.known))
            await api.monitor.look()
            shown = await asked(api)
            settings = Settings(database=path, api_keys=API_KEYS, port=free_port(), _env_file=None)
            findings = judge(await read_facts(settings, now=time.time_ns() // 1000))

    assert (shown["balance/capsolver"], shown["balance_low/capsolver"]) == (100, low)
    assert [finding.is_wrong for finding in findings if finding.about == "balance"] == [True] * is_low


async def test_a_fault_in_reading_a_balance_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log names the kind of the fault, and not its text."""

    async def fail(*_: object) -> float:
        raise ZeroDivisionError("hunter2")

    monkeypatch.setattr("receiver.health.balances.ask_balance", fail)
    accounts: dict[str, Any] = {
        "provider_keys": {"capsolver": "anything"},
        "provider_urls": {"capsolver": f"http://127.0.0.1:{free_port()}"},
        "balance_low": {"capsolver": 9.0},
    }
    with capture_logs() as lines:
        async with running_receiver(tmp_path / "receiver.db", **accounts) as api:
            await eventually(lambda: any(line["event"] == "balance.not_read" for line in lines))
            assert (await api.send("GET", "/readyz", key=None)).status == 200

    assert [line["reason"] for line in lines if line["event"] == "balance.not_read"] == ["ZeroDivisionError"]


async def test_a_balance_that_cannot_be_read_is_logged_once(tmp_path: Path) -> None:
    """The provider is down. The last balance stays until it is too old."""
    known = Balance("capsolver", 7.0, 9.0, NOW)
    accounts: dict[str, Any] = {
        "provider_keys": {"capsolver": "anything"},
        "provider_urls": {"capsolver": f"http://127.0.0.1:{free_port()}"},
        "balance_low": {"capsolver": 9.0},
    }
    with capture_logs() as lines:
        async with running_receiver(tmp_path / "receiver.db", **accounts) as api:
            api.monitor.balances.known["capsolver"] = known
            await eventually(lambda: any(line["event"] == "balance.not_read" for line in lines))

    assert api.monitor.balances.known == {"capsolver": known}
    assert sum(line["event"] == "balance.not_read" for line in lines) == 1


def test_a_low_balance_needs_a_key(tmp_path: Path) -> None:
    """The line names the setting and the provider."""
    settings = Settings(
        database=tmp_path / "receiver.db", api_keys=API_KEYS, balance_low={"capsolver": 5.0}, _env_file=None
    )

    with pytest.raises(CannotStartError, match=r"RECEIVER_BALANCE_LOW: capsolver: expected a provider of"):
        create_app(settings)


async def test_the_operator_can_try_the_services(tmp_path: Path) -> None:
    """`doctor --test-notices` sends a message by each and tells which failed. It needs no database."""
    async with running_webhook() as webhook:
        dead = Webhook(free_port()).url
        both = await run_command(tmp_path, "doctor", "--test-notices", API_KEYS=KEY, NOTICES=f"{webhook.url}, {dead}")
        one = await run_command(tmp_path, "doctor", "--test-notices", API_KEYS=KEY, NOTICES=webhook.url)

    assert (both.code, one.code) == (1, 0)
    first, second = both.out.splitlines()
    assert first == "1 (json): sent"
    assert second.startswith("2 (json): failed: ")
    assert TOPIC not in both.out + both.err
    assert [message["title"] for message in webhook.messages] == ["callback-receiver: test"] * 2


@pytest.mark.parametrize(
    ("command", "notices", "reason"),
    [
        (("doctor", "--test-notices"), "", "RECEIVER_NOTICES: it is not set, so there is no service to test"),
        (("doctor", "--test-notices"), "https://host.example/hunter2", "RECEIVER_NOTICES: number 1 (https): expected"),
        (("serve",), "hunter2-hunter2", "RECEIVER_NOTICES: number 1 (no scheme): expected"),
    ],
)
async def test_a_wrong_setting_is_one_line(tmp_path: Path, command: tuple[str, ...], notices: str, reason: str) -> None:
    """It names no URL, and the receiver does not start."""
    finished = await run_command(tmp_path, *command, API_KEYS=KEY, PORT=str(free_port()), NOTICES=notices)

    assert finished.refusal.startswith(reason)
