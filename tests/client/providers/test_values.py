"""JSON values as providers write them."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from client.errors import UnreadableError
from client.providers.values import (
    MAX_TASK_ID_LENGTH,
    canonical_json,
    parse_json,
    parse_object,
    read_task_id,
    same_value,
    task_id_text,
)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b" [1, 2.5, null, true] \n", [1, 2.5, None, True]),
        (b"9" * 4300, int("9" * 4300)),
        (b"18446744073709551617", 2**64 + 1),
        (b'"\\u00e9\xc3\xa9"', "éé"),
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b"1e-999", 0.0),
    ],
    ids=["byte order mark", "white space", "4300 digits", "over 64 bits", "é", "a pair", "twice a name", "tiny"],
)
def test_json_is_read(body: bytes, value: Any) -> None:
    """Valid JSON gives its value; a byte order mark is skipped and integers stay exact."""
    assert parse_json(body) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1,}',
        b"{'a':1}",
        b"{} {}",
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        b"NaN",
        b"Infinity",
        b"[-Infinity]",
        b"1e999",
        b'{"a":[-1e999]}',
        b"9" * 4301,
        b"[" * 500 + b"]" * 500,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'"\\ud800"',
        b'{"\\udc00":1}',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b"\xff\xfe{\x00}\x00",
        b"\x00",
    ],
    ids=count(),
)
def test_what_is_no_json_is_unreadable(body: bytes) -> None:
    """Cut, deep, non-finite, non-Unicode or non-JSON bytes raise our error and no other."""
    with pytest.raises(UnreadableError):
        parse_json(body)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"null", "null"),
        (b"true", "a boolean"),
        (b"1", "an integer"),
        (b"1.5", "a number"),
        (b'"t"', "a string"),
        (b"[]", "an array"),
    ],
)
def test_an_object_is_expected(body: bytes, kind: str) -> None:
    """Any other value is refused by its kind."""
    with pytest.raises(UnreadableError, match=f"expected a JSON object, got {kind}"):
        parse_object(body)


@pytest.mark.parametrize("none", [None, 0, ""], ids=repr)
def test_no_id(none: object) -> None:
    """Null, 0 and "" are no ids."""
    assert read_task_id(none) is None


@pytest.mark.parametrize("task_id", ["0", " ", 1, -1, 2**70, "task_9f"], ids=repr)
def test_ids(task_id: int | str) -> None:
    """Every other integer or string is an id, as it stands."""
    read = read_task_id(task_id)

    assert read == task_id
    assert type(read) is type(task_id)


@pytest.mark.parametrize("task_id", ["a" * 256, "é" * 256, 10**256 - 1, -(10**255) + 1], ids=count())
def test_the_longest_ids(task_id: int | str) -> None:
    """Characters are counted, not bytes; a sign is one."""
    assert read_task_id(task_id) == task_id
    assert len(task_id_text(task_id)) == MAX_TASK_ID_LENGTH


@pytest.mark.parametrize("task_id", ["a" * 257, 10**256, -(10**255), 10**5000, "a" * 1_000_000], ids=count())
def test_ids_that_are_too_long(task_id: int | str) -> None:
    """Such ids are unreadable, even if Python would not write the number. The error does not repeat them."""
    with pytest.raises(UnreadableError, match=r"^taskId: expected at most 256 characters$"):
        read_task_id(task_id)


@pytest.mark.parametrize("value", [True, False, 0.0, 1.0, [], {}], ids=repr)
def test_ids_of_other_types(value: object) -> None:
    """Any other value is unreadable, even if Python takes it for 0 or 1."""
    with pytest.raises(UnreadableError, match="taskId: expected an integer or a string"):
        read_task_id(value)


def test_ids_are_compared_as_text() -> None:
    """An integer and its digits are one id."""
    assert task_id_text(72345678901) == task_id_text("72345678901") == "72345678901"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
        ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}]),
        ("t", "t"),
    ],
)
def test_the_same_value(one: Any, other: Any) -> None:
    """The order of names does not matter, at any depth."""
    assert same_value(one, other)
    assert canonical_json(one) == canonical_json(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(True, 1), (False, 0), (1, 1.0), (1, "1"), (None, ""), ([1, 2], [2, 1]), ({"a": None}, {}), ({"a": 1}, {"A": 1})],
)
def test_another_value(one: Any, other: Any) -> None:
    """Values of different kinds differ, also where Python calls them equal."""
    assert not same_value(one, other)
