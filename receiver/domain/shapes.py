"""The shape of a callback: its method, content type, and the names and JSON types of its fields, never a value. Pure.

Providers document little about their callbacks (providers/README.md, "Result callbacks", "Callbacks"). Shapes show the
fields that they really send, and may be shown to others. So a name that looks like a value is left out, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from textwrap import fill
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import from_json

__all__ = ["SHAPES_KEPT", "Shape", "ShapeCounts", "ShapeRecord", "shape_of", "shape_text"]

SHAPES_KEPT = 50
"""The number of shapes kept for each provider. Beyond it, the shape not seen for longest goes."""

_BOM = b"\xef\xbb\xbf"
_LEFT_OUT = "…"
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,39}", re.ASCII)
_CONTENT_TYPE = re.compile(r"[a-z]{1,20}/[a-z][a-z0-9.+-]{0,39}", re.ASCII)
_DIGIT = re.compile(r"[0-9]", re.ASCII)
_MOST_DIGITS = 4
_MOST_BYTES = 64 * 1024
_MOST_DEPTH = 6
_MOST_PARTS = 150
_MOST_ELEMENTS = 8
_SIZES = ((1000, "less than 1 kB"), (10_000, "less than 10 kB"), (100_000, "less than 100 kB"))
_SAMPLE_EVERY = 100_000
_SAMPLE_EVERY_UNREADABLE = 10_000
_LINE_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Shape:
    """The common form of callbacks with different values.

    `content_type` is without its parameters. `fields` begins with their place, as in `JSON {errorId: integer}`,
    `form {code: text}` or `query {code: text}`. For anything else it is roughly the length.
    """

    method: str
    content_type: str | None
    fields: str


@dataclass(frozen=True, slots=True)
class ShapeRecord:
    """The number of a provider's callbacks with this shape, and of those readable by its dialect; times are µs."""

    provider: str
    shape: Shape
    callbacks: int
    readable: int
    first_seen: int
    last_seen: int


def shape_of(method: str, content_type: str | None, query: bytes, body: bytes) -> Shape:
    """Return the shape of any request. The order of fields makes no difference.

    At most 150 fields and elements are examined, 6 levels deep, and none in a body of more than 64 kB. The rest shows
    as "…". The first 8 elements of an array stand for all. So do the first 8 fields with left-out names.
    """
    return Shape(method, _short_type(content_type), _fields(body.strip() if method != "GET" else b"", query))


