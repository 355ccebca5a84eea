"""deploy/README.md: its commands and examples work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from receiver.__main__ import cli
from receiver.app import create_app
from receiver.commands.keys import keys
from receiver.settings import Settings
from tests.deploy.files import DEPLOY, OPERATING, PAGE
from tests.faults.commands import KEY, run_command
from tests.receiver.web.sockets import open_events
from tests.support import running_receiver
from tests.tools import tool


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
    folders = re.findall(r"^callback-receiver backup (/\S+)/\$\(date \+%F-%H%M%S\)\.db$", PAGE, re.MULTILINE)
    (restored,) = re.findall(r"^callback-receiver restore (/\S+)/DATE\.db$", PAGE, re.MULTILINE)
    assert folders == [restored, restored]
    assert (
        f"install -d -m 0700 -o callback-receiver -g callback-receiver /var/lib/callback-receiver {restored}\n" in PAGE
    )
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


def test_a_strict_umask_of_root_hides_nothing(tmp_path: Path) -> None:
    """After installation and upgrade the service can read everything, also what the upgrade brought."""
    git = tool("git", package="git")
    programs, origin = tmp_path / "programs", tmp_path / "origin"
    for folder in (programs, origin, tmp_path / "usr/local/bin", tmp_path / "etc/systemd/system"):
        folder.mkdir(parents=True)
    for name in ("apt-get", "adduser", "systemctl", "callback-receiver"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    (origin / "deploy").mkdir()
    (origin / "deploy/requirements.lock").touch()
    shutil.copytree(DEPLOY / "systemd", origin / "deploy/systemd")
    for package in ("client", "receiver"):
        (origin / package).mkdir()
        (origin / package / "__init__.py").touch()
    commit = f"{git} add . && {git} -c user.name=t -c user.email=t@example.org commit -qm change"
    run(f"{git} init -q . && {commit}", origin)

    install, upgrade = (
        "umask 077\n" + re.sub(r" /(opt|usr|etc)/", rf" {tmp_path}/\1/", block.replace("REPOSITORY", str(origin)))
        for block in shell_blocks("umask 022\n")
        if "docker" not in block
    )
    run(install, tmp_path, programs)
    (origin / "receiver/new.py").touch()
    run(commit, origin)
    run(upgrade, tmp_path, programs)

    checkout = tmp_path / "opt/callback-receiver"
    hidden = [path for path in checkout.rglob("*") if path.stat().st_mode & 0o044 != 0o044]
    assert [path for path in hidden if ".git" not in path.parts] == []
    assert (checkout / "receiver/new.py").is_file()
    assert (tmp_path / "usr/local/bin/callback-receiver").stat().st_mode & 0o777 == 0o755


def test_its_commands_exist() -> None:
    """Every command on the pages of operators is one of the receiver, also those of keys."""
    named = set(
        re.findall(r"(?:^|[`(]|receiver )callback-receiver ((?:keys )?[a-z][a-z-]+)", PAGE + OPERATING, re.MULTILINE)
    )
    known = {*cli.commands, *(f"keys {name}" for name in keys.commands)}

    assert named - known == set()
    assert {"doctor", "explain", "prune", "redeliver", "backup", "restore", "keys add", "new-signing-key"} <= named


def test_its_links_lead_to_its_sections() -> None:
    """The list at the top names each section once, in the order of the page."""
    listed = re.findall(r"\]\(#([\w-]+)\)", PAGE[: PAGE.index("\n## ")])
    sections = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)

    assert listed == [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in sections]


def shell_blocks(start: str) -> list[str]:
    """Return the blocks of commands that begin so."""
    return [
        block for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if block.startswith(start)
    ]


def run(commands: str, folder: Path, *programs: Path) -> None:
    """Run commands as the page has them; each must succeed."""
    path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
    subprocess.run(["/bin/sh", "-e", "-c", commands], cwd=folder, env=os.environ | {"PATH": path}, check=True)


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
