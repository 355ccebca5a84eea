"""What the shape of a callback tells, what it leaves out, and how shapes are counted."""

from __future__ import annotations

import json

import pytest

from receiver.domain.shapes import SHAPES_KEPT, Shape, ShapeCounts, ShapeRecord, shape_of, shape_text

FORM = Shape("POST", None, "form {code: text, id: text}")
DAY = 24 * 3600 * 1_000_000


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"taskId": 7, "errorId": 0, "status": "ready"}', "JSON {errorId: integer, status: string, taskId: integer}"),
        (b'\xef\xbb\xbf {"a": null, "b": true, "c": 0.5}', "JSON {a: null, b: boolean, c: number}"),
        (
            b'{"solution": {"text": "x"}, "rows": [1, "a", 2, []]}',
            "JSON {rows: [[] | integer | string], solution: {text: string}}",
        ),
        (b'[{"x": 1, "y": 2}, {"x": 3, "y": 4}]', "JSON [{x: integer, y: integer}]"),
        (b'"a string"', "JSON string"),
        (b"id=7&code=abc%20d&rate=0.00299", "form {code: text, id: text, rate: text}"),
        (b"id=7&id=8&code=", "form {code: text, id: text}"),
        (b"&id=7&&code=abc&", "form {code: text, id: text}"),
        (b"id=7&code=abc&worker", "form {code: text, id: text, …: text}"),
        (b"id=7&code=abc&" + b"x=1&" * 200, "form {code: text, id: text, x: text, …: text}"),
        (b"", "nothing"),
        (b" \n", "nothing"),
        (b"OK", "text, less than 1 kB"),
        (b"\xff\xfe\x00", "text, less than 1 kB"),
        (b"<html><a href=here>", "text, less than 1 kB"),
        (b"dGhpcyBpcyBhIHNlY3JldA==", "text, less than 1 kB"),
        (b"not=one" * 10_000, "text, less than 100 kB"),
        (b"{" * 200_000, "text, 100 kB or more"),
    ],
)
def test_names_and_types_are_told(body: bytes, fields: str) -> None:
    """Fields in order of their names, with their JSON types; of anything else about how long it is."""
    assert shape_of("POST", None, b"", body).fields == fields


def test_a_query_is_told_as_one() -> None:
    """It counts for a GET, and for a POST that has no body."""
    asked = shape_of("GET", None, b"id=7&code=x", b"")
    posted = shape_of("POST", None, b"id=7&code=x", b"")
    both = shape_of("POST", None, b"id=7&code=x", b"{}")

    assert asked == Shape("GET", None, "query {code: text, id: text}")
    assert (posted.fields, both.fields) == ("query {code: text, id: text}", "JSON {}")


@pytest.mark.parametrize(
    ("header", "content_type"),
    [
        ("Application/JSON; charset=utf-8", "application/json"),
        ("multipart/form-data; boundary=secret", "multipart/form-data"),
        ("", None),
        (None, None),
        ("a secret", "…"),
        ("text/4fd1e9a2b7c655", "…"),
    ],
)
def test_content_types_have_no_parameters(header: str | None, content_type: str | None) -> None:
    """In lower case; what is none is left out."""
    assert shape_of("POST", header, b"", b"").content_type == content_type


@pytest.mark.parametrize("name", ["a" * 41, "7", "two words", "37223a89-06ed-442c", "a1b2c3d4e5f6", "ключ", ""])
def test_names_that_look_like_values_are_left_out(name: str) -> None:
    """Long ones, ids, and what is no name anywhere."""
    as_json = json.dumps({name: "x", "more": {name: 1}}).encode()

    assert shape_of("POST", None, b"", as_json).fields == "JSON {more: {…: integer}, …: string}"


def test_fields_under_left_out_names_are_told_together() -> None:
    """An object whose names are ids has one field of all their types."""
    body = b'{"12345": {"text": "a"}, "12346": {"text": "b"}, "12347": null}'

    assert shape_of("POST", None, b"", body).fields == "JSON {…: null | {text: string}}"


def test_shapes_are_bounded() -> None:
    """In depth, and in how many fields and elements are looked at."""
    deep = shape_of("POST", None, b"", b'{"a":' * 9 + b"1" + b"}" * 9)
    wide = shape_of("POST", None, b"", json.dumps({f"f{number}": 1 for number in range(1000)}).encode())
    many = shape_of("POST", None, b"", json.dumps([[{"a": 1, "b": 2, "c": 3}] * 9] * 9).encode())

    assert deep.fields == "JSON " + "{a: " * 6 + "{…}" + "}" * 6
    assert (wide.fields.count("integer"), wide.fields[-3:]) == (150, " …}")
    each = "{a: integer, b: integer, c: integer}"
    assert many.fields == f"JSON [[{each} | {{…}} | …] | [{each}] | …]"


