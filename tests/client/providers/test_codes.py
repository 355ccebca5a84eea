"""What each error code means (PROVIDERS.md 6.2): told apart by code, never by number."""

from __future__ import annotations

import pytest

from client.providers.catalog.polled import ONECAPTCHA
from client.providers.catalog.results import CAPSOLVER
from client.providers.codes import FAMILY_CODES, Code, read_error
from client.providers.json_family import JsonDialect
from client.providers.readings import Failed, Pending, Reaction, Refused, Unknown

both = pytest.mark.parametrize("dialect", [CAPSOLVER, ONECAPTCHA], ids=lambda dialect: dialect.provider)


@both
@pytest.mark.parametrize(
    ("code", "reaction"),
    [
        ("ERROR_CAPTCHA_UNSOLVABLE", Reaction.AGAIN),
        ("ERROR_TASK_TIMEOUT", Reaction.AGAIN),
        ("ERROR_UNKNOWN_QUESTION", Reaction.AGAIN),
        ("ERROR_SETTLEMENT_FAILED", Reaction.AGAIN),
        ("ERROR_TOKEN_EXPIRED", Reaction.CHANGE),
        ("ERROR_PROXY_BANNED", Reaction.CHANGE),
        ("ERROR_PROXY_HAS_NO_IMAGE_SUPPORT", Reaction.CHANGE),
        ("ERROR_INVALID_IMAGE", Reaction.CHANGE),
        ("ERROR_PARSE_IMAGE_FAIL", Reaction.CHANGE),
        ("ERROR_INVALID_TASK_DATA", Reaction.STOP),
        ("ERROR_TASK_NOT_SUPPORTED", Reaction.STOP),
    ],
)
def test_errors_about_the_task_end_it(dialect: JsonDialect, code: str, reaction: Reaction) -> None:
    """An error about the task is an outcome, with the provider's number, code and text."""
    reading = dialect.read_task_result({"errorId": 12, "errorCode": code, "errorDescription": "why"})

    assert reading == Failed(12, code, "why")
    assert dialect.codes[code].reaction is reaction


@both
@pytest.mark.parametrize(
    ("code", "about", "reaction", "pause_seconds"),
    [
        ("ERROR_KEY_DOES_NOT_EXIST", "key", Reaction.STOP, 0.0),
        ("ERROR_KEY_DENIED_ACCESS", "key", Reaction.STOP, 0.0),
        ("ERROR_WRONG_USER_KEY", "key", Reaction.STOP, 0.0),
        ("ERROR_KEY_TEMP_BLOCKED", "key", Reaction.SLOW, 300.0),
        ("ERROR_ZERO_BALANCE", "balance", Reaction.STOP, 0.0),
        ("ERROR_RATE_LIMIT", "request", Reaction.SLOW, 5.0),
        ("ERROR_TOO_MUCH_REQUESTS", "request", Reaction.WAIT, 0.0),
        ("ERROR_SERVICE_UNAVALIABLE", "request", Reaction.SLOW, 5.0),
        ("ERROR_SERVICE_UNAVAILABLE", "request", Reaction.SLOW, 5.0),
        ("ERROR_NO_SLOT_AVAILABLE", "request", Reaction.SLOW, 5.0),
        ("ERROR_IP_BANNED", "request", Reaction.SLOW, 1800.0),
        ("ERROR_IP_BLOCKED", "request", Reaction.SLOW, 300.0),
        ("ERROR_BAD_REQUEST", "request", Reaction.STOP, 0.0),
        ("ERROR_REQUIRED_FIELDS", "request", Reaction.STOP, 0.0),
        ("ERROR_REQUEST_METHOD", "request", Reaction.STOP, 0.0),
        ("ERROR_CONTENT_TYPE_ERROR", "request", Reaction.STOP, 0.0),
        ("ERROR_ACCOUNT_SUSPENDED", "request", Reaction.STOP, 0.0),
    ],
)
def test_errors_about_the_request_end_nothing(
    dialect: JsonDialect, code: str, about: str, reaction: Reaction, pause_seconds: float
) -> None:
    """An error about the key, the balance or the request is no outcome; it says what to do and for how long."""
    reading = dialect.read_task_result({"errorId": 1, "errorCode": code, "errorDescription": "why"})

    assert reading == Refused(1, code, "why", reaction, about, pause_seconds, code == "ERROR_IP_BANNED")


@both
@pytest.mark.parametrize(
    "code",
    [
        "ERROR_TASKID_INVALID",
        "ERROR_TASK_NOT_EXIST",
        "ERROR_NO_SUCH_CAPCHA_ID",
        "ERROR_WRONG_CAPTCHA_ID",
        "ERROR_WRONG_ID_FORMAT",
    ],
)
def test_unknown_ids_are_told_apart(dialect: JsonDialect, code: str) -> None:
    """An id that the provider does not know is neither an outcome by itself nor an error about the request."""
    reading = dialect.read_task_result({"errorId": 16, "errorCode": code, "errorDescription": "why"})

    assert reading == Unknown(16, code, "why")


@both
@pytest.mark.parametrize("code", ["CAPCHA_NOT_READY", "CAPTCHA_NOT_READY"])
def test_not_ready_is_no_error(dialect: JsonDialect, code: str) -> None:
    """Codes that are documented as "still working" leave the task pending."""
    assert dialect.read_task_result({"errorId": 1, "errorCode": code}) == Pending(code)


@both
def test_a_code_that_nobody_knows_ends_the_task(dialect: JsonDialect) -> None:
    """An unknown code is final for the task, and kept as it was written."""
    reading = dialect.read_task_result({"errorId": 7, "errorCode": "ERROR_FROM_NEXT_YEAR", "errorDescription": None})

    assert reading == Failed(7, "ERROR_FROM_NEXT_YEAR", None)


@pytest.mark.parametrize("error_id", [1, 2, 10, 16])
def test_the_number_says_nothing(error_id: int) -> None:
    """The same number with another code is another error, because numbers differ between providers."""
    reading = CAPSOLVER.read_task_result({"errorId": error_id, "errorCode": "ERROR_ZERO_BALANCE"})

    assert isinstance(reading, Refused)
    assert (reading.error_id, reading.about) == (error_id, "balance")


def test_a_provider_may_overlay_codes() -> None:
    """A table of a provider's own wins over the shared one (CaptchaAI: zero balance means no free thread)."""
    codes = {**FAMILY_CODES, "ERROR_ZERO_BALANCE": Code(Reaction.SLOW, "request", 5.0)}

    reading = read_error(codes, 10, "ERROR_ZERO_BALANCE", None)

    assert reading == Refused(10, "ERROR_ZERO_BALANCE", None, Reaction.SLOW, "request", 5.0)
