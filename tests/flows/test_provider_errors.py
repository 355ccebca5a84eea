"""Errors of a provider through the real processes: their effect on a task, and their traces for the operator."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from signal import SIGKILL
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from client.sandbox import Sandbox, SandboxSettings
from tests.client.support import Reply, scripted_provider, until
from tests.faults.commands import run_command
from tests.support import API_KEYS, Api, free_port, receiver_process

KEY = "the-client-key-of-the-operator"
ODD = "ERROR_SANDBOX_UNLISTED"
IMAGE = {"type": "ImageToTextTask", "body": "iVBORw0KGgo="}
PROVIDERS = """
[capsolver.polls]
firstAfterSeconds = 0.1
firstAfterCallbackSeconds = 0.1
intervalSeconds = 0.2
"""


@asynccontextmanager
async def receiving(folder: Path, provider_url: str, *, port: int = 0) -> AsyncIterator[Api]:
    """Run `callback-receiver serve` as a process with a key at the provider, and kill it at the end."""
    (folder / "providers.toml").write_text(PROVIDERS)
    environment: dict[str, Any] = {
        "provider_keys": json.dumps({"capsolver": KEY}),
        "provider_urls": json.dumps({"capsolver": provider_url}),
        "providers_file": str(folder / "providers.toml"),
    }
    async with (
        receiver_process(folder / "receiver.db", port=port, **environment) as receiver,
        aiohttp.ClientSession() as session,
    ):
        yield Api(receiver.url, session)
        await receiver.stop(SIGKILL)


async def submit(api: Api, **faults: Any) -> Any:
    """Return a task submitted by the receiver. By default its callback is lost."""
    task = {**IMAGE, "sandbox": {"sync": False, "latencySeconds": 0, "callback": "lost", **faults}}
    return (await api.send("POST", "/v1/tasks", json={"provider": "capsolver", "task": task})).json


async def ended(api: Api, ref: str) -> Any:
    """Return the task once it has an outcome. If a kill interrupts a poll, the poll is repeated after its lease."""
    for _ in range(3):
        task = (await api.send("GET", f"/v1/tasks/{ref}", params={"wait": "20"})).json
        if task["status"] != "processing":
            break
    return task


def with_row(database: Path) -> int:
    """Return the number of unlisted codes in a row, as the last poll of the one task left it."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT unlisted_times FROM poll ORDER BY id DESC LIMIT 1").fetchall()
    return (rows[0][0] or 0) if rows else 0


@pytest.mark.parametrize("fault", ["500json", "403", "unlisted", "500", "html"])
async def test_errors_that_end_no_task(tmp_path: Path, fault: str) -> None:
    """The receiver polls again and gets the answer (2captcha-javascript#29, capmonster_python#4)."""
    async with Sandbox("capsolver") as sandbox, receiving(tmp_path, sandbox.url) as api:
        registered = await submit(api, getTaskResult=fault, getTaskResultTimes=2)
        task = await ended(api, registered["ref"])
        log = await api.log()

    assert (task["status"], task["source"], task["trust"], len(log["results"])) == ("ready", "poll", "polled", 1)


@pytest.mark.sqlite
async def test_the_same_unlisted_code_again_and_again(tmp_path: Path) -> None:
    """It ends the task provisionally, even over a kill. A callback replaces that. The operator sees code and counts."""
    database, port = tmp_path / "receiver.db", free_port()
    async with Sandbox("capsolver", SandboxSettings(latency_seconds=(0.0, 0.0))) as sandbox:
        async with receiving(tmp_path, sandbox.url, port=port) as api:
            registered = await submit(api, getTaskResult="unlisted", getTaskResultTimes=1000)

            async def has_row() -> bool:
                return with_row(database) >= 2

            await until(has_row)
        with closing(sqlite3.connect(database)) as connection, connection:
            # Shift the stored times by fifteen seconds.
            connection.execute("UPDATE poll SET unlisted_since = unlisted_since - 15000000")
        async with receiving(tmp_path, sandbox.url, port=port) as api:
            failed = await ended(api, registered["ref"])
            answer = await api.call_back(registered["callbackUrl"], taskId=registered["taskId"])
            ready = await api.task(registered["ref"])
            log = await api.log()
            timeline = (await api.send("GET", f"/v1/tasks/{registered['ref']}/timeline")).json

            async def is_kept() -> bool:
                with closing(sqlite3.connect(database)) as connection:
                    return bool(connection.execute("SELECT 1 FROM unlisted_code").fetchall())

            await until(is_kept)
            metrics = (await api.send("GET", "/metrics")).body.decode()

    assert (failed["status"], failed["errorCode"], failed["source"], failed["trust"]) == (
        "failed",
        ODD,
        "poll",
        "provisional",
    )
    assert (answer.status, ready["status"], ready["source"]) == (200, "ready", "callback")
    assert ready["supersedes"] == failed["cursor"]
    assert [entry["task"]["status"] for entry in log["results"] if "task" in entry] == ["failed", "ready"]
    assert any("several polls brought this unlisted code" in step["text"] for step in timeline["steps"])
    assert f'callback_receiver_unlisted_codes_total{{code="{ODD}",provider="capsolver"}}' in metrics
    finished = await run_command(
        tmp_path, "doctor", "--json", API_KEYS=API_KEYS, DATABASE=str(database), PORT=str(port)
    )
    found = [finding for finding in json.loads(finished.out)["findings"] if finding["about"] == "codes"]
    assert len(found) == 1
    assert f"capsolver: the error code {ODD} is on no list; it came " in found[0]["says"]
    assert f'[capsolver.codes."{ODD}"]' in found[0]["todo"]


