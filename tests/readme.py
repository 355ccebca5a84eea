"""Writes what is generated, the README's table of settings and the contract of the streams: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from receiver.settings import settings_table
from receiver.web import asyncapi

_ROOT = Path(__file__).parent.parent
README = _ROOT / "README.md"
ASYNCAPI = _ROOT / "receiver" / "web" / "asyncapi.json"


def main() -> None:
    """Puts the table of settings between its marks, and the contract beside the code that serves it."""
    marked = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)
    README.write_text(marked.sub(lambda _: settings_table() + "\n", README.read_text()))
    ASYNCAPI.write_text(asyncapi.rendered(), "utf-8")


if __name__ == "__main__":
    main()
