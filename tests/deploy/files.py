"""The files of deploy/, as text and taken apart."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = [
    "CADDYFILE",
    "DEPLOY",
    "ENVIRONMENT",
    "MONITORING",
    "NGINX",
    "OPERATING",
    "PAGE",
    "SOCKET",
    "UNIT",
    "block",
    "settings_in",
    "unit_values",
]

DEPLOY = Path(__file__).parents[2] / "deploy"

CADDYFILE = (DEPLOY / "proxies" / "Caddyfile").read_text("utf-8")
ENVIRONMENT = (DEPLOY / "environment.example").read_text("utf-8")
MONITORING = DEPLOY / "monitoring"
NGINX = (DEPLOY / "proxies" / "nginx.conf").read_text("utf-8")
OPERATING = (DEPLOY / "OPERATING.md").read_text("utf-8")
PAGE = (DEPLOY / "README.md").read_text("utf-8")
SOCKET = (DEPLOY / "systemd" / "callback-receiver.socket").read_text("utf-8")
UNIT = (DEPLOY / "systemd" / "callback-receiver.service").read_text("utf-8")


def settings_in(text: str, *, active: bool) -> dict[str, str]:
    """Return the NAME=value lines: the active ones or the commented ones."""
    mark = "" if active else "#"
    return dict(re.findall(rf"^{mark}(RECEIVER_\w+)=(.*)$", text, re.MULTILINE))


def unit_values(name: str) -> list[str]:
    """Return the values of `name` in the unit, in the order of its lines."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def block(head: str) -> str:
    """Return the block of the Caddyfile from the line `head {` to its closing brace; "" is the global block."""
    first_line = re.escape(f"{head} {{".strip())
    found = re.search(rf"^{first_line}\n(.*?)^\}}$", CADDYFILE, re.MULTILINE | re.DOTALL)
    assert found is not None, head
    return found[1]
