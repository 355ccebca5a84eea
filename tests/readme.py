"""Writes what is generated, the README's tables and the written contracts: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from client.providers import DIALECTS
from receiver.commands.providers import called_back, submitted_through
from receiver.settings import settings_table
from tests.contracts import asyncapi, openapi
from tests.provider_page import PAGE, provider_page

_ROOT = Path(__file__).parent.parent
README = _ROOT / "README.md"
ASYNCAPI = _ROOT / "receiver" / "web" / "asyncapi.json"
OPENAPI = _ROOT / "receiver" / "web" / "openapi.json"


def main() -> None:
    """Put the tables between their marks, and the contracts beside the code that serves them."""
    text = README.read_text()
    for name, table in (("settings", settings_table()), ("providers", providers_table())):
        marked = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
        text = marked.sub(lambda _, table=table: table + "\n", text)  # type: ignore[misc]  # mypy infers no lambda with a default
    README.write_text(text)
    PAGE.write_text(provider_page(providers_table()), "utf-8")
    ASYNCAPI.write_text(asyncapi.rendered(), "utf-8")
    OPENAPI.write_text(openapi.rendered(), "utf-8")


def providers_table() -> str:
    """What is known of each provider, in Markdown."""
    lines = ["| provider | asked through | calls back | what is not documented |", "|---|---|---|---|"]
    for name, dialect in DIALECTS.items():
        unsure = [f"{fact.about} ({fact.mark})" for fact in dialect.facts if fact.mark != "documented"]
        lines.append(
            f"| `{name}` | {submitted_through(dialect)} | {called_back(dialect.callback)} | {', '.join(unsure)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
