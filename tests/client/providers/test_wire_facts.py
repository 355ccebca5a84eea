"""Every known message of every provider, through its dialect. `wire_facts` names the sources."""

from __future__ import annotations

from typing import Any

import pytest

from client.errors import UnreadableError
from client.providers import DIALECTS
from tests.client.providers.wire_facts import ANSWERS, CALLBACKS, Answer, Delivered


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda row: f"{row.provider} {row.to} {row.source}")
def test_answers(answer: Answer) -> None:
    """An answer has the meaning given by its source."""
    dialect = DIALECTS[answer.provider]
    read: Any = {
        "createTask": dialect.read_create_task,
        "getTaskResult": dialect.read_task_result,
        "getBalance": dialect.read_balance,
        "report": dialect.read_report,
    }[answer.to]

    assert read(dialect.parse_answer(answer.raw)) == answer.means


@pytest.mark.parametrize("delivered", CALLBACKS, ids=lambda row: f"{row.provider} {row.kind} {row.source}")
def test_callbacks(delivered: Delivered) -> None:
    """A callback has the meaning given by its source. Its id has the type of createTask's ids."""
    read = DIALECTS[delivered.provider].read_callback(query=delivered.query, body=delivered.body)

    assert read == delivered.means
    assert type(read.task_id) is type(delivered.means.task_id)


def test_no_provider_is_forgotten() -> None:
    """Each has a message, and each with callbacks has a success and a failure."""
    calling = {name for name, dialect in DIALECTS.items() if dialect.callback is not None}

    for kind in ("success", "failure"):
        assert {row.provider for row in CALLBACKS if row.kind == kind} == calling
    assert {row.provider for row in ANSWERS} >= {name for name in DIALECTS if name != "hardcaptcha"}


@pytest.mark.parametrize("provider", sorted(DIALECTS))
@pytest.mark.parametrize(
    "raw", [b"<html><body>502 Bad Gateway</body></html>", b"", b"null", b"[]", b"\xff\xfe", b'{"a":']
)
def test_what_is_no_answer_is_told(provider: str, raw: bytes) -> None:
    """An HTML page, nothing or half an answer is unreadable, never an outcome."""
    with pytest.raises(UnreadableError):
        DIALECTS[provider].parse_answer(raw)


@pytest.mark.parametrize("provider", ["twocaptchav1", "rucaptchav1", "captchaai"])
@pytest.mark.parametrize("raw", [b"OK", b"OK|", b'{"status":1,"request":""}'])
def test_a_bare_ok_is_no_answer(provider: str, raw: bytes) -> None:
    """A success without an answer, as from a proxy, ends no task."""
    dialect = DIALECTS[provider]

    with pytest.raises(UnreadableError):
        dialect.read_task_result(dialect.parse_answer(raw))


def test_a_success_without_a_token_is_none() -> None:
    """HardCaptcha's token is null on failure: beside SUCCESS it is no known callback."""
    with pytest.raises(UnreadableError):
        DIALECTS["hardcaptcha"].read_callback(query=b"", body=b'{"id":"h1","status":"SUCCESS","result":{"token":null}}')


@pytest.mark.parametrize("provider", sorted(name for name, dialect in DIALECTS.items() if dialect.callback))
@pytest.mark.parametrize(
    "body", [b"<html>", b"", b"null", b"[]", b"\xff\xfe", b'{"a":', b"a=1", b"id=1", b'{"hello":1}']
)
def test_what_is_no_callback_is_told(provider: str, body: bytes) -> None:
    """Anything unknown as a callback of the provider is unreadable."""
    with pytest.raises(UnreadableError):
        DIALECTS[provider].read_callback(query=b"", body=body)
