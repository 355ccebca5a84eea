"""JSON values as providers write them: total parsing, ids, and comparing answers.

Each function returns a value or raises `UnreadableError`. No bytes make it raise anything else.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic_core import from_json, to_json

from client.errors import UnreadableError
from client.providers.readings import TaskId

__all__ = [
    "MAX_TASK_ID_LENGTH",
    "canonical_json",
    "is_too_long",
    "parse_json",
    "parse_object",
    "read_task_id",
    "same_value",
    "task_id_text",
]

MAX_TASK_ID_LENGTH = 256
"""The limit on the characters or digits of a provider's id. The longest known ids have 41."""

_MAX_DEPTH = 100
"""Half of the usual limit of parsers. So a value can be wrapped a few times and still be read elsewhere."""
_LARGEST = 10**MAX_TASK_ID_LENGTH - 1
_LEAST = -(10 ** (MAX_TASK_ID_LENGTH - 1)) + 1
_BOM = b"\xef\xbb\xbf"


def parse_json(body: bytes) -> Any:
    """Return the value in `body`. A byte order mark is skipped. Integers keep their value up to 4300 digits.

    Raises:
        UnreadableError: it is not JSON, not UTF-8, nested deeper than 100, or has a number beyond the finite ones.
    """
    try:
        value = from_json(body.removeprefix(_BOM), allow_inf_nan=False)
    except ValueError as error:
        raise UnreadableError(f"not JSON: {error}") from None
    _check(value)
    return value


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`.

    Raises:
        UnreadableError: see `parse_json`, or the value is not an object.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise UnreadableError(f"expected a JSON object, got {_kind(value)}")
    return value


def read_task_id(value: Any) -> TaskId | None:
    """Return the id in `value`, or None for null, 0 and "" (CapMonster sends `taskId` 0 on error).

    Raises:
        UnreadableError: it is neither an integer nor a string, or it is too long.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UnreadableError(f"taskId: expected an integer or a string, got {_kind(value)}")
    if is_too_long(value):
        raise UnreadableError(f"taskId: expected at most {MAX_TASK_ID_LENGTH} characters")
    return value or None


def is_too_long(task_id: TaskId) -> bool:
    """Return True if the id has more than `MAX_TASK_ID_LENGTH` characters as text, for either type."""
    # An integer is not converted to text: Python refuses to write more than 4300 digits.
    return len(task_id) > MAX_TASK_ID_LENGTH if isinstance(task_id, str) else not _LEAST <= task_id <= _LARGEST


def task_id_text(task_id: TaskId) -> str:
    """Return the id in its form for comparing and storing."""
    return task_id if isinstance(task_id, str) else str(task_id)


def canonical_json(value: Any) -> str:
    """Return `value` as JSON text. Equal values give equal texts."""
    return to_json(_sorted(value)).decode()


def same_value(one: Any, other: Any) -> bool:
    """Return True if two JSON values are equal. Unlike in Python, `true` is not 1."""
    return canonical_json(one) == canonical_json(other)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(part) for part in value]
    return value


def _check(value: Any) -> None:
    # Level by level: a call for each part costs half a second for a megabyte of `[[],[],…`.
    level: list[Any] = [[value]]
    for _ in range(_MAX_DEPTH + 1):
        inner: list[Any] = []
        for container in level:
            for part in container.values() if type(container) is dict else container:
                kind = type(part)
                if kind is dict or kind is list:
                    inner.append(part)
                elif kind is float and not math.isfinite(part):
                    raise UnreadableError("a number is too large to be read")
        if not inner:
            return
        level = inner
    raise UnreadableError(f"nested deeper than {_MAX_DEPTH}")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names[type(value)]
