"""Addresses of providers: a callback from elsewhere is refused, and is a hint, so that no answer is lost."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from client.sandbox import Sandbox, SandboxSettings
from receiver.app import create_app, new_ref
from receiver.domain.tokens import Kind, make_token
from receiver.errors import CannotStartError
from receiver.settings import Settings
from tests.client.support import fast, image_task, open_client
from tests.support import Answer, Api, receiver_process, running_receiver

SIGNING_KEY = "a key that signs the tokens of these tests"
LISTED: Mapping[str, Any] = {
    "trusted_proxies": "127.0.0.1",
    "callback_addresses": {"capsolver": "192.0.2.0/24, 2001:db8::/32"},
    "signing_keys": SIGNING_KEY,
}


async def deliver(api: Api, url: str, address: str, **fields: object) -> Answer:
    """Deliver a ready answer through a trusted proxy, from this address."""
    body = {"errorId": 0, "status": "ready", "solution": {"text": "44795sds"}, "taskId": "37223a89", **fields}
    return await api.send("POST", url, key=None, json=body, headers={"X-Forwarded-For": address})


@pytest.mark.parametrize("has_front", [False, True])
async def test_a_callback_from_elsewhere_is_a_hint(tmp_path: Path, *, has_front: bool) -> None:
    """It gets 403, ends nothing, and is kept with the task. The provider's own callback is the outcome."""
    with capture_logs() as logs:
        async with running_receiver(tmp_path / "receiver.db", has_front=has_front, **LISTED) as api:
            task = await api.register()
            foreign = await deliver(api, task["callbackUrl"], "198.51.100.1")
            waiting = await api.task(task["ref"])
            hints = [entry["ref"] for entry in (await api.log())["results"] if entry.get("hint")]
            own = [await deliver(api, task["callbackUrl"], address) for address in ("2001:db8::7", "192.0.2.7")]
            finished = await api.task(task["ref"])
            timeline = (await api.send("GET", f"/v1/tasks/{task['ref']}/timeline")).json
    stored = [(line["verdict"], line.get("address")) for line in logs if line["event"] == "callback.stored"]

    assert (foreign.status, waiting["status"], hints) == (403, "processing", [task["ref"]])
    assert ([answer.status for answer in own], finished["status"]) == ([200, 200], "ready")
    assert stored == [("foreignAddress", "198.51.100.1"), ("accepted", None), ("duplicate", None)]
    assert "foreignAddress" in [step.get("verdict") for step in timeline["steps"]]


async def test_other_providers_may_call_from_anywhere(tmp_path: Path) -> None:
    """A list holds for its provider alone."""
    async with running_receiver(tmp_path / "receiver.db", **LISTED) as api:
        task = await api.register(provider="nextcaptcha")
        answer = await deliver(api, task["callbackUrl"], "198.51.100.1")

    assert answer.status == 200


async def test_a_standing_url_makes_no_task_for_a_foreign_address(tmp_path: Path) -> None:
    """The body is kept, and no task appears."""
    async with running_receiver(tmp_path / "receiver.db", **LISTED) as api:
        url = f"{api.url}/callback/capsolver/{make_token(Kind.STANDING, new_ref(), 'capsolver', SIGNING_KEY.encode())}"
        foreign = await deliver(api, url, "198.51.100.1")
        tasks = (await api.send("GET", "/v1/tasks")).json["tasks"]
        own = await deliver(api, url, "192.0.2.7")

    assert (foreign.status, tasks, own.status) == (403, [], 200)


async def test_without_trusted_proxies_the_peer_counts(tmp_path: Path) -> None:
    """A forged header changes nothing."""
    listed: Mapping[str, Any] = {"callback_addresses": {"capsolver": "127.0.0.1"}}
    async with running_receiver(tmp_path / "receiver.db", **listed) as api:
        task = await api.register()
        answer = await deliver(api, task["callbackUrl"], "198.51.100.1")

    assert answer.status == 200


async def test_a_proxy_on_a_unix_socket_is_believed(tmp_path: Path) -> None:
    """It has no address. Only programs of this machine reach it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        settings: Mapping[str, Any] = {
            "trusted_proxies": "10.0.0.0/8",
            "callback_addresses": '{"capsolver": "192.0.2.0/24"}',
        }
        async with (
            receiver_process(tmp_path / "receiver.db", port=0, listener=listener, **settings),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "socket"))) as session,
        ):
            api = Api("http://127.0.0.1:0", session)
            tasks = [await api.register() for _ in range(2)]
            statuses = [
                (await deliver(api, task["callbackUrl"], address, taskId=task["ref"])).status
                for task, address in zip(tasks, ("192.0.2.7", "192.0.2.7, 198.51.100.1"), strict=True)
            ]

    assert statuses == [200, 403]


async def test_the_answer_is_not_lost(tmp_path: Path) -> None:
    """The receiver polls at once, and the poll brings the answer of a callback from the wrong address."""
    dialects = fast(first_after_callback_seconds=30.0, window_seconds=100.0)
    async with Sandbox("capsolver", SandboxSettings(latency_seconds=(0.2, 0.2), async_images=True)) as sandbox:
        keys: Mapping[str, Any] = {
            "provider_keys": {"capsolver": "tests-only-client-key"},
            "provider_urls": {"capsolver": sandbox.url},
        }
        # The sandbox calls back from loopback, without a proxy.
        async with (
            running_receiver(tmp_path / "receiver.db", dialects=dialects, **keys, **LISTED) as api,
            open_client(sandbox.url, api.url, dialects=dialects) as tasks,
        ):
            solved = await tasks.solve(image_task(), timeout=20)
            task = await api.task(solved.ref)

    assert (task["status"], task["source"]) == ("ready", "poll")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"callback_addresses": {"nobody": "192.0.2.1"}}, "nobody: expected a provider with callbacks"),
        ({"callback_addresses": {"capsolver": "192.0.2.1"}}, "name it in RECEIVER_TRUSTED_PROXIES"),
    ],
)
def test_a_list_that_would_refuse_everything_ends_the_start(settings: Mapping[str, Any], text: str) -> None:
    """Behind a proxy that isn't named, all callbacks would be foreign."""
    with pytest.raises(CannotStartError, match=f"RECEIVER_CALLBACK_ADDRESSES: .*{text}"):
        create_app(Settings(**settings, _env_file=None))


@pytest.mark.parametrize(("value", "text"), [("capsolver.com", "expected an IP address"), (" ,", "got none")])
def test_a_wrong_list_is_refused(value: str, text: str) -> None:
    """The text names the provider."""
    with pytest.raises(ValueError, match=f"capsolver: .*{text}"):
        Settings(callback_addresses={"capsolver": value}, _env_file=None)
