"""The statements of the SQLite store in PostgreSQL's notation.

Both databases have the same tables and columns, and whole numbers for flags. So both stores share their statements, but
for the few in `REPLACED`. A test prepares every statement on a real server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from receiver.storage.postgres.statements import LAZY, REPLACED

__all__ = ["Statement", "translate"]

# In the order of their use. Where `json_each` has a parameter without a name, its values are rows or positions.
_NOTATION = (
    (re.compile(r"--[^\n]*"), ""),
    (re.compile(r"\bCROSS JOIN (\w+(?: AS \w+)?) ON\b"), r"JOIN \1 ON"),
    (re.compile(r"\bjson_each\(\?\) AS (\w+)"), r"(SELECT json_array_elements_text(?)::bigint AS value) AS \1"),
    (re.compile(r"\bSELECT value FROM json_each\(\?\)"), "SELECT json_array_elements_text(?)::bigint"),
    (re.compile(r"\bSELECT value FROM json_each\((:\w+)\)"), r"SELECT json_array_elements_text(\1::json)"),
    (re.compile(r"\bjson_each\((:\w+)\) AS (\w+)"), r"json_array_elements(\1::json) AS \2 (value)"),
    (re.compile(r"\b(\w+\.value) = json_array\(([\w.]+), ([\w.]+)\)"), r"\1 ->> 0 = \2 AND \1 ->> 1 = \3"),
    (re.compile(r"(:provider|:within)\b(?= IS|\))"), r"\1::text"),
    (re.compile(r"\bWHEN has_url THEN\b"), "WHEN has_url <> 0 THEN"),
    (re.compile(r"\blength\("), "octet_length("),
    (re.compile(r"\bLIMIT -1 "), ""),
    (re.compile(r"\bx''"), "''::bytea"),
    # Not the time of the transaction's begin: a lock may have been waited for since.
    (
        re.compile(r"\bCAST\(\(julianday\('now'\).*? AS INTEGER\)"),
        "(extract(epoch FROM clock_timestamp()) * 1e6)::bigint",
    ),
)
_GREATEST = re.compile(r"\b(max|min)\(")
_SUBQUERY = re.compile(r"\bFROM (\(\s*SELECT\b)")
_UPSERT = re.compile(r"INSERT INTO (\w+) .*ON CONFLICT \([\w, ]+\) DO UPDATE SET (.*)", re.DOTALL)
# On the right side, a column of the row before.
_COLUMN_BEFORE = re.compile(r"(?<![\w.])(\w+)(?= \+ excluded|, excluded)")
_REPLACE = re.compile(r"INSERT OR REPLACE INTO (\w+) \((\w+), ([\w, ]+)\)(.*)", re.DOTALL)
_PARAMETER = re.compile(r"\?|(?<!:):([a-z]\w*)")


class Statement(NamedTuple):
    """A statement with numbered parameters, and their names if they have some.

    It `returns_rows`, or it has a number of changed rows. If it `is_lazy`, then its reader may want only the first
    rows.
    """

    text: str
    names: tuple[str, ...]
    returns_rows: bool
    is_lazy: bool

    def values(self, parameters: Sequence[Any] | Mapping[str, Any]) -> Sequence[Any]:
        """Return the values in the order of their numbers."""
        if isinstance(parameters, Mapping):
            return [parameters[name] for name in self.names]
        return parameters


@lru_cache(maxsize=2048)
def translate(statement: str) -> Statement:
    """Return a statement of the SQLite store for PostgreSQL, with numbered parameters."""
    text = _with_conflict(REPLACED.get(statement, statement))
    for pattern, replacement in _NOTATION:
        text = pattern.sub(replacement, text)
    text = _with_columns_before(_with_names(_with_greatest(text)))
    returns_rows = text.lstrip().startswith(("SELECT", "WITH")) or " RETURNING " in text
    return Statement(*_numbered(text), returns_rows, statement in LAZY)


def _with_conflict(statement: str) -> str:
    parts = _REPLACE.fullmatch(statement)
    if parts is None:
        return statement
    table, key, columns, rest = parts.groups()
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns.split(", "))
    return f"INSERT INTO {table} ({key}, {columns}){rest} ON CONFLICT ({key}) DO UPDATE SET {changes}"


def _with_greatest(text: str) -> str:
    """Replace `max` and `min` of several values. With one value they are aggregates."""

    def renamed(match: re.Match[str]) -> str:
        if not any(depth == 1 and character == "," for character, depth in _inside(text, match.end() - 1)):
            return match[0]
        return "greatest(" if match[1] == "max" else "least("

    return _GREATEST.sub(renamed, text)


def _with_names(text: str) -> str:
    """Name the subqueries without a name, which PostgreSQL before 16 refuses."""
    for match in reversed(list(_SUBQUERY.finditer(text))):
        end = match.start(1) + sum(1 for _ in _inside(text, match.start(1)))
        if not text[end:].startswith(" AS "):
            text = f"{text[:end]} AS part{text[end:]}"
    return text


def _inside(text: str, start: int) -> Iterator[tuple[str, int]]:
    """Yield the characters from an opening parenthesis to its end, with their depths."""
    depth = 0
    for character in text[start:]:
        depth += character == "("
        yield character, depth
        depth -= character == ")"
        if depth == 0:
            return


def _with_columns_before(text: str) -> str:
    parts = _UPSERT.fullmatch(text)
    if parts is None:
        return text
    table, changes = parts.groups()
    return text.removesuffix(changes) + _COLUMN_BEFORE.sub(rf"{table}.\1", changes)


def _numbered(text: str) -> tuple[str, tuple[str, ...]]:
    names: dict[str, int] = {}
    count = 0

    def number(match: re.Match[str]) -> str:
        nonlocal count
        if match[1] is None:
            count += 1
            return f"${count}"
        return f"${names.setdefault(match[1], len(names) + 1)}"

    return _PARAMETER.sub(number, text), tuple(names)
