"""The shape of a callback: its method, content type, and the names and JSON types of its fields, never a value. Pure.

What providers document of their callbacks is thin (providers/README.md, "Result callbacks", "Callbacks"). Shapes tell
what they really send, and can be shown to others: a name that looks like a value is left out, too.
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
"""For each provider; when there are more, those go that were not seen for longest."""

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
_LOOK_EVERY = 100_000
_LOOK_EVERY_UNREADABLE = 10_000
_LINE_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Shape:
    """What callbacks have in common that say different things.

    `content_type` is without its parameters. `fields` begins with where they were, as in `JSON {errorId: integer}`,
    `form {code: text}` or `query {code: text}`; of anything else it tells about how long it is.
    """

    method: str
    content_type: str | None
    fields: str


@dataclass(frozen=True, slots=True)
class ShapeRecord:
    """How often a provider's callbacks had this shape, how many of them its dialect could read, and when, in µs."""

    provider: str
    shape: Shape
    callbacks: int
    readable: int
    first_seen: int
    last_seen: int


def shape_of(method: str, content_type: str | None, query: bytes, body: bytes) -> Shape:
    """Return the shape of any request; the same for reordered fields.

    At most 150 fields and elements are looked at, 6 levels deep, and none in a body of more than 64 kB; what is beyond
    shows as "…". The first 8 elements of an array stand for all, and so do 8 fields whose names are left out.
    """
    return Shape(method, _short_type(content_type), _fields(body.strip() if method != "GET" else b"", query))


def shape_text(record: ShapeRecord) -> str:
    """Two lines or more for people, without secrets: fit to be pasted into an issue."""
    shape = record.shape
    content_type = "without a content type" if shape.content_type is None else shape.content_type
    first, last = (datetime.fromtimestamp(at / 1_000_000, UTC).date() for at in (record.first_seen, record.last_seen))
    callbacks = "1 callback" if record.callbacks == 1 else f"about {record.callbacks} callbacks"
    readable = {record.callbacks: "readable", 0: "unreadable"}.get(record.readable, f"{record.readable} readable")
    days = f"on {first}" if first == last else f"from {first} to {last}"
    # Wrapped at spaces alone, so that no name is taken apart.
    what = fill(
        f"{shape.method} {content_type}: {shape.fields}",
        _LINE_LENGTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"{what}\n  {callbacks}, {readable}, {days}"


@dataclass(slots=True)
class _Count:
    """How often a shape was seen since that was last written down, and when in all."""

    first_seen: int
    last_seen: int
    callbacks: int = 0
    readable: int = 0

    def grow(self, callbacks: int, readable: int, now: int) -> None:
        self.callbacks += callbacks
        self.readable += readable
        self.last_seen = max(self.last_seen, now)


@dataclass(slots=True)
class _Looking:
    """When one was last chosen to be looked at, the shape seen last, and how many wait for the first to be seen."""

    chosen_at: int
    count: _Count | None = None
    waiting: int = 0


class ShapeCounts:
    """Counts shapes in memory until they are written; times are µs.

    To look at a callback takes some 40 µs. So ten a second are looked at for each provider, a hundred of those that
    cannot be read; the others count for the shape that was seen last, which makes the numbers estimates where there are
    many.
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[Shape, _Count]] = {}
        self._looking: dict[tuple[str, bool], _Looking] = {}

    def must_look(self, provider: str, *, is_readable: bool, now: int) -> bool:
        """Whether this one is to be looked at, and then added; if not, it was counted."""
        looking = self._looking.get((provider, is_readable))
        if looking is None:
            self._looking[provider, is_readable] = _Looking(now)
            return True
        every = _LOOK_EVERY if is_readable else _LOOK_EVERY_UNREADABLE
        # After a clock was set back, too. Chosen once: of many that come at once, one.
        if not 0 <= now - looking.chosen_at < every:
            looking.chosen_at = now
            return True
        if looking.count is None:
            looking.waiting += 1
        else:
            looking.count.grow(1, is_readable, now)
        return False

    def add(self, provider: str, shape: Shape, *, is_readable: bool, now: int) -> bool:
        """Count one that was looked at; whether its shape is new here."""
        counts = self._counts.setdefault(provider, {})
        # The order is that in which they were seen.
        known = counts.pop(shape, None)
        count = counts[shape] = known or _Count(now, now)
        looking = self._looking.setdefault((provider, is_readable), _Looking(now))
        seen = 1 + looking.waiting
        looking.count, looking.waiting = count, 0
        count.grow(seen, seen if is_readable else 0, now)
        if len(counts) > SHAPES_KEPT:
            del counts[next(iter(counts))]
        return known is None

    def take(self) -> Sequence[ShapeRecord]:
        """What was counted since the last time."""
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
        """These could not be stored; they are counted on, but for shapes that had to go meanwhile."""
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
    """As dialects read it: JSON, a form, or the query where there is no body."""
    where, text = ("form", body) if body else ("query", query)
    if not text:
        return "nothing"
    told = None
    if len(text) <= _MOST_BYTES:
        told = (_of_json(body) if body else None) or _of_form(where, text)
    return told or f"text, {next((size for limit, size in _SIZES if len(text) < limit), '100 kB or more')}"


def _of_json(body: bytes) -> str | None:
    try:
        return f"JSON {_Description().of(from_json(body.removeprefix(_BOM)), 0)}"
    except ValueError:
        return None


def _of_form(where: str, text: bytes) -> str | None:
    names = _form_names(text)
    return f"{where} {{{', '.join(f'{name}: text' for name in names)}}}" if names else None


def _form_names(text: bytes) -> Sequence[str]:
    """Return the names in a form; none where it only looks like one, as base64 with its `=` at the end does."""
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
    """Whether it looks like an id: the names of fields have few digits."""
    return len(_DIGIT.findall(text)) > _MOST_DIGITS


class _Description:
    """Tells the types in one JSON value, as long as there is room."""

    def __init__(self) -> None:
        self._room = _MOST_PARTS

    def of(self, value: Any, depth: int) -> str:
        """`{name: type}` for an object, `[type | type]` for an array, otherwise the name of the type."""
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
        """Return the types of all values that stand in one place."""
        kinds = set()
        for value in values[:_MOST_ELEMENTS]:
            if self._room <= 0:
                kinds.add(_LEFT_OUT)
                break
            self._room -= 1
            kinds.add(self.of(value, depth + 1))
        return " | ".join(sorted(kinds))
