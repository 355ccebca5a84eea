"""Shapes: total over any request, the same for the same fields, and without a value in them."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlencode

from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.domain.shapes import Shape, ShapeRecord, shape_of, shape_text

VALUE = "VALUE"
"""The content of all values. No other part of a shape may contain it."""

words = st.sampled_from(["errorId", "taskId", "solution", "user-agent", "x.y", "_"]) | st.text(max_size=50).filter(
    lambda text: VALUE not in text
)
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20).map(lambda text: VALUE + text)
trees = st.recursive(
    values, lambda inner: st.lists(inner, max_size=10) | st.dictionaries(words, inner, max_size=8), max_leaves=40
)
headers = st.none() | st.text(st.characters(exclude_categories=()), max_size=60)
many = settings(deadline=None, max_examples=200)

SHOWN = re.compile(
    r"(JSON|form|query) [\w.: |{}\[\],…-]+|nothing|text, (less than 10{0,2} kB|100 kB or more)", re.ASCII
)


def reordered(value: Any) -> Any:
    """Return the same value, its fields the other way round."""
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(part) for part in value] if isinstance(value, list) else value


@many
@given(method=st.sampled_from(["GET", "POST"]), header=headers, query=st.binary(max_size=200), body=st.binary())
def test_any_request_has_a_shape(method: str, header: str | None, query: bytes, body: bytes) -> None:
    """Any bytes give a few words of names and types, fit for people to see."""
    shape = shape_of(method, header, query, body)

    assert SHOWN.fullmatch(shape.fields), shape.fields
    assert shape_text(ShapeRecord("capsolver", shape, 1, 0, 0, 0)).replace("…", "").isascii()


@many
@given(value=trees)
def test_the_shape_of_json_has_names_and_no_value(value: Any) -> None:
    """They are within bounds, and the order of the fields makes no difference."""
    shape = shape_of("POST", "application/json", b"", json.dumps(value).encode())

    assert SHOWN.fullmatch(shape.fields), shape.fields
    assert VALUE not in shape.fields
    assert len(shape.fields) < 10_000
    assert shape_of("POST", "application/json", b"", json.dumps(reordered(value)).encode()) == shape


@many
@given(fields=st.dictionaries(words, st.text(max_size=20).map(lambda text: VALUE + text), max_size=20))
def test_the_shape_of_a_form_has_names_and_no_value(fields: dict[str, str]) -> None:
    """A form in a body and one in a query are alike."""
    text = urlencode(fields).encode()

    posted = shape_of("POST", "application/x-www-form-urlencoded", b"", text)
    asked = shape_of("GET", None, text, b"")

    assert VALUE not in posted.fields
    assert SHOWN.fullmatch(posted.fields), posted.fields
    assert asked == Shape("GET", None, posted.fields.replace("form", "query", 1))
