"""Answers of the relatives that differ in a few fields only: each is a row of data (PROVIDERS.md 3, 4, 5, 8). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from client.sandbox.wires.capsolver import Answer, error_fields, json_answer

__all__ = [
    "ANTICAPTCHA",
    "CAPMONSTER",
    "CAPSOLUTION",
    "EZCAPTCHA",
    "EZCAPTCHASYNC",
    "HARDCAPTCHA",
    "NEXTCAPTCHA",
    "TWOCAPTCHA",
    "UCAPTCHA",
    "YESCAPTCHA",
    "JsonWire",
]

_NULLS: dict[str, Any] = {"errorCode": None, "errorDescription": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonWire:
    """A relative whose answers are JSON with `errorId`; what is no error adds `created_fields` and its like.

    `codes` holds its names for our codes, `error_ids` and `statuses` its numbers and HTTP statuses by its names.
    `pending_error_id` is the error that waiting is, at a provider where it is one; `failed_status` what a failed task
    has for `status`, under `failed_error_id`, where it has one.
    """

    created_fields: Mapping[str, Any] = field(default_factory=dict)
    pending_fields: Mapping[str, Any] = field(default_factory=dict)
    ready_fields: Mapping[str, Any] = field(default_factory=dict)
    pending_status: str = "processing"
    pending_error_id: int = 0
    failed_error_id: int = 1
    failed_status: str | None = None
    refused_fields: Mapping[str, Any] = field(default_factory=dict)
    refused_status: int = 200
    has_integer_ids: bool = True
    has_id_at_once: bool = True
    codes: Mapping[str, str] = field(default_factory=dict)
    error_ids: Mapping[str, int] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)

    def wire_id(self, task_id: str) -> int | str:
        """Return the id as JSON has it."""
        return int(task_id) if self.has_integer_ids else task_id

    def created(self, task_id: str) -> Answer:
        """Return the id, and nothing about the outcome."""
        return json_answer({"errorId": 0, **self.created_fields, "taskId": self.wire_id(task_id)})

    def solved_at_once(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """The solution, and the id where there is one; only where the provider may do so, or a test orders it."""
        named = {"taskId": self.wire_id(task_id)} if self.has_id_at_once else {}
        return json_answer({"errorId": 0, **self.created_fields, "status": "ready", "solution": solution, **named})

    def processing(self, task_id: str) -> Answer:
        """No id: getTaskResult answers of the family have none."""
        del task_id
        if self.pending_error_id:
            return json_answer({"errorId": self.pending_error_id, **self.pending_fields})
        return json_answer({"errorId": 0, **self.pending_fields, "status": self.pending_status})

    def ready(self, task_id: str, solution: dict[str, Any]) -> Answer:
        """Return the solution, without an id."""
        del task_id
        return json_answer({"errorId": 0, **self.ready_fields, "status": "ready", "solution": solution})

    def failed(self, task_id: str, error_code: str) -> Answer:
        """Return an error; without `status` at most of them (PROVIDERS.md 8)."""
        del task_id
        code = self.codes.get(error_code, error_code)
        if self.failed_status is not None:
            return json_answer({"errorId": self.failed_error_id, "errorCode": code, "status": self.failed_status})
        error_id = self.error_ids.get(code, self.failed_error_id)
        return json_answer({**error_fields(error_code), "errorId": error_id, "errorCode": code})

    def balance(self, amount: float) -> Answer:
        """Return the two fields of the family."""
        return json_answer({"errorId": 0, "balance": amount})

    def refused(self, error_code: str, description: str | None = None, *, status: int | None = None) -> Answer:
        """Return an error with the fields that this provider adds."""
        code = self.codes.get(error_code, error_code)
        said = {**error_fields(error_code, description), "errorId": self.error_ids.get(code, 1), "errorCode": code}
        return json_answer({**said, **self.refused_fields}, status or self.statuses.get(code, self.refused_status))


# Prices and times are invented and fixed, so that answers repeat. Which are text and which numbers is as the examples
# have it (PROVIDERS.md 3.4, 3.6, 8).
_PAID = {"cost": "0.00299", "ip": "127.0.0.1", "createTime": 1_472_205_564, "endTime": 1_472_205_570}

# PROVIDERS.md 6.2; that of the family is "ERROR_TASKID_INVALID" and the like.
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

ANTICAPTCHA = JsonWire(ready_fields={**_PAID, "solveCount": "0"}, codes=_OLD_CODES, error_ids=_OLD_IDS)
"""No `errorCode` where there is no error, numbers by code, and what it cost beside a solution (PROVIDERS.md 3.4, 6)."""

TWOCAPTCHA = JsonWire(
    ready_fields={**_PAID, "solveCount": 1},
    failed_error_id=12,
    codes={**_OLD_CODES, "ERROR_INVALID_TASK_DATA": "ERROR_BAD_PARAMETERS"},
    error_ids={**_OLD_IDS, "ERROR_BAD_PARAMETERS": 110},
)
"""As anti-captcha; HTTP 200 on errors too (PROVIDERS.md 3.6, 6.2)."""

CAPMONSTER = JsonWire(
    pending_fields=_NULLS, refused_fields={"taskId": 0}, codes={"ERROR_RATE_LIMIT": "ERROR_TOO_MUCH_REQUESTS"}
)
"""An error has `taskId` 0, pending has nulls and ready neither (PROVIDERS.md 3.5, 8)."""

NEXTCAPTCHA = JsonWire(pending_status="pending", failed_error_id=12, refused_status=400)
"""Failure is errorId 12, without status; errors come under a status that is not 200, which one is unknown (3.7, 4)."""

YESCAPTCHA = JsonWire(
    created_fields={"errorCode": "", "errorDescription": ""},
    pending_fields=_NULLS,
    ready_fields=_NULLS,
    has_integer_ids=False,
)
"""Empty texts at createTask, nulls at getTaskResult (PROVIDERS.md 3.3, 8); pending is inferred from ready."""

EZCAPTCHA = JsonWire(
    has_integer_ids=False,
    codes={"ERROR_RATE_LIMIT": "ERROR_REQUEST_LIMIT", "ERROR_IP_BANNED": "ERROR_REQUEST_BANNED"},
    statuses={"ERROR_REQUEST_LIMIT": 429, "ERROR_REQUEST_BANNED": 429},
)
"""429 refuses the question only: the task goes on (PROVIDERS.md 3.7, 4)."""

EZCAPTCHASYNC = JsonWire(
    has_integer_ids=False, has_id_at_once=False, codes=EZCAPTCHA.codes, statuses=EZCAPTCHA.statuses
)
"""The solution at once, and no id (PROVIDERS.md 3.7)."""

UCAPTCHA = JsonWire(
    created_fields={"status": "processing"}, failed_error_id=0, failed_status="failed", has_integer_ids=False
)
"""createTask says processing already; a failure has errorId 0 (PROVIDERS.md 3.7, 8)."""

CAPSOLUTION = JsonWire(
    pending_fields={"errorCode": "TASK_NOT_READY"},
    pending_error_id=21,
    has_integer_ids=False,
    error_ids={"ERROR_ZERO_BALANCE": 2},
)
"""Its own numbers; waiting is error 21, how its code is spelt is unknown (PROVIDERS.md 3.7, 6.1)."""

HARDCAPTCHA = JsonWire(has_integer_ids=False)
"""How it is asked is unknown: what the family has stands in for it (PROVIDERS.md 2.4)."""
