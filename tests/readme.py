"""The generated parts of the documents: tables and written contracts. Renewed by `make docs`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from pydantic import BaseModel

from client.protocol.models import Task
from client.providers import DIALECTS
from receiver.commands.providers import called_back, submitted_through
from receiver.domain.verdicts import VERDICTS
from receiver.errors import PROBLEMS
from receiver.settings import settings_table
from receiver.web.routes import ROUTES, Route
from tests.contracts import asyncapi, openapi
from tests.provider_page import PAGE, provider_page

_ROOT = Path(__file__).parent.parent
SETTINGS = _ROOT / "deploy" / "SETTINGS.md"
RECEIVER_PAGE = _ROOT / "receiver" / "README.md"
ASYNCAPI = _ROOT / "receiver" / "web" / "asyncapi.json"
OPENAPI = _ROOT / "receiver" / "web" / "openapi.json"


def main() -> None:
    """Write the tables between their marks, and the contracts beside the code that serves them."""
    _write_table(SETTINGS, "settings", settings_table())
    for name, table in receiver_tables().items():
        _write_table(RECEIVER_PAGE, name, table)
    PAGE.write_text(provider_page(providers_table()), "utf-8")
    ASYNCAPI.write_text(asyncapi.rendered(), "utf-8")
    OPENAPI.write_text(openapi.rendered(), "utf-8")


def receiver_tables() -> Mapping[str, str]:
    """Return the tables of the receiver's page by their names."""
    return {"routes": routes_table(), "problems": problems_table(), "verdicts": verdicts_table()}


def providers_table() -> str:
    """Return the facts about each provider, in Markdown."""
    lines = ["| provider | asked through | calls back | what is not documented |", "|---|---|---|---|"]
    for name, dialect in DIALECTS.items():
        unsure = [f"{fact.about} ({fact.mark})" for fact in dialect.facts if fact.mark != "documented"]
        lines.append(
            f"| `{name}` | {submitted_through(dialect)} | {called_back(dialect.callback)} | {', '.join(unsure)} |"
        )
    return "\n".join(lines)


def routes_table() -> str:
    """Return the routes with their parameters and the answers that are no errors, in Markdown."""
    lines = ["| route | scope | does | takes | answers |", "|---|---|---|---|---|"]
    for (path, summary), same in groupby(ROUTES, lambda route: (route.path, route.summary)):
        route, *others = same
        methods = " or ".join([route.method, *(other.method for other in others)])
        takes, answers = "; ".join(_parameters(route)), " ".join(_answers(route))
        lines.append(f"| `{methods} {path}` | {route.scope or 'no key'} | {summary} | {takes} | {answers} |")
    return "\n".join(lines)


def problems_table() -> str:
    """Return the problems by status, in Markdown."""
    lines = ["| status | problem | meaning |", "|---|---|---|"]
    problems = sorted(PROBLEMS.items(), key=lambda item: item[1].status)
    lines += [f"| {problem.status} | `{slug}` | {problem.title} |" for slug, problem in problems]
    return "\n".join(lines)


def verdicts_table() -> str:
    """Return the verdicts on callbacks with their responses and remedies, in Markdown."""
    lines = ["| verdict | if | answer | what to do |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.condition} | {row.status} | {row.remedy or ''} |" for row in VERDICTS.values()]
    return "\n".join(lines)


def _parameters(route: Route) -> Iterator[str]:
    """Yield the body, the query and the headers of a route."""
    if route.body is not None:
        yield _fields(route.body, "?")
    if route.query:
        yield f"`?{'&'.join(f'{name}=' for name in route.query)}`"
    yield from (f"`{name}`" for name in route.headers)


def _answers(route: Route) -> Iterator[str]:
    """Yield each answer with its meaning. The page shows the fields of a task itself."""
    for status, (meaning, content) in sorted(route.answers.items()):
        if status < 300:
            fields = f" {_fields(content)}" if isinstance(content, type) and content is not Task else ""
            yield f"{status}{fields}: {meaning}"


def _fields(model: type[BaseModel], mark: str = "") -> str:
    """Return the fields of a model by their names in JSON, with `mark` behind each that may be left out."""
    names = (
        f"{field.alias or name}{'' if field.is_required() else mark}" for name, field in model.model_fields.items()
    )
    return f"`{{{', '.join(names)}}}`"


def _write_table(page: Path, name: str, table: str) -> None:
    """Replace the text between the marks of this name."""
    marked = re.compile(rf"<!-- {name} -->.*<!-- /{name} -->", re.DOTALL)
    page.write_text(marked.sub(lambda _: f"<!-- {name} -->\n{table}\n<!-- /{name} -->", page.read_text()))


if __name__ == "__main__":
    main()
