"""Answers of in.php and res.php with different text and JSON: one shape of solution, or the callback is a hint."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.providers import DIALECTS, Dialect
from client.providers.readings import Bare, Ready
from client.providers.v1_family import V1_FAMILY
from tests.client.providers.strategies import MANY

_OLDER = [dialect for dialect in DIALECTS.values() if dialect.family is V1_FAMILY]
older = pytest.mark.parametrize("dialect", _OLDER, ids=lambda dialect: dialect.provider)

_POINTS = [{"x": "49", "y": "235"}, {"x": "52", "y": "31"}]


def polled(dialect: Dialect, raw: bytes) -> Any:
    """Return the solution from a poll."""
    reading = dialect.read_task_result(dialect.parse_answer(raw))
    assert isinstance(reading, Ready)
    return reading.solution


def called_back(dialect: Dialect, code: str, task_type: str | None) -> Any | None:
    """Return the solution from a callback, or None for a hint."""
    body = json.dumps({"id": "7", "code": code}).encode()
    reading = dialect.read_callback(query=b"", body=body).reading
    assert isinstance(reading, Bare)
    return dialect.solution_of(reading.code, task_type)


@older
@pytest.mark.parametrize("task_type", [None, "base64", "post"])
def test_points_have_one_shape(dialect: Dialect, task_type: str | None) -> None:
    """A callback, a poll in plain text and a poll with json=1 give the same points, even as numbers.

    (APITest in astubbs/captcha-fun, Zaczero/2Captcha#15)
    """
    text = "coordinates:x=49,y=235;x=52,y=31"
    numbers = [{"x": 49, "y": 235}, {"x": 52, "y": 31}]

    solutions = [
        called_back(dialect, text, task_type),
        polled(dialect, f"OK|{text}".encode()),
        *(polled(dialect, json.dumps({"status": 1, "request": form}).encode()) for form in (text, _POINTS, numbers)),
    ]

    assert solutions == [_POINTS] * 5


@older
@pytest.mark.parametrize("number", ["40", "-12", "0.5", "73043008354"])
def test_a_number_is_its_text(dialect: Dialect, number: str) -> None:
    """An angle or a reading in digits is the same text by each way."""
    solutions = [
        called_back(dialect, number, "rotatecaptcha"),
        polled(dialect, b"OK|" + number.encode()),
        polled(dialect, b'{"status":1,"request":%s}' % number.encode()),
        polled(dialect, b'{"status":1,"request":"%s"}' % number.encode()),
    ]

    assert solutions == [{"code": number}] * 4


@older
@pytest.mark.parametrize(
    "code",
    [
        "coordinates:x=49,y=235|x=52,y=31",
        "coordinates:x=4.5,y=3",
        "coordinates:",
        "coordinate:x=44,y=32",
        "click:1/2/3",
        "canvas:x=1,y=2;x=3,y=4",
        '{"geetest_challenge":"a","geetest_validate":"b","geetest_seccode":"c"}',
        '["a","b","c|jordan"]',
        ' {"captcha_voucher":"a"}',
    ],
)
def test_a_text_that_names_parts_is_a_hint(dialect: Dialect, code: str) -> None:
    """The shape of a poll is uncertain (openbullet/CaptchaSharp#8). Without a type it is the text itself."""
    assert called_back(dialect, code, "geetest") is None
    assert called_back(dialect, code, None) == {"code": code}


@older
@pytest.mark.parametrize(
    "code",
    ["44795sds", "time: 12", "A:1", "0.abc:x", "16760d0d0e9c1a2e1.4|r=us-east-1|surl=https://a.example", "12:30"],
)
def test_any_other_text_is_the_answer(dialect: Dialect, code: str) -> None:
    """Tokens and read texts are no hints, unless they look like parts."""
    solution = called_back(dialect, code, "userrecaptcha")

    assert solution == (None if code.startswith("time:") else {"code": code})


@older
@pytest.mark.parametrize(
    ("raw", "solution"),
    [
        (b'OK|{"challenge":"a"}', {"challenge": "a"}),
        (b'OK|["a","b"]', ["a", "b"]),
        (b"OK|[broken", {"code": "[broken"}),
        (b'{"status":1,"request":{"challenge":"a"}}', {"challenge": "a"}),
        (b'{"status":1,"request":[{"x":1.5,"y":2}]}', [{"x": 1.5, "y": 2}]),
        (b'{"status":1,"request":[{"x":1,"y":2,"z":3}]}', [{"x": 1, "y": 2, "z": 3}]),
        (b'{"status":1,"request":[]}', []),
    ],
)
def test_json_stays_what_it_is(dialect: Dialect, raw: bytes, solution: Any) -> None:
    """JSON in a plain-text poll stays JSON as well."""
    assert polled(dialect, raw) == solution


@MANY
@given(points=st.lists(st.tuples(st.integers(0, 999_999), st.integers(0, 999_999)), min_size=1, max_size=20))
def test_any_points_have_one_shape(points: list[tuple[int, int]]) -> None:
    """For any points, the list of a poll equals the text of a callback."""
    text = "coordinates:" + ";".join(f"x={x},y={y}" for x, y in points)
    listed = [{"x": str(x), "y": str(y)} for x, y in points]

    assert called_back(_OLDER[0], text, "base64") == listed
    assert polled(_OLDER[0], json.dumps({"status": 1, "request": listed}).encode()) == listed
