"""The profile of every provider, by name. A row here holds only the differences from an ordinary provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from client.errors import BadArgumentError
from client.providers import DIALECTS
from client.sandbox.settings import SandboxSettings
from client.sandbox.wires.answers import JsonWire, Wire
from client.sandbox.wires.messages import form_message
from client.sandbox.wires.profile import Profile, fixed, numbers, of_unknown_status, ordinary, prefixed
from client.sandbox.wires.solutions import (
    content_digest,
    content_of,
    onecaptcha_solution,
    text_task,
    token_solution,
    twocaptcha_solution,
)

__all__ = ["PROFILES", "expected_solution", "profile_named"]

_NULLS: Mapping[str, Any] = {"errorCode": None, "errorDescription": None}
_EMPTY_TEXTS: Mapping[str, Any] = {"errorCode": "", "errorDescription": ""}
# Prices and times are invented and fixed, so that answers repeat. Which are text and which numbers is as the examples
# have it (providers/README.md, "anti-captcha", "2captcha and ruCaptcha", "JSON requests").
_PAID = {"cost": "0.00299", "ip": "127.0.0.1", "createTime": 1_472_205_564, "endTime": 1_472_205_570}
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
# HTTP 429 refuses the question only: the task goes on (providers/README.md, "EZ-Captcha", "JSON requests").
_EZCAPTCHA_WIRE = JsonWire(
    has_integer_ids=False,
    codes={"ERROR_RATE_LIMIT": "ERROR_REQUEST_LIMIT", "ERROR_IP_BANNED": "ERROR_REQUEST_BANNED"},
    statuses={"ERROR_REQUEST_LIMIT": 429, "ERROR_REQUEST_BANNED": 429},
)


def _capsolver_wire(settings: SandboxSettings) -> Wire:
    return _CAPSOLVER_WIRE if settings.is_status_sent else replace(_CAPSOLVER_WIRE, created_fields=_EMPTY_TEXTS)


def _capmonster(profile: Profile) -> Profile:
    """Return a profile for CapMonster and its relatives.

    An error has `taskId` 0, pending has nulls and ready neither (providers/README.md, "CapMonster Cloud", "JSON
    requests"). The callback is the getTaskResult answer, without an id (providers/README.md, "Result callbacks", read
    literally).
    """
    wire = JsonWire(
        pending_fields=_NULLS, refused_fields={"taskId": 0}, codes={"ERROR_RATE_LIMIT": "ERROR_TOO_MUCH_REQUESTS"}
    )
    return replace(
        profile,
        wire=fixed(wire),
        has_known_error_status=True,
        id_maker=numbers(1_000_000_001),
        callback_seconds=2.0,
        not_ready_code="CAPTCHA_NOT_READY",
    )


def _twocaptcha(profile: Profile) -> Profile:
    """Return a profile as anti-captcha's, with HTTP 200 on errors too.

    Source: providers/README.md, "2captcha and ruCaptcha", "Error codes".
    """
    wire = JsonWire(
        ready_fields={**_PAID, "solveCount": 1},
        failed_error_id=12,
        codes={**_OLD_CODES, "ERROR_INVALID_TASK_DATA": "ERROR_BAD_PARAMETERS"},
        error_ids={**_OLD_IDS, "ERROR_BAD_PARAMETERS": 110},
    )
    return replace(
        profile,
        wire=fixed(wire),
        # Limits of a key are documented for in.php and res.php only.
        limits=replace(profile.limits, submit_count=0, polls_for_each=0, polls_for_all=0),
        has_known_error_status=True,
        solution=twocaptcha_solution,
        write=form_message,
        has_registered_hosts=True,
    )


def _twocaptcha_v1(profile: Profile) -> Profile:
    """Return a profile with the callbacks of 2captcha (providers/README.md, "Form callbacks")."""
    return replace(profile, write=form_message, has_registered_hosts=True)


def _ezcaptcha(profile: Profile) -> Profile:
    """Return a profile for both hosts (providers/README.md, "Both hosts of EZ-Captcha")."""
    return replace(
        profile,
        wire=fixed(_EZCAPTCHA_WIRE),
        limits=replace(
            profile.limits,
            max_polls=0,
            task_timeout_seconds=180.0,
            ban_seconds=180.0,
            poll_ban_seconds=60.0,
            ban_codes=frozenset({"ERROR_KEY_DOES_NOT_EXIST", "ERROR_ZERO_BALANCE"}),
        ),
        has_known_error_status=True,
    )


_CHANGES: Mapping[str, Callable[[Profile], Profile]] = MappingProxyType(
    {
        # No `errorCode` without an error, numbers by code, and the cost beside a solution (providers/README.md,
        # "anti-captcha", "Error codes").
        "anticaptcha": lambda profile: replace(
            profile,
            wire=of_unknown_status(
                JsonWire(ready_fields={**_PAID, "solveCount": "0"}, codes=_OLD_CODES, error_ids=_OLD_IDS)
            ),
            limits=replace(profile.limits, report_seconds=60.0),
            report_fields={"status": "success"},
        ),
        "capkill": _capmonster,
        "capmonster": _capmonster,
        # Its own numbers; waiting is error 21, and the spelling of its code is unknown (providers/README.md,
        # "capsolution", "Error codes"). The address of its callbacks is set for the account (providers/README.md,
        # "Envelope callbacks").
        "capsolution": lambda profile: replace(
            profile,
            wire=of_unknown_status(
                JsonWire(
                    pending_fields={"errorCode": "TASK_NOT_READY"},
                    pending_error_id=21,
                    has_integer_ids=False,
                    error_ids={"ERROR_ZERO_BALANCE": 2},
                )
            ),
            limits=replace(profile.limits, poll_interval_seconds=2.0),
            id_maker=prefixed("task_"),
            signed_with="secret",
        ),
        # All limits are documented, except how many errors block a key.
        "capsolver": lambda profile: replace(
            profile, wire=_capsolver_wire, sync="recognition", has_known_error_status=True
        ),
        "captcha69": _capmonster,
        "captchaai": lambda profile: replace(profile, has_error_pages=True),
        "ezcaptcha": _ezcaptcha,
        # The host that answers at once, without an id (providers/README.md, "EZ-Captcha, synchronous host").
        "ezcaptchasync": lambda profile: replace(
            _ezcaptcha(profile), wire=fixed(replace(_EZCAPTCHA_WIRE, has_id_at_once=False)), sync="all"
        ),
        # Its requests are unknown: the family's stand in for them. Its callback is tried four times
        # (providers/README.md, "Envelope callbacks").
        "hardcaptcha": lambda profile: replace(
            profile, solution=token_solution, signed_with="key", callback_seconds=5.0, callback_retries=3
        ),
        # Failure is errorId 12, without status. Errors have an HTTP status other than 200, but it is unknown. Ids have
        # 13 digits (providers/README.md, "NextCaptcha").
        "nextcaptcha": lambda profile: replace(
            profile,
            wire=of_unknown_status(JsonWire(pending_status="pending", failed_error_id=12, refused_status=400)),
            limits=replace(profile.limits, poll_interval_seconds=0.5),
            id_maker=numbers(1_000_000_000_001),
        ),
        # The time-out and the interval of polls are documented; the others are placeholders. A task that timed out can
        # be read for another 30 s, or no poll would ever see that it did.
        "onecaptcha": lambda profile: replace(
            profile,
            wire=of_unknown_status(_ONECAPTCHA_WIRE),
            limits=replace(profile.limits, max_polls=120, task_timeout_seconds=300.0, window_seconds=330.0),
            solution=onecaptcha_solution,
        ),
        "rucaptcha": _twocaptcha,
        "rucaptchav1": _twocaptcha_v1,
        "twocaptcha": _twocaptcha,
        "twocaptchav1": _twocaptcha_v1,
        # createTask says processing already; a failure has errorId 0 (providers/README.md, "uCaptcha", "JSON
        # requests").
        "ucaptcha": lambda profile: replace(
            profile,
            wire=of_unknown_status(
                JsonWire(
                    created_fields={"status": "processing"},
                    failed_error_id=0,
                    failed_status="failed",
                    is_failure_described=False,
                    has_integer_ids=False,
                )
            ),
            limits=replace(profile.limits, task_timeout_seconds=300.0),
        ),
        # Empty texts at createTask, nulls at getTaskResult (providers/README.md, "YesCaptcha", "JSON requests");
        # pending is inferred from ready.
        "yescaptcha": lambda profile: replace(
            profile,
            wire=of_unknown_status(
                JsonWire(created_fields=_EMPTY_TEXTS, pending_fields=_NULLS, ready_fields=_NULLS, has_integer_ids=False)
            ),
        ),
    }
)


def _unchanged(profile: Profile) -> Profile:
    return profile


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {name: _CHANGES.get(name, _unchanged)(ordinary(dialect)) for name, dialect in DIALECTS.items()}
)
"""The profile of every shipped provider, by name."""


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