def test_counts_are_taken_once() -> None:
    """Each callback is in one record, with the first and the last time that its shape was seen."""
    counts = ShapeCounts()

    assert [counts.add("capsolver", FORM, is_readable=number > 1, now=number) for number in (1, 2, 3)] == [
        True,
        False,
        False,
    ]
    assert counts.take() == [ShapeRecord("capsolver", FORM, 3, 2, 1, 3)]
    assert counts.take() == []


def test_what_could_not_be_stored_is_counted_on() -> None:
    """Records that come back are in the next ones."""
    counts = ShapeCounts()
    counts.add("capsolver", FORM, is_readable=True, now=1)
    taken = counts.take()
    counts.add("capsolver", FORM, is_readable=False, now=2)

    counts.give_back(taken)

    assert counts.take() == [ShapeRecord("capsolver", FORM, 2, 1, 1, 2)]


@pytest.mark.parametrize(("is_readable", "every"), [(True, 100_000), (False, 10_000)])
def test_in_a_burst_few_are_looked_at(is_readable: bool, every: int) -> None:
    """After one that is looked at, the next ones count for its shape; unreadable ones are looked at more often."""
    counts = ShapeCounts()

    told = [counts.must_sample("capsolver", is_readable=is_readable, now=DAY + after) for after in (0, 0, every - 1)]
    counts.add("capsolver", FORM, is_readable=is_readable, now=DAY)
    later = [counts.must_sample("capsolver", is_readable=is_readable, now=DAY + after) for after in (5, every, every)]

    assert told == [True, False, False]
    assert later == [False, True, False]
    assert counts.take() == [ShapeRecord("capsolver", FORM, 5, 5 * is_readable, DAY, DAY + every)]


def test_what_is_read_and_what_is_not_are_looked_at_apart() -> None:
    """And so are providers; a clock that was set back does not end it."""
    counts = ShapeCounts()
    asked = [("capsolver", True, DAY), ("capsolver", False, DAY), ("hardcaptcha", True, DAY), ("capsolver", True, 0)]

    assert [counts.must_sample(provider, is_readable=is_readable, now=now) for provider, is_readable, now in asked] == [
        True
    ] * 4


def test_shapes_that_were_not_seen_for_longest_go() -> None:
    """There is room for 50 of a provider; one that was seen again stays."""
    counts = ShapeCounts()
    shapes = [Shape("POST", None, f"form {{f{number}: text}}") for number in range(SHAPES_KEPT + 1)]
    for shape in shapes[:-1]:
        counts.add("capsolver", shape, is_readable=True, now=1)
    counts.add("capsolver", shapes[0], is_readable=True, now=2)
    taken = counts.take()

    counts.add("capsolver", shapes[-1], is_readable=True, now=3)
    counts.give_back(taken)

    assert {record.shape for record in counts.take()} == {*shapes} - {shapes[1]}


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((1, 1, DAY, DAY), "1 callback, readable, on 1970-01-02"),
        ((7, 0, 0, DAY), "about 7 callbacks, unreadable, from 1970-01-01 to 1970-01-02"),
        ((7, 3, 0, 1), "about 7 callbacks, 3 readable, on 1970-01-01"),
    ],
)
def test_a_shape_is_told_to_people(numbers: tuple[int, int, int, int], told: str) -> None:
    """Method, content type and fields; then how often, whether it could be read, and when."""
    assert shape_text(ShapeRecord("twocaptcha", FORM, *numbers)) == (
        f"POST without a content type: form {{code: text, id: text}}\n  {told}"
    )


def test_long_shapes_are_wrapped() -> None:
    """No line is longer than 100 characters, and none breaks in a name."""
    fields = f"JSON {{{', '.join(f'a-name-of-{number}: string' for number in range(50))}}}"
    record = ShapeRecord("hardcaptcha", Shape("POST", "application/json", fields), 1, 1, 0, 0)

    lines = shape_text(record).splitlines()

    assert max(map(len, lines)) <= 100
    assert " ".join(line.strip() for line in lines[:-1]) == f"POST application/json: {fields}"
