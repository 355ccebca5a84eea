"""JSON values as providers write them: total parsing, ids, and comparing answers.

Every function gives a value or raises `UnreadableError`; none raises anything else, whatever the bytes.
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
"""The most characters of a provider's id, and the most digits. The longest that PROVIDERS.md shows have 41."""

_MAX_DEPTH = 100
"""Half of what parsers take: so that what is read here can be wrapped a few times and still be read elsewhere."""
_LARGEST = 10**MAX_TASK_ID_LENGTH - 1
_LEAST = -(10 ** (MAX_TASK_ID_LENGTH - 1)) + 1
_CONTAINERS = (dict, list)
_BOM = b"\xef\xbb\xbf"


def parse_json(body: bytes) -> Any:
    """Return the value in `body`; a byte order mark is skipped, integers keep their value up to 4300 digits.

    Raises:
        UnreadableError: not JSON, not UTF-8, nested deeper than 100, or with a number that is not finite.
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
        UnreadableError: as `parse_json`, or the value is not an object.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise UnreadableError(f"expected a JSON object, got {_kind(value)}")
    return value


def read_task_id(value: Any) -> TaskId | None:
    """Return the id in `value`, or None where it says "none": null, 0 and "" (CapMonster: `taskId` 0 on error).

    Raises:
        UnreadableError: neither an integer nor a string, or too long.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UnreadableError(f"taskId: expected an integer or a string, got {_kind(value)}")
    if is_too_long(value):
        raise UnreadableError(f"taskId: expected at most {MAX_TASK_ID_LENGTH} characters")
    return value or None


def is_too_long(task_id: TaskId) -> bool:
    """Return whether the id has more than `MAX_TASK_ID_LENGTH` characters as text, whatever its type."""
    # An integer is not written out for that: Python refuses to write more than 4300 digits.
    return len(task_id) > MAX_TASK_ID_LENGTH if isinstance(task_id, str) else not _LEAST <= task_id <= _LARGEST


def task_id_text(task_id: TaskId) -> str:
    """Return the id as it is compared and stored."""
    return task_id if isinstance(task_id, str) else str(task_id)


def canonical_json(value: Any) -> str:
    """`value` as JSON text that is equal for equal values."""
    return to_json(_sorted(value)).decode()


def same_value(one: Any, other: Any) -> bool:
    """Whether two JSON values say the same; unlike in Python, `true` is not 1."""
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
            for part in container.values() if isinstance(container, dict) else container:
                if isinstance(part, float):
                    if not math.isfinite(part):
                        raise UnreadableError("a number is too large to be read")
                elif isinstance(part, _CONTAINERS):
                    inner.append(part)
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
