"""Writes the generated parts of the README: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from receiver.settings import settings_table

README = Path(__file__).parent.parent / "README.md"


def main() -> None:
    """Puts the table of settings between its marks."""
    marked = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- /settings -->)", re.DOTALL)
    README.write_text(marked.sub(lambda _: settings_table() + "\n", README.read_text()))


if __name__ == "__main__":
    main()
