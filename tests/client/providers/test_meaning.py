"""The meaning of an answer, by its HTTP status and its body: one table for every request.

Sources: 2captcha/2captcha-javascript#29 and alperensert/capmonster_python#4 (passing JSON errors under 500),
ZennoLab/capmonstercloud-client-js (500 at getTaskResult means "not yet"), league-account-checker#77 (403, HTML).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.providers import DIALECTS
from client.providers.codes import REASON_NOT_GIVEN
from client.providers.meaning import Meaning, meaning_of
from client.providers.readings import Failed, Pending, Ready, Refused, Submitted, Unknown

CAPSOLVER = DIALECTS["capsolver"]
READABLE: dict[str, dict[str, Any]] = {
    "ready": {"errorId": 0, "status": "ready", "solution": {"text": "x"}},
    "processing": {"errorId": 0, "status": "processing"},
    "failed, listed": {"errorId": 12, "errorCode": "ERROR_CAPTCHA_UNSOLVABLE"},
    "failed, no code": {"errorId": 0, "status": "failed"},
    "error, no code": {"errorId": 1, "errorDescription": "Internal server error"},
    "error, unlisted": {"errorId": 1, "errorCode": "ERROR_OF_TOMORROW"},
    "key": {"errorId": 1, "errorCode": "ERROR_KEY_DOES_NOT_EXIST"},
    "busy": {"errorId": 1, "errorCode": "ERROR_RATE_LIMIT"},
    "unknown id": {"errorId": 16, "errorCode": "ERROR_NO_SUCH_CAPCHA_ID"},
    "nothing said": {},
}
A, B, N, U = Meaning.ANSWER, Meaning.BUSY, Meaning.NOT_CARRIED_OUT, Meaning.UNCLEAR
POLL_TABLE = {
    # body: 200, 307, 400, 403, 404, 408, 425, 429, 500, 502, 503
    "ready": (A, A, A, A, A, A, A, A, A, A, A),
    "processing": (A, A, A, A, A, A, A, A, A, A, A),
    "failed, listed": (A, A, A, A, A, A, A, A, A, A, A),
    "failed, no code": (A, A, A, A, A, A, B, B, U, U, B),
    "error, no code": (A, A, A, A, A, A, B, B, U, U, B),
    "error, unlisted": (A, A, A, A, A, A, B, B, U, U, B),
    "key": (A, A, A, A, A, A, A, A, U, U, B),
    "busy": (A, A, A, A, A, A, A, A, A, A, A),
    "unknown id": (A, A, A, A, A, A, A, A, U, U, B),
    "nothing said": (A, N, N, N, N, U, B, B, U, U, B),
    "unreadable": (U, N, N, N, N, U, B, B, U, U, B),
}
CREATE_TABLE = POLL_TABLE | {
    "processing": (U, N, N, N, N, U, B, B, U, U, B),
    "key": (A,) * 11,
    "unknown id": (A,) * 11,
    "nothing said": (U, N, N, N, N, U, B, B, U, U, B),
}
STATUSES = (200, 307, 400, 403, 404, 408, 425, 429, 500, 502, 503)


@pytest.mark.parametrize("body", POLL_TABLE)
def test_a_poll(body: str) -> None:
    """Under 5xx only an error about the task counts, or a requested pause."""
    reading = CAPSOLVER.read_task_result(READABLE[body]) if body in READABLE else None

    assert tuple(meaning_of(status, reading, is_poll=True) for status in STATUSES) == POLL_TABLE[body]


@pytest.mark.parametrize("body", CREATE_TABLE)
def test_create_task(body: str) -> None:
    """A listed refusal counts under any status. Without a code of the provider, the status tells if it was done."""
    reading = CAPSOLVER.read_create_task(READABLE[body]) if body in READABLE else None

    assert tuple(meaning_of(status, reading, is_poll=False) for status in STATUSES) == CREATE_TABLE[body]


_TEXTS = st.sampled_from(["ERROR_CAPTCHA_UNSOLVABLE", "ERROR_OF_TOMORROW", REASON_NOT_GIVEN])
_READINGS = st.one_of(
    st.builds(Ready, st.just({"text": "x"})),
    st.builds(Pending, st.sampled_from(["", "idle"])),
    st.builds(Failed, st.just(1), _TEXTS, is_listed=st.booleans()),
    st.builds(Refused, st.just(1), _TEXTS),
    st.builds(Unknown, st.just(1), _TEXTS),
)
_READINGS = st.one_of(
    st.none(), st.floats(), _READINGS, st.builds(Submitted, st.one_of(st.none(), st.just("id")), _READINGS)
)


@given(status=st.integers(100, 999), reading=_READINGS, is_poll=st.booleans())
def test_laws(status: int, reading: object, *, is_poll: bool) -> None:
    """Every answer has a meaning. Nothing unread is an answer. No 2xx or 5xx says "not done", except for overload."""
    meaning = meaning_of(status, reading, is_poll=is_poll)

    assert reading is not None or meaning is not Meaning.ANSWER
    assert meaning is not Meaning.NOT_CARRIED_OUT or 300 <= status < 500
    assert meaning is not Meaning.BUSY or status in (425, 429, 503)
    if is_poll and status >= 500 and isinstance(reading, Failed) and meaning is Meaning.ANSWER:
        assert reading.is_listed
