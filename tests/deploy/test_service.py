"""deploy/callback-receiver.service: start, clean end and confinement of the receiver."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from click.testing import CliRunner

from receiver.__main__ import cli
from receiver.settings import Settings
from tests.deploy.files import ENVIRONMENT, PAGE, settings_in, unit_values


def test_it_runs_the_serve_command() -> None:
    """The command exists with the checkout and the packages of the page."""
    (command,) = unit_values("ExecStart")
    (folder,) = unit_values("WorkingDirectory")
    python, *arguments = command.split()

    assert arguments == ["-m", "receiver", "serve"]
    assert CliRunner().invoke(cli, ["serve", "--help"]).exit_code == 0
    assert PurePosixPath(python) == PurePosixPath(folder, ".venv/bin/python")
    assert f"git clone REPOSITORY {folder}\ncd {folder}\npython3 -m venv .venv\n" in PAGE


def test_the_database_lies_in_its_own_folder() -> None:
    """The environment example puts the database into the state folder, which is closed to other users."""
    (folder,) = unit_values("StateDirectory")

    assert settings_in(ENVIRONMENT, active=True)["RECEIVER_DATABASE"] == f"/var/lib/{folder}/receiver.db"
    assert unit_values("StateDirectoryMode") == ["0700"]
    assert unit_values("UMask") == ["0077"]


def test_the_settings_are_where_the_page_puts_them() -> None:
    """The page installs the example at the path of the unit, for a user of its own."""
    (environment,) = unit_values("EnvironmentFile")
    (user,) = unit_values("User")

    assert f"install -m 0640 -o root -g {user} deploy/environment.example {environment}\n" in PAGE
    assert f"adduser --system --group --no-create-home --home /var/lib/{user} {user}\n" in PAGE


@pytest.mark.parametrize(
    ("name", "value"),
    [
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
