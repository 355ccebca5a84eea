"""Every provider of the sandbox, by name. A new provider is a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import Any, Literal

from uuid_utils import uuid7

from client.errors import BadArgumentError
from client.sandbox.settings import SandboxLimits, SandboxSettings
from client.sandbox.wires.answers import JsonWire, ScrapelessWire, V1Wire, Wire
from client.sandbox.wires.messages import (
    WriteMessage,
    capsolution_event,
    captchaai_query,
    form_message,
    hardcaptcha_envelope,
    json_result,
    scrapeless_envelope,
    ucaptcha_query,
)
from client.sandbox.wires.solutions import (
    SolutionOf,
    bare_solution,
    content_digest,
    content_of,
    family_solution,
    onecaptcha_solution,
    text_task,
    token_solution,
    twocaptcha_solution,
)

__all__ = ["PROFILES", "Profile", "expected_solution", "profile_named"]

_IdMaker = Callable[[], Callable[[], str]]
_MakeWire = Callable[[SandboxSettings], Wire]


def _uuids() -> Callable[[], str]:
    return lambda: str(uuid7())


def _prefixed(prefix: str) -> _IdMaker:
    return lambda: lambda: prefix + uuid7().hex


def _numbers(first: int) -> _IdMaker:
    """Make integer ids in a row; `first` decides how long they are."""

    def new_maker() -> Callable[[], str]:
        row = count(first)
        return lambda: str(next(row))

    return new_maker


def _fixed(wire: Wire) -> _MakeWire:
    return lambda _: wire


def _of_unknown_status(wire: JsonWire | ScrapelessWire) -> _MakeWire:
    """Let the settings choose the HTTP status of errors, because it is unknown.

    Source: providers/README.md, "JSON requests".
    """

    def made(settings: SandboxSettings) -> Wire:
        return wire if settings.error_status is None else replace(wire, refused_status=settings.error_status)

    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The behaviour of one provider.

    `wire` makes its answers, `limits` are its own unless the settings have others. `sync` names the tasks that
    createTask answers itself. `has_known_error_status`: the settings cannot choose the HTTP status of errors.
    `has_error_pages`: a failing server answers with HTML under 502. `not_ready_code` is an error that means processing.

    `is_id_in_callback` holds unless the settings say otherwise. A callback must be answered within `callback_seconds`.
    Without a status of 200 to 299 it is sent `callback_retries` times more, `callback_retry_seconds` apart.
    `is_account_wide`: the address of callbacks belongs to the account, not to the task. `has_registered_hosts`: only
    these are called back.

    `reports` are its reports, by name. Each is for types with one of these parts in their names; for all, if there are
    none. They are answered with `report_fields`.
    """

    wire: _MakeWire
    limits: SandboxLimits
    api: Literal["json", "v1", "scrapeless"] = "json"
    id_maker: _IdMaker = _uuids
    solution: SolutionOf = family_solution
    sync: Literal["none", "recognition", "all"] = "none"
    has_callback: bool = True
    is_account_wide: bool = False
    is_id_in_callback: bool = True
    write: WriteMessage = json_result
    callback_seconds: float = 10.0
    callback_retries: int = 0
    callback_retry_seconds: float = 5.0
    signed_with: Literal["nothing", "key", "secret"] = "nothing"
    has_known_error_status: bool = False
    has_error_pages: bool = False
    not_ready_code: str | None = None
    reports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    report_fields: Mapping[str, str] = field(default_factory=dict)
    has_registered_hosts: bool = False


_NULLS: Mapping[str, Any] = {"errorCode": None, "errorDescription": None}
_EMPTY_TEXTS: Mapping[str, Any] = {"errorCode": "", "errorDescription": ""}
# Prices and times are invented and fixed, so that answers repeat. Which are text and which numbers is as the examples
# have it (providers/README.md, "anti-captcha", "2captcha and ruCaptcha", "JSON requests").
_PAID = {"cost": "0.00299", "ip": "127.0.0.1", "createTime": 1_472_205_564, "endTime": 1_472_205_570}
# 11 digits, beyond 2^31 (providers/README.md, "anti-captcha", "2captcha and ruCaptcha").
_LONG_NUMBERS = _numbers(73_043_008_354)

