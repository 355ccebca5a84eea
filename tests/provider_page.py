"""The page about the providers, made from the catalogue: `client/providers/README.md`, renewed by `make docs`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from client.providers import DIALECTS, Dialect
from client.providers.json_family import JSON_FAMILY
from client.providers.v1_family import V1_FAMILY

__all__ = ["PAGE", "headings", "provider_page"]

_ROOT = Path(__file__).parent.parent
PAGE = _ROOT / "client" / "providers" / "README.md"
_TABLES: Mapping[str, Any] = tomllib.loads((_ROOT / "client" / "providers" / "catalog.toml").read_text())
_SHARED: Mapping[str, Any] = _TABLES["_families"]
_UNBROKEN = "\N{NO-BREAK SPACE}"
_LEAD = """\
# Providers

```sh
.venv/bin/callback-receiver providers
```

The command lists the providers; with a name it shows the facts about one. Everything on this page
comes from `catalog.toml`, and `make docs` renews it. Code cites a section of this page by its
heading. [DECLARING.md](DECLARING.md) tells how to declare a provider of your own."""
_CERTAINTY = """\
## Certainty

* **documented**: the provider says so on the page named as the source.
* **observed**: seen in code of the provider or of others, or in a captured request.
* **inferred**: concluded from such facts. It may turn out to be wrong.
* **unknown**: a search for it found nothing."""


def provider_page(table: str) -> str:
    """Return the page: the table of all providers, then a section for each wire family and each provider."""
    shared = [_section(entry["title"], [entry["text"], *_relatives(name)], entry) for name, entry in _SHARED.items()]
    providers = [_section(dialect.title, _lead(dialect), _TABLES[name]) for name, dialect in DIALECTS.items()]
    marked = f"<!-- providers -->\n{table}\n<!-- /providers -->"
    return "\n\n".join([_LEAD, marked, _CERTAINTY, *shared, *providers]) + "\n"


def headings(page: str) -> set[str]:
    """Return the headings of the sections of a page."""
    return set(re.findall(r"^## (.*)$", page, re.MULTILINE))


def _section(title: str, paragraphs: Iterable[str], table: Mapping[str, Any]) -> str:
    parts = [f"## {title}", *(_filled(paragraph) for paragraph in paragraphs)]
    if table.get("facts"):
        rows = (
            f"| {_cell(fact['about'])} | {_cell(fact['known'])} | {fact['mark']} | {_cell(fact.get('source', ''))} |"
            for fact in table["facts"]
        )
        parts.append("\n".join(["| fact | known | certainty | source |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _lead(dialect: Dialect) -> Iterator[str]:
    """Yield the paragraphs before the facts about a provider."""
    endpoint = f", at <{dialect.base_url}>" if dialect.base_url else ""
    yield f"Its name here is `{dialect.provider}`{endpoint}."
    also = [*_families(dialect), *_TABLES[dialect.provider].get("factsOf", ())]
    links = [_link(_SHARED[name]["title"] if name in _SHARED else DIALECTS[name].title) for name in dict.fromkeys(also)]
    if links:
        yield f"See also: {', '.join(links)}."


def _relatives(family: str) -> Iterator[str]:
    """Yield a paragraph with links to the providers of a family."""
    names = [dialect.title for dialect in DIALECTS.values() if family in _families(dialect)]
    if names:
        yield f"Providers: {', '.join(map(_link, names))}."


def _families(dialect: Dialect) -> list[str]:
    """Return the families of a provider's requests and callbacks, by their names in the catalogue."""
    families = list[str]()
    for name in _TABLES[dialect.provider].get("factsOf", ()):
        families += [name] if name in _SHARED else _families(DIALECTS[name])
    if dialect.has_api and dialect.family in (JSON_FAMILY, V1_FAMILY):
        families.append("json" if dialect.family is JSON_FAMILY else "older")
    rule = dialect.callback
    if rule is not None:
        code = "formcallbacks" if "POST" in rule.methods else "querycallbacks"
        families.append({"result": "resultcallbacks", "code": code}.get(rule.shape, "envelopecallbacks"))
    return list(dict.fromkeys(families))


def _link(title: str) -> str:
    anchor = re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-")
    return f"[{title.replace(' ', _UNBROKEN)}](#{anchor})"


def _filled(paragraph: str) -> str:
    return fill(paragraph, 100, break_long_words=False, break_on_hyphens=False).replace(_UNBROKEN, " ")


def _cell(text: str) -> str:
    return text.replace("*", r"\*").replace("|", r"\|")
