"""The meaning of each error code (providers/README.md, "Error codes"): told apart by code, never by number."""

from __future__ import annotations

import pytest

from client.providers import DIALECTS, Dialect
from client.providers.codes import FAMILY_CODES, Code, code_named, read_error
from client.providers.readings import Failed, Pending, Reaction, Refused, Unknown

CAPSOLVER, ONECAPTCHA = DIALECTS["capsolver"], DIALECTS["onecaptcha"]

both = pytest.mark.parametrize("dialect", [CAPSOLVER, ONECAPTCHA], ids=lambda dialect: dialect.provider)


# The published codes by class. A name ending in X stands for one of several with the same beginning.
EVERY_CODE = {
    Reaction.WAIT: """
        CAPCHA_NOT_READY CAPTCHA_NOT_READY ERROR_REQUEST_LIMIT ERROR_REQUEST_BANNED ERROR_TOO_MUCH_REQUESTS
    """,
    Reaction.SLOW: """
        ERROR_RATE_LIMIT ERROR_SERVICE_UNAVALIABLE ERROR_SERVICE_UNAVAILABLE ERROR_SERVICE_NOT_AVAILABLE
        ERROR_INTERNAL_SERVER_ERROR ERROR_THREADS_MAXIMUM ERROR_NO_SLOT_AVAILABLE MAX_USER_TURN
        ERROR_KEY_TEMP_BLOCKED ERROR_IP_BANNED ERROR_IP_BLOCKED ERROR_IP_BLOCKED_5MIN
    """,
    Reaction.AGAIN: """
        ERROR_CAPTCHA_UNSOLVABLE ERROR_TASK_TIMEOUT ERROR_BAD_DUPLICATES ERROR_RECAPTCHA_TIMEOUT
        ERROR_FAILED_LOADING_WIDGET ERROR_UNKNOWN_QUESTION ERROR_SETTLEMENT_FAILED ERROR_TASKID_INVALID
        ERROR_TASK_NOT_EXIST ERROR_NO_SUCH_CAPCHA_ID ERROR_WRONG_CAPTCHA_ID ERROR_WRONG_ID_FORMAT
    """,
    Reaction.CHANGE: """
        ERROR_TOKEN_EXPIRED ERROR_INCORRECT_SESSION_DATA ERROR_PROXY_CONNECT_REFUSED ERROR_PROXY_CONNECT_TIMEOUT
        ERROR_PROXY_READ_TIMEOUT ERROR_PROXY_BANNED ERROR_PROXY_TRANSPARENT ERROR_PROXY_HAS_NO_IMAGE_SUPPORT
        ERROR_PROXY_INCOMPATIBLE_HTTP_VERSION ERROR_PROXY_NOT_AUTHORISED ERROR_PROXY_MISSING ERROR_PROXY_FORMAT
        ERROR_BAD_PROXY PROXY_CONNECTION_FAILED ERR_PROXY_CONNECTION_FAILED ERROR_REQUEST_PROXY_MISSING
        ERROR_RECAPTCHA_INVALID_SITEKEY ERROR_RECAPTCHA_INVALID_DOMAIN ERROR_RECAPTCHA_OLD_BROWSER
        ERROR_INVISIBLE_RECAPTCHA ERROR_FUNCAPTCHA_NOT_ALLOWED ERROR_WRONG_USERAGENT ERROR_ZERO_CAPTCHA_FILESIZE
        ERROR_TOO_BIG_CAPTCHA_FILESIZE ERROR_IMAGE_TYPE_NOT_SUPPORTED ERROR_WRONG_FILE_EXTENSION ERROR_UPLOAD
        ERROR_INVALID_IMAGE ERROR_PARSE_IMAGE_FAIL ERROR_CAPTCHAIMAGE_BLOCKED TOO_MANY_BAD_IMAGES
        ERROR_BAD_IMGINSTRUCTIONS ERROR_PAGEURL ERROR_GOOGLEKEY ERROR_WRONG_GOOGLEKEY ERROR_BAD_TOKEN_OR_PAGEURL
        ERROR_BAD_PARAMETERS ERROR_EMPTY_COMMENT
    """,
    Reaction.STOP: """
        ERROR_BAD_REQUEST ERROR_INVALID_TASK_DATA ERROR_INVALID_TASK ERROR_REQUIRED_FIELDS ERROR_REQUEST_PARAMETERS
        ERROR_CONTENT_TYPE_ERROR ERROR_REQUEST_METHOD ERROR_PAGE_NOT_FOUND ERROR_NO_SUCH_METHOD ERROR_TASK_ABSENT
        ERROR_TASK_NOT_SUPPORTED ERROR_TASK_TYPE_X ERROR_KEY_DOES_NOT_EXIST ERROR_KEY_DENIED_ACCESS
        ERROR_KEY_NOT_AVAILABLE ERROR_WRONG_USER_KEY ERROR_ZERO_BALANCE ERROR_IP_NOT_ALLOWED ERROR_DOMAIN_NOT_ALLOWED
        ERROR_WEBSITE_NOT_ALLOWED ERROR_ACCOUNT_SUSPENDED ERROR_PACKAGE_X ERROR_SUBSCRIPTION_EXPIRED ERROR_NOT_FOUND
        ERROR_FACTORY_X ERROR_IP_ADDRES ERROR_EMPTY_ACTION
    """,
}
PAUSES = {"ERROR: 1001": 600.0, "ERROR: 1002": 300.0, "ERROR: 1003": 30.0, "ERROR: 1004": 600.0, "ERROR: 1005": 300.0}