# providers/README.md, "Error codes"; that of the family is "ERROR_TASKID_INVALID" and the like.
_OLD_CODES = {
    "ERROR_BAD_REQUEST": "ERROR_NO_SUCH_METHOD",
    "ERROR_INVALID_TASK_DATA": "ERROR_TASK_ABSENT",
    "ERROR_IP_BANNED": "ERROR_IP_BLOCKED",
    "ERROR_RATE_LIMIT": "ERROR_NO_SLOT_AVAILABLE",
    "ERROR_TASKID_INVALID": "ERROR_NO_SUCH_CAPCHA_ID",
    "ERROR_TASK_TIMEOUT": "ERROR_CAPTCHA_UNSOLVABLE",
}
_OLD_IDS = {
    "ERROR_CAPTCHA_UNSOLVABLE": 12,
    "ERROR_IP_BLOCKED": 21,
    "ERROR_KEY_DOES_NOT_EXIST": 1,
    "ERROR_NO_SLOT_AVAILABLE": 2,
    "ERROR_NO_SUCH_CAPCHA_ID": 16,
    "ERROR_NO_SUCH_METHOD": 14,
    "ERROR_TASK_ABSENT": 22,
    "ERROR_ZERO_BALANCE": 10,
}

# Limits: providers/README.md, the sections of the providers. If no count of errors that bans is known, there is none.

# CapSolver: "" for no error at createTask, errors under HTTP 400, a wrong key under 401 (providers/README.md,
# "CapSolver"). The state "idle" at createTask was observed since August 2025, the state "failed" in the vendor's own
# samples. That processing answers have the fields of ready ones is inferred: no example is shown.
_CAPSOLVER_WIRE = JsonWire(
    created_fields={**_EMPTY_TEXTS, "status": "idle"},
    balance_fields={"packages": []},
    failed_status="failed",
    is_failure_refused=True,
    refused_status=400,
    has_integer_ids=False,
    has_id_in_result=True,
    statuses={"ERROR_KEY_DOES_NOT_EXIST": 401, "ERROR_KEY_DENIED_ACCESS": 401},
)
# 1captcha.vip: "" for no error at createTask, null at getTaskResult (providers/README.md, "1captcha.vip"). Its codes
# are those of the family, since none is listed; its answer to getBalance is unknown, and written like its
# getTaskResult.
_ONECAPTCHA_WIRE = JsonWire(
    created_fields=_EMPTY_TEXTS,
    pending_fields=_NULLS,
    ready_fields=_NULLS,
    balance_fields=_NULLS,
    is_failure_refused=True,
    has_integer_ids=False,
)
# CapMonster: an error has `taskId` 0, pending has nulls and ready neither (providers/README.md, "CapMonster Cloud",
# "JSON requests"). Its callback is its getTaskResult answer, without an id (providers/README.md, "Result callbacks",
# read literally).
_CAPMONSTER = Profile(
    wire=_fixed(
        JsonWire(
            pending_fields=_NULLS, refused_fields={"taskId": 0}, codes={"ERROR_RATE_LIMIT": "ERROR_TOO_MUCH_REQUESTS"}
        )
    ),
    limits=SandboxLimits(poll_interval_seconds=2.0, ban_errors=0),
    has_known_error_status=True,
    id_maker=_numbers(1_000_000_001),
    is_id_in_callback=False,
    callback_seconds=2.0,
    not_ready_code="CAPTCHA_NOT_READY",
)
# As anti-captcha; HTTP 200 on errors too (providers/README.md, "2captcha and ruCaptcha", "Error codes").
_TWOCAPTCHA = Profile(
    wire=_fixed(
        JsonWire(
            ready_fields={**_PAID, "solveCount": 1},
            failed_error_id=12,
            codes={**_OLD_CODES, "ERROR_INVALID_TASK_DATA": "ERROR_BAD_PARAMETERS"},
            error_ids={**_OLD_IDS, "ERROR_BAD_PARAMETERS": 110},
        )
    ),
    limits=SandboxLimits(max_polls=0, window_seconds=900.0, poll_interval_seconds=5.0, ban_errors=0),
    has_known_error_status=True,
    id_maker=_LONG_NUMBERS,
    solution=twocaptcha_solution,
    write=form_message,
    has_registered_hosts=True,
    reports={"reportCorrect": (), "reportIncorrect": ()},
)
# No task is answered at once, and every value is text. Limits of a key are documented for in.php and res.php only.
_V1 = Profile(
    wire=_fixed(V1Wire()),
    limits=replace(_TWOCAPTCHA.limits, submit_count=60, polls_for_each=20, polls_for_all=1200),
    has_known_error_status=True,
    api="v1",
    id_maker=_numbers(2_122_988_149),
    solution=bare_solution,
    write=form_message,
    has_registered_hosts=True,
    reports={"reportgood": (), "reportbad": ()},
)
# HTTP 429 refuses the question only: the task goes on (providers/README.md, "EZ-Captcha", "JSON requests").
_EZCAPTCHA_WIRE = JsonWire(
    has_integer_ids=False,
    codes={"ERROR_RATE_LIMIT": "ERROR_REQUEST_LIMIT", "ERROR_IP_BANNED": "ERROR_REQUEST_BANNED"},
    statuses={"ERROR_REQUEST_LIMIT": 429, "ERROR_REQUEST_BANNED": 429},
)
_EZCAPTCHA = Profile(
    wire=_fixed(_EZCAPTCHA_WIRE),
    limits=SandboxLimits(
        max_polls=0,
        task_timeout_seconds=180.0,
        ban_errors=30,
        ban_seconds=180.0,
        poll_ban_seconds=60.0,
        ban_codes=frozenset({"ERROR_KEY_DOES_NOT_EXIST", "ERROR_ZERO_BALANCE"}),
    ),
    has_known_error_status=True,
    has_callback=False,
)


