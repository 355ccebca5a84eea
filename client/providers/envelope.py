"""The answer envelope of the createTask family, as getTaskResult and callbacks have it (PROVIDERS.md 5, 6.1, 8).

The shapes that must be told apart:

* no error is `errorId` 0 with `errorCode` "", null or absent, two of these at one provider even;
* an error is any other `errorId`, or a `status` of "failed" even with `errorId` 0 (uCaptcha does so, CapSolver's own
  samples test for it);
* only `status` "ready" with a solution is an answer; every other or unknown status means wait (CapSolver has said
  "idle" in async createTask answers since August 2025, which its documentation does not list).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from client.errors import UnreadableError
from client.providers.codes import REASON_NOT_GIVEN, Code, read_error
from client.providers.readings import Failed, Pending, Reading, Ready

__all__ = ["read_envelope"]


def read_envelope(
    fields: Mapping[str, Any], codes: Mapping[str, Code], pending_error_ids: Collection[int] = ()
) -> Reading:
    """What an answer says; an error with one of `pending_error_ids` is none, but means "not yet".

    Raises:
        UnreadableError: a field has another type than in any known answer.
    """
    error_id = _error_id(fields.get("errorId"))
    error_code = _text(fields, "errorCode")
    status = _text(fields, "status")
    if error_id in pending_error_ids:
        return Pending(error_code or str(error_id))
    is_failed = status.lower() == "failed"
    if error_id != 0 or is_failed:
        said = read_error(codes, error_id, error_code or REASON_NOT_GIVEN, _text(fields, "errorDescription") or None)
        # Without a code, "failed" is said of the task, and nothing else can be meant.
        return replace(said, is_listed=True) if isinstance(said, Failed) and is_failed and not error_code else said
    if status == "ready" and fields.get("solution") is not None:
        return Ready(fields["solution"])
    return Pending(status)


def _error_id(value: Any) -> int:
    """`errorId` as a number: absent and null mean 0; digits in text are taken, as lenient clients of the family do."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UnreadableError("errorId: expected an integer")
    try:
        return int(value)
    except ValueError:
        raise UnreadableError("errorId: expected an integer") from None


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UnreadableError(f"{name}: expected a string")
    return str(value)
