"""Counts of the receiver, compared with the counts of the sandbox."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from client.sandbox import FaultRates, Sandbox, SandboxSettings
from tests.client.support import fast, image_task
from tests.receiver.test_metrics import asked
from tests.support import RunningReceiver, eventually, running_receiver

TASKS = 150
RATES = FaultRates(callback_lost=0.3, callback_late=0.1, callback_twice=0.1)
PLAN = fast(first_after_callback_seconds=1.0, first_after_seconds=0.2, interval_seconds=0.2, window_seconds=30.0)


async def test_what_is_counted_is_what_the_provider_did(tmp_path: Path) -> None:
    """The receiver submits tasks, and lost, late and doubled callbacks and polls are counted."""
    settings = SandboxSettings(seed=3, latency_seconds=(0.05, 0.2), async_images=True, rates=RATES)
    async with Sandbox("capsolver", settings) as sandbox:
        accounts: dict[str, Any] = {
            "provider_keys": {"capsolver": "the-client-key"},
            "provider_urls": {"capsolver": sandbox.url},
        }
        async with running_receiver(tmp_path / "receiver.db", dialects=PLAN, **accounts) as api:
            async with asyncio.TaskGroup() as group:
                for first in range(0, TASKS, 10):
                    group.create_task(_submit_and_wait(api, range(first, first + 10)))
            # A late callback comes after the poll.
            await eventually(lambda: sandbox.stats.callbacks_answered == sandbox.stats.callbacks_sent)
            await asyncio.sleep(0.5)
            counted, did = await asked(api), sandbox.stats

    faults = did.faults
    verdicts = {
        name: counted.get(f"deliveries_total/capsolver/{name}", 0) for name in ("accepted", "duplicate", "late")
    }
    by_poll = counted["outcomes_total/capsolver/poll/ready"]
    assert did.tasks_made == TASKS
    assert sum(verdicts.values()) == did.callbacks_sent
    assert verdicts["accepted"] + by_poll == TASKS
    assert counted["polled_answers_total/capsolver"] == by_poll
    assert by_poll - counted["late_callbacks_total/capsolver"] == faults["callback.lost"]
    assert counted["own_polls_total/capsolver/sent"] == did.get_task_result_calls
    assert counted["polls_total/capsolver"] == did.get_task_result_calls
    assert did.limits_broken.keys() <= {"interval"}


async def _submit_and_wait(api: RunningReceiver, numbers: range) -> None:
    for number in numbers:
        task = image_task(number)
        body = {**task, "body": task["body"].hex()}
        submitted = await api.send("POST", "/v1/tasks", json={"provider": "capsolver", "task": body})
        ended = await api.send("GET", f"/v1/tasks/{submitted.json['ref']}", params={"wait": "50"})
        assert ended.json["status"] == "ready", ended.json