def _capsolver_wire(settings: SandboxSettings) -> Wire:
    return _CAPSOLVER_WIRE if settings.is_status_sent else replace(_CAPSOLVER_WIRE, created_fields=_EMPTY_TEXTS)


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        # No `errorCode` without an error, numbers by code, and the cost beside a solution (providers/README.md,
        # "anti-captcha", "Error codes").
        "anticaptcha": Profile(
            wire=_of_unknown_status(
                JsonWire(ready_fields={**_PAID, "solveCount": "0"}, codes=_OLD_CODES, error_ids=_OLD_IDS)
            ),
            limits=SandboxLimits(max_polls=0, poll_interval_seconds=2.0, ban_errors=0, report_seconds=60.0),
            id_maker=_LONG_NUMBERS,
            reports={
                "reportCorrectRecaptcha": ("recaptcha",),
                "reportIncorrectHcaptcha": ("hcaptcha",),
                "reportIncorrectImageCaptcha": ("imagetotext",),
                "reportIncorrectRecaptcha": ("recaptcha",),
            },
            report_fields={"status": "success"},
        ),
        "capkill": _CAPMONSTER,
        "capmonster": replace(
            _CAPMONSTER, reports={"reportIncorrectImageCaptcha": ("imagetotext",), "reportIncorrectTokenCaptcha": ()}
        ),
        # Its own numbers; waiting is error 21, and the spelling of its code is unknown (providers/README.md,
        # "capsolution", "Error codes"). The address of its callbacks is set for the account (providers/README.md,
        # "Envelope callbacks").
        "capsolution": Profile(
            wire=_of_unknown_status(
                JsonWire(
                    pending_fields={"errorCode": "TASK_NOT_READY"},
                    pending_error_id=21,
                    has_integer_ids=False,
                    error_ids={"ERROR_ZERO_BALANCE": 2},
                )
            ),
            limits=SandboxLimits(max_polls=0, poll_interval_seconds=2.0, ban_errors=0),
            id_maker=_prefixed("task_"),
            is_account_wide=True,
            write=capsolution_event,
            signed_with="secret",
        ),
        # All limits are documented, except how many errors block a key.
        "capsolver": Profile(
            wire=_capsolver_wire,
            limits=SandboxLimits(),
            sync="recognition",
            has_known_error_status=True,
            reports={"feedbackTask": ()},
        ),
        "captcha69": _CAPMONSTER,
        # No limits of its own are known; its API is that of 2captcha.
        "captchaai": replace(
            _V1,
            limits=_TWOCAPTCHA.limits,
            write=captchaai_query,
            has_error_pages=True,
            has_registered_hosts=False,
            reports={},
        ),
        "ezcaptcha": _EZCAPTCHA,
        # The host that answers at once, without an id (providers/README.md, "EZ-Captcha, synchronous host").
        "ezcaptchasync": replace(_EZCAPTCHA, wire=_fixed(replace(_EZCAPTCHA_WIRE, has_id_at_once=False)), sync="all"),
        # Its requests are unknown: the family's stand in for them. Its callback is tried four times
        # (providers/README.md, "Envelope callbacks").
        "hardcaptcha": Profile(
            wire=_of_unknown_status(JsonWire(has_integer_ids=False)),
            limits=SandboxLimits(max_polls=0, ban_errors=0),
            solution=token_solution,
            write=hardcaptcha_envelope,
            signed_with="key",
            callback_seconds=5.0,
            callback_retries=3,
        ),
        # Failure is errorId 12, without status. Errors have an HTTP status other than 200, but it is unknown. Ids have
        # 13 digits (providers/README.md, "NextCaptcha").
        "nextcaptcha": Profile(
            wire=_of_unknown_status(JsonWire(pending_status="pending", failed_error_id=12, refused_status=400)),
            limits=SandboxLimits(max_polls=0, poll_interval_seconds=0.5, ban_errors=0),
            id_maker=_numbers(1_000_000_000_001),
        ),
        # The time-out and the interval of polls are documented; the others are placeholders. A task that timed out can
        # be read for another 30 s, or no poll would ever see that it did.
        "onecaptcha": Profile(
            wire=_of_unknown_status(_ONECAPTCHA_WIRE),
            limits=SandboxLimits(task_timeout_seconds=300.0, window_seconds=330.0, ban_errors=0),
            solution=onecaptcha_solution,
            has_callback=False,
        ),
        "rucaptcha": _TWOCAPTCHA,
        "rucaptchav1": _V1,
        "scrapeless": Profile(
            wire=_of_unknown_status(ScrapelessWire()),
            limits=SandboxLimits(max_polls=0, ban_errors=0),
            api="scrapeless",
            solution=token_solution,
            write=scrapeless_envelope,
        ),
        "twocaptcha": _TWOCAPTCHA,
        "twocaptchav1": _V1,
        # createTask says processing already; a failure has errorId 0 (providers/README.md, "uCaptcha", "JSON
        # requests").
        "ucaptcha": Profile(
            wire=_of_unknown_status(
                JsonWire(
                    created_fields={"status": "processing"},
                    failed_error_id=0,
                    failed_status="failed",
                    is_failure_described=False,
                    has_integer_ids=False,
                )
            ),
            limits=SandboxLimits(max_polls=60, task_timeout_seconds=300.0, poll_interval_seconds=5.0, ban_errors=0),
            write=ucaptcha_query,
            reports={"feedbackTask": ()},
        ),
        # Empty texts at createTask, nulls at getTaskResult (providers/README.md, "YesCaptcha", "JSON requests");
        # pending is inferred from ready.
        "yescaptcha": Profile(
            wire=_of_unknown_status(
                JsonWire(created_fields=_EMPTY_TEXTS, pending_fields=_NULLS, ready_fields=_NULLS, has_integer_ids=False)
            ),
            limits=SandboxLimits(ban_errors=0),
            has_callback=False,
        ),
    }
)


def profile_named(name: str) -> Profile:
    """Return the profile of a provider.

    Raises:
        BadArgumentError: no such provider; the text lists all.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise BadArgumentError(f"unknown dialect {name!r}: expected one of {', '.join(sorted(PROFILES))}") from None


def expected_solution(dialect_name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the solution of `task` in the sandbox of that dialect.

    Raises:
        BadArgumentError: no such dialect.
    """
    profile = profile_named(dialect_name)
    content = text_task(content_of(task)) if profile.api == "v1" else task
    return profile.solution(str(task.get("type", "")), content_digest(content))