def shape_text(record: ShapeRecord) -> str:
    """Return two lines or more for people. They hold no secrets, so they may be pasted into an issue."""
    shape = record.shape
    content_type = "without a content type" if shape.content_type is None else shape.content_type
    first, last = (datetime.fromtimestamp(at / 1_000_000, UTC).date() for at in (record.first_seen, record.last_seen))
    callbacks = "1 callback" if record.callbacks == 1 else f"about {record.callbacks} callbacks"
    readable = {record.callbacks: "readable", 0: "unreadable"}.get(record.readable, f"{record.readable} readable")
    days = f"on {first}" if first == last else f"from {first} to {last}"
    # Wrapped at spaces alone, so that no name is taken apart.
    description = fill(
        f"{shape.method} {content_type}: {shape.fields}",
        _LINE_LENGTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"{description}\n  {callbacks}, {readable}, {days}"


@dataclass(slots=True)
class _Count:
    """The number of callbacks with a shape since the last write, and the times of the first and the last of all."""

    first_seen: int
    last_seen: int
    callbacks: int = 0
    readable: int = 0

    def grow(self, callbacks: int, readable: int, now: int) -> None:
        self.callbacks += callbacks
        self.readable += readable
        self.last_seen = max(self.last_seen, now)


@dataclass(slots=True)
class _Sampling:
    """The last choice of a callback to examine, the last shape, and the callbacks that came before the first one."""

    chosen_at: int
    count: _Count | None = None
    waiting: int = 0


class ShapeCounts:
    """Counts of shapes in memory until they are written; times are µs.

    To examine a callback takes some 40 µs. So for each provider ten a second are examined, and a hundred unreadable
    ones. The others count for the shape that was seen last. So for many callbacks the numbers are estimates.
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[Shape, _Count]] = {}
        self._sampling: dict[tuple[str, bool], _Sampling] = {}

    def must_sample(self, provider: str, *, is_readable: bool, now: int) -> bool:
        """Return True if this callback is to be examined and then added. If not, it is counted now."""
        sampling = self._sampling.get((provider, is_readable))
        if sampling is None:
            self._sampling[provider, is_readable] = _Sampling(now)
            return True
        interval = _SAMPLE_EVERY if is_readable else _SAMPLE_EVERY_UNREADABLE
        # Also after a clock was set back. Of many callbacks at once, one is chosen.
        if not 0 <= now - sampling.chosen_at < interval:
            sampling.chosen_at = now
            return True
        if sampling.count is None:
            sampling.waiting += 1
        else:
            sampling.count.grow(1, is_readable, now)
        return False

    def add(self, provider: str, shape: Shape, *, is_readable: bool, now: int) -> bool:
        """Count an examined callback. Return True if its shape is new here."""
        counts = self._counts.setdefault(provider, {})
        # The shapes stay in the order in which they were last seen.
        before = counts.pop(shape, None)
        count = counts[shape] = before or _Count(now, now)
        sampling = self._sampling.setdefault((provider, is_readable), _Sampling(now))
        seen = 1 + sampling.waiting
        sampling.count, sampling.waiting = count, 0
        count.grow(seen, seen if is_readable else 0, now)
        if len(counts) > SHAPES_KEPT:
            del counts[next(iter(counts))]
        return before is None

    def take(self) -> Sequence[ShapeRecord]:
        """Return the counts since the last call."""
        taken = [
            ShapeRecord(provider, shape, count.callbacks, count.readable, count.first_seen, count.last_seen)
            for provider, counts in self._counts.items()
            for shape, count in counts.items()
            if count.callbacks
        ]
        for record in taken:
            count = self._counts[record.provider][record.shape]
            count.callbacks = count.readable = 0
        return taken

    def give_back(self, records: Iterable[ShapeRecord]) -> None:
        """Count on with records that could not be stored. Shapes that had to go meanwhile are left out."""
        for record in records:
            count = self._counts[record.provider].get(record.shape)
            if count is not None:
                count.callbacks += record.callbacks
                count.readable += record.readable


def _short_type(header: str | None) -> str | None:
    kind = (header or "").partition(";")[0].strip().lower()
    if not kind:
        return None
    return kind if _CONTENT_TYPE.fullmatch(kind) and not _has_many_digits(kind) else _LEFT_OUT


def _fields(body: bytes, query: bytes) -> str:
    """Return the fields as dialects read them: JSON, a form, or the query if there is no body."""
    where, text = ("form", body) if body else ("query", query)
    if not text:
        return "nothing"
    description = None
    if len(text) <= _MOST_BYTES:
        description = (_of_json(body) if body else None) or _of_form(where, text)
    return description or f"text, {next((size for limit, size in _SIZES if len(text) < limit), '100 kB or more')}"


def _of_json(body: bytes) -> str | None:
    try:
        return f"JSON {_Description().of(from_json(body.removeprefix(_BOM)), 0)}"
    except ValueError:
        return None


def _of_form(where: str, text: bytes) -> str | None:
    names = _form_names(text)
    return f"{where} {{{', '.join(f'{name}: text' for name in names)}}}" if names else None


def _form_names(text: bytes) -> Sequence[str]:
    """Return the names in a form. A text that only looks like one has none, as base64 with its `=` at the end."""
    parts = [part for part in text.decode("utf-8", "replace").split("&") if part]
    # A part without a name may be a value.
    named = [part for part in parts if "=" in part]
    pairs = parse_qsl("&".join(named[:_MOST_PARTS]), keep_blank_values=True)
    if len(pairs) == 1 and not pairs[0][1].strip("="):
        return ()
    names = sorted({_name(name) for name, _ in pairs} | ({_LEFT_OUT} if len(pairs) < len(parts) else set()))
    return () if names == [_LEFT_OUT] else names


def _name(text: str) -> str:
    return text if _NAME.fullmatch(text) and not _has_many_digits(text) else _LEFT_OUT


def _has_many_digits(text: str) -> bool:
    """Return True if it looks like an id: the names of fields have few digits."""
    return len(_DIGIT.findall(text)) > _MOST_DIGITS


class _Description:
    """The types in one JSON value, as long as there is room."""

    def __init__(self) -> None:
        self._room = _MOST_PARTS

    def of(self, value: Any, depth: int) -> str:
        """Return `{name: type}` for an object, `[type | type]` for an array, otherwise the name of the type."""
        if isinstance(value, dict):
            return f"{{{_LEFT_OUT if depth == _MOST_DEPTH else self._of_object(value, depth)}}}"
        if isinstance(value, list):
            return f"[{_LEFT_OUT if depth == _MOST_DEPTH else self._of_any(value, depth)}]"
        if value is None:
            return "null"
        return {bool: "boolean", int: "integer", float: "number"}.get(type(value), "string")

    def _of_object(self, value: dict[str, Any], depth: int) -> str:
        by_name: dict[str, list[Any]] = {}
        for name, field in islice(value.items(), _MOST_PARTS):
            by_name.setdefault(_name(name), []).append(field)
        parts = []
        for name in sorted(by_name):
            if self._room <= 0:
                break
            parts.append(f"{name}: {self._of_any(by_name[name], depth)}")
        if len(parts) < len(by_name) or len(value) > _MOST_PARTS:
            parts.append(_LEFT_OUT)
        return ", ".join(parts)

    def _of_any(self, values: Sequence[Any], depth: int) -> str:
        """Return the types of all values in one place."""
        kinds = set()
        for value in values[:_MOST_ELEMENTS]:
            if self._room <= 0:
                kinds.add(_LEFT_OUT)
                break
            self._room -= 1
            kinds.add(self.of(value, depth + 1))
        return " | ".join(sorted(kinds))
