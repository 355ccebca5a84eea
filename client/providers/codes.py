"""The error codes of the createTask family and the reaction to each (providers/README.md, "Error codes").

The code tells errors apart, never the number: numbers differ between providers (providers/README.md, "Error codes"). A
reaction is inferred unless a comment names a provider as its source. `tests/client/providers/published_codes.toml`
holds the list of each provider: its page, and the class and the pause of each code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from client.providers.readings import Failed, Pending, Reaction, Refused, Unknown

__all__ = ["FAMILY_CODES", "REASON_NOT_GIVEN", "Code", "code_named", "read_error"]

REASON_NOT_GIVEN = "RECEIVER_REASON_NOT_GIVEN"
"""The `errorCode` of a failure without a code from the provider."""


@dataclass(frozen=True, slots=True)
class Code:
    """The meaning of one code.

    `about` is "task" if the error ends the task. Errors about "key", "balance" or "request" concern the request and end
    nothing. With "id" the provider does not know the id, and "state" is no error at all. After a ban (`is_ban`) the
    request is repeated once, after the pause; a second refusal is final.
    """

    reaction: Reaction
    about: str = "task"
    pause_seconds: float = 0.0
    is_ban: bool = False


_LARGEST_ERROR_ID = 2**31 - 1


def _all(names: str, code: Code) -> dict[str, Code]:
    return dict.fromkeys(names.split(), code)


_WAITING = Code(Reaction.WAIT, "state")
_ASKED_TOO_OFTEN = Code(Reaction.WAIT, "request")
_BUSY = Code(Reaction.SLOW, "request", 5.0)
_BAN = Code(Reaction.SLOW, "request", 300.0, is_ban=True)
_DEAD = Code(Reaction.AGAIN)
_OTHER_PARAMETERS = Code(Reaction.CHANGE)
_BAD_TASK = Code(Reaction.STOP)
_BAD_REQUEST = Code(Reaction.STOP, "request")
_UNKNOWN_ID = Code(Reaction.AGAIN, "id")
_KEY = Code(Reaction.STOP, "key")

FAMILY_CODES: Mapping[str, Code] = MappingProxyType(
    {
        # 2captcha v1, CapMonster and capsolution document these as "still working"; the spelling is theirs.
        **_all("CAPCHA_NOT_READY CAPTCHA_NOT_READY ERROR_TASK_NOT_READY", _WAITING),
        # The poll was refused, and the task goes on (EZ-Captcha, CapMonster).
        **_all("ERROR_REQUEST_LIMIT ERROR_REQUEST_BANNED ERROR_TOO_MUCH_REQUESTS", _ASKED_TOO_OFTEN),
        **_all("ERROR_RATE_LIMIT ERROR_INTERNAL_SERVER_ERROR ERROR_THREADS_MAXIMUM ERROR_NO_SLOT_AVAILABLE", _BUSY),
        **_all("ERROR_SERVICE_UNAVALIABLE ERROR_SERVICE_UNAVAILABLE ERROR_SERVICE_NOT_AVAILABLE", _BUSY),
        # CaptchaAI, capsolution, EZ-Captcha: a fault of the server. YesCaptcha: no free server.
        **_all("ERROR_SERVER_ERROR ERROR_INTERNAL ERROR_SERVICE_TIMEOUT ERROR_NO_SLOT_AVAILABLE_BLOCK", _BUSY),
        # anti-captcha: reports have filtered out every worker. Its page does not say if the task ends.
        "ERROR_ALL_WORKERS_FILTERED": _BUSY,
        # 2captcha v1 documents these pauses (providers/README.md, "2captcha and ruCaptcha").
        "MAX_USER_TURN": Code(Reaction.SLOW, "request", 10.0),
        "ERROR: 1001": Code(Reaction.SLOW, "request", 600.0),
        "ERROR: 1002": Code(Reaction.SLOW, "request", 300.0),
        "ERROR: 1003": Code(Reaction.SLOW, "request", 30.0),
        "ERROR: 1004": Code(Reaction.SLOW, "request", 600.0),
        "ERROR: 1005": Code(Reaction.SLOW, "request", 300.0),
        # Every number means too many requests. The pause is the longest documented one.
        "ERROR:*": Code(Reaction.SLOW, "request", 600.0),
        # 2captcha v1 and CaptchaAI: too many wrong keys; documented to last five minutes.
        "IP_BANNED": _BAN,
        # CapSolver documents an end of this block after five minutes.
        "ERROR_KEY_TEMP_BLOCKED": Code(Reaction.SLOW, "key", 300.0),
        # CapSolver: 30 minutes. The caller decides if the wait is worth it.
        "ERROR_IP_BANNED": replace(_BAN, pause_seconds=1800.0),
        **_all("ERROR_IP_BLOCKED ERROR_IP_BLOCKED_5MIN", Code(Reaction.SLOW, "request", 300.0)),
        **_all("ERROR_CAPTCHA_UNSOLVABLE ERROR_TASK_TIMEOUT ERROR_BAD_DUPLICATES ERROR_RECAPTCHA_TIMEOUT", _DEAD),
        **_all("ERROR_FAILED_LOADING_WIDGET ERROR_UNKNOWN_QUESTION ERROR_SETTLEMENT_FAILED", _DEAD),
        # anti-captcha: a worker canceled the task.
        "ERROR_TASK_CANCELED": _DEAD,
        **_all("ERROR_TOKEN_EXPIRED ERROR_INCORRECT_SESSION_DATA ERROR_WRONG_USERAGENT", _OTHER_PARAMETERS),
        **_all("ERROR_PROXY_CONNECT_REFUSED ERROR_PROXY_CONNECT_TIMEOUT ERROR_PROXY_READ_TIMEOUT", _OTHER_PARAMETERS),
        **_all("ERROR_PROXY_BANNED ERROR_PROXY_TRANSPARENT ERROR_PROXY_NOT_AUTHORISED", _OTHER_PARAMETERS),
        **_all("ERROR_PROXY_HAS_NO_IMAGE_SUPPORT ERROR_PROXY_INCOMPATIBLE_HTTP_VERSION", _OTHER_PARAMETERS),
        **_all("ERROR_PROXY_MISSING ERROR_PROXY_FORMAT ERROR_BAD_PROXY ERROR_REQUEST_PROXY_MISSING", _OTHER_PARAMETERS),
        **_all("ERROR_PROXY_CONNECTION_FAILED PROXY_CONNECTION_FAILED ERR_PROXY_CONNECTION_FAILED", _OTHER_PARAMETERS),
        **_all("ERROR_RECAPTCHA_INVALID_SITEKEY ERROR_RECAPTCHA_INVALID_DOMAIN", _OTHER_PARAMETERS),
        **_all("ERROR_RECAPTCHA_OLD_BROWSER ERROR_INVISIBLE_RECAPTCHA ERROR_FUNCAPTCHA_NOT_ALLOWED", _OTHER_PARAMETERS),
        **_all("ERROR_VISIBLE_RECAPTCHA ERROR_TEMPLATE_NOT_FOUND ERROR_SITEKEY", _OTHER_PARAMETERS),
        **_all("ERROR_ZERO_CAPTCHA_FILESIZE ERROR_TOO_BIG_CAPTCHA_FILESIZE ERROR_INVALID_IMAGE", _OTHER_PARAMETERS),
        **_all("ERROR_IMAGE_TYPE_NOT_SUPPORTED ERROR_PARSE_IMAGE_FAIL ERROR_WRONG_FILE_EXTENSION", _OTHER_PARAMETERS),
        **_all("ERROR_UPLOAD ERROR_CAPTCHAIMAGE_BLOCKED TOO_MANY_BAD_IMAGES ERROR_EMPTY_CAPTCHA", _OTHER_PARAMETERS),
        **_all("ERROR_BAD_IMGINSTRUCTIONS ERROR_PAGEURL ERROR_GOOGLEKEY ERROR_WRONG_GOOGLEKEY", _OTHER_PARAMETERS),
        **_all("ERROR_BAD_TOKEN_OR_PAGEURL ERROR_BAD_PARAMETERS ERROR_EMPTY_COMMENT", _OTHER_PARAMETERS),
        **_all("ERROR_INVALID_TASK_DATA ERROR_INVALID_TASK ERROR_TASK_ABSENT ERROR_TASK_NOT_SUPPORTED", _BAD_TASK),
        **_all("ERROR_TASK_TYPE_* ERROR_FACTORY_*", _BAD_TASK),
        **_all("ERROR_BAD_REQUEST ERROR_REQUIRED_FIELDS ERROR_NO_SUCH_METHOD", _BAD_REQUEST),
        # 2captcha v1, uCaptcha: the poll lacks its parameter "action". It says nothing about the task.
        "ERROR_EMPTY_ACTION": _BAD_REQUEST,
        **_all("ERROR_REQUEST_PARAMETERS ERROR_CONTENT_TYPE_ERROR ERROR_REQUEST_METHOD", _BAD_REQUEST),
        **_all("ERROR_PAGE_NOT_FOUND ERROR_WEBSITE_NOT_ALLOWED ERROR_NOT_FOUND ERROR_IP_ADDRES", _BAD_REQUEST),
        **_all("ERROR_IP_NOT_ALLOWED ERROR_DOMAIN_NOT_ALLOWED ERROR_ACCOUNT_SUSPENDED", _BAD_REQUEST),
        **_all("ERROR_PACKAGE_* ERROR_SUBSCRIPTION_EXPIRED", Code(Reaction.STOP, "balance")),
        **_all("REPORT_NOT_RECORDED ERROR_DUPLICATE_REPORT", _BAD_REQUEST),
        **_all("ERROR_TASKID_INVALID ERROR_TASK_NOT_EXIST ERROR_WRONG_ID_FORMAT", _UNKNOWN_ID),
        **_all("ERROR_NO_SUCH_CAPCHA_ID ERROR_WRONG_CAPTCHA_ID", _UNKNOWN_ID),
        # capsolution; anti-captcha, for reports; CapMonster.
        **_all("ERROR_TASK_NOT_FOUND ERROR_NO_SUCH_CAPTCHA_ID WRONG_CAPTCHA_ID", _UNKNOWN_ID),
        **_all("ERROR_KEY_DOES_NOT_EXIST ERROR_KEY_DENIED_ACCESS ERROR_KEY_NOT_AVAILABLE ERROR_WRONG_USER_KEY", _KEY),
        # EZ-Captcha: only its support lifts the ban.
        "ERROR_KEY_BANNED": _KEY,
        "ERROR_ZERO_BALANCE": Code(Reaction.STOP, "balance"),
    }
)
"""The union of all lists, overlaid by dialects. A name ending in `*` stands for a beginning.

Source: providers/README.md, "Error codes".
"""


def code_named(codes: Mapping[str, Code], name: str) -> Code | None:
    """Return the meaning of a code, by its name or else by its beginning. Unknown codes give None."""
    exact = codes.get(name)
    if exact is not None:
        return exact
    return next((code for start, code in codes.items() if start.endswith("*") and name.startswith(start[:-1])), None)


def read_error(
    codes: Mapping[str, Code], error_id: int, error_code: str, error_description: str | None
) -> Failed | Pending | Unknown | Refused:
    """Return the meaning of an error answer. A code on no list gives `Failed` with `is_listed` False."""
    error_id = error_id if 0 < error_id <= _LARGEST_ERROR_ID else 1
    code = code_named(codes, error_code)
    if code is None:
        return Failed(error_id, error_code, error_description, is_listed=False)
    match code.about:
        case "state":
            return Pending(error_code)
        case "id":
            return Unknown(error_id, error_code, error_description)
        case "task":
            return Failed(error_id, error_code, error_description)
        case about:
            return Refused(
                error_id, error_code, error_description, code.reaction, about, code.pause_seconds, code.is_ban
            )
