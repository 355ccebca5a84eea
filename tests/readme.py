"""The generated parts of the documents: tables and written contracts. Renewed by `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from client.providers import DIALECTS
from receiver.commands.providers import called_back, submitted_through
from receiver.domain.verdicts import VERDICTS
from receiver.settings import settings_table
from tests.contracts import asyncapi, openapi
from tests.provider_page import PAGE, provider_page

_ROOT = Path(__file__).parent.parent
SETTINGS = _ROOT / "deploy" / "SETTINGS.md"
VERDICTS_PAGE = _ROOT / "receiver" / "README.md"
ASYNCAPI = _ROOT / "receiver" / "web" / "asyncapi.json"
OPENAPI = _ROOT / "receiver" / "web" / "openapi.json"


def main() -> None:
    """Write the tables between their marks, and the contracts beside the code that serves them."""
    _write_table(SETTINGS, "settings", settings_table())
    _write_table(VERDICTS_PAGE, "verdicts", verdicts_table())
    PAGE.write_text(provider_page(providers_table()), "utf-8")
    ASYNCAPI.write_text(asyncapi.rendered(), "utf-8")
    OPENAPI.write_text(openapi.rendered(), "utf-8")


def providers_table() -> str:
    """Return the facts about each provider, in Markdown."""
    lines = ["| provider | asked through | calls back | what is not documented |", "|---|---|---|---|"]
    for name, dialect in DIALECTS.items():
        unsure = [f"{fact.about} ({fact.mark})" for fact in dialect.facts if fact.mark != "documented"]
        lines.append(
            f"| `{name}` | {submitted_through(dialect)} | {called_back(dialect.callback)} | {', '.join(unsure)} |"
        )
    return "\n".join(lines)


def verdicts_table() -> str:
    """Return the verdicts on callbacks with their responses and remedies, in Markdown."""
    lines = ["| verdict | if | answer | what to do |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.condition} | {row.status} | {row.remedy or ''} |" for row in VERDICTS.values()]
    return "\n".join(lines)


def _write_table(page: Path, name: str, table: str) -> None:
    """Replace the text between the marks of this name."""
    marked = re.compile(rf"<!-- {name} -->.*<!-- /{name} -->", re.DOTALL)
    page.write_text(marked.sub(lambda _: f"<!-- {name} -->\n{table}\n<!-- /{name} -->", page.read_text()))


if __name__ == "__main__":
    main()