@pytest.mark.sqlite
async def test_a_code_that_was_declared_since_is_nothing_to_do(tmp_path: Path) -> None:
    """Once the code is declared, as the finding advises, the finding is gone."""
    declared = f'[capsolver.codes."{ODD}"]\nreaction = "again"\n'
    async with Sandbox("capsolver") as sandbox, receiving(tmp_path, sandbox.url) as api:
        answer = await api.send(
            "POST",
            "/v1/tasks",
            json={"provider": "capsolver", "task": {**IMAGE, "sandbox": {"createTask": "unlisted"}}},
        )

        async def is_kept() -> bool:
            with closing(sqlite3.connect(tmp_path / "receiver.db")) as connection:
                return bool(connection.execute("SELECT 1 FROM unlisted_code").fetchall())

        await until(is_kept)
    (tmp_path / "declared.toml").write_text(declared)
    here = {"API_KEYS": API_KEYS, "DATABASE": str(tmp_path / "receiver.db"), "PORT": str(free_port())}
    without = await run_command(tmp_path, "doctor", **here)
    with_it = await run_command(tmp_path, "doctor", PROVIDERS_FILE=str(tmp_path / "declared.toml"), **here)

    assert (answer.status, answer.json["type"].rpartition(":")[2]) == (502, "provider-refused")
    assert answer.json["providerErrorCode"] == ODD
    assert f"{ODD} is on no list; it came once" in without.out
    assert ODD not in with_it.out


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(b"<html>Access denied</html>", 403), id="firewall (league-account-checker#77)"),
        pytest.param(Reply(b"", 403), id="403, nothing"),
        pytest.param(Reply(b"<html>Not Found</html>", 404), id="wrong URL"),
        pytest.param(Reply(b"", 302, {"Location": "https://elsewhere.example/"}), id="redirect"),
    ],
)
async def test_a_submission_that_was_not_carried_out_is_told_at_once(tmp_path: Path, reply: Reply) -> None:
    """The problem names status and URL, and the task has ended. A repetition gets the same without another request."""
    request: dict[str, Any] = {
        "json": {"provider": "capsolver", "task": IMAGE},
        "headers": {"Idempotency-Key": "order-7"},
    }
    async with scripted_provider(createTask=reply) as provider, receiving(tmp_path, provider.url) as api:
        answer = await api.send("POST", "/v1/tasks", **request)
        again = await api.send("POST", "/v1/tasks", **request)
        record = await api.task(answer.json["ref"])

    assert (answer.status, answer.json["type"].rpartition(":")[2]) == (502, "provider-refused")
    assert (
        f"HTTP {reply.status} without an answer of this provider, from {provider.url}/createTask:"
        in answer.json["detail"]
    )
    assert (again.status, again.json["ref"], len(provider.calls["createTask"])) == (502, answer.json["ref"], 1)
    assert (record["status"], record["errorCode"]) == ("failed", "RECEIVER_NOT_CARRIED_OUT")
    assert KEY not in answer.body.decode()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        pytest.param(Reply(b"<html>Access denied</html>", 403), "RECEIVER_NOT_CARRIED_OUT", id="403"),
        pytest.param(Reply(b"", 303, {"Location": "https://elsewhere.example/"}), "RECEIVER_NOT_CARRIED_OUT", id="303"),
        pytest.param(
            # The pause is longer than the task's time, so nothing is sent again.
            Reply(b"upstream connect error or disconnect/reset before headers", 503, {"Retry-After": "99"}),
            "RECEIVER_NOT_SUBMITTED",
            id="503 of a proxy (envoy)",
        ),
    ],
)
async def test_a_callback_proves_that_a_task_was_made(tmp_path: Path, reply: Reply, code: str) -> None:
    """An HTTP status may come from a proxy. The paid answer then replaces the receiver's own outcome."""
    ready = {"errorId": 0, "status": "ready", "taskId": "t-1", "solution": {"text": "44795sds"}}
    async with scripted_provider(createTask=reply) as provider, receiving(tmp_path, provider.url) as api:
        answer = await api.send("POST", "/v1/tasks", json={"provider": "capsolver", "task": IMAGE, "timeoutSeconds": 9})
        before = await api.task(answer.json["ref"])
        (first, *_) = provider.calls["createTask"]
        delivered = await api.send("POST", urlsplit(first["callbackUrl"]).path, key=None, json=ready)
        after = await api.task(answer.json["ref"])
        timeline = (await api.send("GET", f"/v1/tasks/{answer.json['ref']}/timeline")).json

    assert (before["status"], before["errorCode"], before["trust"]) == ("failed", code, "provisional")
    assert "no task was made, by all that is known" in json.dumps(timeline)
    assert (delivered.status, after["status"], after["source"]) == (200, "ready", "callback")
    assert (after["solution"], after["supersedes"]) == ({"text": "44795sds"}, before["cursor"])
