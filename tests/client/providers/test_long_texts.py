"""Texts of a provider are cut to fit into rows, log lines and errors, for every way in."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client.errors import UnreadableError
from client.providers import DIALECTS, Dialect
from client.providers.readings import Failed, Notice, Pending, Ready, Refused, Submitted, Unknown

_LONG = "E" * 500_000
_FIELDS = ("errorCode", "errorDescription", "status", "state", "message", "request", "error_text", "event", "code")
_CODES = ("ERROR_ZERO_BALANCE", "ERROR_CAPTCHA_UNSOLVABLE", "ERROR_NO_SUCH_CAPCHA_ID")
every = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)


def messages() -> list[dict[str, Any]]:
    """Return answers and callbacks of each family with one overlong text, or several."""
    kinds: list[dict[str, Any]] = [
        {"errorId": 1, "errorCode": code, "errorDescription": "why", "taskId": "a1"} for code in _CODES
    ]
    kinds += [{"status": 0, "request": code, "error_text": "why"} for code in _CODES]
    kinds += [
        {"errorId": 0, "status": "idle", "taskId": "a1"},
        {"success": False, "message": "why", "taskId": "a1"},
        {"state": "running", "success": True, "taskId": "a1"},
        {"taskId": "a1", "success": False, "status": {"code": _LONG, "message": _LONG}},
        {"event": "task.failed", "taskId": "a1", "errorId": 1, "errorCode": "E"},
        {"event": _LONG},
        {"id": "7", "code": "ERROR_X", "captcha_id": "7", "status": "2"},
        {"id": "h1", "status": "QUEUED"},
    ]
    return [
        {name: _LONG if name in _FIELDS and (name == long or long is None) else value for name, value in kind.items()}
        for kind in kinds
        for long in (*_FIELDS, None)
    ]


def check_length(reading: object) -> None:
    """Fail where a text is longer than it may be."""
    match reading:
        case Submitted(reading=reading):
            check_length(reading)
        case Failed() | Refused() | Unknown():
            assert 0 < len(reading.error_code) <= 100
            assert len(reading.error_description or "") <= 1000
        case Pending(state=text) | Notice(name=text):
            assert len(text) <= 100
        case _:
            assert isinstance(reading, Ready | float)


@every
def test_no_way_brings_a_longer_text(dialect: Dialect) -> None:
    """Texts in answers to each request, and in callbacks as JSON or as a form, are cut."""
    count, errors = 0, []
    for fields in messages():
        for read in (dialect.read_create_task, dialect.read_task_result, dialect.read_balance, dialect.read_report):
            try:
                check_length(read(fields))
                count += 1
            except UnreadableError as error:
                errors.append(error)
        form = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
        for query, body in ((b"", json.dumps(fields).encode()), (form, b"")):
            try:
                reading = dialect.read_callback(query=query, body=body).reading
            except UnreadableError as error:
                errors.append(error)
                continue
            if isinstance(reading, Failed | Pending | Notice):
                check_length(reading)
                count += 1
    assert count
    assert max(len(str(error)) for error in errors) < 1000


def test_a_cut_shows() -> None:
    """A cut text ends with an ellipsis. A short one stays unchanged."""
    reading = Failed(1, _LONG, "D" * 1000)

    assert (reading.error_code, reading.error_description) == ("E" * 99 + "…", "D" * 1000)
    assert Refused(1, "E" * 100, "D" * 1001).error_description == "D" * 999 + "…"
