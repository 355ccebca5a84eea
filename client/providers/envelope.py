"""The answer envelope of the createTask family, in getTaskResult answers and callbacks.

Source: providers/README.md, "JSON requests", "Error codes".

There are three cases:

* Success is `errorId` 0 with `errorCode` "", null or absent. One provider may even use two of these.
* An error is any other `errorId`, or the `status` "failed" even with `errorId` 0. uCaptcha sends that, and CapSolver's
  own samples test for it.
* Only `status` "ready" with a solution is an answer. Any other or unknown status means wait. CapSolver has sent the
  undocumented "idle" in asynchronous createTask answers since August 2025.
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
    """Return the meaning of an answer. An error with one of `pending_error_ids` means "not yet".

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
        error = read_error(codes, error_id, error_code or REASON_NOT_GIVEN, _text(fields, "errorDescription") or None)
        # Without a code, "failed" can only be about the task.
        return replace(error, is_listed=True) if isinstance(error, Failed) and is_failed and not error_code else error
    if status == "ready" and fields.get("solution") is not None:
        return Ready(fields["solution"])
    return Pending(status)


def _error_id(value: Any) -> int:
    """Return `errorId` as a number: absent and null mean 0. Digits in text count too, as in lenient clients."""
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
