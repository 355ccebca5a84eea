"""Arbitrary JSON, and arbitrary answers of the family, for the property tests."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from client.providers import Call

__all__ = ["CODES", "MANY", "answers", "as_json", "asked_in", "json_values", "reordered", "task_ids", "unknown_fields"]

MANY = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
"""Enough examples to find a fault. None has a time limit, because the machine may be busy."""

CODES = (
    "CAPTCHA_NOT_READY",
    "ERROR_CAPTCHA_UNSOLVABLE",
    "ERROR_KEY_DENIED_ACCESS",
    "ERROR_RATE_LIMIT",
    "ERROR_TASKID_INVALID",
    "ERROR_ZERO_BALANCE",
    "ERROR_NOBODY_KNOWS",
)

_KNOWN = ("errorId", "errorCode", "errorDescription", "status", "solution", "taskId", "balance")


def asked_in(call: Call) -> Any:
    """Return the fields of a JSON request."""
    assert (call.method, call.path) == ("POST", f"/{call.name}")
    return json.loads(call.body or b"")


_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)

json_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=8), parts, max_size=4),
    max_leaves=12,
)
"""Any JSON value."""

task_ids = st.integers(-(10**255) + 1, 10**256 - 1).filter(bool) | st.text(min_size=1, max_size=40)
"""Ids as providers return them."""

answers: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "errorId": st.sampled_from([0, 1, 12, "0", "1", None]) | json_values,
        "errorCode": st.sampled_from([*CODES, "", None]) | json_values,
        "errorDescription": st.sampled_from(["", None, "why"]) | json_values,
        "status": st.sampled_from(["ready", "processing", "idle", "failed", "", None]) | json_values,
        "solution": st.just({"text": "44795sds"}) | json_values,
        "taskId": task_ids | json_values,
        "balance": st.floats(allow_nan=False, allow_infinity=False) | json_values,
    },
)
"""Answers of the family, and objects close to them."""

unknown_fields = st.dictionaries(st.text(max_size=12).filter(lambda name: name not in _KNOWN), json_values, max_size=5)
"""Fields unknown to every dialect."""


def as_json(value: Any) -> bytes:
    """`value` as a provider would write it."""
    return json.dumps(value).encode()


def reordered(value: Any) -> Any:
    """`value` with the names of every object in it in the opposite order."""
    if isinstance(value, dict):
        return {name: reordered(part) for name, part in reversed(value.items())}
    if isinstance(value, list):
        return [reordered(part) for part in value]
    return value
