"""The facts about providers: their page is generated, and code cites only sections of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from client.providers import DIALECTS
from tests.client.providers.wire_facts import ANSWERS, CALLBACKS
from tests.provider_page import PAGE, headings, provider_page
from tests.readme import providers_table

ROOT = Path(__file__).parent.parent
FOLDERS = ("client", "deploy", "receiver", "tests")
CITATION = re.compile(r'providers/README\.md((?:, ?"[^"]+")+)')


def test_the_page_is_generated() -> None:
    """The page equals the generated one. Run `make docs` to renew it."""
    assert PAGE.read_text() == provider_page(providers_table())


def test_every_provider_has_a_section() -> None:
    """The headings are the titles of the providers and of the families, each once."""
    page = PAGE.read_text()

    assert len(re.findall(r"^## ", page, re.MULTILINE)) == len(headings(page))
    assert {dialect.title for dialect in DIALECTS.values()} <= headings(page)


def test_lines_of_the_page_are_short() -> None:
    """Prose has at most 100 characters a line, tables aside."""
    assert [line for line in PAGE.read_text().split("\n") if len(line) > 100 and not line.startswith("|")] == []


def test_citations_name_sections() -> None:
    """Each citation in code, tests and documents names headings of the page."""
    sections = headings(PAGE.read_text())
    missing = {(path, name) for path, name in citations() if name not in sections}
    sources_of_rows = [*(answer.source for answer in ANSWERS), *(delivered.source for delivered in CALLBACKS)]

    assert missing == set()
    assert {name for source in sources_of_rows for name in source.split("; ")} <= sections
    assert len(set(citations())) > 10


def test_the_old_collection_is_cited_nowhere() -> None:
    """The repository holds every fact that its code cites."""
    old = "PROVIDERS" + ".md"

    assert [path for folder in FOLDERS for path in sources(folder) if old in path.read_text()] == []


def citations() -> Iterator[tuple[str, str]]:
    """Yield the place and the heading of each citation. It may go over several lines of a docstring or a comment."""
    for path in chain.from_iterable(sources(folder) for folder in FOLDERS):
        text = re.sub(r"\n\s*(?:# )?", " ", path.read_text())
        for citation in CITATION.finditer(text):
            for name in re.findall(r'"([^"]+)"', citation[1]):
                yield path.relative_to(ROOT).as_posix(), name


def sources(folder: str) -> list[Path]:
    """Return the files of a folder with text in them."""
    return [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".md", ".py", ".toml")]
