"""deploy/container/compose.postgres.yaml: two receivers, PostgreSQL and the balancer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from receiver.commands.serve import _LIMIT_SECONDS
from receiver.settings import Settings
from tests.deploy.files import CADDYFILE, DEPLOY, PAGE
from tests.deploy.test_container import CONTAINER, check_shut_in, instructions
from tests.deploy.test_container import SERVICES as OF_ONE

TEXT = (CONTAINER / "compose.postgres.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
RECEIVERS = ("receiver-1", "receiver-2")


def seconds(text: str) -> float:
    """Return a time of compose or of the Caddyfile in seconds."""
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_shut_in(name: str) -> None:
    """Each has a read-only root, no capability that it can do without, and a log of bounded size."""
    check_shut_in(name, SERVICES[name])


def test_receivers_are_as_the_single_one() -> None:
    """All but what several ones need is the same."""
    changed = {"depends_on", "environment", "secrets", "networks", "stop_grace_period", "tmpfs", "volumes"}
    single = {name: value for name, value in OF_ONE["receiver"].items() if name not in changed}

    assert SERVICES["receiver-1"] == SERVICES["receiver-2"]
    assert {name: value for name, value in SERVICES["receiver-1"].items() if name not in changed} == single
    caddy = {name: value for name, value in OF_ONE["caddy"].items() if name not in ("depends_on", "environment")}
    assert {
        name: value for name, value in SERVICES["caddy"].items() if name not in ("depends_on", "environment")
    } == caddy


def test_receivers_leave_no_volume_behind() -> None:
    """The image has a volume for SQLite. Memory is mounted in its place, for the user of the image."""
    (volume,) = json.loads(instructions("VOLUME")[0])
    user, group = instructions("USER")[0].split(":")
    single = OF_ONE["receiver"]

    assert single["volumes"] == [f"database:{volume}"]
    assert SERVICES["receiver-1"]["tmpfs"] == [*single["tmpfs"], f"{volume}:uid={user},gid={group},mode=0700"]


def test_caddy_balances_all_receivers() -> None:
    """It names each with its port, and checks them more often than they take to stop."""
    given = SERVICES["caddy"]["environment"]
    environment = SERVICES["receiver-1"]["environment"]
    times = [seconds(found) for found in re.findall(r"^\thealth_(?:interval|timeout) (\S+)$", CADDYFILE, re.MULTILINE)]

    assert set(re.findall(r"\{\$(\w+)", CADDYFILE)) == set(given)
    assert given["CALLBACK_RECEIVER"].split() == [f"{name}:{environment['RECEIVER_PORT']}" for name in RECEIVERS]
    assert given["CALLBACK_BALANCE"] == "several"
    assert len(times) == 2
    assert float(environment["RECEIVER_STOP_DELAY_SECONDS"]) > sum(times)


def test_a_receiver_is_killed_after_its_longest_end() -> None:
    """Compose waits for the delay and for the time that an end takes."""
    service = SERVICES["receiver-1"]

    delay = float(service["environment"]["RECEIVER_STOP_DELAY_SECONDS"])
    assert seconds(service["stop_grace_period"]) > delay + _LIMIT_SECONDS


def test_no_environment_holds_a_password() -> None:
    """The URL and the server's password are files in a folder that is not in the repository."""
    ignored = (DEPLOY.parent / ".gitignore").read_text().splitlines()
    environment = SERVICES["receiver-1"]["environment"]
    named = {name.removeprefix("RECEIVER_").lower() for name in environment}

    assert named - {"secrets_dir"} <= Settings.model_fields.keys() - {"database"}
    assert environment["RECEIVER_SECRETS_DIR"] == "/run/secrets"
    assert SERVICES["receiver-1"]["secrets"] == ["RECEIVER_DATABASE"]
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/postgres-password"
    assert {secret["file"] for secret in COMPOSE["secrets"].values()} == {
        "secrets/RECEIVER_DATABASE",
        "secrets/postgres-password",
    }
    assert "deploy/container/secrets/" in ignored
    assert all(secret["file"] in PAGE for secret in COMPOSE["secrets"].values())


def test_a_key_is_made_before_receivers_start() -> None:
    """They refuse to start without one. Files that containers read are made with the umask that the page sets."""
    (steps,) = re.findall(
        r"^## With Docker compose\n\n```sh\n(.*?)^```$",
        (DEPLOY / "POSTGRES.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )

    assert steps.startswith("umask 022\n")
    assert steps.index(" run --rm -T receiver-1 keys add ") < steps.index(" up -d --wait\n")


def test_the_database_is_reached_by_the_receivers_alone() -> None:
    """Its network leads nowhere, and it publishes no port. Only Caddy does."""
    published = {name for name, service in SERVICES.items() if "ports" in service}

    assert published == {"caddy"}
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert {name for name, service in SERVICES.items() if "back" in service["networks"]} == {"postgres", *RECEIVERS}
    (network,) = COMPOSE["networks"]["front"]["ipam"]["config"]
    assert SERVICES["receiver-1"]["environment"]["RECEIVER_TRUSTED_PROXIES"] == network["subnet"]


def test_a_commit_is_durable() -> None:
    """The server says so itself, and its data are on a volume."""
    postgres = SERVICES["postgres"]

    assert {"fsync=on", "synchronous_commit=on"} <= set(postgres["command"].split())
    assert postgres["volumes"] == ["database:/var/lib/postgresql/data"]
    assert postgres["healthcheck"]["test"][1] == "pg_isready"
