"""The files of deploy/, as text and taken apart."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["CADDYFILE", "ENVIRONMENT", "PAGE", "UNIT", "block", "settings_in", "unit_values"]

_DEPLOY = Path(__file__).parents[2] / "deploy"

CADDYFILE = (_DEPLOY / "Caddyfile").read_text("utf-8")
ENVIRONMENT = (_DEPLOY / "environment.example").read_text("utf-8")
PAGE = (_DEPLOY / "README.md").read_text("utf-8")
UNIT = (_DEPLOY / "callback-receiver.service").read_text("utf-8")


def settings_in(text: str, *, active: bool) -> dict[str, str]:
    """Return the NAME=value lines, those that count or those that are commented out."""
    mark = "" if active else "#"
    return dict(re.findall(rf"^{mark}(RECEIVER_\w+)=(.*)$", text, re.MULTILINE))


def unit_values(name: str) -> list[str]:
    """What the unit says for `name`, in the order of its lines."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def block(head: str) -> str:
    """The block of the Caddyfile that begins with the line `head {`, up to its closing brace; "" is the global one."""
    first_line = re.escape(f"{head} {{".strip())
    found = re.search(rf"^{first_line}\n(.*?)^\}}$", CADDYFILE, re.MULTILINE | re.DOTALL)
    assert found is not None, head
    return found[1]
