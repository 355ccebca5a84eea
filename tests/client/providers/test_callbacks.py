"""Readings of result callbacks: the getTaskResult answer again, mostly with its `taskId`.

Source: providers/README.md, "Result callbacks".
"""

from __future__ import annotations

from itertools import count

import pytest

from client.errors import UnreadableError
from client.providers import DIALECTS
from client.providers.readings import CallbackReading, Failed, Pending, Ready

CAPSOLVER = DIALECTS["capsolver"]


def _read(body: bytes) -> CallbackReading:
    return CAPSOLVER.read_callback(query=b"", body=body)


@pytest.mark.parametrize(
    ("body", "callback"),
    [
        (
            b'{"errorId":0,"status":"ready","solution":{"text":"t"},"taskId":"a1"}',
            CallbackReading("a1", Ready({"text": "t"})),
        ),
        (b'{"errorId":0,"status":"ready","solution":{"text":"t"}}', CallbackReading(None, Ready({"text": "t"}))),
        (b'{"status":"ready","solution":{"text":"t"},"taskId":7}', CallbackReading(7, Ready({"text": "t"}))),
        (
            b'{"errorId":1,"errorCode":"ERROR_CAPTCHA_UNSOLVABLE","errorDescription":"no","taskId":"a1"}',
            CallbackReading("a1", Failed(1, "ERROR_CAPTCHA_UNSOLVABLE", "no")),
        ),
        (
            b'{"errorId":0,"errorCode":"ERROR_TASK_TIMEOUT","status":"failed","taskId":"a1"}',
            CallbackReading("a1", Failed(1, "ERROR_TASK_TIMEOUT")),
        ),
        (b'{"errorId":0,"status":"processing","taskId":"a1"}', CallbackReading("a1", Pending("processing"))),
        (b'{"errorId":0,"taskId":"a1"}', CallbackReading("a1", Pending(""))),
        (
            b'\xef\xbb\xbf{"errorId":0,"status":"ready","solution":{"text":"t"},"taskId":0}',
            CallbackReading(None, Ready({"text": "t"})),
        ),
        (
            b'{"errorId":0,"status":"ready","solution":{"n":123456789012345678901234567890},"taskId":"a1"}',
            CallbackReading("a1", Ready({"n": 123456789012345678901234567890})),
        ),
        (
            b'{"errorId":0,"status":"ready","solution":{"text":"t"},"taskId":"a1","cost":"0.1","rate":{"new":[1]}}',
            CallbackReading("a1", Ready({"text": "t"})),
        ),
    ],
    ids=[
        "ready",
        "ready without an id",
        "ready without errorId",
        "failed",
        "failed with errorId 0",
        "processing",
        "only an id",
        "a byte order mark, and the id that means none",
        "an integer beyond 64 bits",
        "fields that nobody knows",
    ],
)
def test_callbacks(body: bytes, callback: CallbackReading) -> None:
    """A delivery gives its id, if there is one, and the outcome or state in it."""
    assert _read(body) == callback


@pytest.mark.parametrize(
    "code",
    ["ERROR_KEY_DENIED_ACCESS", "ERROR_ZERO_BALANCE", "ERROR_RATE_LIMIT", "ERROR_BAD_REQUEST", "ERROR_TASKID_INVALID"],
)
def test_errors_about_a_request_are_no_news(code: str) -> None:
    """An error about the key, the balance, the request or the id in a delivery says nothing about the task."""
    with pytest.raises(UnreadableError, match=code):
        _read(b'{"errorId":1,"errorCode":"%s","taskId":"a1"}' % code.encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ready",
        b"null",
        b"[]",
        b'"ready"',
        b"{}",
        b'{"taskId":"a1"}',
        b'{"hello":"world"}',
        b"id=1&code=t",
        b"<html><body>502 Bad Gateway</body></html>",
        b'{"errorId":0,"status":"ready","solution":{"text":"t"}',
        b'{"errorId":0,"status":"ready","solution":{"text":"t"},"taskId":"a1"} and more',
        b'{"errorId":0,"status":"ready","solution":{"n":1e999},"taskId":"a1"}',
        b'{"errorId":0,"status":"ready","solution":{"n":NaN},"taskId":"a1"}',
        b'{"errorId":0,"status":"ready","solution":{"n":-Infinity},"taskId":"a1"}',
        b'{"errorId":0,"status":"ready","solution":"\\ud800","taskId":"a1"}',
        b'{"errorId":0,"status":"ready","solution":"\xff","taskId":"a1"}',
        b'{"errorId":0,"status":"ready","solution":%s,"taskId":"a1"}' % (b"[" * 500 + b"]" * 500),
        b'{"errorId":0,"status":"ready","solution":%s,"taskId":"a1"}' % (b"[" * 101 + b"]" * 101),
        b'{"errorId":0,"status":"ready","solution":{},"taskId":true}',
        b'{"errorId":0,"status":"ready","solution":{},"taskId":1.5}',
        b'{"errorId":0,"status":"ready","solution":{},"taskId":["a1"]}',
        '{"errorId":0,"status":"processing"}'.encode("utf-16"),
    ],
    ids=count(),
)
def test_bodies_that_are_not_of_the_family(body: bytes) -> None:
    """Anything else is unreadable: forms, pages, cut or deep JSON, infinite numbers, ids of other types."""
    with pytest.raises(UnreadableError):
        _read(body)


def test_the_query_and_the_type_change_nothing() -> None:
    """A delivery of this family is its body alone."""
    body = b'{"errorId":0,"status":"ready","solution":{"text":"t"},"taskId":"a1"}'

    callback = CAPSOLVER.read_callback(query=b"taskId=other&status=0", body=body)

    assert callback == CallbackReading("a1", Ready({"text": "t"}))


def test_an_unreadable_body_is_not_repeated_in_the_error() -> None:
    """The text of the error names the place and not the content: it may be a solution."""
    with pytest.raises(UnreadableError) as caught:
        _read(b'{"status":"ready","solution":{"text":"the-secret-answer"')

    assert "the-secret-answer" not in str(caught.value)