@pytest.mark.parametrize(
    ("name", "reaction"), [(name, reaction) for reaction, names in EVERY_CODE.items() for name in names.split()]
)
def test_every_code_that_is_known_has_its_class(name: str, reaction: Reaction) -> None:
    """Each code has the reaction of its class (providers/README.md, "Error codes")."""
    code = code_named(FAMILY_CODES, name)

    assert code is not None
    assert code.reaction is reaction


@pytest.mark.parametrize(("name", "seconds"), PAUSES.items())
def test_blocks_of_the_older_api_last_as_documented(name: str, seconds: float) -> None:
    """The numbered errors of 2captcha pause the key for as long as they last.

    Source: providers/README.md, "2captcha and ruCaptcha".
    """
    assert code_named(FAMILY_CODES, name) == Code(Reaction.SLOW, "request", seconds)


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
def test_errors_about_the_task_end_it(dialect: Dialect, code: str, reaction: Reaction) -> None:
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
    dialect: Dialect, code: str, about: str, reaction: Reaction, pause_seconds: float
) -> None:
    """An error about the key, the balance or the request is no outcome. It gives the reaction and the pause."""
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
def test_unknown_ids_are_told_apart(dialect: Dialect, code: str) -> None:
    """An id unknown to the provider is neither an outcome by itself nor an error about the request."""
    reading = dialect.read_task_result({"errorId": 16, "errorCode": code, "errorDescription": "why"})

    assert reading == Unknown(16, code, "why")


@both
@pytest.mark.parametrize("code", ["CAPCHA_NOT_READY", "CAPTCHA_NOT_READY"])
def test_not_ready_is_no_error(dialect: Dialect, code: str) -> None:
    """Codes documented as "still working" leave the task pending."""
    assert dialect.read_task_result({"errorId": 1, "errorCode": code}) == Pending(code)


@both
def test_a_code_that_nobody_knows_is_told_from_those_on_the_list(dialect: Dialect) -> None:
    """An unknown code is kept as it was written. It is not known to be about the task."""
    reading = dialect.read_task_result({"errorId": 7, "errorCode": "ERROR_FROM_NEXT_YEAR", "errorDescription": None})

    assert reading == Failed(7, "ERROR_FROM_NEXT_YEAR", None, is_listed=False)


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
