"""Writes what is generated, the README's tables and the written contracts: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from client.providers import DIALECTS, CallbackRule, Dialect
from client.providers.v1_family import V1Dialect
from receiver.settings import settings_table
from receiver.web import asyncapi, openapi

_ROOT = Path(__file__).parent.parent
README = _ROOT / "README.md"
ASYNCAPI = _ROOT / "receiver" / "web" / "asyncapi.json"
OPENAPI = _ROOT / "receiver" / "web" / "openapi.json"


_SHAPES = {"result": "the `getTaskResult` answer", "code": "id and answer"}


def main() -> None:
    """Puts the tables between their marks, and the contracts beside the code that serves them."""
    text = README.read_text()
    for name, table in (("settings", settings_table()), ("providers", providers_table())):
        marked = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
        text = marked.sub(lambda _, table=table: table + "\n", text)  # type: ignore[misc]  # mypy infers no lambda with a default
    README.write_text(text)
    ASYNCAPI.write_text(asyncapi.rendered(), "utf-8")
    OPENAPI.write_text(openapi.rendered(), "utf-8")


def providers_table() -> str:
    """What is known of each provider, in Markdown."""
    lines = ["| provider | asked through | calls back | what is not documented |", "|---|---|---|---|"]
    for name, dialect in DIALECTS.items():
        unsure = [f"{fact.about} ({fact.mark})" for fact in dialect.facts if fact.mark != "documented"]
        lines.append(f"| `{name}` | {_asked(dialect)} | {_called(dialect.callback)} | {', '.join(unsure)} |")
    return "\n".join(lines)


def _asked(dialect: Dialect) -> str:
    if not getattr(dialect, "has_api", True):
        return "not known"
    how = "`in.php`, `res.php`" if isinstance(dialect, V1Dialect) else "`createTask`"
    return how if dialect.base_url else f"{how}, at an address that you give"


def _called(rule: CallbackRule | None) -> str:
    if rule is None:
        return "no: polled"
    methods = " or ".join(sorted(rule.methods))
    what = "form" if rule.shape == "code" and "POST" in rule.methods else "query" if rule.shape == "code" else "JSON"
    signed = ", signed" if rule.signature is not None else ""
    no_id = ", perhaps without `taskId`" if rule.task_id == "missing" else ""
    return f"{methods}, {what}: {_SHAPES.get(rule.shape, 'an envelope of its own')}{no_id}{signed}"


if __name__ == "__main__":
    main()
