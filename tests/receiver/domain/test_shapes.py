"""The shape of a callback: its content, its omissions, and the counts of shapes."""

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
def test_a_shape_has_names_and_types(body: bytes, fields: str) -> None:
    """Fields are in the order of their names, with their JSON types. Anything else is given by its rough length."""
    assert shape_of("POST", None, b"", body).fields == fields


def test_a_query_is_named_as_one() -> None:
    """It counts for a GET, and for a POST without a body."""
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
    """They are in lower case. A header without a valid type is left out."""
    assert shape_of("POST", header, b"", b"").content_type == content_type


@pytest.mark.parametrize("name", ["a" * 41, "7", "two words", "37223a89-06ed-442c", "a1b2c3d4e5f6", "ключ", ""])
def test_names_that_look_like_values_are_left_out(name: str) -> None:
    """Long names, ids, and texts that are no names anywhere."""
    as_json = json.dumps({name: "x", "more": {name: 1}}).encode()

    assert shape_of("POST", None, b"", as_json).fields == "JSON {more: {…: integer}, …: string}"


def test_fields_under_left_out_names_are_merged() -> None:
    """An object with ids as names has one field of all their types."""
    body = b'{"12345": {"text": "a"}, "12346": {"text": "b"}, "12347": null}'

    assert shape_of("POST", None, b"", body).fields == "JSON {…: null | {text: string}}"


def test_shapes_are_bounded() -> None:
    """Depth and the number of examined fields and elements have limits."""
    deep = shape_of("POST", None, b"", b'{"a":' * 9 + b"1" + b"}" * 9)
    wide = shape_of("POST", None, b"", json.dumps({f"f{number}": 1 for number in range(1000)}).encode())
    many = shape_of("POST", None, b"", json.dumps([[{"a": 1, "b": 2, "c": 3}] * 9] * 9).encode())

    assert deep.fields == "JSON " + "{a: " * 6 + "{…}" + "}" * 6
    assert (wide.fields.count("integer"), wide.fields[-3:]) == (150, " …}")
    element = "{a: integer, b: integer, c: integer}"
    assert many.fields == f"JSON [[{element} | {{…}} | …] | [{element}] | …]"


def test_counts_are_taken_once() -> None:
    """Each callback is in one record, with the first and the last time of its shape."""
    counts = ShapeCounts()

    assert [counts.add("capsolver", FORM, is_readable=number > 1, now=number) for number in (1, 2, 3)] == [
        True,
        False,
        False,
    ]
    assert counts.take() == [ShapeRecord("capsolver", FORM, 3, 2, 1, 3)]
    assert counts.take() == []


def test_unstored_records_are_counted_on() -> None:
    """The next records contain the returned ones."""
    counts = ShapeCounts()
    counts.add("capsolver", FORM, is_readable=True, now=1)
    taken = counts.take()
    counts.add("capsolver", FORM, is_readable=False, now=2)

    counts.give_back(taken)

    assert counts.take() == [ShapeRecord("capsolver", FORM, 2, 1, 1, 2)]


@pytest.mark.parametrize(("is_readable", "every"), [(True, 100_000), (False, 10_000)])
def test_in_a_burst_few_are_examined(is_readable: bool, every: int) -> None:
    """Behind an examined callback the next ones count for its shape. Unreadable ones are examined more often."""
    counts = ShapeCounts()

    first = [counts.must_sample("capsolver", is_readable=is_readable, now=DAY + after) for after in (0, 0, every - 1)]
    counts.add("capsolver", FORM, is_readable=is_readable, now=DAY)
    later = [counts.must_sample("capsolver", is_readable=is_readable, now=DAY + after) for after in (5, every, every)]

    assert first == [True, False, False]
    assert later == [False, True, False]
    assert counts.take() == [ShapeRecord("capsolver", FORM, 5, 5 * is_readable, DAY, DAY + every)]


def test_readable_and_unreadable_ones_are_sampled_apart() -> None:
    """Providers are sampled apart as well. A clock that was set back does not end it."""
    counts = ShapeCounts()
    asked = [("capsolver", True, DAY), ("capsolver", False, DAY), ("hardcaptcha", True, DAY), ("capsolver", True, 0)]

    assert [counts.must_sample(provider, is_readable=is_readable, now=now) for provider, is_readable, now in asked] == [
        True
    ] * 4


def test_the_shape_not_seen_for_longest_goes() -> None:
    """There is room for 50 of a provider. One that was seen again stays."""
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
    ("numbers", "text"),
    [
        ((1, 1, DAY, DAY), "1 callback, readable, on 1970-01-02"),
        ((7, 0, 0, DAY), "about 7 callbacks, unreadable, from 1970-01-01 to 1970-01-02"),
        ((7, 3, 0, 1), "about 7 callbacks, 3 readable, on 1970-01-01"),
    ],
)
def test_a_shape_is_written_for_people(numbers: tuple[int, int, int, int], text: str) -> None:
    """The text has method, content type and fields, then the numbers and the days."""
    assert shape_text(ShapeRecord("twocaptcha", FORM, *numbers)) == (
        f"POST without a content type: form {{code: text, id: text}}\n  {text}"
    )


def test_long_shapes_are_wrapped() -> None:
    """No line is longer than 100 characters, and none breaks within a name."""
    fields = f"JSON {{{', '.join(f'a-name-of-{number}: string' for number in range(50))}}}"
    record = ShapeRecord("hardcaptcha", Shape("POST", "application/json", fields), 1, 1, 0, 0)

    lines = shape_text(record).splitlines()

    assert max(map(len, lines)) <= 100
    assert " ".join(line.strip() for line in lines[:-1]) == f"POST application/json: {fields}"
