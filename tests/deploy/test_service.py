"""deploy/systemd: start, clean end and confinement of the receiver, and the command of operators."""

from __future__ import annotations

import getpass
import json
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from click.testing import CliRunner

from receiver.__main__ import cli
from receiver.settings import Settings
from tests.deploy.files import DEPLOY, ENVIRONMENT, PAGE, SOCKET, UNIT, settings_in, unit_values
from tests.support import ADMIN
from tests.tools import tool

CHECKOUT = "/opt/callback-receiver"
SETTINGS_FOLDER = "/etc/callback-receiver"
WORST_SECURITY = 1.1


def test_it_runs_the_serve_command() -> None:
    """The command exists with the checkout and the packages of the page."""
    (command,) = unit_values("ExecStart")
    (environment,) = unit_values("Environment")
    python, *arguments = command.split()

    assert arguments == ["-m", "receiver", "serve"]
    assert CliRunner().invoke(cli, ["serve", "--help"]).exit_code == 0
    assert PurePosixPath(python) == PurePosixPath(CHECKOUT, ".venv/bin/python")
    assert f"PYTHONPATH={CHECKOUT}" in environment
    assert f"git clone REPOSITORY {CHECKOUT}\ncd {CHECKOUT}\npython3 -m venv .venv\n" in PAGE


def test_the_database_lies_in_its_own_folder() -> None:
    """The environment example puts the database into the state folder, which is closed to other users."""
    (folder,) = unit_values("StateDirectory")

    assert settings_in(ENVIRONMENT, active=True)["RECEIVER_DATABASE"] == f"/var/lib/{folder}/receiver.db"
    assert unit_values("StateDirectoryMode") == ["0700"]
    assert unit_values("UMask") == ["0077"]


def test_the_settings_are_where_the_page_puts_them() -> None:
    """The page installs the example as `.env` in the working directory, for a user of its own."""
    (folder,) = unit_values("WorkingDirectory")
    (user,) = unit_values("User")

    assert folder == SETTINGS_FOLDER
    assert unit_values("EnvironmentFile") == []
    assert f"install -m 0640 -o root -g {user} deploy/environment.example {folder}/.env\n" in PAGE
    assert f"adduser --system --group --no-create-home --home /var/lib/{user} {user}\n" in PAGE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("Requires", "callback-receiver.socket"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2"),
        ("KillSignal", "SIGTERM"),
        ("TimeoutStopSec", "30"),
        ("LimitNOFILE", "65536"),
    ],
)
def test_it_is_started_and_stopped_with_care(name: str, value: str) -> None:
    """Failures restart it, a refusal (exit code 2) does not. SIGTERM gets more time than a shutdown takes."""
    assert unit_values(name) == [value]


def test_no_number_of_failures_ends_the_service() -> None:
    """A disk that is full for an hour fails every start, and neither unit counts starts."""
    assert unit_values("StartLimitIntervalSec") == ["0"]
    assert "\nTriggerLimitIntervalSec=0\n" in SOCKET
    assert unit_values("StartLimitBurst") == []


@pytest.mark.parametrize(("status", "is_closed"), [("2", True), ("1", False), ("0", False), ("TERM", False)])
def test_a_refused_start_closes_the_port(tmp_path: Path, status: str, is_closed: bool) -> None:
    """Otherwise each connection would start it again. After any other end connections wait."""
    (line,) = unit_values("ExecStopPost")
    command = re.fullmatch(r"\+/bin/sh -c '(.*)'", line)
    assert command is not None
    (tmp_path / "systemctl").write_text('#!/bin/sh\necho "$@" > called\n')
    (tmp_path / "systemctl").chmod(0o755)

    subprocess.run(
        ["/bin/sh", "-c", command[1].replace("$$", "$")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "EXIT_STATUS": status},
        cwd=tmp_path,
        check=True,
    )

    called = tmp_path / "called"
    assert called.exists() == is_closed
    assert not is_closed or called.read_text() == "stop --no-block callback-receiver.socket\n"


def test_the_socket_is_where_the_proxy_looks() -> None:
    """Host and port are those of the environment example. Installing the service installs its socket, too."""
    given = settings_in(ENVIRONMENT, active=True)

    assert f"\nListenStream={given['RECEIVER_HOST']}:{given['RECEIVER_PORT']}\n" in SOCKET
    assert "\nAlso=callback-receiver.socket\n" in UNIT


def test_it_may_hold_all_that_wait() -> None:
    """The limit of open files is above the default limits of waits and streams, as the page says."""
    (files,) = map(int, unit_values("LimitNOFILE"))
    waits, streams = (Settings.model_fields[name].default for name in ("max_waiters", "max_streams"))

    assert files > 1.5 * (waits + streams)
    assert f"{files:,} files open" in PAGE
    assert f"{waits:,} each" in PAGE
    assert waits == streams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("LimitCORE", "0"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("RestrictNamespaces", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallArchitectures", "native"),
    ],
)
def test_it_is_shut_in(name: str, value: str) -> None:
    """The receiver can write its own folder, use sockets, and do little else."""
    assert unit_values(name) == [value]


def test_it_sees_the_metrics_of_its_process() -> None:
    """Their library reads the boot time from /proc/stat, which ProcSubset=pid would hide."""
    assert unit_values("ProcSubset") == []
    assert unit_values("ProtectProc") == ["invisible"]


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """Each line is known to systemd, and the programs are there."""
    program = tool("systemd-analyze", package="systemd")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    service, listener = tmp_path / "callback-receiver.service", tmp_path / "callback-receiver.socket"
    service.write_text(UNIT.replace(CHECKOUT, str(tmp_path)))
    listener.write_text(SOCKET.replace(CHECKOUT, str(tmp_path)))

    found = subprocess.run(
        [program, "verify", "--man=no", service, listener], capture_output=True, text=True, check=False
    )

    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_the_unit_is_as_confined_as_told() -> None:
    """Its score is on the page, and no worse than this."""
    program = tool("systemd-analyze", package="systemd")
    unit = DEPLOY / "systemd" / "callback-receiver.service"

    found = subprocess.run(
        [program, "security", "--offline=true", "--no-pager", f"--threshold={WORST_SECURITY * 10:.0f}", unit],
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 0, found.stdout[-100:]
    assert f"gives the unit {WORST_SECURITY:g} " in PAGE


def test_commands_are_on_the_path(tmp_path: Path) -> None:
    """The script of the page runs commands with the settings in `.env`, and what they make is private."""
    (tmp_path / ".env").write_text(
        f"RECEIVER_API_KEYS=worker:{ADMIN}\nRECEIVER_PORT=0\nRECEIVER_DATABASE={tmp_path}/receiver.db\n"
    )
    script = (DEPLOY / "systemd" / "callback-receiver").read_text()
    for written, own in {
        f"{CHECKOUT}/.venv/bin/python": sys.executable,
        CHECKOUT: str(DEPLOY.parent),
        SETTINGS_FOLDER: str(tmp_path),
        "= callback-receiver ||": f"= {getpass.getuser()} ||",
    }.items():
        assert written in script
        script = script.replace(written, own)
    command = tmp_path / "callback-receiver"
    command.write_text(script)

    with subprocess.Popen(["/bin/sh", command, "serve"], cwd="/", stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert json.loads(server.stderr.readline())["event"] == "receiver.started"
        server.terminate()
        server.stderr.read()

    assert server.returncode == 0
    assert (tmp_path / "receiver.db").stat().st_mode & 0o777 == 0o600
