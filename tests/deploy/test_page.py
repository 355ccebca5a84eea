"""deploy/README.md: its commands and examples work."""

from __future__ import annotations

import re
from pathlib import Path

from receiver.app import create_app
from receiver.settings import Settings
from tests.deploy.files import PAGE
from tests.faults.commands import KEY, run_command
from tests.receiver.web.sockets import open_events
from tests.support import running_receiver


def test_it_names_only_real_settings() -> None:
    """Every RECEIVER_ variable on the page is a setting."""
    assert set(re.findall(r"RECEIVER_\w+", PAGE.replace("CALLBACK_RECEIVER_", ""))) <= {
        f"RECEIVER_{name.upper()}" for name in Settings.model_fields
    }


async def test_the_first_callback_goes_as_told(tmp_path: Path) -> None:
    """With the two bodies of the page a task is made and ended. The answers are those on the page."""
    registration, delivery = re.findall(r"--json '(\{.*?\})' ", PAGE)
    json = {"Content-Type": "application/json"}

    async with running_receiver(tmp_path / "receiver.db") as api:
        registered = (await api.send("POST", "/v1/tasks", data=registration, headers=json)).json
        answer = await api.send("POST", registered["callbackUrl"], key=None, data=delivery, headers=json)
        task = await api.task(registered["ref"])

    assert (answer.status, answer.body) == (200, b"ok")
    assert (task["status"], task["source"], task["solution"]) == ("ready", "callback", {"text": "44795sds"})


async def test_a_restored_database_has_a_new_log(tmp_path: Path) -> None:
    """By the page's commands a backup is private, and after its restoration readers of the lost part get a gap."""
    (folder,) = re.findall(r"^callback-receiver backup (/\S+)/\$\(date \+%F\)\.db$", PAGE, re.MULTILINE)
    (restored,) = re.findall(r"^callback-receiver restore (/\S+)/DATE\.db$", PAGE, re.MULTILINE)
    assert folder == restored
    database, copy = tmp_path / "receiver.db", tmp_path / "copy.db"
    async with running_receiver(database) as api:
        registered = await api.register()
        assert (await run_command(tmp_path, "backup", str(copy), API_KEYS=KEY)).code == 0
        await api.call_back(registered["callbackUrl"])
        cursor = (await api.log())["cursor"]
    assert (await run_command(tmp_path, "restore", str(copy), API_KEYS=KEY)).code == 0

    async with running_receiver(database) as api:
        answer = await api.send("GET", f"/v1/results?after={cursor}")

    assert (answer.status, answer.json["reason"]) == (410, "other-log")
    assert copy.stat().st_mode & 0o777 == 0o600


def test_its_addresses_are_routes(tmp_path: Path) -> None:
    """Each address of the receiver on the page is a route."""
    app = create_app(Settings(database=tmp_path / "receiver.db", _env_file=None))
    routes = {resource.canonical for resource in app.router.resources()}

    named = set(re.findall(r"(?:https|wss)://YOUR\.NAME(/[\w./]+)", PAGE.replace("/REF", "")))
    assert {"/v1/results/stream", "/v1/tickets", "/v1/subscribe", "/asyncapi.json"} <= named <= routes


async def test_a_stream_begins_as_told(tmp_path: Path) -> None:
    """The stream begins with a heartbeat. Then each result is an event of its own."""
    async with running_receiver(tmp_path / "receiver.db") as api, open_events(api) as events:
        first, _, _ = await events.next()
        await api.call_back((await api.register())["callbackUrl"])
        second, _, _ = await events.next()

    assert (first, second) == ("heartbeat", "result")


async def test_readiness_is_shown_as_told(tmp_path: Path) -> None:
    """The check behind the proxy prints the text on the page."""
    async with running_receiver(tmp_path / "receiver.db") as api:
        answer = await api.send("GET", "/readyz", key=None)

    assert answer.body.decode() == '{"status":"ready"}'
    assert f"`{answer.body.decode()}`" in PAGE
