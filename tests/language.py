"""Measures of plain English in docstrings and documents: `python -m tests.language PATH...` prints them by file."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Prose", "docstrings", "long_lines", "prose_of_document", "prose_of_module"]

MOST_WORDS = 25
"""The longest sentence, in words."""
LONGEST_LINE = 100
"""The longest line of prose in a document, in characters."""

_WORD = re.compile(r"[A-Za-z][\w'-]*")
_CODE = re.compile(r"``[^`]*``|`[^`]*`")
_OPENER = re.compile(r"(What|Whatever|Who|Whoever|Whom|Whose|Whether|How|When|Where)\b")
_RELATIVE = re.compile(r"\b(which|who|whom|whose|whoever|whatever|what)\b", re.IGNORECASE)
_THAT = re.compile(r"(\w+) that\b")
_END = re.compile(r"(?<=[.!?])[)\"'*]*\s+(?=[\W_]*[A-Z0-9])")
_NEW_BLOCK = re.compile(r"\n\s*\n|\n\s*(?=[*-] |\d+\. |[A-Z]\w*Error(?:, \w+)*: )")

_BEFORE_CLAUSES = """
accept accepts agree agrees ask asks assert asserts assume assumed assumes be believe believes certain check checked
checks claim claims conclude concludes condition confirm confirms decide decides deny ensure ensures except expect
expected expects fact find finds found given guarantee guarantees hint hope hopes idea is know known knows learn learns
likely mean means meant note notice noticed notices pretend pretends promise promised promises proof prove proved proves
provided remember remembers report reported reports reveal reveals risk said say saying says see seen sees show shown
shows sign so state states such suppose sure tell telling tells think thinks told true understand verify verifies warn
warns was were
"""
"""Words that take a clause: the `that` behind them is a conjunction."""
_BEFORE_POINTERS = """
about above after against and around as at because before behind below beside between beyond but by do does done during
for from has have if in into like not of off on or over since than then through to towards under unless until upon when
where while with within without
add adds allow allows call change cut get gets give gives keep keeps leave leaves let lets make makes need needs put
puts read send sends take takes use want wants write writes
"""
"""Prepositions, conjunctions and verbs: the `that` behind them points at something, as in "after that"."""
_NOT_RELATIVE = frozenset((_BEFORE_CLAUSES + _BEFORE_POINTERS).split())


@dataclass
class Prose:
    """Counts over one text or several."""

    words: int = 0
    relatives: int = 0
    sentences: int = 0
    long: list[str] = field(default_factory=list)
    openers: list[str] = field(default_factory=list)

    def add(self, other: Prose) -> None:
        """Add the counts of another text."""
        self.words += other.words
        self.relatives += other.relatives
        self.sentences += other.sentences
        self.long += other.long
        self.openers += other.openers

    @property
    def relatives_per_1000(self) -> float:
        """The relative clauses in a thousand words."""
        return 1000 * self.relatives / max(self.words, 1)

    @property
    def average(self) -> float:
        """The words of a sentence, on average."""
        return self.words / max(self.sentences, 1)

    @classmethod
    def of(cls, text: str, where: str) -> Prose:
        """Return the counts of a text without code blocks; `where` names it in the lists of faults."""
        text = _CODE.sub("X", text)
        prose = cls()
        if _OPENER.match(text):
            prose.openers.append(where)
        for block in _NEW_BLOCK.split(text):
            for sentence in _END.split(" ".join(block.split())):
                words = len(_WORD.findall(sentence))
                prose.words += words
                prose.sentences += words > 0
                prose.relatives += _count_relatives(sentence)
                if words > MOST_WORDS:
                    prose.long.append(f"{where}: {words} words: {sentence}")
        return prose


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring of a module, those behind assignments included."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for before, statement in zip([None, *body], body, strict=False):
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))) if (before is None and documented) or isinstance(
                    before, ast.Assign | ast.AnnAssign
                ):
                    yield statement.lineno, _without_examples(text)


def prose_of_module(path: Path) -> Prose:
    """Return the counts of all docstrings of a module."""
    prose = Prose()
    for line, text in docstrings(path):
        prose.add(Prose.of(text, f"{path}:{line}"))
    return prose


def prose_of_document(path: Path) -> Prose:
    """Return the counts of a Markdown page without its code, tables, headings and addresses."""
    text = "\n".join(text for _, text in _prose_lines(path))
    return Prose.of(re.sub(r"\]\([^)]*\)|<[^>]*>|https?://[^\s`]+", "", text), str(path))


def long_lines(path: Path) -> list[str]:
    """Return the lines of prose in a Markdown page with more than 100 characters, addresses aside."""
    return [
        f"{path}:{number}: {len(text)} characters"
        for number, text in _prose_lines(path)
        if len(text) > LONGEST_LINE and "](" not in text and "://" not in text
    ]


def _count_relatives(sentence: str) -> int:
    pronouns = len(_RELATIVE.findall(sentence))
    return pronouns + sum(match[1].lower() not in _NOT_RELATIVE for match in _THAT.finditer(sentence))


def _without_examples(text: str) -> str:
    """Return a docstring without its blocks of code, with its own indent taken away."""
    lines: list[str] = []
    code_indent: int | None = None
    for line in text.strip().splitlines():
        indent = len(line) - len(line.lstrip())
        if code_indent is not None and (not line.strip() or indent > code_indent):
            continue
        code_indent = indent if line.rstrip().endswith("::") or line.strip() in ("Example:", "Examples:") else None
        if not line.lstrip().startswith((">>>", "...")):
            lines.append(line)
    return "\n".join(lines)


def _prose_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines of a Markdown page that hold prose; an empty one for what is left out."""
    is_code = False
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
            yield number, ""
        else:
            is_left_out = is_code or line.lstrip().startswith(("|", "#", "<")) or line.startswith("    ")
            yield number, "" if is_left_out else line


def main(paths: list[str]) -> None:
    """Print the counts by file and in total."""
    total = Prose()
    for name in paths:
        path = Path(name)
        for file in sorted([*path.rglob("*.py"), *path.rglob("*.md")]) if path.is_dir() else [path]:
            prose = prose_of_module(file) if file.suffix == ".py" else prose_of_document(file)
            total.add(prose)
            print(f"{file}: {_summary(prose)}")  # noqa: T201  (the output of this command)
    for fault in (*total.openers, *total.long):
        print(fault)  # noqa: T201
    print(f"total: {_summary(total)}")  # noqa: T201


def _summary(prose: Prose) -> str:
    return (
        f"{prose.words} words, {prose.relatives_per_1000:.1f} relative clauses per 1,000, {prose.average:.1f} words a "
        f"sentence, {len(prose.long)} too long, {len(prose.openers)} openers"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
