"""deploy/container: the image and the services of compose."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from client.version import VERSION
from receiver.__main__ import cli
from receiver.settings import Settings
from tests.deploy.files import CADDYFILE, DEPLOY

CONTAINER = DEPLOY / "container"
DOCKERFILE = (CONTAINER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def instructions(name: str) -> list[str]:
    """Return the arguments of an instruction of the Dockerfile, in their order."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [" ".join(line.split()[1:]) for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_the_linter_finds_nothing() -> None:
    """The rules of hadolint are kept, the informal ones too."""
    linter = Path(sys.executable).with_name("hadolint")
    found = subprocess.run(
        [linter, "--failure-threshold", "style", CONTAINER / "Dockerfile"], capture_output=True, text=True, check=False
    )

    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_names_its_version() -> None:
    """The label has the version of the code, and the base of the last stage."""
    (labels,) = instructions("LABEL")
    named = dict(label.split("=", 1) for label in shlex.split(labels))

    assert named["org.opencontainers.image.version"] == VERSION
    assert instructions("FROM")[-1] == named["org.opencontainers.image.base.name"].removeprefix("docker.io/library/")


def test_packages_are_installed_by_hash() -> None:
    """Everything comes from the lock that the image gets, and the second stage installs nothing."""
    (install,) = [step for step in instructions("RUN") if "pip" in step and "install" in step]

    assert "--require-hashes --only-binary=:all: -r /tmp/requirements.lock" in install
    assert "deploy/requirements.lock /tmp/requirements.lock" in instructions("COPY")
    assert "install" not in DOCKERFILE.split("\nFROM ")[2].replace("install -d", "").lower()


def test_the_image_holds_the_code_alone() -> None:
    """Nothing else of the checkout is sent to the builder, so no database and no key."""
    ignored = (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines()
    copied = {step.split()[0] for step in instructions("COPY") if not step.startswith("--from")}

    assert next(line for line in ignored if not line.startswith("#")) == "*"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    assert copied == {"client", "receiver", "deploy/requirements.lock"}


def test_the_image_is_not_run_as_root() -> None:
    """The user is a number. The database has a directory that is closed to others."""
    assert instructions("USER") == ["10001:10001"]
    assert any("--uid 10001 " in step and "install -d -m 0700" in step for step in instructions("RUN"))
    assert instructions("VOLUME") == ['["/var/lib/callback-receiver"]']


def test_the_image_runs_commands_that_exist() -> None:
    """Without arguments a container serves, and arguments are those of any command. Its health is checked by one."""
    (server,) = re.findall(r'"(\w+)"', instructions("CMD")[0])
    (health,) = re.findall(r' CMD \["callback-receiver", "(\w+)"\]$', instructions("HEALTHCHECK")[0])

    assert instructions("ENTRYPOINT") == ['["callback-receiver"]']
    for command in (server, health):
        assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0


def check_shut_in(name: str, service: Mapping[str, Any]) -> None:
    """Check the limits of a service of compose."""
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "caddy" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("name", ["receiver", "caddy", "tunnel"])
def test_services_are_shut_in(name: str) -> None:
    """Each has a read-only root, no capability that it can do without, and a log of bounded size."""
    check_shut_in(name, SERVICES[name])


def test_only_the_proxy_can_be_reached() -> None:
    """Caddy publishes the ports of HTTP and HTTPS. The tunnel starts on request alone, and needs none."""
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}

    assert published == {"receiver": [], "caddy": ["80:80", "443:443", "443:443/udp"], "tunnel": []}
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"tunnel"}


def test_compose_runs_what_the_image_offers() -> None:
    """Port, database and settings of the receiver are those of image and proxy."""
    receiver, caddy = SERVICES["receiver"], SERVICES["caddy"]
    named = set(receiver["environment"])

    assert named <= {f"RECEIVER_{name.upper()}" for name in Settings.model_fields}
    assert caddy["environment"]["CALLBACK_RECEIVER"] == f"receiver:{receiver['environment']['RECEIVER_PORT']}"
    assert set(re.findall(r"\{\$(\w+)", CADDYFILE)) == set(caddy["environment"])
    assert receiver["volumes"] == ["database:/var/lib/callback-receiver"]
    assert (DEPLOY.parent / receiver["build"]["dockerfile"]).is_file()
    assert "../proxies:/etc/caddy:ro" in caddy["volumes"]
    assert (CONTAINER / "../proxies/Caddyfile").is_file()


def test_the_receiver_believes_its_proxies() -> None:
    """The trusted network is that of Caddy and the tunnel, and nobody else is in it."""
    (network,) = COMPOSE["networks"]["front"]["ipam"]["config"]

    assert SERVICES["receiver"]["environment"]["RECEIVER_TRUSTED_PROXIES"] == network["subnet"]
    assert {name for name, service in SERVICES.items() if service["networks"] == ["front"]} == set(SERVICES)


def test_the_receiver_has_time_to_stop() -> None:
    """Compose kills it only after the longest time that it takes itself."""
    assert int(SERVICES["receiver"]["stop_grace_period"].removesuffix("s")) > 10
