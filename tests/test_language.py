"""Rules of plain English: retired names, docstrings and documents.

One rule is not checked, because deleting docstrings would meet it: their amount must not shrink.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from tests.language import Prose, long_lines, prose_of_document, prose_of_module

ROOT = Path(__file__).parent.parent
PACKAGES = ("client", "receiver", "tests")

RETIRED_MODULES = """
allowance around asking brake breaker broke circuit endings examining gate heard high_water intake kept learning link
looking names numbers progress ready road roads surroundings turn_back watching
"""
RETIRED_CLASSES = """
Admission Allowance Arrival Brake Circuit Ending Endings Gate Incoming Kept KeptBody Ledger Link Look Names Place
Progress ReadyAnswer Rehearsal Road Roads Surroundings Watch
"""
RETIRED_FUNCTIONS = """
allowance around broke examined heard judge_stray number_lines number_values open_rehearsal opened_to_look quickly
rehearse road roads surroundings turn_back
"""
"""Names of functions and methods, without underscores in front."""
RETIRED_IN_DECISIONS = "adopt held keep look spend"
"""Functions and methods of `receiver.domain` and `receiver.storage`."""

RELATIVES_PER_1000 = 25
"""The most relative clauses, per 1,000 words of docstrings."""
README_LINES = 160
README_WORDS_A_SENTENCE = 15


@cache
def measured(package: str) -> Prose:
    """Return the counts over all docstrings of a package."""
    prose = Prose()
    for path in sorted((ROOT / package).rglob("*.py")):
        prose.add(prose_of_module(path))
    return prose


def documents() -> list[Path]:
    """Return the Markdown pages of the project."""
    return [
        ROOT / "README.md",
        *sorted(chain.from_iterable((ROOT / name).rglob("*.md") for name in (*PACKAGES, "deploy"))),
    ]


def retired_names(path: Path) -> Iterator[str]:
    """Yield the retired names of a module and of its definitions, with their kind."""
    functions = RETIRED_FUNCTIONS.split()
    if path.relative_to(ROOT).as_posix().startswith(("receiver/domain/", "receiver/storage/")):
        functions += RETIRED_IN_DECISIONS.split()
    if path.stem.removeprefix("test_") in RETIRED_MODULES.split():
        yield f"module {path.stem}"
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ClassDef(name=name) if name.lstrip("_") in RETIRED_CLASSES.split():
                yield f"class {name}"
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.lstrip("_") in functions:
                yield f"function {name}"


def test_retired_names_stay_retired() -> None:
    """No module, class or function has the name of a replaced metaphor."""
    paths = sorted(chain.from_iterable((ROOT / package).rglob("*.py") for package in PACKAGES))
    found = [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in retired_names(path)]

    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_open_with_a_statement(package: str) -> None:
    """None begins with What, Who, Whether, How, When or Where."""
    assert measured(package).openers == []


@pytest.mark.parametrize("package", PACKAGES)
def test_sentences_of_docstrings_are_short(package: str) -> None:
    """A sentence has at most 25 words."""
    assert measured(package).long == []


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_have_few_relative_clauses(package: str) -> None:
    """One idea a sentence; `python -m tests.language PATH` shows which files have many."""
    assert measured(package).relatives_per_1000 <= RELATIVES_PER_1000


@pytest.mark.parametrize(
    ("text", "relatives"),
    [
        ("Return the task that waits for it.", 1),
        ("Return the tasks which wait, and the key whose owner asked.", 2),
        ("The proxy says that the name is wrong, so that nothing arrives.", 0),
        ("After that the store is like that of a new receiver.", 0),
        ("Return `the one that` is code.", 0),
    ],
)
def test_relative_clauses_are_told_from_conjunctions(text: str, relatives: int) -> None:
    """The word before a `that` decides, and code does not count."""
    assert Prose.of(text, "here").relatives == relatives


def test_a_long_sentence_is_found_across_lines() -> None:
    """Line ends do not end a sentence. Full stops, paragraphs and list items do."""
    assert len(Prose.of("one two three\n" * 9, "here").long) == 1
    assert Prose.of("One two three.\n" * 9 + "\n\n* one two three" * 9, "here").long == []


def test_sentences_of_documents_are_short() -> None:
    """A sentence has at most 25 words."""
    long = [fault for path in documents() for fault in prose_of_document(path).long]

    assert long == []


def test_lines_of_documents_are_short() -> None:
    """A line of prose has at most 100 characters, so that changes are easy to compare."""
    long = [fault for path in documents() for fault in long_lines(path)]

    assert long == []


def test_the_readme_is_read_at_once() -> None:
    """It fits on three screens, in short sentences."""
    readme = ROOT / "README.md"

    assert len(readme.read_text().splitlines()) <= README_LINES
    assert prose_of_document(readme).average <= README_WORDS_A_SENTENCE
